package stream

import (
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

// Comments count for nothing: who comes after some is one of the first, and
// nobody gets those from before.
func TestCommentLinesAreNoBeginning(t *testing.T) {
	inBubble(t, func(o *Options) { o.Join = joinAuto }, func(st *streamTest) {
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
	inBubble(t, func(o *Options) { o.Join = joinAuto }, func(st *streamTest) {
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
	inBubble(t, func(o *Options) { o.Join = JoinGreeting }, func(st *streamTest) {
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
