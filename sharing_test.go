package caddysse

import (
	"testing"
	"testing/synctest"
	"time"
)

// unproven is auto for an application that nobody vouches for.
func unproven(sets ...func(o *streamOptions)) func(o *streamOptions) {
	return auto(append(sets, func(o *streamOptions) { o.vouched, o.gapEvent = false, "gap" })...)
}

// proven begins a stream whose upstream tells two connections the same, with ids.
func (st *streamTest) proven() (a, b *reader, up *fakeConn) {
	st.t.Helper()
	a, up = st.start()
	b, sp := st.second()
	sp.open()
	for _, c := range []*fakeConn{up, sp} {
		c.numbered("1")
	}
	time.Sleep(2 * splicePause)
	for _, c := range []*fakeConn{up, sp} {
		c.numbered("2")
	}
	sp.expectGone(true)
	up.numbered("3", "4", "5", "6", "7", "8", "9", "10") // its ids count
	a.read()
	b.read()
	return a, b, up
}

// second joins the second client of a stream, and returns its connection.
func (st *streamTest) second() (*reader, *fakeConn) {
	st.t.Helper()
	r := st.join("")
	time.Sleep(proofDelay)
	r.read()
	return r, st.source.accept()
}

// TestNewcomerInAnOutageIsGreeted: who comes without an ID while the upstream is
// away has a head. When the upstream goes on after an ID, it greets nobody: then
// that client is greeted by a splice, if the upstream greets at all.
func TestNewcomerInAnOutageIsGreeted(t *testing.T) {
	for name, greets := range map[string]bool{"greets": true, "does not": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, unproven(), func(st *streamTest) {
				_, _, up := st.proven()
				if greets {
					time.Sleep(5 * time.Second)
					late, sp := st.join(""), st.source.acceptOpen()
					sp.numbered("1") // as the two before
					time.Sleep(2 * splicePause)
					sp.expectGone(true)
					late.leave()
				}
				up.breakOff()
				c := st.join("")
				if !c.hasHead() {
					t.Fatal("the head is held while the upstream is away")
				}
				c.expect()
				up = st.source.acceptOpen()
				up.numbered("11") // it goes on
				if !greets {
					c.expect(numbered("11"))
					st.source.expectNone()
					return
				}
				c.read()
				sp := st.source.accept()
				sp.open()
				sp.numbered("1")
				c.expect(toldGap("upstream", "", "null")+"\n", numbered("1"))
			})
		})
	}
}

// TestSilentNewcomerIsToldWhatItMissed: who waits with a head for the first event,
// and is given a connection of its own because none is left that could show whether
// that is for all, is told if the event came before.
func TestSilentNewcomerIsToldWhatItMissed(t *testing.T) {
	inBubble(t, unproven(), func(st *streamTest) {
		a, up := st.start()
		b, sp := st.second()
		sp.open()
		c := st.join("")
		time.Sleep(2 * splicePause)
		if !c.hasHead() {
			t.Fatal("the head is held though there is nothing that could be somebody's own")
		}
		b.read()
		b.leave()
		sp.breakOff()
		c.read()
		sp = st.source.accept()
		up.event("1")
		a.read()
		sp.open()
		sp.event("2")
		c.expect(toldGap("upstream", "", "null")+"\n", plain("2"))
	})
}

// TestWaitingEndsAlsoWhereTheUpstreamBreaks: after an outage there is another chance
// for a verdict, but who waits does not wait for ever where the upstream breaks
// again and again.
func TestWaitingEndsAlsoWhereTheUpstreamBreaks(t *testing.T) {
	inBubble(t, unproven(), func(st *streamTest) {
		_, up := st.start()
		up.event("hello")
		st.join("")
		c := st.join("")
		for began := time.Now(); c.end == ""; {
			if time.Since(began) > 3*defaultSpliceTimeout {
				t.Fatalf("waits for %v", time.Since(began))
			}
			time.Sleep(defaultSpliceTimeout / 2)
			up.breakOff()
			for up = st.source.accept(); up.conn.current().isSplice; up = st.source.accept() { // they are left unanswered
			}
			up.open()
			up.event("hello")
			c.read()
		}
		if c.end != endPerClient {
			t.Errorf("the end is %q", c.end)
		}
	})
}

// TestSpliceGoesOnAfterATrial: a splice that waits for what two probes show is merged
// when they have, and not only when there is another event.
func TestSpliceGoesOnAfterATrial(t *testing.T) {
	inBubble(t, unproven(), func(st *streamTest) {
		_, up := st.start()
		up.numbered("state 1")
		time.Sleep(2 * splicePause)
		st.join("")
		sp := st.source.acceptOpen()
		sp.numbered("state 2")
		probe := st.source.acceptOpen()
		probe.numbered("state 2")
		sp.greeted()
		for _, c := range []*fakeConn{up, sp} {
			c.numbered("2")
		}
		sp.expectGone(false) // the probe may still be greeted
		time.Sleep(2 * maxSettle)
		synctest.Wait()
		probe.expectGone(true)
		sp.expectGone(true)
	})
}
