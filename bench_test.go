package caddysse

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/stream"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// discard is a client that reads everything at once.
type discard struct {
	header  http.Header
	flushed func()
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) FlushError() error           { d.flushed(); return nil }

// BenchmarkFanout1000 gives each event of a stream to 1,000 subscribers, each
// with the goroutine and the delivery that it has in a server. An event is sent
// when everybody has had the one before.
func BenchmarkFanout1000(b *testing.B) {
	const subscribers = 1000
	for _, size := range []int{200, 10 << 10} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			join, conn := benchStream(b, stream.NewHub())
			settings := delivery.NewSettings(defaultHeartbeat, []byte(delivery.EmptyComment), 0)
			ctx, cancel := context.WithCancel(b.Context())
			var waiting atomic.Int64
			all := make(chan struct{}, 1)
			flushed := func() {
				if waiting.Add(-1) == 0 {
					all <- struct{}{}
				}
			}
			waiting.Store(subscribers) // the head with the prime block
			var wg sync.WaitGroup
			for range subscribers {
				sub := join()
				wg.Go(func() {
					defer sub.Leave()
					r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
					d := &delivery.Delivery{Settings: settings, Writer: &discard{header: make(http.Header), flushed: flushed}, Request: r, Subscriber: sub}
					d.Run()
				})
			}
			<-all
			event := benchEvent(size)
			b.ReportAllocs()
			for b.Loop() {
				waiting.Store(subscribers)
				if _, err := conn.Write(event); err != nil {
					b.Fatal(err)
				}
				<-all
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/subscribers, "ns/delivery")
			cancel()
			wg.Wait()
		})
	}
}

// BenchmarkJoin is what a client's coming and going costs the core: its key,
// finding the stream, attaching and detaching.
func BenchmarkJoin(b *testing.B) {
	h := new(Handler)
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	if err := h.Provision(ctx); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = h.Cleanup() }()
	hub := stream.NewHub()
	r := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/events?room=7", nil)
	for name, value := range map[string]string{
		"Accept": eventStreamType, "Accept-Encoding": "gzip, deflate, br, zstd", "Accept-Language": "en-GB,en;q=0.9",
		"Cache-Control": "no-cache", "Cookie": "session=0123456789abcdef0123456789abcdef; theme=dark",
		"Origin": "https://app.example.com", "Referer": "https://app.example.com/", "Sec-Fetch-Mode": "cors",
		"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
	} {
		r.Header.Set(name, value)
	}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), nil)
	src := newBenchConn()
	h.options.Join, h.options.Vouched, h.options.Linger = stream.JoinLive, true, 0
	join := func() *stream.Subscriber {
		sub, err := hub.Join(&stream.Request{
			Key:      hub.Key(h.policy.Parts(r, h.instance.Place)),
			Instance: h.instance,
			Options:  h.options,
			Source:   func(bool) stream.Source { return src },
			Logger:   zap.NewNop(),
		})
		if err != nil {
			b.Fatal(err)
		}
		return sub
	}
	stays := join()
	conn := <-src.conns
	if _, err := conn.Write(benchEvent(200)); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		join().Leave()
	}
	stays.Leave()
	hub.Wait()
}

// benchConn is a source whose one connection is used by the benchmark itself.
type benchConn struct{ conns chan *upstreams.Conn }

func newBenchConn() *benchConn { return &benchConn{make(chan *upstreams.Conn, 1)} }

func (s *benchConn) Open(ctx context.Context, _ string, conn *upstreams.Conn) upstreams.Ending {
	conn.Opened(&upstreams.Head{Header: http.Header{"Content-Type": {"text/event-stream"}}}, nil)
	s.conns <- conn
	<-ctx.Done()
	return upstreams.Ending{Events: true, Err: ctx.Err()}
}

func (s *benchConn) Retired() bool { return false }

func (s *benchConn) Renew(any, *stream.Renewal) bool { return false }

// benchStream returns a function that joins a stream, and its upstream
// connection.
func benchStream(b *testing.B, h *stream.Hub) (func() *stream.Subscriber, *upstreams.Conn) {
	b.Helper()
	options := testSettings()
	options.Join, options.Vouched, options.Linger = stream.JoinLive, true, 0
	src := newBenchConn()
	inst := h.Register("place", "server")
	join := func() *stream.Subscriber {
		sub, err := h.Join(&stream.Request{
			Instance: inst,
			Options:  options,
			Source:   func(bool) stream.Source { return src },
			Logger:   zap.NewNop(),
		})
		if err != nil {
			b.Fatal(err)
		}
		return sub
	}
	first := join()
	conn := <-src.conns
	b.Cleanup(func() {
		first.Leave()
		h.Wait()
	})
	return join, conn
}

// benchEvent is an event of n bytes, without an id.
func benchEvent(n int) []byte {
	return []byte("event: price\ndata: " + strings.Repeat("x", n-len("event: price\ndata: \n\n")) + "\n\n")
}
