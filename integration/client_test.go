package integration

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
)

// follower is a client of a stream whose events are numbered. It reads as EventSource does.
type follower struct {
	t     *testing.T
	name  string
	resp  *http.Response
	leave context.CancelFunc
	done  chan struct{} // closed when the stream has ended

	mu       sync.Mutex
	seen     []event
	beats    int // comments
	lastID   string
	err      error
	changed  chan struct{} // closed and replaced with each block
	received time.Time     // when the newest block came
}

type event struct {
	kind   string // its type
	number int    // the first line of its data, if that is a number
	data   string
}

// newTransport makes a client's side of HTTP/1.1. Each client has one of its own: nothing is shared but the stream.
func newTransport() *http.Transport {
	return &http.Transport{DisableCompression: true, TLSClientConfig: anyCertificate()}
}

// follow connects to a stream with a last event ID, which may be empty. It returns with the response's head.
func follow(t *testing.T, name, url, lastEventID string) *follower {
	t.Helper()
	f, err := tryFollow(t, newTransport(), name, url, lastEventID)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return f
}

// tryFollow is follow for goroutines that are not the test's.
func tryFollow(t *testing.T, transport *http.Transport, name, url, lastEventID string) (*follower, error) {
	t.Helper()
	now := make(chan struct{})
	close(now)
	return tryFollowWhen(t, transport, now, name, url, lastEventID)
}

// tryFollowWhen is tryFollow for a client that does not read before it is woken.
func tryFollowWhen(t *testing.T, transport *http.Transport, wake <-chan struct{}, name, url, lastEventID string) (*follower, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	late := time.AfterFunc(testTimeout, cancel)
	defer late.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		cancel()
		return nil, err
	}
	req.Host = "gateway.test" // also through a forwarder: other hosts have other streams
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("User-Agent", name)
	if lastEventID != "" {
		req.Header.Set("Last-Event-ID", lastEventID)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		cancel()
		return nil, err
	}
	f := &follower{t: t, name: name, resp: resp, lastID: lastEventID, done: make(chan struct{}), changed: make(chan struct{})}
	f.leave = cancel
	t.Cleanup(f.close)
	mediaType, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	if resp.StatusCode != http.StatusOK || mediaType != "text/event-stream" {
		close(f.done)
		return nil, fmt.Errorf("no event stream: %s, %v", resp.Status, resp.Header)
	}
	go func() {
		defer close(f.done)
		select {
		case <-wake:
			f.read(lastEventID)
		case <-ctx.Done():
		}
	}()
	return f, nil
}

func (f *follower) read(lastEventID string) {
	in := eventstream.NewReader(f.resp.Body)
	in.SetLastEventID(lastEventID)
	for b, err := range in.Blocks() {
		f.mu.Lock()
		switch {
		case err != nil:
			f.err = err
		case b.CommentOnly():
			f.beats++
		case b.Dispatches():
			e := event{kind: string(b.Type), data: string(b.AppendData(nil))}
			first, _, _ := strings.Cut(e.data, "\n")
			e.number, _ = strconv.Atoi(first)
			e.data = e.data[:min(len(e.data), 200)]
			f.seen = append(f.seen, e)
		}
		f.lastID = in.LastEventID()
		f.received = time.Now()
		close(f.changed)
		f.changed = make(chan struct{})
		f.mu.Unlock()
	}
}

// close leaves.
func (f *follower) close() {
	f.leave()
	_ = f.resp.Body.Close()
	<-f.done
}

// outcome is the response header field SSE-Resume.
func (f *follower) outcome() string { return f.resp.Header.Get("SSE-Resume") }

// replayed returns the number of events that SSE-Resume announces, and false if it announces none.
func (f *follower) replayed() (n int, ok bool) {
	text, ok := strings.CutPrefix(f.outcome(), "replayed; events=")
	n, err := strconv.Atoi(text)
	return n, ok && err == nil
}

// lastEventID returns what the client would send when it comes back.
func (f *follower) lastEventID() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lastID
}

// events returns the events so far.
func (f *follower) events() []event {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen
}

// numbers returns the numbers of the events so far.
func (f *follower) numbers() []int { return numbers(f.events()) }

func numbers(events []event) (all []int) {
	for _, e := range events {
		all = append(all, e.number)
	}
	return all
}

// newest returns the number of the newest event, 0 if there was none.
func (f *follower) newest() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.seen) == 0 {
		return 0
	}
	return f.seen[len(f.seen)-1].number
}

func (f *follower) heartbeats() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.beats
}

// until waits for a condition that may change with each block.
func (f *follower) until(what string, condition func() bool) error {
	timeout := time.After(testTimeout)
	for {
		f.mu.Lock()
		changed := f.changed
		f.mu.Unlock()
		if condition() {
			return nil
		}
		select {
		case <-changed:
		case <-f.done:
			if condition() {
				return nil
			}
			return fmt.Errorf("%s: the response ended after event %d, before it: %s: %w", f.name, f.newest(), what, cmp.Or(f.err, io.EOF))
		case <-timeout:
			return fmt.Errorf("%s: did not happen: %s; the newest event is %d", f.name, what, f.newest())
		}
	}
}

// await waits for the event with a number, or a later one.
func (f *follower) await(number int) {
	f.t.Helper()
	err := f.until(fmt.Sprint("event ", number), func() bool { return f.newest() >= number })
	if err != nil {
		f.t.Fatal(err)
	}
}

// awaitEnd waits for the end of the response and returns what was wrong with it.
func (f *follower) awaitEnd() error {
	f.t.Helper()
	select {
	case <-f.done:
		return f.err
	case <-time.After(testTimeout):
		f.t.Fatalf("%s: the response did not end", f.name)
	}
	panic("unreachable")
}

// checkRun checks that the numbers go from first to last without a hole and without one twice. first 0 is any.
func checkRun(got []int, first, last int) error {
	if len(got) == 0 {
		return fmt.Errorf("no events, expected %d to %d", first, last)
	}
	if first == 0 {
		first = got[0]
	}
	for i, n := range got {
		if n != first+i {
			return fmt.Errorf("event %d after %v, expected %d", n, got[max(0, i-3):i], first+i)
		}
	}
	if newest := got[len(got)-1]; newest < last {
		return fmt.Errorf("ends with event %d, expected %d", newest, last)
	}
	return nil
}

// assertRun is checkRun for what the client has got.
func (f *follower) assertRun(first, last int) {
	f.t.Helper()
	if err := checkRun(f.numbers(), first, last); err != nil {
		f.t.Errorf("%s: %v", f.name, err)
	}
}

// together calls f for 0 to n-1 at once and waits. An error fails the test.
func together(t testing.TB, n int, f func(i int) error) {
	t.Helper()
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = f(i) })
	}
	all.Wait()
	failed := 0
	for _, err := range errs {
		if err != nil {
			if failed++; failed <= 5 {
				t.Error(err)
			}
		}
	}
	if failed > 0 {
		t.Fatalf("%d of %d failed", failed, n)
	}
}
