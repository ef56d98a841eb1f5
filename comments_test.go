package caddysse

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
)

// Applications keep connections alive with comments of one line, without a blank
// line. They pass before the next byte comes, and nothing else comes with them.
func TestCommentLinesPassAtOnce(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		t.Run(method, func(t *testing.T) {
			u := startUpstream(t, nil)
			g := startGateway(t, proxied("ids upstream\nprime off\nheartbeat off", u))
			ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
			defer cancel()
			resp, err := g.client.Do(g.request(method, "/", "Accept: text/event-stream").WithContext(ctx))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			up := u.accept()
			for _, piece := range []struct{ sent, shared string }{
				{":)\n", ":)\n\n"},
				{":thump\n", ":thump\n\n"},
				{":\r", ":\n\n"}, // the line has ended
				{"\n: hi\n\n", ": hi\n\n"},
				{"\n:thump\n", ":thump\n\n"},
				{"data: 1\n\n", "data: 1\n\n"},
				{":a\n:b\ndata: 2\n:in it\n:in it\n\n", ":a\n\n:b\n\ndata: 2\n:in it\n:in it\n\n"},
				{":thu", ""},
				{"mp\n", ":thump\n\n"},
			} {
				up.write(piece.sent)
				want := piece.shared
				if method == http.MethodPost { // a private stream passes as it is
					want = piece.sent
				}
				got := make([]byte, len(want))
				if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
					t.Fatalf("of %q came %q (%v), expected %q", piece.sent, got, err, want)
				}
			}
			up.end()
			if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
				t.Errorf("also %q, %v", rest, err)
			}
		})
	}
}

// However many comments come without a blank line, they are no block that is too
// large.
func TestCommentsEndNoStream(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		t.Run(method, func(t *testing.T) {
			u := startUpstream(t, nil)
			g := startGateway(t, proxied("max_event_size 64KiB", u))
			resp, err := g.client.Do(g.request(method, "/", "Accept: text/event-stream"))
			if err != nil {
				t.Fatal(err)
			}
			c := newTestClient(t, resp)
			up := u.accept()
			padding := ":" + strings.Repeat(" ", 2047) + "\n"
			for range 4 {
				up.write(strings.Repeat(padding, 32))
			}
			up.event("1")
			c.expect("1")
			up.end()
			c.expectEnd()
		})
	}
}
