package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

const (
	tickEvery     = time.Second
	eventEvery    = 500 * time.Millisecond
	progressEvery = 100 * time.Millisecond // a run of /progress takes ten seconds
	snapshotLines = 10                     // what a new connection to /log is shown

	// listenTimeout is how long a process waits for the one that it replaces to let go of the address.
	listenTimeout = 10 * time.Second
)

// appCommand is the name of the command that runs the application.
const appCommand = "sse-demo-app"

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  appCommand,
		Usage: "--listen <address> --count <file>",
		Short: "Runs the demo application of Caddyfile.example, which sends event streams",
		CobraFunc: func(cmd *cobra.Command) {
			listen := cmd.Flags().String("listen", "127.0.0.1:8081", "where to listen")
			count := cmd.Flags().String("count", "", "the file in which to keep the number of the newest event, over restarts")
			service := cmd.Flags().Bool("service", false, "end at a signal, not with the standard input")
			cmd.RunE = func(*cobra.Command, []string) error { return runApp(*listen, *count, *service) }
		},
	})
}

// runApp runs the application until its standard input ends (as a service: until a signal), or until it is told to exit.
func runApp(address, countFile string, service bool) error {
	ctx, exit := context.WithCancel(context.Background())
	defer exit()
	if service {
		ctx, exit = signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		defer exit()
	} else {
		signal.Ignore(os.Interrupt) // which a terminal sends to Caddy as well
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			exit()
		}()
	}
	fmt.Println("ready")
	listener, err := listen(address)
	if err != nil {
		return err
	}
	fmt.Println("listening")

	a := newApp(countFile)
	a.exit = exit
	server := &http.Server{Handler: a.mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }() // ends with the process
	<-ctx.Done()
	a.stop()
	return nil
}

// listen listens at an address, as soon as it is free.
func listen(address string) (net.Listener, error) {
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		listener, err := net.Listen("tcp", address)
		if err == nil || time.Since(began) > listenTimeout {
			return listener, err
		}
	}
}

// app answers every request as a legacy application would that knows nothing of a gateway: no heartbeats, ids on one
// stream only, state in memory.
//
//	GET  /events       broadcast, two events a second without ids, numbered over restarts; nothing is sent again
//	GET  /ticks        broadcast, an event each second with ids 1, 2, 3…; resumes from the last 100
//	GET  /log          broadcast without ids; each connection is first sent the last 10 lines
//	GET  /progress     0 to 100 %, for each connection its own, then a clean end
//	GET  /connections  how many event streams are open, by path, and how many were ever accepted
//	POST /exit         ends the process, for somebody to start it again
type app struct {
	mux       *http.ServeMux
	run       string // a random name of this run: the ids of /ticks begin anew when it changes
	countFile string
	exit      func()

	events, ticks, log *feed

	// begin starts /events with its first listener, as many do: nothing is sent that nobody can hear.
	begin sync.Once

	// ctx ends the broadcasters, and then gone the connections, when they have been sent the last event.
	ctx          context.Context
	cancel       context.CancelFunc
	broadcasters sync.WaitGroup
	gone         chan struct{}
	connections  sync.WaitGroup

	mu       sync.Mutex
	open     map[string]int // event streams by path
	accepted int
	stopping bool
}

// newApp returns the application. It goes on counting where the file says, if there is one.
func newApp(countFile string) *app {
	a := &app{
		mux:       http.NewServeMux(),
		run:       rand.Text()[:8],
		countFile: countFile,
		events:    newFeed(), ticks: newFeed(), log: newFeed(),
		open: make(map[string]int),
		gone: make(chan struct{}),
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())

	a.mux.HandleFunc("GET /events", a.serveNumbers)
	a.mux.HandleFunc("GET /ticks", func(w http.ResponseWriter, r *http.Request) {
		a.broadcast(w, r, a.ticks, resumeFrom(r, a.ticks.newest()))
	})
	a.mux.HandleFunc("GET /log", func(w http.ResponseWriter, r *http.Request) {
		a.broadcast(w, r, a.log, a.log.newest()-snapshotLines)
	})
	a.mux.HandleFunc("GET /progress", a.serveProgress)
	a.mux.HandleFunc("GET /connections", a.serveConnections)
	a.mux.HandleFunc("POST /exit", a.serveExit)

	for range snapshotLines {
		a.log.publish(logLine)
	}
	a.broadcasters.Go(func() { a.log.run(a.ctx, logPause, logLine) })
	a.broadcasters.Go(func() {
		a.ticks.run(a.ctx, every(tickEvery), func(n int) string {
			return fmt.Sprintf("id: %d\ndata: {\"n\":%d,\"run\":%q}\n\n", n, n, a.run)
		})
	})
	return a
}

func every(pause time.Duration) func(int) time.Duration {
	return func(int) time.Duration { return pause }
}

// stop ends the broadcasters, then all connections. What was published is sent, as by any application that is told to
// stop; but no response is ended as if it were complete.
func (a *app) stop() {
	a.cancel()
	a.broadcasters.Wait()
	a.mu.Lock()
	a.stopping = true
	a.mu.Unlock()
	close(a.gone)
	a.connections.Wait()
}

// serveNumbers serves what is sent from now on, and nothing that was sent before.
func (a *app) serveNumbers(w http.ResponseWriter, r *http.Request) {
	pos := a.events.newest()
	a.begin.Do(func() {
		first := a.readCount()
		a.broadcasters.Go(func() {
			a.events.run(a.ctx, every(eventEvery), func(n int) string {
				a.writeCount(first + n)
				return fmt.Sprintf("data: {\"n\":%d,\"at\":%d}\n\n", first+n, time.Now().UnixMilli())
			})
		})
	})
	a.broadcast(w, r, a.events, pos)
}

// readCount returns the number of the newest event of an earlier run, 0 if there was none.
func (a *app) readCount() int {
	text, err := os.ReadFile(a.countFile)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text))) // 0 of an empty file
	return n
}

// writeCount keeps the number of the newest event. Without a place for it, the next run counts from 1.
func (a *app) writeCount(n int) {
	if a.countFile != "" {
		_ = os.WriteFile(a.countFile, []byte(strconv.Itoa(n)), 0o600)
	}
}

// serveExit ends the process. The demo asks for it. A browser cannot, nor can anybody through a proxy: both say so in the
// request.
func (a *app) serveExit(w http.ResponseWriter, r *http.Request) {
	mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if mediaType != "application/json" || r.Header.Get("Origin") != "" || r.Header.Get("X-Forwarded-For") != "" {
		http.Error(w, "for the demo's own button only", http.StatusForbidden)
		return
	}
	w.WriteHeader(http.StatusNoContent)
	if http.NewResponseController(w).Flush() == nil {
		a.exit()
	}
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
			case <-a.gone:
				return a.last(f, pos, send)
			}
		}
	})
}

// last sends what was published since a position, and cuts the connection.
func (a *app) last(f *feed, pos int, send func(event string) error) error {
	events, _, _ := f.after(pos)
	for _, event := range events {
		if err := send(event); err != nil {
			return err
		}
	}
	panic(http.ErrAbortHandler)
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
			case <-a.gone:
				panic(http.ErrAbortHandler)
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

	if !a.enter(r.URL.Path) {
		panic(http.ErrAbortHandler)
	}
	defer a.leave(r.URL.Path)
	_ = write(func(event string) error {
		_, err := w.Write([]byte(event))
		return errors.Join(err, rc.Flush())
	})
}

// enter counts an event stream that begins. It returns false when the application stops.
func (a *app) enter(path string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopping {
		return false
	}
	a.connections.Add(1)
	a.open[path]++
	a.accepted++
	return true
}

func (a *app) leave(path string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open[path]--
	a.connections.Done()
}

// serveConnections tells what the application sees of its clients: the figure that a gateway is to keep low.
func (a *app) serveConnections(w http.ResponseWriter, _ *http.Request) {
	a.mu.Lock()
	answer := status{os.Getpid(), maps.Clone(a.open), a.accepted}
	a.mu.Unlock()
	writeJSON(w, answer)
}
