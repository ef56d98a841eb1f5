package bustest

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/cluster"
)

// patience is how long a test waits for what must come: nodes may have to find each
// other first.
const patience = 30 * time.Second

// Test tests what must hold of any Bus, with the nodes of a cluster of two at least,
// which newCluster makes. What it waits for it asks for again and again.
func Test(t *testing.T, newCluster func(t *testing.T) []cluster.Bus) {
	for name, test := range map[string]func(t *testing.T, nodes []cluster.Bus){
		"nodes have names of their own":                       testNames,
		"who asks on a subject without an answer is told":     testNobody,
		"one of those who answer does":                        testAsk,
		"who asks does not wait longer than it wants to":      testAskContext,
		"messages of one node come to all, in order":          testPublish,
		"the largest message comes whole":                     testLargest,
		"nothing comes to who has stopped":                    testStop,
		"a node is told that it is connected":                 testWatch,
		"what is received is not written to by anybody later": testOwn,
	} {
		t.Run(name, func(t *testing.T) { test(t, newCluster(t)) })
	}
}

// until does something again until it succeeds.
func until(t *testing.T, what string, do func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !do() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// box collects messages.
type box struct {
	mu  sync.Mutex
	all [][]byte
}

func (b *box) put(message []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = append(b.all, message)
}

func (b *box) get() [][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([][]byte(nil), b.all...)
}

func subscribe(t *testing.T, bus cluster.Bus, subject string) (*box, func()) {
	t.Helper()
	b := new(box)
	stop, err := bus.Subscribe(subject, b.put)
	if err != nil {
		t.Fatal(err)
	}
	return b, stop
}

func publish(t *testing.T, bus cluster.Bus, subject string, message []byte) {
	t.Helper()
	if err := bus.Publish(subject, message); err != nil {
		t.Fatal(err)
	}
}

// joined waits until what a node publishes on a subject comes to a box.
func joined(t *testing.T, from cluster.Bus, subject string, to *box) {
	t.Helper()
	until(t, "a subscription is known to "+from.Node(), func() bool {
		publish(t, from, subject, []byte("hello"))
		return len(to.get()) > 0
	})
}

func ask(bus cluster.Bus, subject, request string) (string, error) {
	return askFor(time.Second, bus, subject, request)
}

// askFor waits for a reply for so long.
func askFor(most time.Duration, bus cluster.Bus, subject, request string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	reply, err := bus.Ask(ctx, subject, []byte(request))
	return string(reply), err
}

func testNames(t *testing.T, nodes []cluster.Bus) {
	t.Helper()
	seen := make(map[string]bool)
	for _, bus := range nodes {
		if name := bus.Node(); name == "" || seen[name] {
			t.Errorf("the name %q is none, or another node's", name)
		} else {
			seen[name] = true
		}
	}
}

func testNobody(t *testing.T, nodes []cluster.Bus) {
	t.Helper()
	stop, err := nodes[0].Answer("other", func([]byte) []byte { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	_, stopBox := subscribe(t, nodes[0], "nobody") // who listens does not answer
	defer stopBox()
	for _, bus := range nodes {
		until(t, "it is told that nobody answers", func() bool {
			began := time.Now()
			_, err := ask(bus, "nobody", "?")
			return errors.Is(err, cluster.ErrNobody) && time.Since(began) < time.Second
		})
	}
}

func testAsk(t *testing.T, nodes []cluster.Bus) {
	t.Helper()
	for i, bus := range nodes[:2] {
		stop, err := bus.Answer("who", func(request []byte) []byte {
			return []byte(string(request) + " " + strconv.Itoa(i))
		})
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
	}
	for _, bus := range nodes {
		until(t, "somebody answers", func() bool {
			reply, err := ask(bus, "who", "you?")
			return err == nil && (reply == "you? 0" || reply == "you? 1")
		})
	}
}

func testAskContext(t *testing.T, nodes []cluster.Bus) {
	t.Helper()
	hold := make(chan struct{})
	defer close(hold)
	stop, err := nodes[0].Answer("slow", func([]byte) []byte { <-hold; return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	until(t, "the request is on its way, and given up", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		_, err := nodes[1].Ask(ctx, "slow", nil)
		return errors.Is(err, context.DeadlineExceeded)
	})
}

func testPublish(t *testing.T, nodes []cluster.Bus) {
	t.Helper()
	boxes := make([]*box, len(nodes))
	for i, bus := range nodes {
		b, stop := subscribe(t, bus, "news")
		defer stop()
		boxes[i] = b
		joined(t, nodes[0], "news", b)
	}
	const count = 200
	for i := range count {
		publish(t, nodes[0], "news", []byte(strconv.Itoa(i)))
	}
	publish(t, nodes[0], "old news", []byte("no"))
	for i, b := range boxes {
		var got []string
		until(t, "all messages come to node "+strconv.Itoa(i), func() bool {
			got = nil
			for _, m := range b.get() {
				if string(m) != "hello" {
					got = append(got, string(m))
				}
			}
			return len(got) >= count
		})
		for j, m := range got {
			if m != strconv.Itoa(j) {
				t.Fatalf("message %d of node %d is %q", j, i, m)
			}
		}
	}
}

func testLargest(t *testing.T, nodes []cluster.Bus) {
	t.Helper()
	b, stop := subscribe(t, nodes[1], "large")
	defer stop()
	joined(t, nodes[0], "large", b)
	large := bytes.Repeat([]byte{0xa5}, nodes[0].MaxMessage())
	publish(t, nodes[0], "large", large)
	until(t, "the message comes", func() bool {
		all := b.get()
		return bytes.Equal(all[len(all)-1], large)
	})
	stopAnswer, err := nodes[0].Answer("echo", func(request []byte) []byte { return request })
	if err != nil {
		t.Fatal(err)
	}
	defer stopAnswer()
	until(t, "the reply comes", func() bool {
		reply, err := askFor(patience, nodes[1], "echo", string(large)) // asked anew it would take longer yet
		return err == nil && reply == string(large)
	})
}

func testStop(t *testing.T, nodes []cluster.Bus) {
	t.Helper()
	b, stop := subscribe(t, nodes[1], "stop")
	joined(t, nodes[0], "stop", b)
	stop()
	stopAnswer, err := nodes[1].Answer("stop", func([]byte) []byte { return nil })
	if err != nil {
		t.Fatal(err)
	}
	until(t, "it answers", func() bool { _, err := ask(nodes[0], "stop", ""); return err == nil })
	stopAnswer()
	until(t, "it answers no more", func() bool { _, err := ask(nodes[0], "stop", ""); return errors.Is(err, cluster.ErrNobody) })
	n := len(b.get())
	other, stopOther := subscribe(t, nodes[1], "stop")
	defer stopOther()
	joined(t, nodes[0], "stop", other)
	if got := len(b.get()); got != n {
		t.Errorf("%d messages came after it had stopped", got-n)
	}
}

func testWatch(t *testing.T, nodes []cluster.Bus) {
	t.Helper()
	for _, bus := range nodes {
		connected := make(chan bool, 64)
		stop := bus.Watch(func(now bool) { connected <- now })
		defer stop()
		for timeout := time.After(patience); ; {
			select {
			case now := <-connected:
				if !now {
					continue
				}
			case <-timeout:
				t.Fatal("it is never connected")
			}
			break
		}
	}
}

func testOwn(t *testing.T, nodes []cluster.Bus) {
	t.Helper()
	b, stop := subscribe(t, nodes[0], "own")
	defer stop()
	message := []byte("mine")
	publish(t, nodes[0], "own", message)
	copy(message, "then")
	until(t, "the message comes", func() bool { return len(b.get()) > 0 })
	if got := string(b.get()[0]); got != "mine" {
		t.Errorf("it has become %q", got)
	}
}
