package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/r3labs/sse/v2"
)

// announcer is an application without ids: it sends a connection what it is told to.
type announcer struct {
	*httptest.Server
	say chan string
}

func startAnnouncer(t *testing.T) *announcer {
	t.Helper()
	a := &announcer{say: make(chan string)}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		rc := http.NewResponseController(w)
		for {
			_ = rc.Flush()
			select {
			case text := <-a.say:
				_, _ = io.WriteString(w, text)
			case <-r.Context().Done():
				return
			}
		}
	}))
	t.Cleanup(func() {
		a.CloseClientConnections()
		a.Close()
	})
	return a
}

// overhearing is a RoundTripper that knows what came in the body of the one response.
type overhearing struct {
	mu   sync.Mutex
	text bytes.Buffer
	io.ReadCloser
}

func (o *overhearing) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err == nil {
		o.ReadCloser = resp.Body
		resp.Body = o
	}
	return resp, err
}

func (o *overhearing) Read(p []byte) (int, error) {
	n, err := o.ReadCloser.Read(p)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(p[:n])
	return n, err
}

// await waits until something came.
func (o *overhearing) await(t *testing.T, what string, came func(text string) bool) {
	t.Helper()
	deadline := time.Now().Add(testTimeout)
	for {
		o.mu.Lock()
		text := o.text.String()
		o.mu.Unlock()
		if came(text) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come: %q", what, text)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Some clients show their program an event without data for each block that is none: r3labs/sse is one. With
// empty_blocks off it sees the application's events only.
func TestEmptyBlocks(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		options string
		shown   []string
	}{
		// The prime block or retry, heartbeats between the events, and the comment are events to it.
		{"heartbeat 100ms\nretry 2s", nil},
		{"heartbeat 100ms\nretry 2s\nempty_blocks off", []string{"1", "2", "3"}},
	} {
		t.Run(test.options, func(t *testing.T) {
			t.Parallel()
			app := startAnnouncer(t)
			g := startGateway(t, route("/events", test.options, "reverse_proxy "+app.Listener.Addr().String()))
			client, heard := sse.NewClient(g.url("/events")), new(overhearing)
			client.Connection = &http.Client{Transport: heard}
			ctx, leave := context.WithCancel(t.Context())
			shown, left := make(chan string, 1000), make(chan error, 1)
			go func() {
				left <- client.SubscribeRawWithContext(ctx, func(event *sse.Event) { shown <- string(event.Data) })
			}()
			for i := range 3 {
				app.say <- fmt.Sprintf(":thump\n:thump\ndata: %d\n\n", i+1)
				heard.await(t, "the event and three heartbeats", func(text string) bool {
					_, after, came := strings.Cut(text, fmt.Sprintf("data: %d\n", i+1))
					return came && strings.Count(after, "\n:\n") >= 3
				})
			}
			app.say <- "data: end\n\n"
			var got []string
			for data := range shown {
				if data == "end" {
					break
				}
				got = append(got, data)
			}
			if test.shown == nil {
				if n := len(got) - 3; n < 9 {
					t.Errorf("shown %q: the client has learnt to tell events from other blocks", got)
				}
			} else if !slices.Equal(got, test.shown) {
				t.Errorf("shown %q, expected %q; what came: %q", got, test.shown, heard.text.String())
			}
			leave()
			if err := <-left; err != nil {
				t.Error(err)
			}
		})
	}
}
