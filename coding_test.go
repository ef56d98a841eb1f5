package caddysse

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/caddy-sse/caddy-sse/internal/deliverytest"
)

// TestZstdWindow: a body whose coding asks for a larger window than RFC 9659
// allows is not decoded: the decoder would keep that much.
func TestZstdWindow(t *testing.T) {
	for window, taken := range map[int]bool{1 << 20: true, 8 << 20: true, 16 << 20: false, 64 << 20: false} {
		var coded bytes.Buffer
		z, err := zstd.NewWriter(&coded, zstd.WithWindowSize(window), zstd.WithSingleSegment(false), zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Repeat("data: x\n\n", 1000)
		for _, step := range []func() error{
			func() error { _, err := io.WriteString(z, text); return err },
			z.Flush, // so that the size is not known in advance
			z.Close,
		} {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		var got bytes.Buffer
		body, _ := newBodyWriter("zstd", &got)
		_, _ = body.Write(coded.Bytes()) // Close tells what was wrong
		err = body.Close(true)
		if taken && (err != nil || got.String() != text) {
			t.Errorf("window of %d bytes: %v, %d bytes", window, err, got.Len())
		}
		if !taken && (!errors.Is(err, zstd.ErrWindowSizeExceeded) || got.Len() > 0) {
			t.Errorf("window of %d bytes: %v, %d bytes", window, err, got.Len())
		}
	}
}

func decoders() int {
	buf := make([]byte, 8<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), "caddy-sse.decodeBody(")
}

// The decoder of a private stream ends when its upstream breaks off.
func TestDecoderOfAStreamThatBreaksOffEnds(t *testing.T) {
	deliverytest.Once(t) // it is about the upstream's side
	var z bytes.Buffer
	gz := gzip.NewWriter(&z)
	for range 200000 {
		io.WriteString(gz, "data: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n\n")
	}
	gz.Flush()
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(z.Bytes())
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer up.Close()
	g := startGateway(t, site("sse {\nshare off\n}\nreverse_proxy "+up.Listener.Addr().String()))
	for range 5 {
		resp := g.get("/", "Accept-Encoding: gzip")
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	eventually(t, "no decoder goroutine is left", func() bool { return decoders() == 0 })
}

// The decoder of a private stream ends when its client leaves.
func TestDecoderEndsWithItsClient(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Content-Encoding", "gzip")
		gz := gzip.NewWriter(w)
		io.WriteString(gz, "data: 1\n\n")
		gz.Flush()
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	defer up.Close()
	g := startGateway(t, site("sse {\nshare off\n}\nreverse_proxy "+up.Listener.Addr().String()))
	for range 5 {
		c := g.subscribe("/", "Accept-Encoding: gzip")
		c.expect("1")
		c.close()
	}
	eventually(t, "no decoder goroutine is left", func() bool { return decoders() == 0 })
}

// So does that of a first answer that may not be shared.
func TestDecoderOfAnAnswerThatIsNotSharedEnds(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Set-Cookie", "a=b")
		gz := gzip.NewWriter(w)
		io.WriteString(gz, "data: 1\n\n")
		gz.Close()
	}))
	defer up.Close()
	g := startGateway(t, site("sse\nreverse_proxy "+up.Listener.Addr().String()))
	for i := range 5 {
		c := g.subscribe(fmt.Sprint("/", i))
		c.expect("1")
		c.expectEnd()
	}
	eventually(t, "no decoder goroutine is left", func() bool { return decoders() == 0 })
}
