package caddysse

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

// benchSource is a source whose one connection is used by the benchmark itself.
type benchSource struct{ conns chan *upstreamConn }

func newBenchSource() *benchSource { return &benchSource{make(chan *upstreamConn, 1)} }

func (s *benchSource) open(ctx context.Context, _ string, conn *upstreamConn) ending {
	conn.opened(&head{header: http.Header{"Content-Type": {"text/event-stream"}}}, true)
	s.conns <- conn
	<-ctx.Done()
	return ending{events: true, err: ctx.Err()}
}

func (s *benchSource) retired() bool { return false }

func (s *benchSource) renew(any, *renewal) bool { return false }

// benchJoined returns a function that joins a stream, and its upstream
// connection.
func benchJoined(b *testing.B, h *hub) (func() *subscriber, *upstreamConn) {
	b.Helper()
	options := testOptions()
	options.join, options.linger = joinLive, 0
	src := newBenchSource()
	inst := h.register("place", "server")
	join := func() *subscriber {
		sub, err := h.join(&joinRequest{
			instance: inst,
			options:  options,
			source:   func(bool) source { return src },
			logger:   zap.NewNop(),
		})
		if err != nil {
			b.Fatal(err)
		}
		return sub
	}
	first := join()
	conn := <-src.conns
	b.Cleanup(func() {
		first.detach()
		h.running.Wait()
	})
	return join, conn
}

// benchBytes is an event of n bytes, without an id.
func benchBytes(n int) []byte {
	return []byte("event: price\ndata: " + strings.Repeat("x", n-len("event: price\ndata: \n\n")) + "\n\n")
}

// BenchmarkAppend decodes events and appends them to a stream.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{200, 10 << 10} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			_, conn := benchJoined(b, newHub())
			event := benchBytes(size)
			b.SetBytes(int64(len(event)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := conn.Write(event); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkReclaim makes room once in the replay buffers of 10,000 streams, an
// eighth of what they have.
func BenchmarkReclaim(b *testing.B) {
	const streams = 10_000
	h := newHub()
	inst := h.register("place", "server")
	options := testOptions()
	options.join, options.linger = joinLive, 0
	subs, conns := make([]*subscriber, streams), make([]*upstreamConn, streams)
	for i := range streams {
		src := newBenchSource()
		sub, err := h.join(&joinRequest{
			key: streamKey{byte(i), byte(i >> 8)}, instance: inst, options: options, logger: zap.NewNop(),
			source: func(bool) source { return src },
		})
		if err != nil {
			b.Fatal(err)
		}
		subs[i], conns[i] = sub, <-src.conns
	}
	event := benchBytes(200)
	fill := func(events int) {
		h.memory.limit.Store(1 << 40)
		for _, conn := range conns {
			for range events {
				if _, err := conn.Write(event); err != nil {
					b.Fatal(err)
				}
			}
		}
		h.memory.limit.Store(h.memory.used.Load())
	}
	fill(100 - 100/memoryMargin)
	for b.Loop() {
		b.StopTimer()
		fill(100 / memoryMargin)
		b.StartTimer()
		h.evict(time.Now())
	}
	for _, sub := range subs {
		sub.detach()
	}
	h.running.Wait()
}
