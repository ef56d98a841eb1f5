package caddysse

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// A client of the differential test: an EventSource that notes all it is given.

// diffClient is a client. Its goroutine, run, connects and reads until it is closed.
type diffClient struct {
	number int
	app    *app
	http   *http.Client
	target string
	query  bool // the last event ID goes in the query
	trace  *trace

	mu      sync.Mutex
	notes   []note
	fault   string // what no client may see
	lastID  string
	newest  int // the newest event that it has got; -1: none
	cancel  context.CancelFunc
	resumed chan struct{} // not nil: it does not read until that is closed
	back    chan struct{} // not nil: it does not come back until that is closed
	rnd     *rand.Rand
}

// note is one thing that a client saw.
type note struct {
	kind   noteKind
	serial int    // of a block
	id     string // the last event ID: of the request, or after the block
	told   bool   // a head that tells a gap
	left   bool   // an end that is the client's own
	direct bool   // a head without an outcome of resuming: of an upstream connection of its own
	must   int    // with a head: so many events had been sent, at most, before it
	text   string
}

type noteKind int

const (
	noteHead noteKind = iota
	noteBlock
	noteGap
	noteEnd
)

// run connects, reads, and comes back, until the context is done.
func (c *diffClient) run(ctx context.Context) {
	for ctx.Err() == nil {
		c.connect(ctx)
		c.mu.Lock()
		back := c.back
		pause := time.Duration(c.rnd.IntN(30)) * time.Millisecond
		c.mu.Unlock()
		if back != nil {
			select {
			case <-back:
			case <-ctx.Done():
			}
		}
		time.Sleep(pause) // as EventSource waits before it comes back
	}
}

// connect makes one request and reads its answer to the end.
func (c *diffClient) connect(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.mu.Lock()
	c.cancel = cancel
	id := c.lastID
	target := c.target
	byQuery := c.query && id != ""
	c.mu.Unlock()
	if byQuery {
		target += "?lastEventId=" + url.QueryEscape(id)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://gateway.test"+target, nil)
	if err != nil {
		c.fail("making a request: %v", err)
		return
	}
	req.Header.Set("Accept", "text/event-stream")
	if id != "" && !byQuery {
		req.Header.Set("Last-Event-ID", id)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return // Caddy's listener of before a reload has closed the connection, or it has left
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		c.trace.add("client %d: %s", c.number, resp.Status)
		return
	}
	outcome := resp.Header.Get("SSE-Resume")
	direct := outcome == "" || strings.HasPrefix(outcome, stream.ResumePrivate) // without a gateway, or as without one
	told := outcome == stream.ResumeGap                                         // with which a private answer does not say that it is one
	_, sent := c.app.sent()
	c.note(note{kind: noteHead, id: id, told: told, direct: direct, must: sent, text: resp.Proto + " " + outcome})
	err = c.read(bufio.NewReader(resp.Body), direct || told)
	c.note(note{kind: noteEnd, text: err.Error(), left: ctx.Err() != nil})
}

// note takes a note.
func (c *diffClient) note(n note) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notes = append(c.notes, n)
	if n.kind == noteBlock {
		c.trace.add("client %d: block %d %s", c.number, n.serial, n.text)
		return
	}
	c.trace.add("client %d: %v %.30q told %v, %s", c.number, [...]string{"head", "block", "gap", "end"}[n.kind], n.id, n.told, n.text)
}

// fail takes note of a fault.
func (c *diffClient) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	c.trace.add("client %d: FAULT: %s", c.number, text)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fault == "" {
		c.fault = text
	}
}

// read reads an answer: lines, in blocks that end with a blank line. Line ends
// are LF, but where the answer may be the application's as it is.
func (c *diffClient) read(r *bufio.Reader, asItIs bool) error {
	if mark, err := r.Peek(len(delivery.ByteOrderMark)); err == nil && string(mark) == string(delivery.ByteOrderMark) && asItIs {
		_, _ = r.Discard(len(mark))
	}
	var lines []string
	var line []byte
	for last := byte(0); ; {
		b, err := r.ReadByte()
		switch {
		case err != nil:
			return err
		case b == '\n' && last == '\r': // of the same line end
		case b == '\r' && !asItIs:
			c.fail("a line end is not LF: %.100q", line)
		case b != '\n' && b != '\r':
			line = append(line, b)
		case len(line) > 0:
			lines = append(lines, string(line))
			line = line[:0]
		default:
			c.block(lines)
			lines = nil
			c.pauseReading()
		}
		last = b
	}
}

// pauseReading waits while the client is not to read.
func (c *diffClient) pauseReading() {
	c.mu.Lock()
	resumed := c.resumed
	c.mu.Unlock()
	if resumed != nil {
		<-resumed
	}
}

// block takes a block of an answer.
func (c *diffClient) block(lines []string) {
	lines = c.withoutComments(lines)
	if len(lines) == 0 {
		return
	}
	serial, event, data := -1, "", ""
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "n":
			serial, _ = strconv.Atoi(value)
		case "event":
			event = value
		case "data":
			data += value
		case "id":
			if !strings.Contains(value, "\x00") {
				c.mu.Lock()
				c.lastID = value
				c.mu.Unlock()
			}
		}
	}
	switch {
	case serial >= 0:
		c.broadcast(serial, lines)
	case len(lines) > 0 && strings.HasPrefix(lines[0], fewPrefix):
		if len(lines) > 1 && !strings.HasPrefix(lines[1], "id: "+replay.IDPrefix) {
			c.fail("an event with other bytes: %q", lines)
		}
		c.note(note{kind: noteBlock, serial: -1, id: c.lastID, text: lines[0]})
	case event == diffGapType:
		c.note(note{kind: noteGap, text: data})
	case data != "" && data != helloData:
		c.fail("an event that was not sent: %q", lines)
	case data == "" && slices.ContainsFunc(lines, isForeign):
		c.fail("a block that was not sent: %q", lines)
	}
}

// isForeign reports whether a line is not one of a block of the gateway's own that
// dispatches nothing.
func isForeign(line string) bool {
	name, _, _ := strings.Cut(line, ":")
	return name != "id" && name != "retry"
}

// withoutComments returns a block's lines less the comments before the first
// other one, which may come as a block of their own.
func (c *diffClient) withoutComments(lines []string) []string {
	for len(lines) > 0 && strings.HasPrefix(lines[0], ":") {
		if line := lines[0]; line != ":" && !c.app.hasCommented(line) {
			c.fail("a comment that was not sent: %q", line)
		}
		lines = lines[1:]
	}
	return lines
}

// broadcast takes one of the application's blocks and compares its bytes.
func (c *diffClient) broadcast(serial int, lines []string) {
	b, ok := c.app.block(serial)
	if !ok {
		c.fail("a block that was not sent: %q", lines)
		return
	}
	got := slices.Clone(lines)
	if last := len(got) - 1; strings.HasPrefix(got[last], "id: "+replay.IDPrefix) && b.dispatches {
		got = got[:last]
	}
	same := slices.Equal(got, lessComments(b.lines)) || // with ids gateway, too, from an upstream connection of its own
		(c.app.ids == stream.IDsGateway && slices.Equal(got, lessComments(lessIDs(b.lines))))
	if !same {
		c.fail("block %d has other bytes:\n%.2000q\nexpected\n%.2000q", serial, got, b.lines)
	}
	c.mu.Lock()
	id := c.lastID
	if b.dispatches {
		c.newest = b.event
	}
	c.mu.Unlock()
	c.note(note{kind: noteBlock, serial: serial, id: id})
}

func lessComments(lines []string) []string {
	for len(lines) > 0 && strings.HasPrefix(lines[0], ":") {
		lines = lines[1:]
	}
	return lines
}

func lessIDs(lines []string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(line string) bool {
		name, _, _ := strings.Cut(line, ":")
		return name == "id"
	})
}

// drop lets the client leave. It comes back, when it was told to if away.
func (c *diffClient) drop(away bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if away && c.back == nil {
		c.back = make(chan struct{})
	}
	if c.cancel != nil {
		c.cancel()
	}
	c.readOn()
}

// stall lets the client read nothing until wake.
func (c *diffClient) stall() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.resumed == nil {
		c.resumed = make(chan struct{})
		c.trace.add("client %d: does not read", c.number)
	}
}

// wakeUp lets the client come back and read.
func (c *diffClient) wakeUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.back != nil {
		close(c.back)
		c.back = nil
	}
	c.readOn()
}

func (c *diffClient) readOn() {
	if c.resumed != nil {
		close(c.resumed)
		c.resumed = nil
		c.trace.add("client %d: reads", c.number)
	}
}

// hasNewest reports whether the client has got the newest event.
func (c *diffClient) hasNewest() bool {
	_, events := c.app.sent()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.newest == events-1
}

// hasCommented reports whether the application has sent a comment line.
func (a *app) hasCommented(line string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.comments[line]
	return ok
}

// errNotTold is for a gap that may still be told: whether an application goes on
// after an ID shows when a splice is merged.
var errNotTold = errors.New("was lost, and no gap was told to the end")

// comparison compares what a client saw with what the application sent.
type comparison struct {
	app  *app
	have int  // the newest event that it has; -1: any may come next
	must int  // with have -1: the first that may not be missing
	told bool // a gap, since that event
	anew bool // of another life of the stream, all of which it is given
	late int  // events that were lost and may be told later; -1: none
	low  int  // the oldest block that may come again

	foreign bool         // the ID is the application's, and means nothing to a stream with the gateway's
	between map[int]bool // blocks since that event, of this response
	few     []string     // events of a few, with have -1

	responses, received, gaps, repeats, lost int // how many there were
}

// compare returns what is wrong with all that a client saw.
func (c *diffClient) compare() (k comparison, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k = comparison{app: c.app, have: -1, late: -1}
	for i, n := range c.notes {
		switch n.kind {
		case noteHead:
			k.responses++
			k.head(n)
		case noteGap:
			k.told, k.late, k.between, k.few = true, -1, nil, nil
			k.anew = k.foreign || strings.Contains(n.text, `"reason":"`+stream.GapEpoch+`"`)
			k.gaps++
		case noteBlock:
			k.received++
			err = k.block(n)
		case noteEnd:
			if n.left {
				k.late = -1 // before it showed
			}
		}
		if err != nil {
			return k, fmt.Errorf("client %d, note %d: %w", c.number, i, err)
		}
	}
	if c.fault != "" {
		return k, fmt.Errorf("client %d: %s", c.number, c.fault)
	}
	if k.late >= 0 && c.app.style != diffCounting { // which is judged by its ids alone, and not always
		return k, fmt.Errorf("client %d: event %d %w", c.number, k.late, errNotTold)
	}
	return k, nil
}

// head begins a response.
func (k *comparison) head(n note) {
	k.between, k.foreign = nil, false
	if n.id == "" {
		k.have, k.must, k.told, k.late, k.few = -1, n.must, false, -1, nil
		return
	}
	// Who was cut on a joining connection is told, and begins as a new one does: nobody knows what it has had.
	if _, position, own := replay.ParseID(n.id); own && position == math.MaxUint64 && n.told {
		k.gaps++
		k.have, k.must, k.told, k.late, k.few = -1, n.must, true, -1, nil
		return
	}
	if n.told {
		k.gaps++
		k.late = -1
		_, _, own := replay.ParseID(n.id) // else it had a connection of its own before
		k.foreign = k.app.ids == stream.IDsGateway && !own
	}
	// An application that does not look at the ID loses the same for a client
	// of its own.
	k.told = k.told || n.told || (n.direct && !k.app.resumes)
}

// block takes a block that the client was given.
func (k *comparison) block(n note) error {
	if n.serial < 0 {
		if k.have >= 0 {
			return fmt.Errorf("%q came again, or late, after event %d", n.text, k.have)
		}
		k.few = append(k.few, n.text)
		return nil
	}
	b, _ := k.app.block(n.serial)
	if !b.dispatches {
		if k.between != nil {
			k.between[n.serial] = true
		}
		return nil
	}
	if k.have < 0 && len(k.few) > 0 {
		if err := k.compareFew(b); err != nil {
			return err
		}
	}
	if k.have >= 0 && b.event <= k.have {
		return k.repeat(n, b)
	}
	if err := k.next(n, b); err != nil {
		return err
	}
	if err := k.rest(n.serial); err != nil {
		return err
	}
	k.have, k.told, k.anew = b.event, false, false
	k.low = k.app.rewind(n.id)
	k.between = make(map[int]bool)
	return nil
}

// compareFew compares events that are of a few with the last ones before another
// event: their number tells which they have to be.
func (k *comparison) compareFew(b diffBlock) error {
	first := b.event - len(k.few)
	want := k.app.fewBefore(b.event, len(k.few))
	if !slices.Equal(k.few, want) {
		return fmt.Errorf("before event %d came %q, expected %q", b.event, k.few, want)
	}
	if first > k.must && !k.told {
		return fmt.Errorf("before event %d came %d events, and %d had been sent before the head", b.event, len(k.few), k.must)
	}
	k.have = b.event - 1
	return nil
}

// repeat looks whether an event may come again: where several have the same last
// event ID, each after the first of them may.
func (k *comparison) repeat(n note, b diffBlock) error {
	k.repeats++
	k.between = nil
	if k.anew || (k.app.style == diffMixed && n.serial >= k.low) {
		return nil
	}
	return fmt.Errorf("event %d (block %d) came again, or late, after event %d", b.event, n.serial, k.have)
}

// next looks whether an event is the one that has to come next.
func (k *comparison) next(n note, b diffBlock) error {
	switch {
	case k.have < 0 && b.event <= k.must:
	case k.have >= 0 && b.event == k.have+1:
	default:
		first := k.have + 1
		if k.have < 0 {
			first = k.must
		}
		k.lost += b.event - first
		k.between = nil
		switch {
		case k.told:
		case k.app.style != diffNoIDs && !k.app.resumes:
			k.late = first // that shows later
		default:
			return fmt.Errorf("event %d (block %d) came after event %d: %d are lost, and no gap was told", b.event, n.serial, first-1, b.event-first)
		}
	}
	return nil
}

// rest looks whether all blocks between two events came that dispatch nothing.
func (k *comparison) rest(serial int) error {
	if k.between == nil {
		return nil
	}
	for i := serial - 1; i >= 0; i-- {
		b, _ := k.app.block(i)
		if b.dispatches {
			break
		}
		if !b.idle && !k.between[i] {
			return fmt.Errorf("block %d, before the event of block %d, is lost", i, serial)
		}
	}
	return nil
}

// rewind returns the oldest block that a client with an ID may be given again.
func (a *app) rewind(id string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if from, ok := a.after[id]; ok {
		return from
	}
	return 0
}
