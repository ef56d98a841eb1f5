package h2

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxStreams is how many streams of a connection can be taken over at once:
	// the server does not count them among those that it lets a client open.
	maxStreams = 200

	// maxQueue is how many bytes of ours wait for the transport at most, but for
	// a frame of who has waited.
	maxQueue = 32 << 10

	// maxHeld is how many bytes of the server are held before its writes wait.
	maxHeld = 64 << 10

	// maxOpen is how many of the server's streams are known at most. Others are
	// not taken over.
	maxOpen = 1024

	// maxDebt is how much room there may be on the connection of which the
	// server was not told. The client may not say anything that it could be told
	// with: a server that waits for room and a client that has given it would
	// wait for one another.
	maxDebt = 2 << 10

	// maxAnnounced is how many SETTINGS of a client wait for the server's
	// acknowledgement at most. Servers need not have a limit for them: they may
	// acknowledge many with one frame.
	maxAnnounced = 1000

	// recordBytes and a recordShare of what is written are more than TLS adds to it,
	// in records of 1 KiB or more.
	recordBytes = 64
	recordShare = 16

	// closeTime is how long the end of the last streams may take to be sent.
	closeTime = 5 * time.Second
)

var (
	// ErrOver is returned for a stream that has ended.
	ErrOver = errors.New("the stream has ended")

	errFlow    = errors.New("the client gives more room than there can be")
	errFlood   = errors.New("the client does not read what it asks for")
	errForeign = errors.New("the server writes to a stream that was taken over and has ended")
)

// Conn is a connection that a server shares. It is safe for concurrent use.
type Conn struct {
	// Fixed after construction.
	transport net.Conn
	room      func() int // how many bytes it takes without waiting; nil: not known
	maxHeld   int

	rmu    sync.Mutex // who reads
	client clientFrames
	heard  atomic.Bool // the transport may have answered by itself since fits was found out

	wmu    sync.Mutex   // who writes
	fits   int          // bytes that the transport takes without waiting, at least, unless heard
	server serverFrames // mu is held too

	mu       sync.Mutex
	drained  sync.Cond // fewer bytes are held, or the server does not write any more
	given    int64     // room on the connection, as the client gives it
	believed int64     // as the server was told
	initial  initial   // room of a new stream
	open     map[uint32]int64
	newest   uint32 // the client's newest stream
	streams  map[uint32]*Stream
	live     int // streams that have not ended
	waiters  []*Stream
	claims   map[string]*Claim
	held     held
	queue    []byte   // frames to be written: ours, and some that were held
	writing  bool     // the transport is being written to
	written  []func() // to be called when all is
	goAway   bool     // the server has said that it is going to end, in order
	sideGone bool     // the server has closed its side
	closing  bool
	careless bool  // the client has broken the rules: nothing is taken over any more
	err      error // why nothing can be written any more
}

// New makes a connection of a transport from which the client's [Preface] was
// read. room tells how many bytes the transport takes without waiting; nil: that
// is not known.
func New(transport net.Conn, room func() int) *Conn {
	c := &Conn{
		transport: transport, room: room, maxHeld: maxHeld,
		given: initialWindow, believed: initialWindow, initial: initial{acked: initialWindow, now: initialWindow},
	}
	c.drained.L = &c.mu
	c.client.ready = []byte(Preface)
	return c
}

// Transport is what the connection goes over.
func (c *Conn) Transport() net.Conn { return c.transport }

// Queued is how many bytes of streams that were taken over wait for the
// transport.
func (c *Conn) Queued() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue)
}

// Fault is why the connection has ended; nil: it has not.
func (c *Conn) Fault() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// emit puts a frame of ours that needs no room into the queue, after those of
// the server that are held. mu is held.
func (c *Conn) emit(frame []byte) {
	if c.held.empty() {
		if c.queue == nil {
			c.queue = borrow()
		}
		c.queue = append(c.queue, frame...)
		return
	}
	c.held.add(frame)
}

// Flush writes what is in the queue, unless somebody else is to: who writes to
// the transport writes that too. It does not wait for the client.
func (c *Conn) Flush() {
	if !c.wmu.TryLock() {
		return
	}
	p := c.takeOrUnlock()
	switch {
	case p == nil:
	case c.hasRoom(len(p)):
		c.finishWriting(p)
	default:
		go c.finishWriting(p)
	}
}

// takeOrUnlock takes the queue to be written. If there is nothing to be taken it unlocks
// wmu: under mu, so that who adds to the queue later finds it unlocked.
func (c *Conn) takeOrUnlock() (p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p = c.take(); p == nil {
		c.wmu.Unlock()
	}
	return p
}

// hasRoom reports whether the transport surely takes n bytes without waiting. It
// asks only when there may be too little: to ask is a system call, and what the
// peer has taken meanwhile only makes more room. Less is there only when TLS has
// answered something that was read. wmu is held.
func (c *Conn) hasRoom(n int) bool {
	if c.room == nil {
		return false
	}
	if c.heard.Swap(false) || c.fits < n {
		c.fits = c.room()
	}
	return c.fits >= n
}

// send writes to the transport. wmu is held.
func (c *Conn) send(p []byte) error {
	_, err := c.transport.Write(p)
	c.fits -= len(p) + len(p)/recordShare + recordBytes
	return err
}

// take takes the queue to be written; nil: it cannot be now. Both locks of who
// writes are held.
func (c *Conn) take() (p []byte) {
	if len(c.queue) == 0 || c.err != nil || !c.server.between() {
		return nil
	}
	p, c.queue = c.queue, nil
	c.writing = true
	return p
}

// finishWriting writes p, which was taken, and what comes into the queue
// meanwhile. It unlocks wmu.
func (c *Conn) finishWriting(p []byte) {
	for {
		err := c.send(p)
		recycle(p)
		if p = c.wrote(err); p == nil {
			return
		}
	}
}

// wrote takes note of a write, and takes what is to be written next. If that is
// nothing it unlocks wmu: under mu, so that who adds to the queue later finds
// it unlocked.
func (c *Conn) wrote(err error) (next []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.fail(err)
		go func() { _ = c.transport.Close() }() // the server reads, and may not write for long
	}
	if next = c.take(); next != nil {
		c.wake()
		return next
	}
	c.writing = false
	c.wmu.Unlock()
	c.wake()
	c.tellWritten()
	return nil
}

// Written calls f when all that was written to streams is with the transport, or
// cannot be any more.
func (c *Conn) Written(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.written = append(c.written, f)
	c.tellWritten()
}

// tellWritten calls those who wait for that. mu is held.
func (c *Conn) tellWritten() {
	if c.err == nil && (c.writing || len(c.queue) > 0 || !c.held.empty()) {
		return
	}
	for _, f := range c.written {
		f()
	}
	c.written = nil
}

// fail ends all streams: the connection is lost. mu is held.
func (c *Conn) fail(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	for _, s := range c.streams {
		s.end()
		s.tellReturned()
	}
	for _, claim := range c.claims {
		close(claim.done)
	}
	c.claims, c.queue, c.held = nil, nil, held{}
	c.drained.Broadcast()
	c.tellWritten()
	if c.sideGone {
		go func() { _ = c.transport.Close() }()
	}
}

// giveUp ends all streams because the client breaks the rules. The server goes
// on, and is to say what is wrong. mu is held.
func (c *Conn) giveUp(err error) {
	if c.sideGone {
		c.fail(err)
		return
	}
	c.careless = true
	for _, s := range c.streams {
		s.end()
	}
	for _, claim := range c.claims {
		close(claim.done)
	}
	c.claims = nil
}

// left is called when a stream has ended. The last one ends a connection of
// which the server has closed its side. mu is held.
func (c *Conn) left() {
	c.live--
	if c.live == 0 && c.sideGone && c.err == nil {
		c.closeWritten()
	}
}

// closeWritten closes the transport when what is in the queue was written. mu is
// held.
func (c *Conn) closeWritten() {
	if c.closing {
		return
	}
	c.closing = true
	go func() {
		_ = c.transport.SetWriteDeadline(time.Now().Add(closeTime))
		c.wmu.Lock()
		if p := c.takeOrUnlock(); p != nil {
			c.finishWriting(p)
		}
		_ = c.transport.Close()
		c.mu.Lock()
		c.fail(net.ErrClosed)
		c.mu.Unlock()
	}()
}

// closeSide is called when the server closes its side. Streams that were taken
// over go on if the server has ended in order.
func (c *Conn) closeSide() error {
	c.mu.Lock()
	if c.sideGone {
		c.mu.Unlock()
		return nil
	}
	inOrder := c.err == nil && c.goAway && !c.careless && c.held.empty() && c.server.between()
	if !inOrder {
		c.fail(net.ErrClosed)
	}
	c.sideGone = true
	c.drained.Broadcast()
	switch {
	case inOrder && c.live > 0:
		c.standAlone()
		inOrder = c.err == nil
	case inOrder && (len(c.queue) > 0 || c.writing):
		c.closeWritten()
	default:
		inOrder = false
	}
	c.mu.Unlock()
	if inOrder {
		return nil
	}
	return c.transport.Close()
}

// wake signals to the first stream that waits and can go on. It is the next
// one's turn when that one has. mu is held.
func (c *Conn) wake() {
	for _, s := range c.waiters {
		if s.room() > 0 {
			if !s.signalled {
				s.signalled = true
				s.notify(Writable)
			}
			return
		}
	}
}

// buffers lends what frames are joined in.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

func borrow() []byte { return (*buffers.Get().(*[]byte))[:0] }

func recycle(p []byte) {
	if cap(p) > 0 && cap(p) <= 2*maxQueue {
		kept := p // so that nothing is allocated for what is not kept
		buffers.Put(&kept)
	}
}
