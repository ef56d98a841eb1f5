package delivery

import (
	"net"
	"slices"
	"sync/atomic"
	"time"
)

// asyncSocket writes in a goroutine that is there as long as something is to be
// written, unless that surely does not wait: over TLS, where a write cannot be
// done in part, and where there are no other means.
type asyncSocket struct {
	conn    net.Conn
	timeout time.Duration // of a write of one piece; 0: none
	taken   ackTeller     // nil: not known
	room    roomTeller    // nil: not known
	pending func() error  // the system's error; nil: not known
	poll    pollEntry
	err     error // of the goroutine that has signalled

	news atomic.Int32 // how often something came that was not looked into; 0: nobody looks
	read int          // bytes that the client has sent after its request; for who looks
}

// roomTeller tells how many bytes a connection takes without waiting.
type roomTeller func() int

func (s *asyncSocket) watch(c *connection) { s.poll = s.poll.poller.watch(s.conn, c) }

func (s *asyncSocket) write(p []byte) (n int, err error) {
	if s.room == nil || s.room() < len(p) {
		return 0, nil
	}
	s.setDeadline()
	return s.conn.Write(p)
}

func (s *asyncSocket) await(c *connection, rest []byte) {
	go func() {
		for piece := range slices.Chunk(rest, asyncPiece) {
			s.setDeadline()
			if _, s.err = s.conn.Write(piece); s.err != nil {
				break
			}
		}
		c.signal(signalWritable)
	}()
}

// asyncPiece is how many bytes are written under one deadline, where nobody
// tells what the client has taken: to have written them is its progress.
const asyncPiece = 16 << 10

func (s *asyncSocket) resume(rest []byte) (n int, err error) { return len(rest), s.err }

// setDeadline bounds a write, unless its writer looks for progress. Caddy may have
// set another deadline when the request's handlers returned.
func (s *asyncSocket) setDeadline() {
	var deadline time.Time
	if s.timeout > 0 && s.taken == nil {
		deadline = time.Now().Add(s.timeout)
	}
	_ = s.conn.SetWriteDeadline(deadline)
}

const (
	// maxRead is how many bytes of a client are looked into that sends something
	// after its request, where nothing is due. Of one that sends more it is not
	// noticed any more that it says goodbye.
	maxRead = 64 << 10

	// readTime is how long the rest of a record is waited for. When that comes
	// later it is looked again.
	readTime = 50 * time.Millisecond
)

// readable reads what the client has sent, in a goroutine that is there as long
// as something comes: over TLS it may be an alert, with which the client says
// goodbye and waits for the answer (RFC 8446, 6.1).
func (s *asyncSocket) readable(c *connection) {
	if s.news.Add(1) > 1 {
		return
	}
	go func() {
		for {
			seen := s.news.Load()
			if s.hasHungUp() {
				c.signal(signalHungUp)
				return
			}
			if s.read > maxRead || s.news.CompareAndSwap(seen, 0) {
				return
			}
		}
	}()
}

// hasHungUp reads what there is, and reports whether nothing is to follow.
func (s *asyncSocket) hasHungUp() bool {
	_ = s.conn.SetReadDeadline(time.Now().Add(readTime))
	var scratch [1024]byte
	for s.read <= maxRead {
		n, err := s.conn.Read(scratch[:])
		s.read += n
		if err != nil {
			return !timedOut(err)
		}
	}
	return false
}

func (s *asyncSocket) acks() (acks, bool) {
	if s.taken == nil {
		return acks{}, false
	}
	return s.taken()
}

func (s *asyncSocket) fault() error {
	if s.pending == nil {
		return nil
	}
	return s.pending()
}

// finish does nothing: the last chunk is the end.
func (*asyncSocket) finish() {}

// close closes the connection. Over TLS an alert is sent before, which waits for
// seconds if the client is stuck.
func (s *asyncSocket) close() {
	s.poll.remove()
	go func() { _ = s.conn.Close() }()
}
