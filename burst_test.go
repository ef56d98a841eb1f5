package caddysse

import (
	"bytes"
	"errors"
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

// bursts is how often a burst is tried. A stream waits a tenth of a second in all for
// clients that are being written to, and a machine may be so busy that these do not
// read for longer. Then they are let go, and there is nothing to see of the rest.
const bursts = 5

// testBurst lets an upstream send events in one piece to clients that read as
// fast as they can.
func testBurst(t *testing.T, u *upstream, events, clients int, subscribe func(path string) io.ReadCloser) {
	t.Helper()
	for i := range bursts {
		behind, err := burst(u, events, clients, func() io.ReadCloser { return subscribe(fmt.Sprintf("/%d/%d", clients, i)) })
		switch {
		case err != nil:
			t.Fatal(err)
		case behind == 0:
			return
		}
		t.Logf("%d of %d clients were let go", behind, clients)
	}
	t.Errorf("clients were let go in each of %d bursts", bursts)
}

// burst is one burst. It returns how many clients were let go in its middle.
func burst(u *upstream, events, clients int, subscribe func() io.ReadCloser) (behind int, err error) {
	pad := strings.Repeat("x", 100)
	var text strings.Builder
	for n := range events {
		fmt.Fprintf(&text, "data: %d %s\n\n", n, pad)
	}
	text.WriteString("data: end\n\n")
	type result struct {
		whole bool
		err   error
	}
	done := make(chan result, clients)
	for range clients {
		body := subscribe()
		go func() {
			defer body.Close()
			whole, err := readBurst(body, events, pad)
			done <- result{whole, err}
		}()
	}
	u.accept().write(text.String())
	for range clients {
		select {
		case r := <-done:
			if err = errors.Join(err, r.err); !r.whole {
				behind++
			}
		case <-time.After(testTimeout):
			return 0, errors.New("the end did not come")
		}
	}
	return behind, err
}

// readBurst reads until the end of a burst, or of the response if that is in order,
// and tells whether it was the former.
func readBurst(from io.Reader, events int, pad string) (whole bool, err error) {
	var all bytes.Buffer // as fast as it comes
	buf := make([]byte, 1<<20)
	for !whole && err == nil {
		var n int
		n, err = from.Read(buf)
		all.Write(buf[:n])
		whole = bytes.Contains(all.Bytes()[max(0, all.Len()-200):], []byte("data: end\n"))
	}
	if !whole && err != io.EOF {
		return false, fmt.Errorf("%w after %d bytes", err, all.Len())
	}
	n := 0
	for m, err := range eventstream.NewReader(&all).Messages() {
		if err != nil {
			return false, fmt.Errorf("%w after %d events", err, n)
		}
		if m.Data == "end" {
			break
		}
		if m.Data != fmt.Sprintf("%d %s", n, pad) {
			return false, fmt.Errorf("event %d is %q", n, m.Data)
		}
		n++
	}
	if whole && n != events {
		return false, fmt.Errorf("%d of %d events", n, events)
	}
	return whole, nil
}
