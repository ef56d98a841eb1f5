package stream

import (
	"cmp"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/evidence"
	"github.com/caddy-sse/caddy-sse/internal/number"
	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// A stream that nodes share. On one of them it has its upstream connection; on the
// others it follows: it has the same epoch, positions, head and blocks, and no upstream
// connection but those of splices. What the cluster asks of it, and tells it:
//
//   - Follow, Connect, Lose and End are called by Cluster.Run, one at a time. The others
//     may be called by anybody, at any time.
//   - Until Follow was successful or Connect was called, the clients wait for a head.
//   - Follow after Follow goes on with what comes from the same or another node. When it
//     returns false nothing has changed: the caller fetches what is missing between, or
//     calls Lose if that cannot be had.
//   - Connect after Follow takes over: the stream has another epoch from then on, since
//     nobody knows what the other node has still given to its own clients.
//   - After Lose or End nothing is to be called.
//
// What is not proven to be for everybody does not leave the node: see Excerpt.

// newMember makes a stream one that nodes may share.
func newMember(s *Stream, name string, c Cluster) *Member {
	return &Member{Name: name, stream: s, cluster: c, asked: make(map[*Subscriber]string)}
}

// Log is where what happens to the stream is told.
func (m *Member) Log() *zap.Logger { return m.stream.Log() }

// locked does something with the locks of the hub and the stream, unless that is over.
func (m *Member) locked(do func(s *Stream)) {
	s := m.stream
	s.hub.locked(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.isGone() && !s.hasEnded() {
			do(s)
		}
	})
}

// Connect lets the stream have its upstream connection on this node.
func (m *Member) Connect() {
	m.locked(func(s *Stream) {
		m.asked = nil
		id := m.opens
		if m.following {
			m.following = false
			s.phase = phaseBroken
			s.attempts.begin(time.Now())
			id = s.said.lastID
			s.seats.ring()
			s.wakeLocked()
		}
		if m.foreign {
			m.foreign = false
			s.past = append(slices.Clone(s.past), Past{s.epoch, s.buffer.Newest})
			s.past = s.past[max(0, len(s.past)-maxPast):]
			s.epoch = replay.NewEpoch()
			s.setLogger(s.Log())
		}
		s.connectLocked(id)
	})
}

// Lose ends the stream on this node, because another one has it, too, and what they
// have does not join. Its clients come back.
func (m *Member) Lose() {
	m.locked(func(s *Stream) { // whether the application is another one by now is not seen here any more
		if s.compares() {
			s.doubt()
		}
	})
	m.Log().Info("another node has the stream: its clients here are disconnected, and follow when they come back")
	m.stream.leave(EndBroken)
}

// End ends the stream as its owner has.
func (m *Member) End(reason EndReason, tail []byte) { m.stream.finish(reason, tail) }

// Ended returns how the stream has ended, if it has and is kept for those who come back;
// and its tail, if that is for all.
func (m *Member) Ended() (reason EndReason, tail []byte, ok bool) {
	m.stream.mu.Lock()
	defer m.stream.mu.Unlock()
	if m.stream.shares() {
		tail = m.stream.over.tail
	}
	return m.stream.over.why, tail, m.stream.hasEnded()
}

// ForOthers is the position up to which blocks may be given to other nodes.
func (m *Member) ForOthers() uint64 {
	m.stream.mu.Lock()
	defer m.stream.mu.Unlock()
	return m.stream.forOthers()
}

// HasClients reports whether anybody reads the stream on this node.
func (m *Member) HasClients() bool {
	m.stream.mu.Lock()
	defer m.stream.mu.Unlock()
	return m.stream.hasSubscribers()
}

// SetFollowed tells whether other nodes follow. While they do the stream does not end
// for want of clients here.
func (m *Member) SetFollowed(followed bool) {
	m.stream.mu.Lock()
	defer m.stream.mu.Unlock()
	m.followers = followed
}

// IsOfOthers takes note that another node has asked for the stream, or has had it, too.
func (m *Member) IsOfOthers() {
	m.stream.mu.Lock()
	defer m.stream.mu.Unlock()
	m.others = true
}

// ResumesAnywhere reports whether the clients go on in another node's stream where they
// are: by ids of the upstream, or since they were given nothing.
func (m *Member) ResumesAnywhere() bool {
	m.stream.mu.Lock()
	defer m.stream.mu.Unlock()
	return m.stream.head != nil && (m.stream.said.showsIDs || m.stream.buffer.Events == 0)
}

// Changed returns what is closed when there is something new in the stream.
func (m *Member) Changed() <-chan struct{} {
	m.stream.mu.Lock()
	defer m.stream.mu.Unlock()
	return m.stream.bell.wait()
}

// Position is that of the newest block.
func (m *Member) Position() uint64 {
	m.stream.mu.Lock()
	defer m.stream.mu.Unlock()
	return m.stream.buffer.Newest
}

// Tell takes note of the nodes that have the stream, for operators.
func (m *Member) Tell(n NodesInfo) {
	m.stream.mu.Lock()
	defer m.stream.mu.Unlock()
	m.nodes = n
}

// IsClosed reports whether the stream is kept from other nodes and new clients, though it
// may have some.
func (m *Member) IsClosed() bool {
	m.stream.mu.Lock()
	defer m.stream.mu.Unlock()
	return m.stream.isClosed() || m.stream.isExclusive()
}

// IsShared reports whether the stream goes on and can be given to other nodes.
func (m *Member) IsShared() bool {
	m.stream.mu.Lock()
	defer m.stream.mu.Unlock()
	return m.stream.isForOthers() && !m.stream.hasEnded() && !m.stream.reopening
}

// isForOthers reports whether something of the stream may be given to other nodes. The
// lock is held.
func (s *Stream) isForOthers() bool {
	switch {
	case s.head == nil, s.isGone(), s.isClosed(), s.isExclusive(), s.why.Reason != "":
		return false
	}
	return s.shares() || s.sharing.barrier > 0
}

// forOthers is the position up to which blocks may be given to other nodes: as for a
// subscriber that is barred.
func (s *Stream) forOthers() uint64 {
	if s.shares() {
		return s.buffer.Newest
	}
	return s.sharing.barrier
}

// blockExtra is about what a block takes in a message beside its bytes and its ID.
const blockExtra = 64

// Excerpt returns what comes after a position, or all that is kept, in about size bytes, or one
// block that takes most at most; nil if the stream is not to be given to other nodes, or a block
// is too large.
func (m *Member) Excerpt(after uint64, all bool, size, most int) *Excerpt {
	s := m.stream
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isForOthers() {
		return nil
	}
	f := &s.buffer
	if all || after < f.Lost {
		after = f.Lost
	}
	e := &Excerpt{
		Epoch: s.epoch, Past: s.past, Head: s.headForAll().WithoutCookies(), Live: s.isLive(), Fresh: s.fresh,
		Connection: s.connectionNumber(), Began: s.track.HeadAt, Headed: s.track.HeadAt,
		After: after, Events: s.eventsAt(after), Forgotten: f.Forgotten, Whole: true,
	}
	if s.track.Conn != nil {
		e.Began = s.track.Conn.Began
	}
	e.OldestID, _ = f.BeginsRun(after)
	limit := s.forOthers()
	for _, b := range f.After(after) {
		if b.Position > limit {
			break
		}
		takes := len(b.Wire) + len(b.ID) + blockExtra
		if size -= takes; size < 0 && len(e.Blocks) > 0 {
			e.Whole = false
			break
		}
		if takes > most {
			return nil
		}
		_, begins := f.BeginsRun(b.Position)
		e.Blocks = append(e.Blocks, CopiedBlock{b, begins && b.HasID})
	}
	if e.End() == f.Newest && s.shares() { // a connection that is not proven may have said something
		e.Said = s.said.tell(f.LastID)
	}
	return e
}

// connectionNumber tells the stream's upstream connections apart.
func (s *Stream) connectionNumber() uint64 {
	if s.follows() {
		return s.member.connection
	}
	return number.As[uint64](s.attempts.connections) // a count
}

// eventsAt is how many events there were up to a position that nothing after is lost of.
func (s *Stream) eventsAt(position uint64) uint64 {
	n, ok := s.buffer.EventsAfter(position)
	if !ok {
		return 0
	}
	return s.buffer.Events - n
}

// Follow goes on with what another node has. It returns false if what this one has is
// not the beginning of that, or something is missing between.
func (m *Member) Follow(e *Excerpt) (ok bool) {
	m.locked(func(s *Stream) {
		switch {
		case s.head == nil && s.buffer.Newest == 0 && m.asked != nil:
			s.beginWithExcerpt(e)
			ok = true
		case s.joins(e):
			s.goOn(e)
			ok = true
		}
	})
	return ok
}

// joins reports whether an excerpt goes on where the stream is, or before. What is one
// client's here is not part of what another node has.
func (s *Stream) joins(e *Excerpt) bool {
	switch newest := s.buffer.Newest; {
	case s.head == nil, newest == 0 && e.Epoch != s.epoch, e.After > newest, s.forOthers() < newest:
		return false
	}
	if e.Epoch == s.epoch {
		return true
	}
	return slices.ContainsFunc(e.Past, func(p Past) bool { return p.Epoch == s.epoch && p.Until >= s.buffer.Newest })
}

// beginWithExcerpt makes another node's stream this one, which nothing is known of yet.
// Its clients begin in that.
func (s *Stream) beginWithExcerpt(e *Excerpt) {
	m, now := s.member, time.Now()
	waiting := m.asked
	m.asked = nil
	s.openID, s.said, s.late = "", said{}, lateAnswers{}
	s.buffer = replay.Buffer{Limits: s.buffer.Limits, Newest: e.After, Events: e.Events, Lost: e.After}
	s.charge()
	s.buffer.SetLastID(e.OldestID, e.After)
	s.head = &upstreams.Head{Header: http.Header{}}
	s.attempts.connections = 1 // it has one elsewhere: those to come here are not its first
	s.goOn(e)
	s.stay.began(now)
	s.endWait()
	subs := s.readers()
	slices.SortFunc(subs, func(a, b *Subscriber) int { return cmp.Compare(a.arrival, b.arrival) })
	for _, sub := range subs {
		s.beginAnew(sub, waiting[sub])
	}
	s.wakeLocked()
}

// beginAnew lets a subscriber that was given nothing begin in what the stream has become.
func (s *Stream) beginAnew(sub *Subscriber, lastEventID string) {
	sub.resuming, sub.lead = nil, nil
	sub.own, sub.waiting, sub.unprimed, sub.untimed, sub.hadRetry = false, false, false, false, false
	sub.cursor, sub.events, sub.live = 0, 0, 0
	s.resume(sub, lastEventID)
}

// goOn takes what an excerpt has that the stream has not.
func (s *Stream) goOn(e *Excerpt) {
	m := s.member
	m.following, m.foreign = true, true
	other := s.epoch != e.Epoch
	if s.epoch, s.past = e.Epoch, e.Past; other {
		s.setLogger(s.Log())
	}
	if e.Forgotten > s.buffer.Forgotten {
		s.buffer.ForgetIDs(e.Forgotten)
	}
	s.isForAll(e.Head)
	switch {
	case e.Live && (other || !s.isLive() || m.connection != e.Connection):
		s.isConnectedElsewhere(e)
	case !e.Live && s.phase != phaseBroken:
		s.phase = phaseBroken
		if s.compares() {
			s.doubt()
		}
		s.seats.ring()
		s.wakeLocked()
	}
	s.reopening = false
	s.fresh = e.Fresh
	for _, b := range e.Blocks {
		if b.Position > s.buffer.Newest {
			s.takeCopy(b)
		}
	}
	if said := e.Said; said != nil && s.buffer.Newest == e.End() {
		s.said.isTold(said)
		if said.HasRetry {
			s.attempts.wait(said.Retry)
		}
		s.buffer.HasLastID(said.Known)
	}
}

// isForAll takes note that all that the stream has is for all, and a head, if it is given:
// that of the stream's next connection here is compared with it.
func (s *Stream) isForAll(h *upstreams.Head) {
	s.head = s.headForAll()
	if h != nil {
		s.head = h
	}
	s.settleProof()
	s.sharing.barrier, s.sharing.once, s.sharing.renewed, s.sharing.shown = 0, true, false, nil
}

// isConnectedElsewhere takes note that the stream has an upstream connection on another
// node. It may be that of another application: what was learnt of the one before says
// nothing of it.
func (s *Stream) isConnectedElsewhere(e *Excerpt) {
	s.member.connection = e.Connection
	if s.compares() {
		s.facts.forget(s.Key)
		for sp := range s.splices {
			s.unshareSplice(sp)
		}
	}
	s.phase = phaseLive
	s.conn = nil
	s.track.Conn = &evidence.Connection{Began: e.Began}
	s.track.Opened(e.Headed)
	s.learned = learned{}
	for sp := range s.splices {
		sp.splice.since = time.Now()
		sp.splice.StreamOpened()
	}
	s.joinReleased()
	s.seats.ring()
	s.wakeLocked()
}

// takeCopy takes a block as another node has it.
func (s *Stream) takeCopy(c CopiedBlock) {
	b := c.Block
	if !b.CommentOnly && !b.Told {
		s.settled = s.settled || b.Dispatches
		if b.Says() {
			s.track.Note(b, true)
			s.fresh = false
			s.brings(b)
		}
	}
	if b.HasID {
		s.said.lastID = b.ID
		s.said.gaveID = s.said.gaveID || b.ID != ""
		s.said.numbers.Add(b.ID, false)
		if c.BeginsRun {
			s.buffer.HasLastID("") // it is one, whatever this node knows of before
		} else {
			s.buffer.HasLastID(b.ID)
		}
	}
	s.figures.took(int64(b.Lines) + 1)
	s.apply(b, b.HasID && s.options.IDs != IDsGateway)
}
