package caddysse

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

func decoders() int {
	buf := make([]byte, 8<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), "caddy-sse.decodeBody(")
}

// A private gzip stream whose upstream breaks off.
func TestRevGzipPrivateBreak(t *testing.T) {
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

// The client leaves a private gzip stream.
func TestRevGzipPrivateLeave(t *testing.T) {
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

// First answers that are gzip and not shareable.
func TestRevGzipRefusedLeak(t *testing.T) {
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

// Vary that not all answers have.
func TestRevVaryLoop(t *testing.T) {
	u := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		if r.UserAgent() == "a" {
			w.Header().Set("Vary", "User-Agent")
		}
	})
	g := startGateway(t, proxied("", u))
	g.subscribe("/", "User-Agent: a")
	g.subscribe("/", "User-Agent: b")
	done := make(chan struct{})
	go func() {
		defer close(done)
		req := g.request("GET", "/", "User-Agent: c", "Accept: text/event-stream")
		resp, err := g.client.Do(req)
		if err == nil {
			resp.Body.Close()
		}
	}()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		buf := make([]byte, 1<<20)
		s := string(buf[:runtime.Stack(buf, true)])
		t.Errorf("no answer; serveSubscriber/join on %d stacks", strings.Count(s, "serveShared"))
		// let it go: end the streams
		stream.Process.Stop()
		<-done
	}
}

// The ID of the query parameter for a splice.
func TestRevSpliceQueryID(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("", u))
	a := g.subscribe("/")
	up := u.accept()
	up.write("id: 7\ndata: 7\n\n")
	a.expect("7")
	b := g.subscribe("/?lastEventId=3")
	up2 := u.accept()
	if got := up2.request.URL.Query().Get("lastEventId"); got != "3" {
		t.Errorf("outcome %q; upstream was asked %q, header %q", b.outcome(), up2.request.URL, up2.request.Header.Get("Last-Event-ID"))
	}
}

// A gateway's ID in the query goes upstream.
func TestRevGatewayIDInQuery(t *testing.T) {
	u := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Vary", "*")
	})
	g := startGateway(t, proxied("", u))
	g.subscribe("/").close()
	u.accept()
	g.subscribe("/?lastEventId=sse1.00000000000000000000000000000000.5")
	if q := u.accept().request.URL.RawQuery; q != "" {
		t.Errorf("sent upstream: %s", q)
	}
}

// timeouts write, and a clean end after it.
func TestRevHardDeadline(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGatewayWith(t, "servers {\ntimeouts {\nwrite 1s\n}\n}", site("test_probe\nsse {\njoin live\n}\nreverse_proxy "+u.address))
	c := g.subscribe("/")
	up := u.accept()
	up.event("1")
	c.expect("1")
	<-time.After(1500 * time.Millisecond) // the server's time limit passes
	up.event("2")
	c.expect("2")
	up.end()
	c.expectEnd()
}

// Response header of the opener's own.
func TestRevHeadPrefix(t *testing.T) {
	u := startUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("X-Info", "app")
	})
	g := startGateway(t, site("header X-Info {http.request.header.User-Agent}\nsse {\njoin live\n}\nreverse_proxy "+u.address))
	a := g.subscribe("/", "User-Agent: alice")
	b := g.subscribe("/", "User-Agent: bob")
	_ = a
	if v := b.resp.Header.Values("X-Info"); strings.Contains(fmt.Sprint(v), "alice") {
		t.Errorf("bob was given %q", v)
	}
}
