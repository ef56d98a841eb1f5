package cluster

import (
	"bytes"
	"context"
	"net/http"
	"reflect"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/stream"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// testMessages are messages of all kinds, with all that they can have.
func testMessages(now time.Time) []*message {
	copied := func(position uint64, text string) stream.CopiedBlock {
		b := eventstream.Block{Lines: []byte(text), ID: []byte("7"), HasID: true, HasData: true}
		k := replay.NewBlock(b, b.Lines, []byte("id"), now.Add(-time.Second))
		k.Position, k.Events, k.Ordinal = position, position, 3
		return stream.CopiedBlock{Block: k, BeginsRun: position == 5}
	}
	comment := copied(9, ": only\n")
	comment.HasID, comment.ID, comment.Dispatches, comment.CommentOnly = false, "", false, true
	comment.Restore()
	comment.OpenComment()
	e := &stream.Excerpt{
		Epoch: replay.NewEpoch(), Past: []stream.Past{{Epoch: replay.NewEpoch(), Until: 4}},
		Head: &upstreams.Head{Header: http.Header{"A": {"1", "2"}, "B": {}}, Added: map[string]bool{"A": true}},
		Live: true, Whole: true, After: 4, Events: 4, OldestID: "old", Forgotten: 2,
		Said:       &stream.Said{Retry: time.Second, HasRetry: true, LastID: "7", GaveID: true, ShowsIDs: true, Known: "7"},
		Connection: 12, Began: now.Add(-time.Minute), Headed: now.Add(-time.Second),
		Blocks: []stream.CopiedBlock{copied(5, "id: 7\ndata: x\n"), copied(6, "data: y\n"), comment},
	}
	return []*message{
		{kind: kindBeat, node: "a", sequence: 1 << 60, tail: []byte{}},
		{kind: kindAsk, node: "a", after: 7, all: true, follows: true, tail: []byte{}},
		{kind: kindRefuse, node: "a", tail: []byte{}},
		{kind: kindClaim, node: "a", rank: newRank(3, "a"), after: 9, tail: []byte{}},
		{kind: kindEnded, node: "a", rank: newRank(3, "a"), reason: "upstream", tail: []byte("data: half")},
		{kind: kindBlocks, node: "a", rank: newRank(3, "b"), followers: []string{"c", "d"}, excerpt: e, tail: []byte{}},
	}
}

func TestMessagesComeAsTheyWereSent(t *testing.T) {
	now := time.Now()
	for _, m := range testMessages(now) {
		got, err := decode(m.encode(now), now)
		if err != nil {
			t.Fatalf("%d: %v", m.kind, err)
		}
		if !reflect.DeepEqual(got, m) {
			t.Errorf("%d: came as %+v\nwas sent as %+v", m.kind, got, m)
		}
	}
}

// A message is all of the bytes, or none: what is cut, longer, or of another version is malformed.
func TestDecoderIsStrict(t *testing.T) {
	now := time.Now()
	for _, m := range testMessages(now) {
		text := m.encode(now)
		for n := range text {
			if _, err := decode(text[:n], now); err == nil {
				t.Fatalf("%d: the first %d of %d bytes are taken for a message", m.kind, n, len(text))
			}
		}
		if _, err := decode(append(bytes.Clone(text), 0), now); err == nil {
			t.Errorf("%d: a byte after it is taken", m.kind)
		}
		text[0]++
		if _, err := decode(text, now); err == nil {
			t.Errorf("%d: another version is taken", m.kind)
		}
	}
}

func FuzzDecode(f *testing.F) {
	now := time.Now()
	for _, m := range testMessages(now) {
		f.Add(m.encode(now))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := decode(text, now)
		if err != nil {
			return
		}
		again, err := decode(m.encode(now), now)
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%+v becomes %+v: %v", m, again, err)
		}
	})
}

// deafBus takes what a node subscribes with, and does nothing.
type deafBus struct{ receive func([]byte) }

func (*deafBus) Node() string                                                { return "deaf" }
func (*deafBus) MaxMessage() int                                             { return 1 << 20 }
func (*deafBus) Publish(string, []byte) error                                { return nil }
func (*deafBus) Ask(context.Context, string, []byte) ([]byte, error)         { return nil, ErrNobody }
func (*deafBus) Answer(string, func([]byte) []byte) (stop func(), err error) { return func() {}, nil }
func (*deafBus) Watch(func(bool)) (stop func())                              { return func() {} }
func (b *deafBus) Subscribe(_ string, receive func([]byte)) (func(), error) {
	b.receive = receive
	return func() {}, nil
}

// A malformed message is logged, and the next one is taken.
func TestMalformedMessageEndsNothingElse(t *testing.T) {
	core, logged := observer.New(zap.WarnLevel)
	bus := new(deafBus)
	n, err := New(bus, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	beat := (&message{kind: kindBeat, node: "other", sequence: 1}).encode(time.Now())
	bus.receive(beat[:len(beat)-1])
	bus.receive(nil)
	if lines := logged.FilterMessage("dropped a message of another node").Len(); lines == 0 {
		t.Error("nothing is logged")
	}
	if got := n.alive([]string{"other"}); len(got) != 0 {
		t.Errorf("%q is taken for alive", got)
	}
	bus.receive(beat)
	if got := n.alive([]string{"other"}); len(got) != 1 {
		t.Error("the next message is not taken")
	}
}

// A beat that was heard before does not show that the node is alive.
func TestOldBeatSaysNothing(t *testing.T) {
	n, err := New(new(deafBus), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	n.hear("other", 5)
	heard := func() time.Time {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.peers["other"].heard
	}
	at := heard()
	for _, sequence := range []uint64{4, 5} {
		n.hear("other", sequence)
		if !heard().Equal(at) {
			t.Errorf("beat %d is taken for news", sequence)
		}
	}
}
