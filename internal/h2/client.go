package h2

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/number"
)

// clientFrames is the state of reading the client's frames, for who reads.
type clientFrames struct {
	ready    []byte   // the server has not taken it yet
	kept     [32]byte // the start of a frame that is not known yet
	has      int      // how much of that
	left     int      // of a frame's payload
	passes   bool     // what is left of it
	settings settings // of the frame, if it is one
	err      error    // for the next time
	buf      []byte   // for a server that reads less than can be looked at
}

const (
	// smallRead is how much a server has to read for its frames to be looked at
	// where it reads them to.
	smallRead = 64

	// ownRead is how much is read for a server that reads less. Every connection
	// keeps such a buffer while it waits for its client.
	ownRead = 128
)

// read is the server's Read.
func (c *Conn) read(p []byte) (int, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	f := &c.client
	for {
		if c.isSideGone() {
			return 0, net.ErrClosed
		}
		if len(f.ready) > 0 {
			n := copy(p, f.ready)
			if f.ready = f.ready[n:]; len(f.ready) == 0 {
				f.ready = nil
			}
			return n, nil
		}
		if len(p) == 0 || f.err != nil {
			return 0, f.err
		}
		buf := p
		if len(p) < smallRead {
			if f.buf == nil {
				f.buf = make([]byte, ownRead)
			}
			buf = f.buf
		}
		n, err := c.readFrames(buf)
		if err != nil {
			if n == 0 {
				return 0, err
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				f.err = err
			}
		}
		if len(p) < smallRead {
			f.ready = buf[:n]
			continue
		}
		if n > 0 {
			return n, nil
		}
	}
}

// readFrames reads once from the transport. n is how much of it is for the
// server. rmu is held.
func (c *Conn) readFrames(p []byte) (n int, err error) {
	f := &c.client
	begin := c.owed()
	kept := copy(p[begin:], f.kept[:f.has])
	n, err = c.transport.Read(p[begin+kept:])
	c.heard.Store(true)
	if n > 0 {
		f.has = 0
		n = c.filter(p[:begin+kept+n], begin)
		c.Flush()
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.mu.Lock()
		c.fail(err)
		c.mu.Unlock()
	}
	return n, err
}

// owed is how many bytes it takes to tell the server of the room that it was not
// told of, if that is much.
func (c *Conn) owed() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.debt() < maxDebt {
		return 0
	}
	return headerLen + windowUpdateLen
}

// debt is that room. mu is held.
func (c *Conn) debt() int64 { return c.given - c.held.data - c.believed }

// filter looks at b[begin:], and moves what is for the server to its start. What
// comes of a frame before it is known whether that is for the server, is kept.
func (c *Conn) filter(b []byte, begin int) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := &c.client
	owes := begin > 0
	for i := begin; i < len(b); {
		if f.left > 0 {
			part := b[i : i+min(f.left, len(b)-i)]
			f.settings.read(part)
			i += len(part)
			f.left -= len(part)
			if f.passes {
				n += copy(b[n:], part)
			}
			if f.left == 0 {
				c.frameRead()
			}
			continue
		}
		if owes && c.debt() > 0 {
			owes = false
			n += len(appendWord(b[:n], frameWindowUpdate, 0, number.As[uint32](c.debt()))) - n
			c.believed += c.debt()
		}
		rest := b[i:]
		if len(rest) < headerLen {
			f.has = copy(f.kept[:], rest)
			break
		}
		h := parseHeader(rest)
		whole := headerLen + c.needOfClient(h)
		if len(rest) < whole {
			f.has = copy(f.kept[:], rest)
			break
		}
		frame := rest[:whole]
		f.settings = settings{}
		if f.passes = c.fromClient(h, frame[headerLen:]); f.passes {
			n += copy(b[n:], frame)
		}
		i += whole
		if f.left = headerLen + h.length - whole; f.left == 0 {
			c.frameRead()
		}
	}
	return n
}

// needOfClient is how much of a frame's payload says what is to be done with it.
func (c *Conn) needOfClient(h header) int {
	switch {
	case h.kind == frameWindowUpdate && h.length == windowUpdateLen:
		return windowUpdateLen
	case h.kind == framePing && h.length == pingLen && c.sideGone:
		return pingLen
	}
	return 0
}

// fromClient takes note of a frame, and reports whether it is for the server. It
// may change what it has of the payload. mu is held.
func (c *Conn) fromClient(h header, payload []byte) (passes bool) {
	s := c.streams[h.stream]
	switch h.kind {
	case frameWindowUpdate:
		switch {
		case len(payload) == 0: // of a wrong length
		case h.stream == 0:
			passes = c.roomGiven(payload)
			return passes && !c.sideGone
		case s != nil:
			s.roomGiven(word(payload))
			return false
		default:
			if room, known := c.open[h.stream]; known {
				c.open[h.stream] = min(room+word(payload), maxWindow)
			}
		}
	case frameRST:
		if s != nil && h.length == 4 {
			s.end()
			s.forget()
			return false
		}
		c.forgetOpen(h.stream)
	case frameHeaders:
		c.opened(h.stream)
	case frameSettings:
		c.client.settings = settings{begun: !h.has(flagAck), initial: -1}
	case framePing:
		if c.sideGone && len(payload) == pingLen && !h.has(flagAck) {
			c.answer(header{length: pingLen, kind: framePing, flags: flagAck}, payload)
		}
	}
	return !c.sideGone
}

// opened takes note of a new stream.
func (c *Conn) opened(id uint32) {
	if id <= c.newest || id%2 == 0 {
		return
	}
	c.newest = id
	if c.goAway || len(c.open) >= maxOpen {
		return
	}
	if c.open == nil {
		c.open = make(map[uint32]int64)
	}
	c.open[id] = c.initial.now
}

// forgetOpen takes note that a stream is not the server's any more. A connection whose
// streams were all taken over keeps no map. mu is held.
func (c *Conn) forgetOpen(id uint32) {
	if delete(c.open, id); len(c.open) == 0 {
		c.open = nil
	}
}

// roomGiven takes note of a WINDOW_UPDATE of the connection. It changes it to what
// the server is to be told, and reports whether that is anything. mu is held.
func (c *Conn) roomGiven(payload []byte) (passes bool) {
	more := word(payload)
	if more == 0 || c.given+more > maxWindow {
		c.giveUp(errFlow)
		return true
	}
	c.given += more
	c.release()
	debt := c.debt()
	if debt <= 0 {
		return false
	}
	c.believed += debt
	binary.BigEndian.PutUint32(payload, number.As[uint32](debt))
	return true
}

// settings reads a SETTINGS frame.
type settings struct {
	begun   bool // it is one, and no acknowledgement
	part    [settingLen]byte
	has     int
	initial int64 // INITIAL_WINDOW_SIZE; -1: it is not in it
}

func (s *settings) read(p []byte) {
	if !s.begun {
		return
	}
	for len(p) > 0 {
		n := copy(s.part[s.has:], p)
		p = p[n:]
		if s.has += n; s.has == settingLen {
			s.has = 0
			if value := binary.BigEndian.Uint32(s.part[2:]); binary.BigEndian.Uint16(s.part[:]) == settingInitialWindow && value <= maxWindow {
				s.initial = int64(value)
			}
		}
	}
}

// frameRead is called when a whole frame of the client was. mu is held.
func (c *Conn) frameRead() {
	if !c.client.settings.begun {
		return
	}
	value := c.client.settings.initial
	c.client.settings = settings{}
	if len(c.initial.announced) >= maxAnnounced {
		c.fail(errFlood)
		return
	}
	c.adjust(c.initial.announce(value))
	if c.sideGone {
		c.adjust(c.initial.acknowledge())
		c.answer(header{kind: frameSettings, flags: flagAck}, nil)
	}
}

// initial is the room of a new stream. The client may count a smaller one from
// when it has sent it, and a larger one from when it is told that it was taken.
type initial struct {
	now       int64
	acked     int64
	announced []int64 // and not acknowledged; -1: as before
}

// announce takes a value that the client has sent, and returns by how much the
// room of all streams grows.
func (i *initial) announce(value int64) (by int64) {
	i.announced = append(i.announced, value)
	if value < 0 || value >= i.now {
		return 0
	}
	by = value - i.now
	i.now = value
	return by
}

// acknowledge is announce for when the oldest of them is acknowledged.
func (i *initial) acknowledge() (by int64) {
	if len(i.announced) == 0 {
		return 0
	}
	value := i.announced[0]
	if i.announced = i.announced[1:]; len(i.announced) == 0 {
		i.announced = nil
	}
	if value < 0 {
		return 0
	}
	i.acked = value
	now := i.acked
	for _, other := range i.announced {
		if other >= 0 {
			now = min(now, other)
		}
	}
	by = now - i.now
	i.now = now
	return by
}

// adjust changes the room of all streams. mu is held.
func (c *Conn) adjust(by int64) {
	if by == 0 {
		return
	}
	for id := range c.open {
		c.open[id] += by
	}
	for _, s := range c.streams {
		s.window += by
	}
	c.wake()
}

// standAlone goes on without the server. mu is held.
func (c *Conn) standAlone() {
	for range c.initial.announced {
		c.answer(header{kind: frameSettings, flags: flagAck}, nil)
	}
	for len(c.initial.announced) > 0 {
		c.adjust(c.initial.acknowledge())
	}
	c.open = nil
	_ = c.transport.SetReadDeadline(time.Unix(1, 0)) // who reads for the server stops
	go c.readAlone()
}

// readAlone reads what the client sends after the server has closed its side.
func (c *Conn) readAlone() {
	c.rmu.Lock()   // when nobody reads for the server any more
	c.rmu.Unlock() //nolint:staticcheck // SA2001: who comes later finds that the side is closed
	_ = c.transport.SetReadDeadline(time.Time{})
	c.client.ready = nil
	c.Flush()
	var buf [512]byte
	for c.Fault() == nil {
		_, err := c.readFrames(buf[:])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// It was set before, by who is gone.
			_ = c.transport.SetReadDeadline(time.Time{})
		}
	}
}

// answer sends what the server would have. mu is held.
func (c *Conn) answer(h header, payload []byte) {
	if len(c.queue) > 2*maxQueue {
		c.fail(errFlood)
		return
	}
	c.emit(append(appendHeader(nil, h), payload...))
}

func (c *Conn) isSideGone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sideGone
}
