package caddysse

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// sendAll sends pieces of the body.
func (c *fakeConn) sendAll(pieces ...string) {
	c.t.Helper()
	for _, p := range pieces {
		if err := c.send(p); err != nil {
			c.t.Fatal(err)
		}
	}
}

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

// Comments count for nothing: who comes after some is one of the first, and
// nobody gets those from before.
func TestCommentLinesAreNoBeginning(t *testing.T) {
	inBubble(t, func(o *streamOptions) { o.join = joinAuto }, func(st *streamTest) {
		a, up := st.start()
		up.sendAll(":)\n", ":thump\n")
		b := st.join("")
		up.sendAll(":thump\n")
		up.event("1")
		a.expect(newcomer, ":)\n\n", ":thump\n\n", ":thump\n\n", given("4", "1"))
		b.expect(primed("sse1.E.2"), ":thump\n\n", given("4", "1"))
		st.source.expectNone()
	})
}

// What an application repeats after a reconnect is known as such, whatever
// comments come before and between.
func TestRepeatsBetweenCommentLines(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		up.sendAll(":thump\n", numbered("1"), ":thump\n", numbered("2"))
		a.expect(newcomer, ":thump\n\n", numbered("1"), ":thump\n\n", numbered("2"))
		up.breakOff()
		up = st.source.acceptOpen()
		up.sendAll(":)\n:)\n"+numbered("1")+":thump\n:thump\n", numbered("2"), ":thump\n", numbered("3"))
		a.expect(":)\n\n", ":)\n\n", ":thump\n\n", ":thump\n\n", ":thump\n\n", numbered("3"))
	})
}

// A splice whose comments are others than the stream's is merged.
func TestSpliceMergesBetweenCommentLines(t *testing.T) {
	inBubble(t, func(o *streamOptions) { o.join = joinAuto }, func(st *streamTest) {
		a, up := st.start()
		up.sendAll(":)\n", numbered("1"))
		time.Sleep(10 * time.Second)
		b := st.join("")
		splice := st.source.acceptOpen()
		splice.sendAll(":)\n", ":thump\n")
		up.sendAll(":thump\n", numbered("2"))
		splice.sendAll(":other\n" + numbered("2"))
		splice.greeted()
		a.expect(newcomer, ":)\n\n", numbered("1"), ":thump\n\n", numbered("2"))
		b.expect(":)\n\n", ":thump\n\n", ":other\n\n", numbered("2"), primed("2"))
		splice.expectGone(true)
	})
}

// A greeting is over after a pause, though comments keep the connection alive in
// it.
func TestCommentLinesDoNotProlongTheGreeting(t *testing.T) {
	inBubble(t, func(o *streamOptions) { o.join = joinGreeting }, func(st *streamTest) {
		_, up := st.start()
		up.event("greeting")
		for range 4 {
			time.Sleep(greetingPause / 2)
			up.sendAll(":thump\n")
		}
		up.event("live")
		st.join("").expect(given("1", "greeting"), primed("sse1.E.6"))
	})
}
