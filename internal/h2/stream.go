package h2

import (
	"crypto/rand"
	"slices"
)

// Event is news of a stream.
type Event byte

const (
	// Writable says that more can be written, to who waits for it.
	Writable Event = iota

	// Ended says that the stream was ended, by the client or the server.
	Ended
)

// Stream is a response that was taken over. Its functions are for one goroutine
// at a time.
type Stream struct {
	conn *Conn
	id   uint32

	// Guarded by the connection's mu.
	window     int64
	notify     func(Event)
	waiting    bool // it is one of the connection's waiters
	signalled  bool // that it can go on
	over       bool // nothing is written to it any more
	serverDone bool // the server has no frame of it to send any more
	complete   bool // and has ended it in order, as it does when the request's handlers have returned
	returned   func(known bool)
	progress   int64
}

// markerLen is how long a claim's marker is.
const markerLen = 28

// Claim is the wish to take a response over.
type Claim struct {
	conn   *Conn
	marker string
	done   chan struct{}
	stream *Stream // guarded by the connection's mu
}

// Claim begins to look for a response. It returns nil if none can be taken over.
func (c *Conn) Claim() *Claim {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.sideGone || c.careless || c.live+len(c.claims) >= maxStreams {
		return nil
	}
	claim := &Claim{conn: c, marker: ":" + rand.Text() + "\n", done: make(chan struct{})}
	if c.claims == nil {
		c.claims = make(map[string]*Claim)
	}
	c.claims[claim.marker] = claim
	return claim
}

// Marker is what has to be written to the response, and flushed, to take it over:
// a comment of an event stream, which the client is sent if that fails.
func (c *Claim) Marker() string { return c.marker }

// Done is closed when there is nothing to wait for.
func (c *Claim) Done() <-chan struct{} { return c.done }

// Settle returns the stream; nil: the response was not taken over, and is not
// going to be. Of a stream the response's handler has to return without writing
// anything.
func (c *Claim) Settle() *Stream {
	c.conn.mu.Lock()
	defer c.conn.mu.Unlock()
	c.conn.forgetClaim(c)
	return c.stream
}

// forgetClaim takes note that nobody looks for a claim's marker any more. mu is held.
func (c *Conn) forgetClaim(claim *Claim) {
	if delete(c.claims, claim.marker); len(c.claims) == 0 {
		c.claims = nil
	}
}

// taken reports whether DATA of the server is a claim's marker, and takes its
// stream over.
func (c *Conn) taken(h header, payload []byte) bool {
	claim := c.claims[string(payload)]
	window, known := c.open[h.stream]
	if claim == nil || !known || h.flags != 0 {
		return false
	}
	c.forgetClaim(claim)
	c.forgetOpen(h.stream)
	claim.stream = &Stream{conn: c, id: h.stream, window: window, notify: func(Event) {}}
	if c.streams == nil {
		c.streams = make(map[uint32]*Stream)
	}
	c.streams[h.stream] = claim.stream
	c.live++
	close(claim.done)
	return true
}

// Conn is the stream's connection.
func (s *Stream) Conn() *Conn { return s.conn }

// Watch lets news of the stream be told.
func (s *Stream) Watch(notify func(Event)) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.notify = notify
	if s.over {
		notify(Ended)
	}
}

// Returned calls tell, once, when the handlers of the request have returned: the server
// has ended the response then. known is false if it is not going to be known, because the
// server has broken the response off or the connection has ended. tell must not wait: the
// connection's lock is held.
func (s *Stream) Returned(tell func(known bool)) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	if s.serverDone || s.conn.err != nil {
		tell(s.complete)
		return
	}
	s.returned = tell
}

// doneByServer takes note that the server has ended the response, in order or not. mu is
// held.
func (s *Stream) doneByServer(complete bool) {
	s.serverDone, s.complete = true, complete
	s.tellReturned()
}

// tellReturned tells who waits for the handlers' return what is known of it. mu is held.
func (s *Stream) tellReturned() {
	if tell := s.returned; tell != nil {
		s.returned = nil
		tell(s.complete)
	}
}

// room is how much can be written now. mu is held.
func (s *Stream) room() int {
	c := s.conn
	limit := maxQueue
	if s.waiting {
		limit += maxPayload // others that do not wait cannot take it
	}
	if s.over || !c.held.empty() {
		return 0
	}
	return int(max(0, min(s.window, c.given, maxPayload, int64(limit-len(c.queue)-headerLen))))
}

// Write puts as much of p into the connection's queue as there is room for, of
// the client and there. It is for Flush to write the queue. Large writes are done
// in pieces, between which it is the turn of others.
func (s *Stream) Write(p []byte) (n int, err error) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.over {
		return 0, ErrOver
	}
	n = min(len(p), s.room())
	s.signalled = false
	if n > 0 {
		s.unwait()
		if c.queue == nil {
			c.queue = borrow()
		}
		c.queue = append(appendHeader(c.queue, header{length: n, kind: frameData, stream: s.id}), p[:n]...)
		s.window -= int64(n)
		c.given -= int64(n)
		s.progress += int64(n)
	}
	c.wake()
	return n, nil
}

// Await lets Writable be told when more can be written.
func (s *Stream) Await() {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.over {
		return
	}
	if !s.waiting {
		s.waiting = true
		c.waiters = append(c.waiters, s)
	}
	c.wake()
}

// unwait takes the stream from those that wait. mu is held.
func (s *Stream) unwait() {
	if !s.waiting {
		return
	}
	s.waiting, s.signalled = false, false
	c := s.conn
	c.waiters = slices.DeleteFunc(c.waiters, func(other *Stream) bool { return other == s })
	if len(c.waiters) == 0 {
		c.waiters = nil
	}
}

// Stuck reports whether the stream waits for the client to give room, and how
// many bytes it has been written in all. Otherwise it waits, if for anything, for
// the transport.
func (s *Stream) Stuck() (stuck bool, written int64) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	return s.waiting && (s.window <= 0 || c.given <= 0 || !c.held.empty()), s.progress
}

// roomGiven takes note of a WINDOW_UPDATE. mu is held.
func (s *Stream) roomGiven(more int64) {
	switch {
	case s.over:
	case more == 0:
		s.breakOff(codeProtocol)
	case s.window+more > maxWindow:
		s.breakOff(codeFlowControl)
	default:
		s.window += more
		s.conn.wake()
	}
}

// Finish ends the response as complete.
func (s *Stream) Finish() {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.finish(appendHeader(nil, header{kind: frameData, flags: flagEndStream, stream: s.id}))
}

// Reset ends the response as one that is not.
func (s *Stream) Reset() {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	s.reset(codeInternal)
}

// reset is that with an error code. mu is held.
func (s *Stream) reset(code uint32) { s.finish(appendWord(nil, frameRST, s.id, code)) }

// breakOff is that for a reason that who writes does not know. mu is held.
func (s *Stream) breakOff(code uint32) {
	s.reset(code)
	s.notify(Ended)
}

// finish ends the stream with a frame. mu is held.
func (s *Stream) finish(frame []byte) {
	if s.over {
		return
	}
	s.over = true
	s.unwait()
	if s.conn.err == nil {
		s.conn.emit(frame)
	}
	s.forget()
	s.conn.left()
	s.conn.wake()
}

// end takes note that the stream was ended by the client or the server. mu is
// held.
func (s *Stream) end() {
	if s.over {
		return
	}
	s.over = true
	s.unwait()
	s.notify(Ended)
	s.conn.left()
	s.conn.wake()
}

// forget drops the stream when neither side has anything to say of it any more.
// mu is held.
func (s *Stream) forget() {
	if s.over && s.serverDone {
		delete(s.conn.streams, s.id)
	}
}
