package bustest

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/cluster"
)

func TestNetIsABus(t *testing.T) {
	for name, seal := range map[string]func(cluster.Bus) cluster.Bus{
		"plain":  func(b cluster.Bus) cluster.Bus { return b },
		"sealed": func(b cluster.Bus) cluster.Bus { return cluster.Sealed(b, []byte("secret"), zap.NewNop()) },
	} {
		t.Run(name, func(t *testing.T) {
			Test(t, func(t *testing.T) []cluster.Bus {
				t.Helper()
				net := NewNet(1)
				t.Cleanup(net.Close)
				return []cluster.Bus{seal(net.Add("a")), seal(net.Add("b")), seal(net.Add("c"))}
			})
		})
	}
}

func TestNetHasFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := NewNet(1)
		defer net.Close()
		a, b := net.Add("a"), net.Add("b")
		received := new(box)
		if _, err := b.Subscribe("x", received.put); err != nil {
			t.Fatal(err)
		}
		say := func(text string) {
			if err := a.Publish("x", []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		expect := func(n int) {
			t.Helper()
			synctest.Wait()
			if got := len(received.get()); got != n {
				t.Fatalf("%d messages came, expected %d", got, n)
			}
		}
		net.SetFaults(Faults{MinDelay: time.Second, MaxDelay: time.Second})
		say("late")
		expect(0)
		time.Sleep(time.Second)
		expect(1)
		net.SetFaults(Faults{Loss: 1})
		say("lost")
		expect(1)
		net.SetFaults(Faults{})
		net.Partition(func(string, string) bool { return true })
		say("kept apart")
		expect(1)
		if _, err := a.Ask(t.Context(), "x", nil); !errors.Is(err, cluster.ErrNobody) {
			t.Fatal(err)
		}
		net.Partition(nil)
		net.Freeze("b", true)
		say("held")
		time.Sleep(time.Minute)
		expect(1)
		net.Freeze("b", false)
		expect(2)
		net.Kill("b")
		say("dead")
		expect(2)
	})
}

// Who has another secret neither meets the others nor can send them anything.
func TestSealedKeepsStrangersOut(t *testing.T) {
	net := NewNet(1)
	defer net.Close()
	inner := net.Add("a")
	ours := cluster.Sealed(inner, []byte("secret"), zap.NewNop())
	theirs := cluster.Sealed(net.Add("b"), []byte("other"), zap.NewNop())
	if _, err := ours.Answer("x", func([]byte) []byte { return []byte("mine") }); err != nil {
		t.Fatal(err)
	}
	if _, err := theirs.Ask(t.Context(), "x", nil); !errors.Is(err, cluster.ErrNobody) {
		t.Errorf("it is answered: %v", err)
	}
	// One who knows what a subject stands for on the bus has seen a message of it.
	spy := &spyBus{Bus: net.Add("c")}
	seen := cluster.Sealed(spy, []byte("secret"), zap.NewNop())
	if err := seen.Publish("x", []byte("seen")); err != nil {
		t.Fatal(err)
	}
	received := new(box)
	if _, err := ours.Subscribe("x", received.put); err != nil {
		t.Fatal(err)
	}
	forged := append([]byte("f"), spy.message[1:]...)
	for _, message := range [][]byte{nil, []byte("short"), forged, spy.message} {
		if err := inner.Publish(spy.subject, message); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the message that is true comes", func() bool { return len(received.get()) > 0 })
	if got := received.get(); len(got) != 1 || string(got[0]) != "seen" {
		t.Errorf("what came: %q", got)
	}
	if err := inner.Publish("another", spy.message); err != nil { // nor is it good elsewhere
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if reply, err := net.Add("d").Ask(ctx, spy.subject, []byte(strconv.Itoa(1))); err == nil && len(reply) > 0 {
		t.Errorf("a request without the secret is answered with %q", reply)
	}
}

// spyBus remembers what was published last.
type spyBus struct {
	cluster.Bus
	subject string
	message []byte
}

func (s *spyBus) Publish(subject string, message []byte) error {
	s.subject, s.message = subject, append([]byte(nil), message...)
	return s.Bus.Publish(subject, message)
}
