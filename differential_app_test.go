package caddysse

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// The application of the differential test: what it sends, and to whom.

// diffStyle is how an application gives ids.
type diffStyle int

const (
	diffNoIDs    diffStyle = iota
	diffCounting           // each event has the next number
	diffOpaque             // each event has an ID of its own, of which nothing can be told
	diffMixed              // some events have none, some one that others have too
	diffStyles             // how many there are
)

func (s diffStyle) String() string {
	return [...]string{"no ids", "counting ids", "opaque ids", "mixed ids"}[s]
}

// Texts by which the test's clients know what is not one of the log's blocks.
const (
	helloData   = "hello"   // of the event with which an application greets
	phantomData = "phantom" // of an event that is never complete
	diffGapType = "gap"     // of the gateway's gap events
	fewPrefix   = "data: few "
)

// diffBlock is a block that is no comment. Its serial is its index in the log,
// and is in a line of it, as a field that clients ignore.
type diffBlock struct {
	lines      []string
	id         string
	setsID     bool
	dispatches bool
	idle       bool // changes nothing at a client: as a comment, it need not come
	event      int  // how many events came before it
}

// app broadcasts each of its blocks to all its connections.
type app struct {
	rnd     *rand.Rand // guarded by mu
	seed    uint64
	style   diffStyle
	resumes bool // goes on after a last event ID that it knows
	greets  bool // sends an event of its own to each connection first
	few     bool // without ids; and before it is calm, all events are of a few
	plain   bool // all blocks as simple as can be: for a case that is to be read
	ids     stream.IDsMode

	mu       sync.Mutex
	calm     bool
	log      []diffBlock
	events   int
	lastID   string
	after    map[string]int      // what a client with an ID needs begins here in the log
	comments map[string]struct{} // all comment lines that were sent
	conns    map[*diffConn]struct{}
	opened   int
	down     bool
	faults   []string
	trace    *trace
}

// diffConn is one connection to the application. Its goroutine writes what is queued.
type diffConn struct {
	app    *app
	number int
	cuts   *rand.Rand // of its goroutine
	wake   chan struct{}

	// Guarded by the application's lock.
	rnd     *rand.Rand
	queue   []byte
	lastEnd string // of the last line
	started bool
	end     string // "": none yet, "clean", "broken"
}

func newApp(seed uint64, trace *trace) *app {
	rnd := newRand(seed)
	a := &app{
		rnd: rnd, seed: seed, trace: trace,
		style:    diffStyle(rnd.IntN(int(diffStyles))),
		resumes:  rnd.IntN(3) > 0,
		greets:   rnd.IntN(4) == 0,
		after:    make(map[string]int),
		comments: make(map[string]struct{}),
		conns:    make(map[*diffConn]struct{}),
	}
	if a.style == diffNoIDs {
		a.few = rnd.IntN(2) == 0
	}
	return a
}

// newRand makes a source of random numbers that can be made again.
func newRand(seed uint64) *rand.Rand {
	return rand.New(rand.NewPCG(seed, 0))
}

// breaks reports whether the application's connections may break. Where ids say
// nothing, and the application does not look at them, nobody could tell what was
// lost then.
func (a *app) breaks() bool {
	return a.resumes || a.style == diffNoIDs || a.style == diffCounting
}

// ServeHTTP serves the application's stream.
func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := a.open(r)
	if c == nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	defer a.closed(c)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	w.WriteHeader(http.StatusOK)
	flush := http.NewResponseController(w).Flush
	_ = flush()
	for {
		text, end := c.take()
		for _, piece := range c.pieces(text) {
			if _, err := w.Write(piece); err != nil {
				return
			}
			_ = flush()
		}
		switch end {
		case "broken":
			panic(http.ErrAbortHandler)
		case "clean":
			return
		}
		select {
		case <-c.wake:
		case <-r.Context().Done():
			return
		}
	}
}

// open registers a connection: it gets all that is sent from now on, and what it
// asks for.
func (a *app) open(r *http.Request) *diffConn {
	id := r.Header.Get("Last-Event-ID")
	if id == "" {
		id = r.URL.Query().Get("lastEventId")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, _, ok := replay.ParseID(id); ok && a.ids != stream.IDsUpstream {
		a.faults = append(a.faults, "an ID of the gateway came upstream: "+id)
	}
	if a.down {
		a.trace.add("upstream is down: %.30q", id)
		return nil
	}
	c := &diffConn{
		app: a, number: a.opened, wake: make(chan struct{}, 1),
		rnd: newRand(a.seed ^ uint64(a.opened)<<32), cuts: newRand(a.seed ^ uint64(a.opened)<<48),
	}
	a.opened++
	a.conns[c] = struct{}{}
	if a.greets {
		c.add([]string{"data: " + helloData})
	}
	from, known := a.after[id]
	if id == "" || !known || !a.resumes {
		from = len(a.log)
	}
	for _, b := range a.log[from:] {
		c.add(b.lines)
	}
	a.trace.add("upstream %d opened with %.30q: from %d", c.number, id, from)
	return c
}

func (a *app) closed(c *diffConn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.conns, c)
	a.trace.add("upstream %d closed %s", c.number, c.end)
}

// emit sends n new blocks to all connections.
func (a *app) emit(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for range n {
		a.emitLocked(a.newBlock())
	}
}

func (a *app) emitLocked(b diffBlock) {
	a.log = append(a.log, b)
	if b.dispatches {
		a.events++
	}
	for c := range a.conns {
		c.add(b.lines)
	}
	a.trace.add("sent %d (event %d, id %.30q)", len(a.log)-1, b.event, b.id)
}

// comment sends a block of comments.
func (a *app) comment() {
	a.mu.Lock()
	defer a.mu.Unlock()
	lines := []string{a.commentLine()}
	for a.rnd.IntN(3) == 0 {
		lines = append(lines, a.commentLine())
	}
	for c := range a.conns {
		c.add(lines)
	}
}

func (a *app) commentLine() string {
	line := ": comment " + strconv.Itoa(len(a.comments))
	a.comments[line] = struct{}{}
	return line
}

// NewBlock makes the next block.
func (a *app) newBlock() diffBlock {
	if a.few && !a.calm {
		return diffBlock{lines: []string{fewPrefix + strconv.Itoa(a.rnd.IntN(3))}, dispatches: true, event: a.events}
	}
	b := diffBlock{dispatches: a.plain || a.rnd.IntN(8) > 0, event: a.events}
	b.lines = append(b.lines, "n: "+strconv.Itoa(len(a.log)))
	a.giveID(&b)
	if b.dispatches {
		b.lines = append(b.lines, a.data()...)
	}
	if a.plain {
		return b
	}
	for a.rnd.IntN(3) == 0 {
		b.lines = append(b.lines, pick(a.rnd, a.commentLine(), "unknown", "unknown: x", "x:", "event:", "event: update", "data\xff: \xfe",
			"retry: 7", "retry: 7x", "retry", "id: a\x00b", " data: indented", "x\uFEFF: y", "ID: case", "event: e:\t"))
	}
	a.rnd.Shuffle(len(b.lines), func(i, j int) { b.lines[i], b.lines[j] = b.lines[j], b.lines[i] })
	if a.rnd.IntN(10) == 0 {
		b.lines = slices.Insert(b.lines, 0, a.commentLine())
	}
	b.idle = !b.dispatches && !b.setsID && !slices.Contains(b.lines, "retry: 7")
	return b
}

// giveID gives a block its ID by the application's style.
func (a *app) giveID(b *diffBlock) {
	n := len(a.log)
	switch a.style {
	case diffCounting:
		if !b.dispatches {
			return
		}
		b.id = strconv.Itoa(a.events + 1)
	case diffOpaque:
		length := a.rnd.IntN(100)
		if a.rnd.IntN(20) == 0 {
			length = a.rnd.IntN(7000)
		}
		b.id = fmt.Sprintf("%x-é:%d%s", a.seed&0xffff, n, strings.Repeat("z", length))
	case diffMixed:
		switch a.rnd.IntN(5) {
		case 0, 1:
			b.id = fmt.Sprintf("m%d", n)
		case 2:
			b.id = a.lastID
		}
	case diffNoIDs, diffStyles:
	}
	if b.id == "" {
		return
	}
	b.setsID = true
	b.lines = append(b.lines, pick(a.rnd, "id: ", "id:")+b.id)
	if b.id != a.lastID {
		a.after[b.id] = n + 1
		a.lastID = b.id
	}
}

// data makes the data lines of an event.
func (a *app) data() (lines []string) {
	size := a.rnd.IntN(100)
	if !a.plain {
		switch a.rnd.IntN(400) {
		case 0:
			size = a.rnd.IntN(1 << 20)
		case 1, 2, 3, 4:
			size = a.rnd.IntN(64 << 10)
		case 5:
			return []string{pick(a.rnd, "data", "data:", "data: ")}
		}
	}
	text := strings.Repeat("äb \tc:", size/7+1)[:size]
	n := 1
	if !a.plain {
		n += a.rnd.IntN(2) * a.rnd.IntN(4)
	}
	for i := range n {
		lines = append(lines, pick(a.rnd, "data: ", "data:")+text[i*size/n:(i+1)*size/n])
	}
	return lines
}

func pick[T any](rnd *rand.Rand, from ...T) T { return from[rnd.IntN(len(from))] }

// add queues a block. The application's lock is held.
func (c *diffConn) add(lines []string) {
	if c.end != "" {
		return
	}
	if !c.started {
		c.started = true
		if c.rnd.IntN(3) == 0 {
			c.queue = append(c.queue, "\uFEFF"...)
		}
	}
	ends := []string{"\n"}
	if !c.app.plain {
		ends = [][]string{{"\n"}, {"\r"}, {"\r\n"}, {"\n", "\r", "\r\n"}}[c.rnd.IntN(4)]
	}
	for _, line := range lines {
		c.line(line, ends)
	}
	c.line("", ends)
	for !c.app.plain && c.rnd.IntN(20) == 0 {
		c.line("", ends)
	}
	c.ring()
}

// line queues a line. A line end that begins with LF does not come after one that
// is CR: together they would be one.
func (c *diffConn) line(line string, ends []string) {
	end := pick(c.rnd, ends...)
	if line == "" && c.lastEnd == "\r" && end == "\n" {
		end = "\r\n"
	}
	c.queue = append(append(c.queue, line...), end...)
	c.lastEnd = end
}

func (c *diffConn) ring() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// take returns what is to be written, and whether the connection ends then.
func (c *diffConn) take() (text []byte, end string) {
	c.app.mu.Lock()
	defer c.app.mu.Unlock()
	text, end = c.queue, c.end
	c.queue = nil
	return text, end
}

// pieces cuts what is to be written anywhere.
func (c *diffConn) pieces(text []byte) (pieces [][]byte) {
	if c.app.plain {
		return [][]byte{text}
	}
	for len(text) > 0 {
		n := len(text)
		switch c.cuts.IntN(4) {
		case 0:
			n = 1 + c.cuts.IntN(min(n, 8))
		case 1:
			n = 1 + c.cuts.IntN(n)
		}
		pieces = append(pieces, text[:n])
		text = text[n:]
		if len(pieces) == 40 {
			return append(pieces, text)
		}
		runtime.Gosched()
	}
	return pieces
}

// finish ends connections: one, or all. What is queued is lost when they break.
func (a *app) finish(how string, all bool) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for c := range a.conns {
		if c.end != "" {
			continue
		}
		if how == "broken" && a.rnd.IntN(2) == 0 {
			c.queue = nil
		}
		c.queue = append(c.queue, "data: "+phantomData+"\n"...)
		c.end = how
		c.ring()
		n++
		if !all {
			break
		}
	}
	a.trace.add("%d upstream connections end: %s", n, how)
	return n
}

// setCalm lets the application's events be told apart.
func (a *app) setCalm() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calm, a.down = true, false
}

// setDown lets the application refuse connections, or take them again.
func (a *app) setDown(down bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.down = down
	a.trace.add("upstream is down: %v", down)
}

// sent returns how many blocks and events there were.
func (a *app) sent() (blocks, events int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.log), a.events
}

// fewBefore returns the lines of the last n events before one, of those that are
// of a few.
func (a *app) fewBefore(event, n int) (lines []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range a.log { // each of which is an event
		if b.event >= event-n && b.event < event {
			lines = append(lines, b.lines...)
		}
	}
	return lines
}

// block returns a block of the log.
func (a *app) block(serial int) (b diffBlock, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if serial < 0 || serial >= len(a.log) {
		return b, false
	}
	return a.log[serial], true
}

// trace is what happened, for who looks for the cause of a failure.
type trace struct {
	mu    sync.Mutex
	start time.Time
	lines []string
}

func (t *trace) add(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, fmt.Sprintf("%9.3f ", time.Since(t.start).Seconds())+fmt.Sprintf(format, args...))
}
