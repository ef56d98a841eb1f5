package integration

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
)

// eventSource is a client that comes back as EventSource does: when its response ends or the gateway cannot be reached,
// with its last event ID, but not after an answer that is not an event stream. It counts what a follower would keep.
type eventSource struct {
	name, method, url string
	transport         http.RoundTripper
	once              bool // does not come back
	leave             context.CancelFunc
	changed           chan struct{} // has an element after a change
	done              chan struct{} // closed when it has given up

	mu sync.Mutex
	record
}

// record is what happened to an eventSource.
type record struct {
	heads    int      // answers that were event streams
	outcomes []string // SSE-Resume of each
	gaveUp   error    // the answer that was not
	refused  int      // connections
	ends     []end    // of responses

	events, newest      int
	line                string // the second one of the newest event's data
	lastID              string
	told                bool     // that events may be missing after the newest
	gaps                []string // each as told
	missing, doubled    int      // events, where no gap was told
	unannounced         int      // changes of line, where no gap was told
	skipped, overlapped int      // events missing, or doubled, where one was told
}

// end is how a response ended.
type end struct {
	at     time.Time
	err    error  // nil: as HTTP says
	rest   string // what came after the last whole block
	events int    // of the client so far
}

// newEventSource starts a client, which leaves when the test ends.
func newEventSource(t testing.TB, transport http.RoundTripper, name, method, url string) *eventSource {
	t.Helper()
	c := &eventSource{
		name: name, method: method, url: url, transport: transport, once: method != http.MethodGet,
		changed: make(chan struct{}, 1), done: make(chan struct{}),
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.leave = cancel
	go func() {
		defer close(c.done)
		for c.connect(ctx) && !c.once {
			select {
			case <-time.After(50*time.Millisecond + rand.N(100*time.Millisecond)):
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(c.close)
	return c
}

func (c *eventSource) close() {
	c.leave()
	<-c.done
}

func (c *eventSource) update(f func(r *record)) {
	c.mu.Lock()
	f(&c.record)
	c.mu.Unlock()
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// now returns the record so far.
func (c *eventSource) now() record {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.record
}

// connect reports whether EventSource would come back.
func (c *eventSource) connect(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, c.method, c.url, http.NoBody)
	if err != nil {
		c.update(func(r *record) { r.gaveUp = err })
		return false
	}
	lastID := c.now().lastID
	req.Host = "gateway.test"
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("User-Agent", c.name)
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := c.transport.RoundTrip(req)
	if ctx.Err() != nil {
		return false
	}
	if err != nil {
		c.update(func(r *record) { r.refused++ })
		return true
	}
	defer resp.Body.Close()
	mediaType, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	if resp.StatusCode != http.StatusOK || mediaType != "text/event-stream" {
		c.update(func(r *record) { r.gaveUp = fmt.Errorf("no event stream: %s, %v", resp.Status, resp.Header) })
		return false
	}
	c.update(func(r *record) {
		r.heads++
		r.outcomes = append(r.outcomes, resp.Header.Get("SSE-Resume"))
	})
	in := eventstream.NewReader(resp.Body)
	in.SetLastEventID(lastID)
	var failed error
	for b, err := range in.Blocks() {
		if failed = err; err == nil {
			c.take(b, in.LastEventID())
		}
	}
	if ctx.Err() != nil {
		return false
	}
	c.update(func(r *record) {
		r.ends = append(r.ends, end{at: time.Now(), err: failed, rest: string(in.Rest()), events: r.events})
	})
	return true
}

func (c *eventSource) take(b eventstream.Block, lastID string) {
	data := string(b.AppendData(nil))
	c.update(func(r *record) {
		r.lastID = lastID
		switch {
		case string(b.Type) == "lost":
			r.gaps = append(r.gaps, data)
			r.told = true
		case b.Dispatches():
			count(r, data)
		}
	})
}

// count counts an event.
func count(r *record, data string) {
	first, line, _ := strings.Cut(data, "\n")
	number, _ := strconv.Atoi(first)
	ahead := number - r.newest - 1
	switch {
	case r.events == 0:
	case r.told && ahead > 0:
		r.skipped += ahead
	case r.told && ahead < 0:
		r.overlapped++
	case ahead > 0:
		r.missing += ahead
	case ahead < 0:
		r.doubled++
	}
	if r.events > 0 && line != r.line && !r.told {
		r.unannounced++
	}
	r.events++
	r.newest, r.line, r.told = number, line, false
}

// until waits for a condition.
func (c *eventSource) until(what string, condition func(r record) bool) error {
	timeout := time.After(testTimeout)
	for {
		r := c.now()
		if condition(r) {
			return nil
		}
		select {
		case <-c.changed:
		case <-c.done:
			if r = c.now(); condition(r) {
				return nil
			}
			return fmt.Errorf("%s gave up after event %d, before it: %s: %w", c.name, r.newest, what, cmp.Or(r.gaveUp, io.EOF))
		case <-timeout:
			return fmt.Errorf("%s: did not happen: %s; %d heads, %d ends, %d times refused, the newest event is %d",
				c.name, what, r.heads, len(r.ends), r.refused, r.newest)
		}
	}
}

// check says what a client of a stream must never see: an answer that is no event stream, or events that are missing or
// doubled without a word.
func (r record) check() error {
	var errs []error
	for _, f := range []struct {
		what string
		n    int
	}{{"missing", r.missing}, {"doubled", r.doubled}, {"of another upstream without a gap told", r.unannounced}} {
		if f.n > 0 {
			errs = append(errs, fmt.Errorf("%d events %s", f.n, f.what))
		}
	}
	return errors.Join(append(errs, r.gaveUp)...)
}

// checkEnds checks that all responses but the one that is there ended well, after a whole block.
func (r record) checkEnds() error {
	for _, end := range r.ends {
		if end.err != nil || end.rest != "" {
			return fmt.Errorf("a response ended after event %d with %q: %w", r.newest, end.rest, cmp.Or(end.err, io.EOF))
		}
	}
	return nil
}

// checkStayed checks that the client has had one response, which has not ended.
func (r record) checkStayed() error {
	if r.heads != 1 || len(r.ends) > 0 || r.refused > 0 {
		return fmt.Errorf("disconnected: %d heads, %d ends, %d times refused", r.heads, len(r.ends), r.refused)
	}
	return nil
}

// checkNoGap checks that the client was not told one.
func (r record) checkNoGap() error {
	if len(r.gaps) > 0 {
		return fmt.Errorf("%d gaps, the first is %s", len(r.gaps), r.gaps[0])
	}
	return nil
}

// crowd is many clients of one gateway.
type crowd struct {
	t   testing.TB
	all []*eventSource
}

// perConnection is how many clients share an HTTP/2 connection.
const perConnection = 50

// startCrowd starts n clients, of which each other one, if h2, speaks HTTP/2. It returns when all have got an event.
func startCrowd(t testing.TB, n int, h2 bool, url string) *crowd {
	t.Helper()
	c := &crowd{t: t}
	var shared *http.Transport
	for i := range n {
		transport := newTransport()
		if h2 && i%2 == 1 {
			if i%(2*perConnection) == 1 {
				shared = newTransport()
				shared.Protocols = new(http.Protocols)
				shared.Protocols.SetUnencryptedHTTP2(true)
				shared.Protocols.SetHTTP2(true)
				t.Cleanup(shared.CloseIdleConnections)
			}
			transport = shared
		}
		c.all = append(c.all, newEventSource(t, transport, fmt.Sprint("client ", i), http.MethodGet, url))
	}
	c.until("an event", func(r record) bool { return r.events > 0 })
	return c
}

// until waits until a condition holds for all clients.
func (c *crowd) until(what string, condition func(r record) bool) {
	c.t.Helper()
	for _, e := range c.all {
		if err := e.until(what, condition); err != nil {
			c.t.Fatal(err)
		}
	}
}

// assert checks the records of all clients.
func (c *crowd) assert(checks ...func(r record) error) {
	c.t.Helper()
	failed := 0
	for _, e := range c.all {
		var errs []error
		for _, check := range checks {
			errs = append(errs, check(e.now()))
		}
		if err := errors.Join(errs...); err != nil {
			if failed++; failed <= 5 {
				c.t.Errorf("%s: %v", e.name, err)
			}
		}
	}
	if failed > 0 {
		c.t.Errorf("%d of %d clients failed", failed, len(c.all))
	}
}

// count returns the sum of something over the clients.
func (c *crowd) count(f func(r record) int) (sum int) {
	for _, e := range c.all {
		sum += f(e.now())
	}
	return sum
}

// outcomes returns how often each SSE-Resume came.
func (c *crowd) outcomes() map[string]int {
	counts := make(map[string]int)
	for _, e := range c.all {
		for _, outcome := range e.now().outcomes {
			name, _, _ := strings.Cut(outcome, ";")
			counts[name]++
		}
	}
	return counts
}

// leave ends all clients.
func (c *crowd) leave() {
	for _, e := range c.all {
		e.leave()
	}
	for _, e := range c.all {
		e.close()
	}
}

// newest returns the number of the newest event that any client has got.
func (c *crowd) newest() int {
	return slices.MaxFunc(c.all, func(a, b *eventSource) int { return cmp.Compare(a.now().newest, b.now().newest) }).now().newest
}
