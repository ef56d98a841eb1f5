package caddysse

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// BenchmarkPrivateStreams reports the memory of one of 2,000 private streams,
// each of which was sent 100 events of 100 bytes: heap and stacks, those of
// net/http and of the client's goroutine included. "plain" is without sse. With
// detach there is also what is left of a stream while its client is away.
// Afterwards it is checked that nothing is left.
func BenchmarkPrivateStreams(b *testing.B) {
	for _, variant := range []string{"plain", "private", "detach"} {
		b.Run(variant, func(b *testing.B) {
			for b.Loop() {
				benchPrivateStreams(b, variant)
			}
		})
	}
}

func benchPrivateStreams(b *testing.B, variant string) {
	b.Helper()
	const streams, events, size = 2000, 100, 100
	heartbeat := caddy.Duration(2 * time.Second)
	h := &Handler{Heartbeat: &Heartbeat{Interval: &heartbeat}}
	if variant == "detach" {
		h.Detach = caddy.Duration(time.Hour)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	if err := h.Provision(ctx); err != nil {
		b.Fatal(err)
	}
	h.logger = zap.NewNop()
	event := benchEvent(size)
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(http.StatusOK)
		for range events {
			_, _ = w.Write(event)
			_ = http.NewResponseController(w).Flush()
		}
		<-r.Context().Done()
		return r.Context().Err()
	})
	listener := newPipeListener()
	server := &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, nil)
			if variant == "plain" {
				_ = next(w, r)
				return
			}
			_ = h.ServeHTTP(w, r, next)
		}),
	}
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(listener) })

	before := memory()
	var conns []net.Conn
	var read, clients sync.WaitGroup
	for range streams {
		conn := listener.dial()
		conns = append(conns, conn)
		read.Add(1)
		clients.Go(func() { readEvents(conn, events, &read) })
	}
	read.Wait()
	perStream := func() float64 { return (memory() - before) / streams / 1024 }
	b.ReportMetric(perStream(), "KB/stream")
	for _, conn := range conns {
		_ = conn.Close()
	}
	clients.Wait()
	if variant == "detach" {
		eventually(b, "all clients have left", func() bool { return subscribers() == 0 })
		b.ReportMetric(perStream(), "KB/abandoned")
		if n := len(stream.Process.Every()); n != streams {
			b.Errorf("%d streams", n)
		}
	}
	_ = server.Close()
	served.Wait()
	if err := h.Cleanup(); err != nil {
		b.Error(err)
	}
	assertHubEmpty(b)
	eventually(b, "nothing is left", func() bool { return len(ownGoroutines()) == 0 })
	time.Sleep(time.Duration(heartbeat)) // until then Go may hold on to stopped timers, and they to streams
	b.ReportMetric(perStream(), "KB/left")
}

// readEvents asks for an event stream, tells when it has so many events, and
// goes on until the connection is closed.
func readEvents(conn net.Conn, events int, read *sync.WaitGroup) {
	defer conn.Close()
	fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n{}")
	r := bufio.NewReaderSize(conn, 512)
	for n := 0; n < events; {
		line, err := r.ReadSlice('\n')
		if err != nil {
			break
		}
		if string(line) == "event: price\n" {
			n++
		}
	}
	read.Done()
	_, _ = io.Copy(io.Discard, r)
}

// memory is that of the heap and of stacks, in bytes.
func memory() float64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return float64(stats.HeapAlloc + stats.StackInuse)
}
