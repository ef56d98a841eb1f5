package h2

import "slices"

// held is frames of the server that wait for room on the connection, and those
// that have to stay behind them.
type held struct {
	frames []heldFrame
	data   int64 // bytes of DATA in them, also those that are to come
	bytes  int
}

// heldFrame is a frame, or the frames of a header block.
type heldFrame struct {
	b        []byte
	data     bool // DATA, with payload
	whole    bool // that goes out whole: it is padded
	ack      bool // of SETTINGS
	complete bool
}

// goesOut reports whether all that it takes for more of the frame to go out is
// room.
func (f *heldFrame) goesOut() bool { return f.complete || (f.data && !f.whole) }

func (q *held) empty() bool { return len(q.frames) == 0 }

// add adds a whole frame that needs no room: before the newest one, if that is
// not complete.
func (q *held) add(frame []byte) {
	at := len(q.frames)
	if !q.frames[at-1].complete {
		at--
	}
	q.frames = slices.Insert(q.frames, at, heldFrame{b: frame, complete: true})
	q.bytes += len(frame)
}

// begin begins a frame, or the frames of a header block.
func (q *held) begin(h header) {
	q.frames = append(q.frames, heldFrame{
		data: h.kind == frameData && h.length > 0, whole: h.has(flagPadded), ack: h.kind == frameSettings,
	})
	if h.kind == frameData {
		q.data += int64(h.length)
	}
}

// append adds what comes of that.
func (q *held) append(p []byte) {
	newest := &q.frames[len(q.frames)-1]
	newest.b = append(newest.b, p...)
	q.bytes += len(p)
}

// complete is called when the newest frame is.
func (q *held) complete() { q.frames[len(q.frames)-1].complete = true }

// release lets go out what is held, as far as there is room. mu is held.
func (c *Conn) release() {
	q := &c.held
	if q.empty() {
		c.wake() // streams may have waited for the same room
		return
	}
	for !q.empty() {
		first := &q.frames[0]
		n := int64(len(first.b) - headerLen)
		if !first.complete || (first.data && n > c.given) {
			c.releasePart(first, int(min(n, c.given)))
			break
		}
		if first.data {
			c.given -= n
			q.data -= n
		}
		if first.ack {
			c.adjust(c.initial.acknowledge())
		}
		q.bytes -= len(first.b)
		c.queue = append(c.queue, first.b...)
		q.frames = slices.Delete(q.frames, 0, 1)
	}
	if q.empty() {
		q.frames = nil
	}
	c.drained.Broadcast()
	c.wake()
}

// releasePart lets the first n bytes of DATA go out as a frame: a client may wait
// for them before it gives more room. What goes out is complete.
func (c *Conn) releasePart(f *heldFrame, n int) {
	if !f.data || f.whole || n <= 0 {
		return
	}
	h := parseHeader(f.b)
	c.queue = appendHeader(c.queue, header{length: n, kind: frameData, stream: h.stream})
	c.queue = append(c.queue, f.b[headerLen:headerLen+n]...)
	h.length -= n
	appendHeader(f.b[n:n], h) // the header of the rest, before it
	f.b = f.b[n:]
	c.given -= int64(n)
	c.held.data -= int64(n)
	c.held.bytes -= n
}
