package stream

import "github.com/caddy-sse/caddy-sse/internal/upstreams"

// Who may be given what a stream's connection brings; see sharing.go.

// compares reports whether connections of the stream are compared: nobody
// vouches for them.
func (s *Stream) compares() bool { return !s.options.Vouched && s.kind.compared }

// shares reports whether what the stream's connection brings may be given to all
// who share its key. The lock is held.
func (s *Stream) shares() bool { return s.options.Vouched || s.sharing.proven }

// isShared is shares for who does not hold the lock.
func (s *Stream) isShared() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.shares()
}

// isSharedSplice reports whether a splice has several clients that nobody vouches
// for: a break of its connection is not hidden from them, since the next one may
// greet it with something of its own. The lock is held.
func (s *Stream) isSharedSplice() bool {
	return s.splice != nil && s.compares() && s.countSubscribers() > 1
}

// barred reports whether the subscriber may not be given what comes next: it is
// another's as far as is known.
func (sub *Subscriber) barred() bool {
	s := sub.stream
	return !sub.own && s.kind.guarded && !s.isExclusive() && !s.shares()
}

// limit is the position up to which the subscriber may read its stream.
func (sub *Subscriber) limit() uint64 {
	if sub.barred() {
		return sub.stream.sharing.barrier
	}
	return sub.stream.buffer.Newest
}

// headForAll is the head to give to clients that the stream serves. The lock is held.
func (s *Stream) headForAll() *upstreams.Head {
	if s.sharing.shown != nil {
		return s.sharing.shown
	}
	return s.head
}

// trusted is locate for an ID that may be taken for this stream's: not for one
// that the upstream gave, while it may be telling each connection its own. own
// reports whether the client with that ID is the one that such a connection is.
func (s *Stream) trusted(sub *Subscriber, id string) (position uint64, own, ok bool) {
	if s.learned.unmerged > 0 && !s.ownID(id) && id != s.openID {
		return 0, false, false
	}
	position, ok = s.locate(id)
	barrier := s.sharing.barrier
	switch {
	case !ok, s.shares(), s.kind.answer:
		return position, false, ok
	case position == 0 && id == s.openID: // nobody was given it here
		return position, false, sub != nil && sub.own
	case s.ownID(id): // nobody guesses the epoch
		return position, barrier == 0 || position > barrier, true
	case barrier > 0 && position <= barrier:
		return position, false, true
	}
	return 0, false, false
}

// enoughSplices in a row that could not be merged decide what is learnt of an
// upstream.
const enoughSplices = 3

// perConnection reports whether the upstream tells each connection its own.
func (l learned) perConnection() bool { return l.unmerged >= enoughSplices }
