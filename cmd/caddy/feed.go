package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// feedKept is how many events of a feed can be replayed.
const feedKept = 100

// feed is one broadcast: its last events, each at a position counted from 1, and a signal for who waits for the next.
type feed struct {
	mu      sync.Mutex
	last    int              // position of the newest event
	kept    [feedKept]string // the event at position p is kept[p%feedKept]
	changed chan struct{}    // closed and replaced by publish
}

func newFeed() *feed { return &feed{changed: make(chan struct{})} }

// run publishes an event after each pause until ctx is done.
func (f *feed) run(ctx context.Context, pause func(n int) time.Duration, render func(n int) string) {
	timer := time.NewTimer(pause(f.newest()))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			f.publish(render)
			timer.Reset(pause(f.newest()))
		case <-ctx.Done():
			return
		}
	}
}

// publish adds the event that render makes for its position.
func (f *feed) publish(render func(n int) string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last++
	f.kept[f.last%feedKept] = render(f.last)
	close(f.changed)
	f.changed = make(chan struct{})
}

// newest returns the position of the newest event, 0 when there is none yet.
func (f *feed) newest() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// after returns the kept events after pos, the position of the newest, and a channel that is closed when there is more.
func (f *feed) after(pos int) (events []string, newest int, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for p := max(pos, f.last-feedKept, 0) + 1; p <= f.last; p++ {
		events = append(events, f.kept[p%feedKept])
	}
	return events, f.last, f.changed
}

var logLines = [...]string{
	"GET /cart 200 12ms", "GET /search?q=tea 200 48ms", "worker 3: mail sent", "POST /orders 201 95ms",
	"cache: evicted 17 entries", "GET /orders/42 404 3ms", "worker 1: retrying payment", "GET /health 200 0ms",
}

// logLine and logPause give a log that looks as if something happened now and then. A position decides: nothing here
// needs chance.
func logLine(n int) string {
	return fmt.Sprintf("data: %05d %s\n\n", n, logLines[n*n%31%len(logLines)])
}

func logPause(n int) time.Duration { return time.Duration(700+n*n*977%4000) * time.Millisecond }
