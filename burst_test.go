package caddysse

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
)

// 20,000 events that the upstream writes at once come to all clients, whatever
// the way, with all options at their defaults.
func TestBurstOverTheNetwork(t *testing.T) {
	const events = 20_000
	u := startUpstream(t, nil)
	for _, tr := range startTransports(t, u, "") {
		for _, clients := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s %d", tr.name, clients), func(t *testing.T) {
				testBurst(t, u, events, clients, func() io.ReadCloser {
					c := subscribeRaw(t, tr, fmt.Sprintf("/%d", clients))
					return struct {
						io.Reader
						io.Closer
					}{c.resp.Body, c.conn}
				})
			})
		}
	}
}

// The same over HTTP/2.
func TestBurstOverHTTP2(t *testing.T) {
	u := startUpstream(t, nil)
	g := startTLS(t, newCertificate(t, "server"), u, "")
	for _, clients := range []int{1, 3} {
		testBurst(t, u, 20_000, clients, func() io.ReadCloser {
			resp := g.get(fmt.Sprintf("/%d", clients))
			if resp.ProtoMajor != 2 {
				t.Fatal(resp.Proto)
			}
			return resp.Body
		})
	}
}

// testBurst lets an upstream send events in one piece to clients that read as
// fast as they can.
func testBurst(t *testing.T, u *upstream, events, clients int, subscribe func() io.ReadCloser) {
	t.Helper()
	pad := strings.Repeat("x", 100)
	var text strings.Builder
	for n := range events {
		fmt.Fprintf(&text, "data: %d %s\n\n", n, pad)
	}
	text.WriteString("data: end\n\n")
	lost := make(chan string, clients)
	for range clients {
		body := subscribe()
		go func() {
			defer body.Close()
			lost <- readBurst(body, events, pad)
		}()
	}
	up := u.accept()
	up.write(text.String())
	for range clients {
		select {
		case what := <-lost:
			if what != "" {
				t.Error(what)
			}
		case <-time.After(testTimeout):
			t.Fatal("the end did not come")
		}
	}
}

// readBurst reads until the end of a burst, and tells what is not right.
func readBurst(from io.Reader, events int, pad string) string {
	var all bytes.Buffer // as fast as it comes
	buf := make([]byte, 1<<20)
	for !bytes.Contains(all.Bytes()[max(0, all.Len()-200):], []byte("data: end\n")) {
		n, err := from.Read(buf)
		all.Write(buf[:n])
		if err != nil {
			return fmt.Sprintf("%v after %d bytes", err, all.Len())
		}
	}
	n := 0
	for m, err := range eventstream.NewReader(&all).Messages() {
		if err != nil {
			return fmt.Sprintf("%v after %d events", err, n)
		}
		if m.Data == "end" {
			break
		}
		if m.Data != fmt.Sprintf("%d %s", n, pad) {
			return fmt.Sprintf("event %d is %q", n, m.Data)
		}
		n++
	}
	if n != events {
		return fmt.Sprintf("%d of %d events", n, events)
	}
	return ""
}
