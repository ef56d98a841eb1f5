package h2

import (
	"encoding/binary"
	"net"
)

// serverFrames is the state of the server's frames, as far as they were written.
type serverFrames struct {
	start  [headerLen + markerLen]byte // of a frame that is not known yet
	has    int                         // how much of that
	need   int                         // how much says what is to be done; 0: not known
	left   int                         // of a frame's payload
	fate   fate                        // of what is left
	block  bool                        // a header block is not complete
	blocks fate                        // of that
}

// fate is what becomes of a frame of the server.
type fate byte

const (
	passes fate = iota
	drops
	holds
)

// between reports whether another frame may go out now.
func (f *serverFrames) between() bool {
	return (f.left == 0 || f.fate != passes) && (!f.block || f.blocks != passes)
}

// write is the server's Write.
func (c *Conn) write(p []byte) (int, error) {
	c.wmu.Lock()
	c.mu.Lock()
	if err := c.writeError(); err != nil {
		c.mu.Unlock()
		if p := c.takeOrUnlock(); p != nil { // of streams that go on, whose writers found wmu locked
			go c.finishWriting(p)
		}
		return 0, err
	}
	o := output{p: p}
	c.scan(&o)
	if err := c.err; err != nil {
		c.mu.Unlock()
		c.wmu.Unlock()
		return 0, err
	}
	c.release()
	c.writing = true
	c.mu.Unlock()

	var err error
	if b := o.bytes(); len(b) > 0 {
		err = c.send(b)
	}
	recycle(o.joined)
	if next := c.wrote(err); next != nil {
		if c.hasRoom(len(next)) {
			c.finishWriting(next)
		} else {
			go c.finishWriting(next) // the server does not wait for what is not its own
		}
	}
	if err == nil {
		err = c.awaitHeld()
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// writeError is why the server cannot write; nil: it can. mu is held.
func (c *Conn) writeError() error {
	if c.sideGone {
		return net.ErrClosed
	}
	return c.err
}

// awaitHeld waits while much is held of what the server has written.
func (c *Conn) awaitHeld() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.held.bytes > c.maxHeld && c.held.frames[0].goesOut() && c.writeError() == nil {
		c.drained.Wait()
	}
	return c.writeError()
}

// output is what goes out of what the server has written: a part of that as it
// is, or more joined with it.
type output struct {
	p      []byte
	lo, hi int    // p[lo:hi], if nothing is joined
	joined []byte // nil: nothing is
}

func (o *output) pass(lo, hi int) {
	switch {
	case o.joined != nil:
		o.joined = append(o.joined, o.p[lo:hi]...)
	case o.lo == o.hi:
		o.lo, o.hi = lo, hi
	case o.hi == lo:
		o.hi = hi
	default:
		o.add(o.p[lo:hi])
	}
}

func (o *output) add(b []byte) {
	if o.joined == nil {
		o.joined = append(borrow(), o.p[o.lo:o.hi]...)
	}
	o.joined = append(o.joined, b...)
}

func (o *output) bytes() []byte {
	if o.joined != nil {
		return o.joined
	}
	return o.p[o.lo:o.hi]
}

// scan looks at what the server writes. Between its frames goes what is in the
// queue. wmu and mu are held.
func (c *Conn) scan(o *output) {
	f := &c.server
	for i := 0; i < len(o.p) && c.err == nil; {
		if f.left > 0 {
			end := i + min(f.left, len(o.p)-i)
			switch f.fate {
			case passes:
				o.pass(i, end)
			case holds:
				c.held.append(o.p[i:end])
			}
			f.left -= end - i
			i = end
			c.scanned()
			continue
		}
		c.join(o)
		rest := o.p[i:]
		if f.has == 0 && len(rest) >= headerLen { // as a rule
			h := parseHeader(rest)
			if need := headerLen + c.needOfServer(h); len(rest) >= need {
				if c.fromServer(h, rest[:need]) == passes {
					o.pass(i, i+need)
				}
				i += need
				c.scanned()
				continue
			}
		}
		n, whole := c.gather(rest)
		i += n
		if !whole {
			continue
		}
		start := f.start[:f.has]
		f.has, f.need = 0, 0
		if c.fromServer(parseHeader(start), start) == passes {
			o.add(start)
		}
		c.scanned()
	}
	c.join(o)
}

// join lets go out what is in the queue, if it may now.
func (c *Conn) join(o *output) {
	if len(c.queue) > 0 && c.server.between() {
		o.add(c.queue)
		recycle(c.queue)
		c.queue = nil
	}
}

// gather puts the start of a frame together. It returns how much of p it has
// taken, and whether it is known now what is to be done with the frame.
func (c *Conn) gather(p []byte) (n int, whole bool) {
	f := &c.server
	for {
		need := headerLen
		if f.need > 0 {
			need = f.need
		}
		taken := copy(f.start[f.has:need], p[n:])
		n += taken
		if f.has += taken; f.has < need {
			return n, false
		}
		if f.need > 0 {
			return n, true
		}
		f.need = headerLen + c.needOfServer(parseHeader(f.start[:]))
	}
}

// needOfServer is how much of a frame's payload says what is to be done with it.
func (c *Conn) needOfServer(h header) int {
	switch {
	case h.kind == frameData && h.length == markerLen && len(c.claims) > 0:
		return markerLen
	case h.kind == frameGoAway:
		return min(h.length, 8)
	}
	return 0
}

// fromServer takes note of a frame, and decides what becomes of it. start is its
// header, and what is needed of its payload. mu is held.
func (c *Conn) fromServer(h header, start []byte) fate {
	f := &c.server
	goesOn := f.block && h.kind == frameContinuation
	f.fate = c.fateOf(h, start[headerLen:])
	f.left = headerLen + h.length - len(start)
	if f.fate == holds {
		if !goesOn {
			c.held.begin(h)
		}
		c.held.append(start)
	}
	return f.fate
}

// scanned is called when more of a frame was, which may be its end.
func (c *Conn) scanned() {
	if f := &c.server; f.left == 0 && f.fate == holds && !f.block {
		c.held.complete()
	}
}

// fateOf is fromServer less what it means for the bytes.
func (c *Conn) fateOf(h header, payload []byte) fate {
	f := &c.server
	s := c.streams[h.stream]
	switch h.kind {
	case frameData:
		return c.dataFromServer(h, payload, s)
	case frameHeaders, framePushPromise:
		if s != nil && s.over {
			c.fail(errForeign) // it can neither go out nor be left out
			return drops
		}
		if h.kind == frameHeaders && h.has(flagEndStream) {
			c.forgetOpen(h.stream)
			c.endedByServer(s, true)
		}
		f.block, f.blocks = !h.has(flagEndHeaders), c.passesOrHolds()
		return f.blocks
	case frameContinuation:
		if !f.block { // of no block
			f.blocks = c.passesOrHolds()
		}
		f.block = !h.has(flagEndHeaders)
		return f.blocks
	case frameRST:
		c.forgetOpen(h.stream)
		if s != nil {
			told := s.over
			c.endedByServer(s, false)
			if told {
				return drops
			}
		}
		return c.passesOrHolds()
	case frameGoAway:
		c.goAway = len(payload) == 8 && binary.BigEndian.Uint32(payload[4:]) == codeNo
	case frameSettings:
		if !h.has(flagAck) {
			return passes
		}
		// What was sent before may be more than the new windows allow.
		if !c.held.empty() {
			return holds
		}
		c.adjust(c.initial.acknowledge())
	}
	return passes
}

// passesOrHolds is the fate of a frame of a stream.
func (c *Conn) passesOrHolds() fate {
	if c.held.empty() {
		return passes
	}
	return holds
}

// dataFromServer decides what becomes of DATA. The server counts it as sent.
func (c *Conn) dataFromServer(h header, payload []byte, s *Stream) fate {
	n := int64(h.length)
	c.believed -= n
	if s != nil {
		if n > 0 && !s.over {
			s.breakOff(codeInternal) // something else writes to it
		}
		if h.has(flagEndStream) {
			s.doneByServer(true)
			s.forget()
		}
		return drops
	}
	if c.taken(h, payload) {
		return drops
	}
	if h.has(flagEndStream) {
		c.forgetOpen(h.stream)
	} else if room, known := c.open[h.stream]; known {
		c.open[h.stream] = room - n
	}
	if !c.held.empty() || n > c.given {
		return holds
	}
	c.given -= n
	return passes
}

// endedByServer ends a stream, if it was taken over, because the server has.
func (c *Conn) endedByServer(s *Stream, complete bool) {
	if s == nil {
		return
	}
	s.doneByServer(complete)
	s.end()
	s.forget()
}
