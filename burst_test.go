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
	waitsForBursts(t)
	const events = 20_000
	u := startUpstream(t, nil)
	for _, tr := range startTransports(t, u, "") {
		for _, clients := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s %d", tr.name, clients), func(t *testing.T) {
				testBurst(t, u, events, clients, func(path string) io.ReadCloser {
					c := subscribeRaw(t, tr, path)
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
	waitsForBursts(t)
	u := startUpstream(t, nil)
	g := startTLS(t, newCertificate(t, "server"), u, "")
	for _, clients := range []int{1, 3} {
		testBurst(t, u, 20_000, clients, func(path string) io.ReadCloser {
			resp := g.get(path)
			if resp.ProtoMajor != 2 {
				t.Fatal(resp.Proto)
			}
			return resp.Body
		})
	}
}

// waitsForBursts lets streams wait for clients that read for as long as those take on a busy machine. For how long they wait by
// default is the subject of tests in fake time.
func waitsForBursts(t *testing.T) {
	t.Helper()
	burst, turn := burstPatience, turnPatience
	burstPatience, turnPatience = testTimeout, testTimeout
	t.Cleanup(func() { burstPatience, turnPatience = burst, turn })
}

// testBurst lets an upstream send events in one piece to clients that read as
// fast as they can.
func testBurst(t *testing.T, u *upstream, events, clients int, subscribe func(path string) io.ReadCloser) {
	t.Helper()
	pad := strings.Repeat("x", 100)
	var text strings.Builder
	for n := range events {
		fmt.Fprintf(&text, "data: %d %s\n\n", n, pad)
	}
	text.WriteString("data: end\n\n")
	done := make(chan error, clients)
	for range clients {
		body := subscribe(fmt.Sprintf("/%d", clients))
		go func() {
			defer body.Close()
			done <- readBurst(body, events, pad)
		}()
	}
	u.accept().write(text.String())
	for range clients {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(2 * testTimeout):
			t.Fatal("the end did not come")
		}
	}
}

// readBurst reads until the end of a burst, and checks that it is whole.
func readBurst(from io.Reader, events int, pad string) error {
	var all bytes.Buffer // as fast as it comes
	buf := make([]byte, 1<<20)
	for !bytes.Contains(all.Bytes()[max(0, all.Len()-200):], []byte("data: end\n")) {
		n, err := from.Read(buf)
		all.Write(buf[:n])
		if err != nil {
			return fmt.Errorf("let go after %d bytes: %w", all.Len(), err)
		}
	}
	n := 0
	for m, err := range eventstream.NewReader(&all).Messages() {
		if err != nil {
			return fmt.Errorf("%w after %d events", err, n)
		}
		if m.Data == "end" {
			break
		}
		if m.Data != fmt.Sprintf("%d %s", n, pad) {
			return fmt.Errorf("event %d is %q", n, m.Data)
		}
		n++
	}
	if n != events {
		return fmt.Errorf("%d of %d events", n, events)
	}
	return nil
}
