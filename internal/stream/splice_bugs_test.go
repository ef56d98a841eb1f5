package stream

import (
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// While the stream has no connection, and just after, its silence says nothing:
// what the splice has brought meanwhile is still to come there.
func TestSpliceQuietAfterBreak(t *testing.T) {
	inBubble(t, auto(), func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		time.Sleep(time.Minute)
		b := st.join("")
		sp := st.source.acceptOpen()
		up.breakOff()
		sp.numbered("2", "3")
		again := st.source.accept()
		time.Sleep(5 * time.Second)
		again.open()
		sp.expectGone(false)
		again.numbered("2", "3")
		synctest.Wait()
		if sp.ctx.Err() == nil {
			sp.numbered("4")
		}
		again.numbered("4")
		sp.expectGone(true)
		if got, _ := decode([]byte(b.read())); !slices.Equal(got, []string{"2", "3", "4"}) {
			st.t.Errorf("given %q", got)
		}
		a.expect(newcomer, numbered("1", "2", "3", "4"))
	})
}

// A greeting that comes beside events is no broadcast, also shortly after a
// renewal: the gap event that is told there is not the upstream's.
func TestSpliceGreetingAfterRenewal(t *testing.T) {
	inBubble(t, auto(func(o *Options) { o.GapEvent = "gap" }), func(st *streamTest) {
		_, up := st.begun()
		up.breakOff()
		up = st.source.acceptOpen()
		up.event("hello")
		for i := range enoughSplices {
			_, sp := st.spliced("hello")
			n := strconv.Itoa(i)
			both(up, sp, n+"a", n+"b")
			if i > 0 { // else the greetings are neighbours too
				both(up, sp, n+"c")
			}
			sp.greeted()
			sp.expectGone(true)
		}
		st.spliced("hello")
	})
}

// Who waits for a place when the stream ends is let go, also if it looks only
// after the stream has gone on.
func TestSpliceWaitParentEnds(t *testing.T) {
	inBubble(t, auto(), func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		up.breakOff()
		up = st.source.accept()
		b := st.join("")
		slow := st.join("")
		for _, r := range []*reader{b, slow} {
			if !r.hasHead() {
				st.t.Error("the head is held while the stream has no connection")
			}
		}
		b.expect()
		up.events = true
		up.open()
		a.read()
		up.close()
		a.leave()
		b.expectEnd(EndUpstream, primed("1"))
		st.join("1")
		st.source.acceptOpen()
		slow.expectEnd(EndUpstream, primed("1"))
		st.source.expectNone()
	})
}

// A splice waits for its clients by the size of its blocks as well.
func TestSpliceSlowSize(t *testing.T) {
	inBubble(t, auto(func(o *Options) { o.Buffer.Size = 40 }), testSpliceSlow)
}

// A splice that waits for its clients is not quiet: its next block is there.
func TestSpliceSlowIsNotQuiet(t *testing.T) {
	inBubble(t, auto(func(o *Options) { o.Buffer.Events = 2 }), func(st *streamTest) {
		st.begun()
		time.Sleep(time.Minute)
		b, sp := st.spliced("hello")
		go sp.event("2", "3", "4")
		time.Sleep(10 * time.Second) // b does not read
		text := b.read()
		time.Sleep(time.Millisecond)
		if text += b.read(); text != plain("2", "3", "4") {
			st.t.Errorf("given %q", text)
		}
	})
}

// The gap event of a splice waits for room like the upstream's blocks, and
// names no ID: the gateway gives none there.
func TestSpliceSlowTold(t *testing.T) {
	set := func(o *Options) { o.Buffer.Events, o.GapEvent = 2, "gap" }
	inBubble(t, auto(set), func(st *streamTest) {
		st.begun()
		b, sp := st.spliced("hello")
		sp.event("2", "3")
		sp.breakOff()
		again := st.source.accept()
		go again.open()
		time.Sleep(time.Second)
		text := b.read()
		time.Sleep(time.Millisecond)
		if text += b.read(); text != plain("2", "3")+toldGap("upstream", "", "null")+"\n" || b.end != "" {
			st.t.Errorf("given %q, end %q", text, b.end)
		}
	})
}

// A splice has no ids of the gateway that a gap event could name.
func TestSpliceLagID(t *testing.T) {
	set := func(o *Options) { o.Buffer.Age, o.GapEvent, o.LagSkip = time.Second, "gap", true }
	inBubble(t, auto(set), func(st *streamTest) {
		_, up := st.begun()
		b, sp := st.spliced("hello")
		sp.event("2")
		up.event("other") // the stream is not quiet
		time.Sleep(2 * time.Second)
		sp.event("3")
		b.expect(toldGap("lag", "", "1")+"\n", plain("3"))
	})
}

// A client that comes to a splice after a gap event there has missed nothing of
// it.
func TestSpliceLagCount(t *testing.T) {
	set := func(o *Options) { o.Buffer.Age, o.GapEvent, o.LagSkip = time.Second, "gap", true }
	inBubble(t, auto(set), func(st *streamTest) {
		_, up := st.begun()
		st.join("")
		st.source.acceptOpen().breakOff()
		sp := st.source.acceptOpen() // which tells a gap
		up.event("other")            // the stream is not quiet
		b := st.join("")
		b.expect("id\n\n")
		sp.event("1")
		time.Sleep(2 * time.Second)
		sp.event("2")
		b.expect(toldGap("lag", "", "1")+"\n", plain("2"))
	})
}
