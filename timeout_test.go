package caddysse

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
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
