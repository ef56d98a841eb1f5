package cluster

import (
	"context"
	"errors"
	"slices"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// echoBus gives all that is sent to those who listen in one process, and lets a test see
// and change it on the way.
type echoBus struct {
	deafBus
	subs    map[string]func([]byte)
	answers map[string]func([]byte) []byte
	on      func(subject string, sent []byte) (string, []byte)
}

func newEchoBus() *echoBus {
	return &echoBus{
		subs: make(map[string]func([]byte)), answers: make(map[string]func([]byte) []byte),
		on: func(subject string, sent []byte) (string, []byte) { return subject, sent },
	}
}

func (b *echoBus) Publish(subject string, message []byte) error {
	subject, message = b.on(subject, message)
	if receive := b.subs[subject]; receive != nil {
		receive(slices.Clone(message))
	}
	return nil
}

func (b *echoBus) Subscribe(subject string, receive func([]byte)) (func(), error) {
	b.subs[subject] = receive
	return func() {}, nil
}

func (b *echoBus) Ask(_ context.Context, subject string, request []byte) ([]byte, error) {
	answer := b.answers[subject]
	if answer == nil {
		return nil, ErrNobody
	}
	_, request = b.on(subject, request)
	_, reply := b.on("reply", answer(request))
	return reply, nil
}

func (b *echoBus) Answer(subject string, answer func([]byte) []byte) (func(), error) {
	b.answers[subject] = answer
	return func() {}, nil
}

// Who does not have the secret can neither change a message, nor use one for another
// subject or purpose: it is dropped, with a log line.
func TestSealIsChecked(t *testing.T) {
	core, logged := observer.New(zap.WarnLevel)
	bus := newEchoBus()
	sealed := Sealed(bus, []byte("secret"), zap.New(core))
	var got []string
	for _, subject := range []string{"a", "b"} {
		if _, err := sealed.Subscribe(subject, func(m []byte) { got = append(got, subject+" "+string(m)) }); err != nil {
			t.Fatal(err)
		}
		if _, err := sealed.Answer(subject, func(m []byte) []byte { got = append(got, "asked "+string(m)); return []byte("yes") }); err != nil {
			t.Fatal(err)
		}
	}
	var size int
	var subject string
	bus.on = func(to string, sent []byte) (string, []byte) {
		if to != "reply" {
			size, subject = len(sent), to
		}
		return to, sent
	}
	_ = sealed.Publish("b", []byte("hello"))
	other := subject
	_ = sealed.Publish("a", []byte("hello"))
	if reply, err := sealed.Ask(t.Context(), "a", []byte("hello")); err != nil || string(reply) != "yes" {
		t.Fatalf("%q, %v", reply, err)
	}
	if want := []string{"b hello", "a hello", "asked hello"}; !slices.Equal(got, want) {
		t.Fatalf("%q comes, expected %q", got, want)
	}
	got = nil
	change := func(how func(subject string, sent []byte) (string, []byte)) {
		t.Helper()
		bus.on = how
		_ = sealed.Publish("a", []byte("hello"))
		if _, err := sealed.Ask(t.Context(), "a", []byte("hello")); !errors.Is(err, ErrNobody) {
			t.Errorf("an answer comes: %v", err)
		}
	}
	for i := range size {
		flip := func(sent []byte) []byte {
			sent = slices.Clone(sent)
			if i < len(sent) {
				sent[i] ^= 1
			}
			return sent
		}
		cut := func(sent []byte) []byte { return sent[:min(i, max(0, len(sent)-1))] }
		for _, how := range []func([]byte) []byte{flip, cut} {
			change(func(to string, sent []byte) (string, []byte) {
				if to == "reply" {
					return to, sent
				}
				return to, how(sent)
			})
		}
	}
	for i := range macSize + len("yes") { // replies are changed, requests are not
		change(func(to string, sent []byte) (string, []byte) {
			if to == "reply" {
				sent = slices.Clone(sent)
				sent[i] ^= 1
				return to, sent
			}
			return "nobody", sent
		})
	}
	request := sealed.(*sealedBus).seal(forMessage, "a", []byte("yes"))
	change(func(to string, sent []byte) (string, []byte) {
		if to == "reply" {
			return to, request // a message is no reply
		}
		return "nobody", sent
	})
	stranger := Sealed(bus, []byte("another"), zap.NewNop())
	change(func(to string, sent []byte) (string, []byte) {
		return to, stranger.(*sealedBus).seal(forMessage, "a", []byte("hello"))
	})
	change(func(to string, sent []byte) (string, []byte) { // what is for one subject comes on another
		if to == "reply" {
			return to, nil
		}
		return other, sealed.(*sealedBus).seal(forMessage, "a", []byte("hello"))
	})
	if slices.ContainsFunc(got, func(text string) bool { return text != "asked hello" }) {
		t.Errorf("%q comes", got)
	}
	if logged.Len() == 0 {
		t.Error("nothing is logged")
	}
}
