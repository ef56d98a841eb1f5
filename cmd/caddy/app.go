package main

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"time"
)

//go:embed demo.html
var page []byte

const (
	tickEvery     = time.Second
	progressEvery = 100 * time.Millisecond // a run of /progress takes ten seconds
	snapshotLines = 10                     // what a new connection to /log is shown
)

// app is the demo application.
type app struct {
	mux *http.ServeMux
	run string // a random name of this run: ids begin anew when it changes

	ticks, plain, chat, log *feed

	// ctx ends every connection and every broadcaster; wg waits for the broadcasters.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	open     map[string]int // event streams by path
	accepted int
}

func newApp() *app {
	a := &app{
		mux:   http.NewServeMux(),
		run:   rand.Text()[:8],
		ticks: newFeed(), plain: newFeed(), chat: newFeed(), log: newFeed(),
		open: make(map[string]int),
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())

	a.mux.HandleFunc("GET /{$}", servePage)
	a.mux.HandleFunc("GET /connections", a.serveConnections)
	a.mux.HandleFunc("GET /ticks", func(w http.ResponseWriter, r *http.Request) {
		a.broadcast(w, r, a.ticks, resumeFrom(r, a.ticks.newest()))
	})
	a.mux.HandleFunc("GET /plain", func(w http.ResponseWriter, r *http.Request) {
		a.broadcast(w, r, a.plain, a.plain.newest())
	})
	a.mux.HandleFunc("GET /log", func(w http.ResponseWriter, r *http.Request) {
		a.broadcast(w, r, a.log, a.log.newest()-snapshotLines)
	})
	a.mux.HandleFunc("GET /chat", func(w http.ResponseWriter, r *http.Request) {
		a.broadcast(w, r, a.chat, a.chat.newest())
	})
	a.mux.HandleFunc("POST /chat", a.postChat)
	a.mux.HandleFunc("GET /progress", a.serveProgress)

	for range snapshotLines {
		a.log.publish(logLine)
	}
	every := func(int) time.Duration { return tickEvery }
	a.wg.Go(func() { a.log.run(a.ctx, logPause, logLine) })
	a.wg.Go(func() { a.plain.run(a.ctx, every, func(n int) string { return fmt.Sprintf("data: event %d\n\n", n) }) })
	a.wg.Go(func() {
		a.ticks.run(a.ctx, every, func(n int) string {
			return fmt.Sprintf("id: %d\ndata: {\"n\":%d,\"run\":%q}\n\n", n, n, a.run)
		})
	})
	return a
}

// Destruct stops the broadcasters and ends all connections.
func (a *app) Destruct() error {
	a.cancel()
	a.wg.Wait()
	return nil
}

// resumeFrom returns the position after which a client is to be served: that of its last event ID, or newest when it
// has none or one that this run has not given out yet.
func resumeFrom(r *http.Request, newest int) int {
	id := r.Header.Get("Last-Event-ID")
	if id == "" {
		// What scripts send that open a new EventSource: it cannot set the header.
		id = r.URL.Query().Get("lastEventId")
	}
	if n, err := strconv.Atoi(id); err == nil && n >= 0 && n <= newest {
		return n
	}
	return newest
}

// broadcast serves what the feed has after the position, and goes on with what it gets.
func (a *app) broadcast(w http.ResponseWriter, r *http.Request, f *feed, pos int) {
	a.serveEvents(w, r, func(send func(event string) error) error {
		for {
			events, newest, changed := f.after(pos)
			pos = newest
			for _, event := range events {
				if err := send(event); err != nil {
					return err
				}
			}
			select {
			case <-changed:
			case <-r.Context().Done():
				return nil
			case <-a.ctx.Done():
				return nil
			}
		}
	})
}

// serveProgress counts from 0 to 100 and ends. Each connection has its own count: to share it would be wrong.
func (a *app) serveProgress(w http.ResponseWriter, r *http.Request) {
	a.serveEvents(w, r, func(send func(event string) error) error {
		ticker := time.NewTicker(progressEvery)
		defer ticker.Stop()
		for percent := 0; ; percent++ {
			if err := send(fmt.Sprintf("data: %d\n\n", percent)); err != nil || percent == 100 {
				return err
			}
			select {
			case <-ticker.C:
			case <-r.Context().Done():
				return nil
			case <-a.ctx.Done():
				return nil
			}
		}
	})
}

// serveEvents answers with an event stream that has what write sends, each event flushed, and counts the connection
// for as long as it lasts. An error of send says that the client has gone.
func (a *app) serveEvents(w http.ResponseWriter, r *http.Request, write func(send func(event string) error) error) {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache")
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	if rc.Flush() != nil || r.Method == http.MethodHead {
		return
	}

	a.count(r.URL.Path, +1)
	defer a.count(r.URL.Path, -1)
	_ = write(func(event string) error {
		_, err := w.Write([]byte(event))
		return errors.Join(err, rc.Flush())
	})
}

func (a *app) count(path string, delta int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open[path] += delta
	if delta > 0 {
		a.accepted++
	}
}

// serveConnections tells what the application sees of its clients: the figure that a gateway is to keep low.
func (a *app) serveConnections(w http.ResponseWriter, _ *http.Request) {
	a.mu.Lock()
	answer := struct {
		Open     map[string]int `json:"open"`
		Accepted int            `json:"accepted"`
	}{maps.Clone(a.open), a.accepted}
	a.mu.Unlock()

	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(answer) // fails when the client has gone
}

func servePage(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	_, _ = w.Write(page) // fails when the client has gone
}
