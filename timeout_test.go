package caddysse

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// The option upstream_timeout.
func TestUpstreamTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heartbeat, prime := caddy.Duration(0), false
		h := &Handler{
			UpstreamTimeout: caddy.Duration(time.Minute), GiveUp: caddy.Duration(time.Hour), Join: "live", Prime: &prime,
			Heartbeat: &Heartbeat{Interval: &heartbeat},
		}
		var lasted []time.Duration
		var ids []string
		s := serveInBubble(t, h, func(w http.ResponseWriter, r *http.Request) error {
			began := time.Now()
			write := func(text string) {
				_, _ = io.WriteString(w, text)
				_ = http.NewResponseController(w).Flush()
			}
			ids = append(ids, r.Header.Get("Last-Event-ID"))
			w.Header().Set("Content-Type", "text/event-stream")
			switch len(ids) {
			case 1:
				time.Sleep(2 * time.Minute) // the first answer may take its time
				w.WriteHeader(http.StatusOK)
				for range 3 {
					time.Sleep(50 * time.Second)
					write(":\n")
				}
				write("id: 1\ndata: 1\n\n")
			case 2: // says nothing at all
			case 3:
				write("id: 2\ndata: 2\n\n")
				return nil
			}
			<-r.Context().Done()
			lasted = append(lasted, time.Since(began))
			w.WriteHeader(499) // as reverse_proxy
			return nil
		})
		var text strings.Builder
		for _, a := range s.listen("text/event-stream", time.Hour) {
			text.WriteString(a.text)
		}
		if text.String() != ":\n\n:\n\n:\n\nid: 1\ndata: 1\n\nid: 2\ndata: 2\n\n" {
			t.Errorf("given %q", text.String())
		}
		if want := []time.Duration{2*time.Minute + 150*time.Second + time.Minute, time.Minute}; !slices.Equal(lasted, want) {
			t.Errorf("the connections lasted %v, expected %v", lasted, want)
		}
		if want := []string{"", "1", "1"}; !slices.Equal(ids, want) {
			t.Errorf("opened with %q", ids)
		}
	})
}

// What is not an event stream may be silent for as long as it likes.
func TestUpstreamTimeoutOtherAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{UpstreamTimeout: caddy.Duration(time.Second)}
		s := serveInBubble(t, h, func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusOK)
			time.Sleep(time.Minute)
			_, err := io.WriteString(w, "{}")
			return err
		})
		got := s.listen("text/event-stream", time.Hour)
		if len(got) != 1 || got[0].text != "{}" {
			t.Errorf("given %v", got)
		}
	})
}

// One request that hangs in the application does not hold up others who ask for
// the same.
func TestOpeningThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heartbeat, prime := caddy.Duration(0), false
		h := &Handler{Join: "live", Prime: &prime, Heartbeat: &Heartbeat{Interval: &heartbeat}}
		var asked atomic.Int64
		s := serveInBubble(t, h, func(w http.ResponseWriter, r *http.Request) error {
			if asked.Add(1) > 1 {
				w.Header().Set("Content-Type", eventStreamType)
				_ = http.NewResponseController(w).Flush()
				time.Sleep(time.Second) // when all are there
				_, _ = io.WriteString(w, "data: hello\nid: 1\n\n")
			}
			<-r.Context().Done()
			return r.Context().Err()
		})
		var clients sync.WaitGroup
		clients.Go(func() {
			conn := s.listener.dial()
			_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n")
			time.Sleep(time.Minute)
			_ = conn.Close()
		})
		synctest.Wait()
		for i := range 10 {
			clients.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				got := s.listen(eventStreamType, 20*time.Second)
				if len(got) != 1 || got[0].text != "data: hello\nid: 1\n\n" || got[0].at > stream.OpeningPatience+time.Second {
					t.Errorf("client %d was given %v", i, got)
				}
			})
		}
		time.Sleep(10 * time.Second)
		if n := asked.Load(); n != 2 {
			t.Errorf("the application was asked %d times", n)
		}
		clients.Wait()
	})
}

// While an application is slow to answer, it is asked by few of those who wait.
func TestSlowOpeningIsNotAskedByAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heartbeat, prime := caddy.Duration(0), false
		h := &Handler{Join: "live", Prime: &prime, Heartbeat: &Heartbeat{Interval: &heartbeat}}
		var asked atomic.Int64
		s := serveInBubble(t, h, func(w http.ResponseWriter, r *http.Request) error {
			asked.Add(1)
			time.Sleep(8 * time.Second)
			w.Header().Set("Content-Type", eventStreamType)
			_ = http.NewResponseController(w).Flush()
			time.Sleep(time.Second) // when all are there
			_, _ = io.WriteString(w, "data: hello\nid: 1\n\n")
			<-r.Context().Done()
			return r.Context().Err()
		})
		var clients sync.WaitGroup
		for i := range 50 {
			clients.Go(func() {
				if got := s.listen(eventStreamType, 30*time.Second); len(got) != 1 {
					t.Errorf("client %d was given %v", i, got)
				}
			})
		}
		clients.Wait()
		if n := asked.Load(); n != 2 {
			t.Errorf("the application was asked %d times", n)
		}
	})
}

// The same with handlers as those of FastCGI: they notice nothing until the
// application says something.
func TestUpstreamTimeoutWithoutHandlersReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heartbeat, prime := caddy.Duration(0), false
		h := &Handler{
			UpstreamTimeout: caddy.Duration(time.Minute), Join: "live", Prime: &prime,
			Heartbeat: &Heartbeat{Interval: &heartbeat},
		}
		var n int
		talk := make(chan struct{})
		var left error
		s := serveInBubble(t, h, func(w http.ResponseWriter, _ *http.Request) error {
			n++
			first := n == 1
			w.Header().Set("Content-Type", "text/event-stream")
			if !first {
				_, _ = io.WriteString(w, "id: 2\ndata: 2\n\n")
				return nil
			}
			_, _ = io.WriteString(w, "id: 1\ndata: 1\n\n")
			_ = http.NewResponseController(w).Flush()
			<-talk
			_, left = io.WriteString(w, "id: x\ndata: x\n\n")
			close(talk)
			return left
		})
		var text strings.Builder
		for _, a := range s.listen("text/event-stream", time.Hour) {
			text.WriteString(a.text)
		}
		if text.String() != "id: 1\ndata: 1\n\nid: 2\ndata: 2\n\n" {
			t.Errorf("given %q", text.String())
		}
		talk <- struct{}{}
		<-talk
		if left == nil {
			t.Error("a late write was taken")
		}
	})
}

// A stream outlives the time that Caddy's server gives a response to be written in,
// and ends well after it.
func TestServersWriteTimeoutEndsNoStream(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGatewayWith(t, "servers {\ntimeouts {\nwrite 1s\n}\n}", site("sse {\njoin live\n}\nreverse_proxy "+u.address))
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
