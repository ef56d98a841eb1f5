package cluster

import (
	"encoding/binary"
	"errors"
	"math"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/number"
	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/stream"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// The messages between nodes. All are of one form: what a kind has no use for is empty.
// A change that an older node would misread is another version, whose nodes do not meet
// those of this one: it is part of the subjects.
const version = 1

// kind is what a message is.
type kind byte

const (
	kindBeat   kind = iota + 1 // a node is alive
	kindAsk                    // who owns this stream, or: what have you after a position?
	kindRefuse                 // a reply: not from me
	kindBlocks                 // a reply, or live: what an owner, or a follower, has
	kindClaim                  // a node owns the stream
	kindEnded                  // the upstream has ended the stream
	kindLeft                   // the owner does not have it any more: somebody else is to
	kindClosed                 // it is not shared any more
	kindEnd                    // the first that is none
)

// rank decides between owners: the higher one has the stream.
type rank struct {
	term uint64
	age  uint64 // more for who has begun before
	node string
}

// newRank is that of a node that begins to own. Of the same term the one that has begun
// before has the stream, so that few clients have to come over: clocks that differ only
// make it another one.
func newRank(term uint64, node string) rank {
	return rank{term: term, age: math.MaxUint64 - uint64(time.Now().UnixNano()), node: node}
}

// less reports whether an owner of the other rank has the stream.
func (r rank) less(o rank) bool {
	switch {
	case r.term != o.term:
		return r.term < o.term
	case r.age != o.age:
		return r.age < o.age
	}
	return r.node < o.node
}

// message is what nodes send each other.
type message struct {
	kind      kind
	node      string // that sends it
	rank      rank   // of the owner, as far as the sender knows
	sequence  uint64 // of a beat
	after     uint64 // with kindAsk
	all       bool   // with kindAsk: whatever is kept
	follows   bool   // with kindAsk: who asks is going to follow
	followers []string
	reason    string // with kindEnded
	tail      []byte
	excerpt   *stream.Excerpt
}

// What a message may have of each: more is malformed.
const (
	maxName   = 256
	maxNames  = 1 << 10
	maxFields = 1 << 10
	maxText   = 1 << 24
	maxBlocks = 1 << 16
	maxPasts  = 64
)

var errMalformed = errors.New("malformed message")

// encode returns the bytes of a message. now is what times are told as ages of.
func (m *message) encode(now time.Time) []byte {
	w := writer{nil, now}
	w.byte(version)
	w.byte(byte(m.kind))
	w.text(m.node)
	w.number(m.rank.term)
	w.number(m.rank.age)
	w.text(m.rank.node)
	w.number(m.sequence)
	w.number(m.after)
	w.flags(m.all, m.follows, m.excerpt != nil)
	w.number(uint64(len(m.followers)))
	for _, name := range m.followers {
		w.text(name)
	}
	w.text(m.reason)
	w.text(string(m.tail))
	if m.excerpt != nil {
		w.excerpt(m.excerpt)
	}
	return w.dst
}

// decode reads a message, which is that and nothing after it.
func decode(text []byte, now time.Time) (*message, error) {
	r := reader{rest: text, now: now}
	if r.byte() != version {
		return nil, errMalformed
	}
	m := &message{kind: kind(r.byte()), node: r.text(maxName)}
	m.rank = rank{term: r.number(), age: r.number(), node: r.text(maxName)}
	m.sequence, m.after = r.number(), r.number()
	f := r.flags(3)
	m.all, m.follows = f[0], f[1]
	for range r.count(maxNames) {
		m.followers = append(m.followers, r.text(maxName))
	}
	m.reason, m.tail = r.text(maxName), []byte(r.text(maxText))
	if f[2] {
		m.excerpt = r.excerpt()
	}
	if r.failed || len(r.rest) > 0 || m.kind == 0 || m.kind >= kindEnd || m.node == "" || (m.kind == kindBlocks) != (m.excerpt != nil) {
		return nil, errMalformed
	}
	return m, nil
}

type writer struct {
	dst []byte
	now time.Time
}

func (w *writer) byte(b byte)     { w.dst = append(w.dst, b) }
func (w *writer) number(n uint64) { w.dst = binary.AppendUvarint(w.dst, n) }
func (w *writer) text(s string) {
	w.number(uint64(len(s)))
	w.dst = append(w.dst, s...)
}

func (w *writer) flags(all ...bool) {
	b := byte(0)
	for i, f := range all {
		if f {
			b |= 1 << i
		}
	}
	w.byte(b)
}

// time is told as an age, since clocks differ; that of no time is none.
func (w *writer) time(t time.Time) {
	if t.IsZero() {
		w.number(0)
		return
	}
	w.number(uint64(max(0, w.now.Sub(t))) + 1)
}

func (w *writer) excerpt(e *stream.Excerpt) {
	w.text(e.Epoch)
	w.number(uint64(len(e.Past)))
	for _, p := range e.Past {
		w.text(p.Epoch)
		w.number(p.Until)
	}
	w.flags(e.Head != nil, e.Live, e.Fresh, e.Whole, e.Said != nil)
	w.head(e.Head)
	w.number(e.After)
	w.number(e.Events)
	w.text(e.OldestID)
	w.number(e.Forgotten)
	w.number(e.Connection)
	w.time(e.Began)
	w.time(e.Headed)
	if s := e.Said; s != nil {
		w.flags(s.HasRetry, s.GaveID, s.ShowsIDs)
		w.number(uint64(max(0, s.Retry)))
		w.text(s.LastID)
		w.text(s.Known)
	}
	w.number(uint64(len(e.Blocks)))
	for _, b := range e.Blocks {
		w.block(b)
	}
}

func (w *writer) head(h *upstreams.Head) {
	if h == nil {
		return
	}
	w.number(uint64(len(h.Header)))
	for name, values := range h.Header {
		w.text(name)
		w.flags(h.Added[name])
		w.number(uint64(len(values)))
		for _, value := range values {
			w.text(value)
		}
	}
}

func (w *writer) block(b stream.CopiedBlock) {
	w.flags(b.HasID, b.Dispatches, b.CommentOnly, b.Told, b.AfterPause, b.BeginsRun)
	w.number(b.Position)
	w.number(b.Events)
	w.number(uint64(max(0, b.Ordinal)))
	w.time(b.At)
	w.text(b.ID)
	w.number(number.As[uint64](b.Lines)) // a length
	w.text(string(b.Wire))
}

// reader reads what a writer has written. Once it has failed it returns zeroes.
type reader struct {
	rest   []byte
	now    time.Time
	failed bool
}

func (r *reader) fail() { r.rest, r.failed = nil, true }

func (r *reader) byte() byte {
	if len(r.rest) == 0 {
		r.fail()
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.fail()
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

// count reads how many of something follow. Each takes a byte at least.
func (r *reader) count(most int) int {
	n := r.number()
	if n > number.As[uint64](most) || n > uint64(len(r.rest)) { // not negative
		r.fail()
		return 0
	}
	return number.As[int](n) // at most most
}

func (r *reader) text(most int) string {
	n := r.count(most)
	if r.failed {
		return ""
	}
	s := string(r.rest[:n])
	r.rest = r.rest[n:]
	return s
}

// flags reads so many; others must not be set.
func (r *reader) flags(count int) (all [8]bool) {
	b := r.byte()
	if b>>count != 0 {
		r.fail()
		return all
	}
	for i := range count {
		all[i] = b&(1<<i) != 0
	}
	return all
}

func (r *reader) duration() time.Duration {
	n := r.number()
	if n > math.MaxInt64 {
		r.fail()
		return 0
	}
	return time.Duration(n)
}

func (r *reader) time() time.Time {
	d := r.duration()
	if d == 0 {
		return time.Time{}
	}
	return r.now.Add(1 - d)
}

func (r *reader) excerpt() *stream.Excerpt {
	e := &stream.Excerpt{Epoch: r.epoch()}
	for range r.count(maxPasts) {
		e.Past = append(e.Past, stream.Past{Epoch: r.epoch(), Until: r.number()})
	}
	f := r.flags(5)
	e.Live, e.Fresh, e.Whole = f[1], f[2], f[3]
	if f[0] {
		e.Head = r.head()
	}
	e.After, e.Events = r.number(), r.number()
	e.OldestID, e.Forgotten, e.Connection = r.text(replay.MaxID), r.number(), r.number()
	e.Began, e.Headed = r.time(), r.time()
	if f[4] {
		g := r.flags(3)
		e.Said = &stream.Said{HasRetry: g[0], GaveID: g[1], ShowsIDs: g[2], Retry: r.duration(), LastID: r.text(maxText), Known: r.text(replay.MaxID)}
	}
	last := e.After
	for range r.count(maxBlocks) {
		b := r.block()
		if r.failed || b.Position <= last {
			r.fail()
			return nil
		}
		last = b.Position
		e.Blocks = append(e.Blocks, b)
	}
	return e
}

// epoch reads a name that can be part of an ID of the gateway.
func (r *reader) epoch() string {
	epoch := r.text(maxName)
	if _, _, ok := replay.ParseID(string(replay.AppendID(nil, epoch, 0))); !ok {
		r.fail()
	}
	return epoch
}

func (r *reader) head() *upstreams.Head {
	h := &upstreams.Head{Header: make(map[string][]string), Added: make(map[string]bool)}
	for range r.count(maxFields) {
		name := r.text(maxText)
		if added := r.flags(1); added[0] {
			h.Added[name] = true
		}
		values := []string{}
		for range r.count(maxFields) {
			values = append(values, r.text(maxText))
		}
		h.Header[name] = values
	}
	return h
}

func (r *reader) block() stream.CopiedBlock {
	f := r.flags(6)
	b := &replay.Block{HasID: f[0], Dispatches: f[1], CommentOnly: f[2], Told: f[3], AfterPause: f[4]}
	b.Position, b.Events = r.number(), r.number()
	b.Ordinal = r.small()
	b.At, b.ID, b.Lines = r.time(), r.text(maxText), r.small()
	b.Wire = []byte(r.text(maxText))
	dispatched := uint64(0)
	if b.IsEvent() {
		dispatched = 1
	}
	if b.Lines > len(b.Wire) || b.Events < dispatched || b.Events > b.Position || b.At.IsZero() || (f[5] && !b.HasID) || (b.ID != "" && !b.HasID) {
		r.fail()
	}
	if !r.failed {
		b.Restore()
	}
	return stream.CopiedBlock{Block: b, BeginsRun: f[5]}
}

func (r *reader) small() int {
	n := r.number()
	if n > math.MaxInt32 {
		r.fail()
		return 0
	}
	return int(n)
}
