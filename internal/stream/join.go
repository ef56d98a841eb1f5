package stream

import (
	"errors"
	"slices"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// A request looks for its stream, or opens one.

// openedBy makes a stream for a request; the first to attach opens it. A head is given
// when it follows a stream that ended, for a client that was in that.
func (h *Hub) openedBy(req *Request, head *upstreams.Head) *Stream {
	s := newStream(h, &h.facts, req)
	if head != nil {
		s.head = head
		s.stay.began(s.born)
		s.endWait()
		s.beginAgain()
	}
	if id := req.LastEventID; id != "" && replay.ValidID(id) && replay.Sendable(id) && !s.ownID(id) {
		s.openID = id
		s.said.asksAfter(id)
		s.buffer.SetLastID(id, 0)
		s.expectFirst(id)
	}
	s.fresh = s.openID == ""
	return s
}

// prepare makes the digest. No lock is held.
func (req *Request) prepare(cluster *Cluster) {
	m := &digest{path: pathOf(req.Parts), parts: hashParts(req.Parts)}
	m.host, m.shown = shownOf(req.Parts)
	if cluster != nil {
		m.name = (*cluster).Name(req.Parts, req.Options)
	}
	if req.Prepare != nil {
		req.Prepare()
	}
	req.digest = m
}

// Join attaches a new subscriber to the stream of the request, which is opened
// if there is none.
func (h *Hub) Join(req *Request) (sub *Subscriber, err error) {
	var why Private
	own := false
	if !req.Options.Vouched {
		why, own = h.facts.ownBy(req.Key, req.Parts)
	}
	defer func() { req.digest = nil }() // the request may last as long as its response
	sub, err = h.join(req, why, own)
	if errors.Is(err, errUnprepared) {
		req.prepare(h.cluster.Load())
		sub, err = h.join(req, why, own)
	}
	return sub, err
}

// join is Join for a request of which is known whether each connection is told its own.
// What it does does not depend on the request's size.
func (h *Hub) join(req *Request, why Private, own bool) (sub *Subscriber, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopping {
		return nil, ErrStopping
	}
	if own {
		return nil, why.asError()
	}

	sub, kept, err := h.joinKeptLocked(req)
	if kept != nil && !errors.Is(err, errNewLife) {
		return sub, err
	}
	return h.openLocked(req, kept)
}

// openLocked opens a stream for a request that cannot join the one of its key, if there is
// one, and attaches a new subscriber.
func (h *Hub) openLocked(req *Request, kept *Stream) (*Subscriber, error) {
	// Only now: a stream that is there can be joined, whatever an answer was since.
	if why, ok := h.unshareable[req.Key]; ok {
		if time.Now().Before(why.Until) {
			return nil, why.asError()
		}
		delete(h.unshareable, req.Key)
	}
	if req.digest == nil {
		return nil, errUnprepared
	}

	// Who brings no ID asks the application. What is kept stays for those who
	// come back.
	var head *upstreams.Head
	switch {
	case kept == nil:
	case req.LastEventID != "" && kept.isShared():
		head = kept.retire()
		h.removeLocked(kept)
	case kept.ofThisLife(req.LastEventID):
		head = kept.keptHead() // what is kept itself is not for this client
		h.dropEnded(req.Key)
	default:
		h.dropEnded(req.Key)
	}

	place := req.Instance.Place
	if limit := req.Options.MaxStreams; limit > 0 && h.count[place] >= limit && !h.makePlaceLocked(place) {
		return nil, errTooManyStreams
	}
	if h.IsShort(req.Logger) {
		return nil, ErrNoMemory
	}
	s := h.openedBy(req, head)
	s.adoptable = req.Instance.aloneLocked()
	if req.digest.name != "" {
		s.member = newMember(s, req.digest.name, *h.cluster.Load())
	}
	h.streams[req.Key] = append(h.streams[req.Key], s)
	h.track(s)
	h.count[place]++
	h.joinCrowdLocked(s)
	sub, err := s.attach(req)
	h.renewLate(s)
	return sub, err
}

// joinKeptLocked attaches a new subscriber to the stream that the request may join;
// kept is nil if there is none. One that is over is passed by: who has ended it
// needs the hub's lock to take it out.
func (h *Hub) joinKeptLocked(req *Request) (sub *Subscriber, kept *Stream, err error) {
	for {
		if kept = h.lookupLocked(req); kept == nil {
			return nil, nil, nil
		}
		if sub, err = kept.attach(req); !errors.Is(err, errGone) {
			return sub, kept, err
		}
		h.removeLocked(kept)
	}
}

// lookupLocked returns the stream that the request may join, nil if there is
// none. Of several it is the one that gave the request's last event ID.
func (h *Hub) lookupLocked(req *Request) (found *Stream) {
	epoch, position, _ := replay.ParseID(req.LastEventID)
	if position == nowhere {
		epoch = "" // one that goes on is better for this client
	}
	best := -1
	for _, s := range h.streams[req.Key] {
		if s.isClosed() || !h.entitledLocked(s, req.Instance) {
			continue
		}
		if s.hadEpoch(epoch) {
			return s
		}
		if p := s.preference(req.LastEventID); p > best {
			found, best = s, p
		}
	}
	return found
}

// makePlaceLocked ends one of a place's streams that only linger, the one without
// subscribers for longest. It returns false if there is none.
func (h *Hub) makePlaceLocked(place string) bool {
	before := h.count[place]
	for s := h.lingering.ofPlace(place); s != nil; s = h.lingering.ofPlace(place) {
		s.mu.Lock()
		if s.lingers() {
			s.expireLocked()
		}
		s.mu.Unlock()
		if h.count[place] < before { // else it could not be joined any more
			return true
		}
	}
	return false
}

// maxEnded is how many ended streams of one key are kept, each for those who
// have been its clients: of an application that soon ends what it has begun,
// anybody could leave one behind with each request.
const maxEnded = 8

// dropEnded makes room for another stream of a key: the oldest ended ones go. The
// hub's lock is held.
func (h *Hub) dropEnded(key Key) {
	kept := 0
	for _, s := range slices.Backward(slices.Clone(h.streams[key])) {
		s.mu.Lock()
		if s.hasEnded() && !s.hasSubscribers() {
			if kept++; kept > maxEnded {
				s.expireLocked()
			}
		}
		s.mu.Unlock()
	}
}

// preference tells how much a stream is to be preferred to others of its key by
// a request with a last event ID. One that has ended is for who brings one; to
// such a client it is better than one that has no head yet, and may never have
// one.
func (s *Stream) preference(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.hasEnded() && id == "", s.head == nil && id != "":
		return 0
	case s.hasEnded(), s.head == nil:
		return 1
	}
	return 2
}
