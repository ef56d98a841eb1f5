package delivery

import (
	"bytes"
	"container/heap"
	"runtime"
	"slices"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// Delivery over connections that were taken over.
//
// A few writers, one per core, write to all such connections. Each connection
// belongs to one writer, and only the writer's goroutine touches its socket: so
// nothing is ever written to a file descriptor after it was closed. Whoever has
// news for a connection (the stream's bell, the poller) hands it to its writer
// to be looked at.

const (
	// perTurn is how many connections of one list are served before it is the
	// turn of another one: a large stream must not keep a small one waiting.
	perTurn = 64

	// perClock is how many connections are served between two looks at the
	// clock.
	perClock = 16

	// piecesPerTurn is how many writes of about MaxWrite bytes a connection
	// gets at once: a replay must not keep live delivery waiting.
	piecesPerTurn = 2
)

// writer writes to its connections, one after the other, what fits into their
// sockets. What is without a lock is for its goroutine only.
type writer struct {
	// Fixed after construction.
	clock
	live *live

	inbox // has a lock

	now     time.Time // about
	tick    moment    // the same
	work    []workList
	single  workList // what was in singles
	due     dueHeap
	blocks  []*replay.Block
	batch   batch
	counted counts
	queues  []queue // something waits in them
}

// queue is where bytes of several connections wait to go out together.
type queue interface{ flush() }

// workList is a list of connections of which the first ones have been served.
type workList struct {
	list []stream.Waiter
	done int
}

// counts is what a writer has not told the metrics yet.
type counts struct{ blocks, bytes, heartbeats int }

func newWriter(clock clock, live *live) *writer {
	return &writer{clock: clock, live: live, inbox: inbox{news: make(chan struct{}, 1)}}
}

// run serves connections for ever.
func (w *writer) run() {
	timer := time.NewTimer(noTimeout)
	defer timer.Stop()
	for {
		busy := w.collect()
		w.look()
		w.serveDue()
		w.flush()
		w.tell()
		if !busy {
			wait := noTimeout
			if len(w.due) > 0 {
				wait = time.Until(w.time(w.due[0].due))
			}
			timer.Reset(wait)
			select {
			case <-w.news:
			case <-timer.C:
			}
			continue
		}
		w.round()
		runtime.Gosched() // for whoever brings the next events
	}
}

// flush writes what was put into the queues of connections of HTTP/2 since the
// last time: that of all streams of one goes out together.
func (w *writer) flush() {
	for _, q := range w.queues {
		q.flush()
	}
	clear(w.queues)
	w.queues = w.queues[:0]
}

// look looks at the clock.
func (w *writer) look() {
	w.now = time.Now()
	w.tick = w.moment(w.now)
}

// collect takes over what was handed to the writer. It reports whether there
// is anything to do.
func (w *writer) collect() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, list := range w.lists {
		w.work = append(w.work, workList{list: list})
	}
	clear(w.lists)
	w.lists = w.lists[:0]
	w.single.list = append(w.single.list, w.singles...)
	clear(w.singles)
	w.singles = w.singles[:0]
	return len(w.work) > 0 || len(w.single.list) > 0
}

// round gives each list a turn.
func (w *writer) round() {
	if w.turn(&w.single) {
		clear(w.single.list)
		w.single = workList{list: w.single.list[:0]}
	}
	left := w.work[:0]
	for _, l := range w.work {
		switch done := w.turn(&l); {
		case !done:
			left = append(left, l)
		case cap(l.list) > cap(w.room):
			clear(l.list)
			w.room = l.list[:0]
		}
	}
	clear(w.work[len(left):])
	w.work = left
}

// turn serves the next connections of a list, and reports whether those were
// the last ones.
func (w *writer) turn(l *workList) (done bool) {
	n := min(perTurn, len(l.list)-l.done)
	for i, c := range l.list[l.done : l.done+n] {
		if i%perClock == 0 {
			w.look()
		}
		w.serve(c.(*connection))
	}
	l.done += n
	return l.done == len(l.list)
}

// tell tells the metrics what was sent.
func (w *writer) tell() {
	if w.counted == (counts{}) {
		return
	}
	Counts.Bytes.Add(w.counted.bytes)
	Counts.Blocks.Add(w.counted.blocks)
	Counts.Heartbeats.Add(w.counted.heartbeats)
	w.counted = counts{}
}

// serve gives a connection what there is for it.
func (w *writer) serve(c *connection) {
	if c.closed {
		return
	}
	signals := signal(c.signals.Swap(0))
	if signals&signalHungUp != 0 {
		reason := stream.EndClient
		if timedOut(c.socket.fault()) {
			reason = stream.EndWrite // the system was sooner than write_timeout
		}
		w.close(c, reason)
		return
	}
	if signals&signalNew != 0 {
		c.socket.watch(c)
	}
	if signals&signalReadable != 0 {
		c.socket.readable(c)
	}
	if c.blocked() && signals&signalLeave != 0 {
		w.close(c, stream.EndRevoked) // what it has not taken is not for it any more
		return
	}
	if c.blocked() {
		if signals&signalWritable == 0 || !w.resume(c) {
			return
		}
	}
	for range piecesPerTurn {
		var waits bool
		var leaveAt time.Time
		var end stream.EndReason
		w.blocks, waits, leaveAt, end = c.sub.NextOf(c, w.blocks[:0], w.now)
		c.leaveAt = w.moment(leaveAt)
		if len(w.blocks) > 0 && !w.write(c, w.blocks, end) {
			return
		}
		if end != "" {
			w.end(c, end)
			return
		}
		if waits {
			w.schedule(c)
			return
		}
	}
	w.lookAtOne(c)
}

// write sends blocks. It returns false if they do not all fit into the socket,
// or the connection is gone.
func (w *writer) write(c *connection, blocks []*replay.Block, end stream.EndReason) bool {
	chunk, size := w.chunk(c, blocks)
	batch := writtenBatch{blocks: c.sub.Taken, bytes: size, at: w.moment(c.sub.TakenAt())}
	if !w.send(c, chunk) {
		if !c.closed {
			c.end, c.held.partly = end, batch
			c.sub.HoldBatch(blocks)
		}
		return false
	}
	w.count(c, batch)
	return true
}

// count counts blocks that were written whole.
func (w *writer) count(c *connection, batch writtenBatch) {
	w.counted.blocks += batch.blocks
	w.counted.bytes += batch.bytes
	c.bytes += batch.bytes
	if batch.at != 0 {
		Counts.Lag.Observe(max(0, time.Duration(w.tick-batch.at).Seconds()))
	}
}

// chunk returns blocks in the chunked transfer coding, where that is needed, and
// how many bytes they have without it.
func (w *writer) chunk(c *connection, blocks []*replay.Block) (chunk []byte, size int) {
	if !c.began {
		c.began = true
		if bytes.HasPrefix(blocks[0].Wire, ByteOrderMark) {
			blocks = slices.Concat([]*replay.Block{{Wire: []byte(EmptyComment)}}, blocks) // see Response.Send
		}
	}
	switch {
	case len(blocks) == 1 && c.bare:
		return blocks[0].Wire, len(blocks[0].Wire)
	case len(blocks) == 1 && blocks[0].Chunk != nil:
		return blocks[0].Chunk, len(blocks[0].Wire)
	}
	chunk, size = w.batch.of(blocks)
	if c.bare && size > 0 {
		end := len(chunk) - len("\r\n")
		chunk = chunk[end-size : end]
	}
	return chunk, size
}

// send writes bytes to a connection, which has none that wait. It returns false
// if they do not all fit, or the connection is gone.
func (w *writer) send(c *connection, p []byte) bool {
	if len(p) == 0 {
		return true
	}
	n, err := c.socket.write(p)
	c.last = w.tick
	if err != nil {
		w.close(c, writeEnd(err))
		return false
	}
	if n == len(p) {
		if c.lookAt == 0 {
			c.lookAt = c.lookIn(w.tick, 2)
		}
		return true
	}
	w.batch.lent = true
	w.block(c, p[n:])
	return false
}

// block parks a connection until its socket takes more.
func (w *writer) block(c *connection, rest []byte) {
	c.held = &held{rest: rest}
	c.lookAt = sooner(c.lookAt, c.lookIn(w.tick, looksPerTimeout))
	if a, known := c.socket.acks(); known && c.takenAt == 0 {
		c.taken, c.takenAt = a.taken, w.tick
	}
	c.sub.Writing.Begin(w.now)
	c.socket.await(c, rest)
	w.schedule(c)
}

// resume goes on with a connection whose socket takes more. It returns false if
// it is blocked again or gone.
func (w *writer) resume(c *connection) bool {
	h := c.held
	n, err := c.socket.resume(h.rest)
	if err != nil {
		w.close(c, writeEnd(err))
		return false
	}
	if n < len(h.rest) {
		h.rest = h.rest[n:]
		c.socket.await(c, h.rest)
		return false
	}
	c.held = nil
	c.sub.Writing.Stop()
	c.last = w.tick
	w.count(c, h.partly)
	c.sub.HeldBatch()
	if c.end != "" {
		w.end(c, c.end)
		return false
	}
	return true
}

// end ends a response, if it is whole in the way that HTTP says.
func (w *writer) end(c *connection, reason stream.EndReason) {
	if reason.Whole() && !c.ended {
		c.ended = true
		c.end = reason
		if c.bare {
			c.socket.finish()
		} else if !w.send(c, []byte(replay.LastChunk)) {
			return
		}
	}
	w.close(c, reason)
}

// close closes a connection: its subscriber has left.
func (w *writer) close(c *connection, reason stream.EndReason) {
	if c.closed {
		return
	}
	c.closed = true
	if c.end != "" {
		reason = c.end // what had been decided
	}
	if h := c.held; h != nil && h.partly.bytes > len(h.rest) { // about: with what the transfer coding adds
		w.count(c, writtenBatch{bytes: h.partly.bytes - len(h.rest)})
	}
	c.socket.close()
	if c.index >= 0 {
		heap.Remove(&w.due, c.index)
	}
	c.sub.LeaveBell(c)
	c.sub.Leave()
	w.over(c, reason)
	c.held, c.sub = nil, nil
}

// takes reports whether the client takes what it is sent: whether it has, since
// the last look within write_timeout. By what the look is late it was the process
// that was held up, in which nothing more was sent.
func (w *writer) takes(c *connection) bool {
	a, known := c.socket.acks()
	if c.takenAt != 0 {
		c.takenAt += max(0, w.tick-c.lookAt)
	}
	switch {
	case !known, a.waiting == 0 && !c.blocked():
		c.lookAt, c.takenAt = 0, 0
		return true
	case c.takenAt == 0, a.taken != c.taken:
		c.taken, c.takenAt = a.taken, w.tick
	case w.tick-c.takenAt >= moment(c.settings.WriteTimeout):
		return false
	}
	c.lookAt = c.lookIn(w.tick, looksPerTimeout)
	if !c.blocked() {
		return true
	}
	leaves := c.sub.Leaves()
	return leaves.IsZero() || w.now.Sub(leaves) < c.settings.WriteTimeout
}

// serveDue does what is due by time.
func (w *writer) serveDue() {
	for range perTurn {
		if len(w.due) == 0 || w.due[0].due > w.tick {
			return
		}
		c := heap.Pop(&w.due).(*connection)
		switch at := c.nextDue(); {
		case at == 0, at > w.tick: // put off by what was sent meanwhile
		case c.lookAt != 0 && w.tick >= c.lookAt:
			if !w.takes(c) {
				w.close(c, stream.EndWrite)
				continue
			}
		case c.leaves(w.tick):
			w.serve(c)
		default:
			w.heartbeat(c)
		}
		if !c.closed {
			w.schedule(c)
		}
	}
}

// heartbeat sends a heartbeat.
func (w *writer) heartbeat(c *connection) {
	if c.end != "" {
		return
	}
	c.began = true
	w.counted.heartbeats++
	w.counted.bytes += len(c.settings.Beat)
	c.bytes += len(c.settings.Beat)
	if c.bare {
		w.send(c, c.settings.Beat)
		return
	}
	w.send(c, c.settings.beatChunk)
}

// schedule makes sure that the connection is looked at when something is due.
func (w *writer) schedule(c *connection) {
	at := c.nextDue()
	switch {
	case at == 0:
	case c.index < 0:
		c.due = at
		heap.Push(&w.due, c)
	case at < c.due: // later ones are seen when it is due
		c.due = at
		heap.Fix(&w.due, c.index)
	}
}

// over tells that the response has ended. The connection counts as gone when
// its access-log entry was written: the process may exit then.
func (w *writer) over(c *connection, reason stream.EndReason) {
	c.counted.Dec()
	Counts.Ended.With(string(reason)).Inc()
	if c.log == nil {
		w.live.gone()
		return
	}
	c.log.Ended(c.sub, reason, c.bytes, w.live.gone)
}
