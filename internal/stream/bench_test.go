package stream

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// benchSource is a source whose one connection is used by the benchmark itself.
type benchSource struct{ conns chan *upstreams.Conn }

func newBenchSource() *benchSource { return &benchSource{make(chan *upstreams.Conn, 1)} }

func (s *benchSource) Open(ctx context.Context, _ string, conn *upstreams.Conn) upstreams.Ending {
	conn.Opened(&upstreams.Head{Header: http.Header{"Content-Type": {"text/event-stream"}}}, nil)
	s.conns <- conn
	<-ctx.Done()
	return upstreams.Ending{Events: true, Err: ctx.Err()}
}

func (s *benchSource) Retired() bool { return false }

func (s *benchSource) Renew(any, *Renewal) bool { return false }

// benchJoined returns a function that joins a stream, and its upstream
// connection.
func benchJoined(b *testing.B, h *Hub) (func() *Subscriber, *upstreams.Conn) {
	b.Helper()
	options := testOptions()
	options.Join, options.Vouched, options.Linger = JoinLive, true, 0
	src := newBenchSource()
	inst := h.Register("place", "server")
	join := func() *Subscriber {
		sub, err := h.Join(&Request{
			Instance: inst,
			Options:  options,
			Source:   func(bool) Source { return src },
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
			_, conn := benchJoined(b, NewHub())
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
	h := NewHub()
	inst := h.Register("place", "server")
	options := testOptions()
	options.Join, options.Vouched, options.Linger = JoinLive, true, 0
	subs, conns := make([]*Subscriber, streams), make([]*upstreams.Conn, streams)
	for i := range streams {
		src := newBenchSource()
		sub, err := h.Join(&Request{
			Key: Key{byte(i), byte(i >> 8)}, Instance: inst, Options: options, Logger: zap.NewNop(),
			Source: func(bool) Source { return src },
		})
		if err != nil {
			b.Fatal(err)
		}
		subs[i], conns[i] = sub, <-src.conns
	}
	event := benchBytes(200)
	fill := func(events int) {
		h.Memory.limit.Store(1 << 40)
		for _, conn := range conns {
			for range events {
				if _, err := conn.Write(event); err != nil {
					b.Fatal(err)
				}
			}
		}
		h.Memory.limit.Store(h.Memory.Used.Load())
	}
	fill(100 - 100/memoryMargin)
	for b.Loop() {
		b.StopTimer()
		fill(100 / memoryMargin)
		b.StartTimer()
		h.evict(time.Now())
	}
	for _, sub := range subs {
		sub.Leave()
	}
	h.running.Wait()
}

func BenchmarkMarkUnshareable(b *testing.B) {
	h := NewHub()
	var key Key
	i := uint64(0)
	mark := func() {
		i++
		binary.LittleEndian.PutUint64(key[:], i)
		h.markUnshareable(key, unshareableTime, Private{})
	}
	for range maxUnshareable {
		mark()
	}
	for b.Loop() {
		mark()
	}
}
