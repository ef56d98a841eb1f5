package stream

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// unproven is auto for an application that nobody vouches for.
func unproven(sets ...func(o *Options)) func(o *Options) {
	return auto(append(sets, func(o *Options) { o.Vouched, o.GapEvent = false, "gap" })...)
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

// greeted lets a newcomer be greeted by a connection of its own, and leave.
func (st *streamTest) greeted(id string) {
	st.t.Helper()
	time.Sleep(5 * time.Second)
	late, sp := st.join(""), st.source.acceptOpen()
	sp.numbered(id)
	time.Sleep(2 * splicePause)
	sp.expectGone(true)
	late.leave()
}

// TestWhoHasWaitedEnoughIsGivenASpliceFirst: a client is not sent to the upstream on its own, where nothing bounds it,
// when it looks late and may have a splice by then.
func TestWhoHasWaitedEnoughIsGivenASpliceFirst(t *testing.T) {
	inBubble(t, unproven(func(o *Options) { o.SpliceTimeout = proofDelay }), func(st *streamTest) {
		a, up := st.start()
		b, sp := st.second()
		time.Sleep(headPatience) // it is not answered
		synctest.Wait()
		if reason := b.sub.TurnedAway(); reason != EndNoSecond {
			t.Errorf("turned away with %q, expected %q", reason, EndNoSecond)
		}
		sp.expectGone(true)
		up.event("1")
		a.read()
	})
}

// TestWhoLeavesDoesNotLeaveConnections: what a client's connection shows may be what others wait for, but not that of
// each who comes with an ID that nobody knows, and leaves.
func TestWhoLeavesDoesNotLeaveConnections(t *testing.T) {
	inBubble(t, unproven(), func(st *streamTest) {
		st.start()
		_, sp := st.second()
		sp.open()
		st.join("") // waits
		open := []*fakeConn{sp}
		for i := range 50 {
			b := st.join("unknown" + strconv.Itoa(i))
			time.Sleep(proofDelay)
			open = append(open, st.source.acceptOpen())
			synctest.Wait()
			b.leave()
		}
		synctest.Wait()
		open = slices.DeleteFunc(open, func(c *fakeConn) bool { return c.ctx.Err() != nil })
		if n := len(open); n > defaultSpliceLimit {
			t.Errorf("%d connections beside the stream's are left, expected at most splice_limit, %d", n, defaultSpliceLimit)
		}
	})
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
					st.greeted("1") // as the two before
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

// TestNewcomerInAnOutageIsToldBeforeTheStreamHasCaughtUp: what came while the upstream
// was away comes to the stream, which goes on after its ID, and not to the splice that
// greets the newcomer. That one is told, though the stream has it only later.
func TestNewcomerInAnOutageIsToldBeforeTheStreamHasCaughtUp(t *testing.T) {
	for name, early := range map[string]bool{"the splice has its head when the second comes to it": true, "and when it has not": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, auto(withGaps), func(st *streamTest) {
				_, up := st.start()
				up.numbered(counting(1, 10)...)
				st.greeted("1")
				up.breakOff()
				clients := []*reader{st.join(""), st.join("")}
				for _, c := range clients {
					if !c.hasHead() {
						t.Fatal("the head is held while the upstream is away")
					}
				}
				up = st.source.acceptOpen() // what it missed is on its way
				clients[0].read()
				sp := st.source.accept()
				if !early {
					clients[1].read()
				}
				sp.open()
				for _, c := range clients {
					c.expect(toldGap("upstream", "", "null") + "\n")
				}
				sp.numbered("1")
				up.numbered("11", "12")
				for _, c := range clients {
					c.expect(numbered("1"))
				}
			})
		})
	}
}

// TestNewcomerInAnOutageIsWaitedFor: what the upstream sends first after an outage is
// not evicted before a newcomer was given it.
func TestNewcomerInAnOutageIsWaitedFor(t *testing.T) {
	inBubble(t, auto(func(o *Options) { withGaps(o); o.Buffer.Events = 2 }), func(st *streamTest) {
		a, up := st.start()
		up.numbered(counting(1, 10)...)
		up.breakOff()
		c := st.join("")
		a.leave()
		if !c.hasHead() {
			t.Fatal("the head is held while the upstream is away")
		}
		up = st.source.acceptOpen()
		go up.numbered(counting(11, 15)...)
		c.expect(primed("10"), numbered("11", "12"))
		c.expect(numbered("13", "14"))
		c.expect(numbered("15"))
	})
}

// TestNewcomerInAnOutageIsToldWhatWasEvicted: where the upstream greets nobody the
// newcomer has all that came since its head, or is told how much of it is not kept.
func TestNewcomerInAnOutageIsToldWhatWasEvicted(t *testing.T) {
	inBubble(t, unproven(func(o *Options) { o.Buffer.Events = 2 }), func(st *streamTest) {
		_, _, up := st.proven()
		up.breakOff()
		c := st.join("")
		if !c.hasHead() {
			t.Fatal("the head is held while the upstream is away")
		}
		c.read()
		up = st.source.acceptOpen()
		before := countsNow()
		up.numbered(counting(11, 15)...)
		c.expect(toldGap("evicted", "", "3")+"\n", numbered("14", "15"))
		if got := countsNow().since(before)["gaps_total reason=evicted"]; got != 1 {
			t.Errorf("%v gaps are counted, expected 1", got)
		}
		if n := st.logged("client missed events"); n != 1 {
			t.Errorf("logged %d times, expected once", n)
		}
	})
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
		sp.close()
		b.expectEnd(EndUpstream)
		b.leave()
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
			up = st.source.accept()
			for intakeOf(up.conn).current().kind.beside { // it is left unanswered
				up = st.source.accept()
			}
			up.open()
			up.event("hello")
			c.read()
		}
		if c.end != EndPerClient {
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

// lostID is the ID with which the client of a splice of a stream comes back.
func lostID(r *reader) string { return r.id(nowhere) }

// TestSpliceClientsComeBackWhileTheUpstreamRestarts: an upstream without ids ends all
// connections and is away for a while. The clients of a splice come back as those
// of the stream do: they wait with a head, and are told that they may have missed
// something. One that the stream knows nothing of is given the upstream's answer.
func TestSpliceClientsComeBackWhileTheUpstreamRestarts(t *testing.T) {
	for name, set := range map[string]func(o *Options){"proven": auto(func(o *Options) { o.GapEvent = "gap" }), "unproven": unproven()} {
		for _, first := range []string{"splice", "stream"} {
			t.Run(name+"/"+first+" first", func(t *testing.T) {
				inBubble(t, set, func(st *streamTest) {
					a, up := st.begun()
					time.Sleep(2 * proofDelay)
					b, sp := st.spliced("hello")
					id := lostID(b)
					sp.close()
					up.close()
					b.expectEnd(EndUpstream, primed(strings.Replace(id, b.sub.stream.epoch, "E", 1)))
					a.expectEnd(EndUpstream)
					ids := []string{id, a.id(1)}
					if first == "stream" {
						ids[0], ids[1] = ids[1], ids[0]
					}
					a.leave()
					b.leave()
					x := st.join(ids[0])
					st.source.accept().answer(http.StatusBadGateway, 0)
					y := st.join(ids[1])
					away := []*reader{x, y}
					for range 3 {
						st.source.accept().answer(http.StatusBadGateway, 0)
					}
					for _, r := range away {
						if _, err := r.sub.Head(); err != nil || r.sub.TurnedAway() != "" || r.read() == "refused" || r.end != "" {
							t.Errorf("not kept: %v, %q, %q", err, r.sub.TurnedAway(), r.end)
						}
					}
				})
			})
		}
	}
}

// TestHeadOfAnotherIsNotKept: while a stream is not proven, the head that it had is
// given to the client of a splice only if that had the same.
func TestHeadOfAnotherIsNotKept(t *testing.T) {
	inBubble(t, unproven(), func(st *streamTest) {
		a := st.join("")
		up := st.source.accept()
		up.openAs("a")
		b, sp := st.second()
		sp.openAs("b")
		up.event("1")
		sp.event("1")
		a.read()
		b.read()
		sp.close()
		up.close()
		b.expectEnd(EndUpstream)
	})
}

// TestEventBeforeABreakIsNoEvidence: an event that only one of two connections had,
// shortly before the other broke, or while the gateway was too busy to read, does
// not show that each is told its own.
func TestEventBeforeABreakIsNoEvidence(t *testing.T) {
	for name, busy := range map[string]bool{"break": false, "busy": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, unproven(), func(st *streamTest) {
				_, up := st.start()
				b, sp := st.second()
				sp.open()
				time.Sleep(slowestGreeting + time.Second)
				up.event("1")
				if busy {
					sub := b.sub
					sub.Origin.mu.Lock()
					sub.home.trySplice(sub.stream, time.Now().Add(2*twinWindow))
					sub.Origin.mu.Unlock()
				} else {
					sp.breakOff()
					st.source.acceptOpen()
				}
				time.Sleep(2 * twinWindow)
				b.read()
				if st.logged("the upstream tells each connection its own: this path is not shared; join live or share public shares it regardless") > 0 {
					t.Error("it is taken for evidence")
				}
			})
		})
	}
}

// A splice of a stream that is proven loses its connection before it has brought
// anything. The next one may be greeted with something of its own: the application was
// restarted, say. So nobody but its client is served by it.
func TestNobodyJoinsASpliceThatHasLostItsConnection(t *testing.T) {
	inBubble(t, unproven(), func(st *streamTest) {
		st.proven()
		time.Sleep(5 * time.Second)
		c := st.join("")
		st.source.acceptOpen().breakOff()
		d := st.join("")
		var conns []*fakeConn
		for range 2 {
			conns = append(conns, st.source.acceptOpen())
		}
		for i, conn := range conns {
			conn.event("session " + strconv.Itoa(i))
		}
		both := c.read() + d.read()
		for i := range conns {
			if n := strings.Count(both, "session "+strconv.Itoa(i)+"\n"); n != 1 {
				st.t.Errorf("what connection %d was greeted with is given to %d clients: %q", i, n, both)
			}
		}
	})
}

// The stream breaks while several share a splice that has brought nothing yet: it is
// left to the first of them. The others have their head, and no connection until there
// is another splice: what may have come meanwhile is told.
func TestWhoIsTakenFromASpliceIsToldWhatItMisses(t *testing.T) {
	inBubble(t, unproven(), func(st *streamTest) {
		_, _, up := st.proven()
		time.Sleep(5 * time.Second)
		c := st.join("")
		sp := st.source.accept()
		d := st.join("") // shares it
		st.source.expectNone()
		sp.open()
		if !c.hasHead() || !d.hasHead() {
			st.t.Fatal("no head")
		}
		up.breakOff()
		up = st.source.acceptOpen()
		up.numbered("11", "12")
		sp.numbered("11", "12")
		time.Sleep(time.Second)
		for len(st.source.conns) > 0 {
			st.source.acceptOpen()
		}
		up.numbered("13")
		if text := d.read(); !strings.Contains(text, "data: 11\n") && !strings.Contains(text, GapUpstream) {
			st.t.Errorf("read %q, and was told no gap", text)
		}
	})
}

// forgotten lets all clients leave a stream, so that it ends, and what is known of its
// key is all that is left of it.
func (st *streamTest) forgotten(readers ...*reader) {
	st.t.Helper()
	for _, r := range readers {
		r.leave()
	}
	st.hub.EndAll()
	st.hub.running.Wait()
	st.expectStreams(0)
}

// TestWhatWasKnownOfAKeyIsNotBelievedOfAnotherApplication: connections of a key were told
// the same. While nobody is served the application becomes one that gives each connection
// a session. Nobody is given that of another, however many clients come at once.
func TestWhatWasKnownOfAKeyIsNotBelievedOfAnotherApplication(t *testing.T) {
	greeting := func(c *fakeConn, name string) {
		c.open()
		time.Sleep(splicePause - 1)
		c.event("session " + name)
	}
	for name, begin := range map[string]func(c *fakeConn, name string){"greeting": greeting, "head": (*fakeConn).openAs} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, unproven(), func(st *streamTest) {
				a, b, _ := st.proven()
				st.forgotten(a, b)
				first := st.join("")
				others := []*reader{st.join(""), st.join("")}
				begin(st.source.accept(), "1")
				others = append(others, st.join(""))
				time.Sleep(10 * time.Second)
				for i, r := range others {
					if head, err := r.sub.Head(); r.hasHead() && err == nil && head.Header.Get("X-Session") != "" {
						st.t.Errorf("client %d is given the head of another's connection", i+1)
					}
					if text := r.read(); strings.Contains(text, "session") {
						st.t.Errorf("client %d is given %q", i+1, text)
					}
				}
				if name == "greeting" {
					first.expect(newcomer, given("1", "session 1"))
				}
			})
		})
	}
}

// anotherConnection is how a stream comes by another upstream connection, which it returns.
var anotherConnection = map[string]func(st *streamTest, up *fakeConn) *fakeConn{
	"break": func(st *streamTest, up *fakeConn) *fakeConn {
		up.breakOff()
		return st.source.accept()
	},
	"two breaks": func(st *streamTest, up *fakeConn) *fakeConn {
		up.breakOff()
		st.source.acceptOpen().breakOff()
		return st.source.accept()
	},
	"reload": func(st *streamTest, up *fakeConn) *fakeConn {
		st.reload()
		return st.source.accept()
	},
}

// TestHeadAfterABreakIsNoOneElses: an application that is restarted, or reached by a new
// configuration, may name a session in the head from then on. That it is quiet, or goes on
// after the last event ID, does not show that the head is for all: nobody is given it, and
// newcomers have connections of their own, until another connection was seen to have it.
func TestHeadAfterABreakIsNoOneElses(t *testing.T) {
	for name, again := range anotherConnection {
		t.Run(name, func(t *testing.T) {
			inBubble(t, unproven(), func(st *streamTest) {
				a, b, up := st.proven()
				up = again(st, up)
				up.openAs("1")
				time.Sleep(10 * time.Second)
				up.numbered("11") // it goes on after 10
				b.leave()
				c, d := st.join("10"), st.join("")
				for _, r := range []*reader{c, d} {
					head, err := r.sub.Head()
					if err != nil || head.Header.Get("X-Session") != "" {
						st.t.Errorf("has the head %v, %v", head, err)
					}
					if text := r.read(); strings.Contains(text, "11") {
						st.t.Errorf("is given %q", text)
					}
				}
				a.read()
			})
		})
	}
}

// TestRefusedSpliceEndsAStreamThatIsNotBelievedAgain: the splice of a newcomer is refused,
// nobody else is served, and so the stream is closed and its clients ask again: what they
// are given then is another stream's, of an application that may be another one.
func TestRefusedSpliceEndsAStreamThatIsNotBelievedAgain(t *testing.T) {
	inBubble(t, unproven(), func(st *streamTest) {
		a, b, up := st.proven()
		a.leave()
		b.leave()
		c := st.join("")
		st.source.accept().answer(http.StatusTooManyRequests, 0)
		up.expectGone(true)
		if !c.sub.WaitForHead(st.t.Context()) || c.sub.TurnedAway() != EndAskAgain {
			st.t.Fatalf("turned away: %q", c.sub.TurnedAway())
		}
		c.leave()
		c, d, e := st.join(""), st.join(""), st.join("")
		up = st.source.acceptOpen()
		up.event("session 1")
		c.expect(newcomer, given("1", "session 1"))
		for _, r := range []*reader{d, e} {
			if text := r.read(); r.hasHead() || text != "" {
				st.t.Errorf("is given a head, and %q", text)
			}
		}
		time.Sleep(proofDelay)
		d.read()
		sp := st.source.acceptOpen()
		sp.event("session 2")
		d.expect(plain("session 2"))
		e.expect()
	})
}

// recalled begins a stream whose key is known to be shared, and lets the time pass in
// which its connection may be greeted.
func (st *streamTest) recalled() (a *reader, up *fakeConn) {
	st.t.Helper()
	a, b, _ := st.proven()
	st.forgotten(a, b)
	a, up = st.start()
	time.Sleep(splicePause)
	synctest.Wait()
	return a, up
}

// TestQuietBroadcastIsKnownAgain: what was learnt of a key outlives its stream. A later
// stream whose connection is greeted with nothing is shared from then on, without another
// connection.
func TestQuietBroadcastIsKnownAgain(t *testing.T) {
	inBubble(t, unproven(), func(st *streamTest) {
		a, up := st.recalled()
		clients := []*reader{a, st.join(""), st.join("")}
		for _, r := range clients {
			if !r.hasHead() {
				st.t.Error("has no head though the stream is known to be shared")
			}
		}
		up.event("1")
		for _, r := range clients {
			r.expect(newcomer, given("1", "1"))
		}
		st.source.expectNone()
	})
}

// TestWhoWaitsIsServedWhenAKeyIsKnownAgain: of those who come before that is known one has
// a connection of its own, which is closed then, and the others wait no longer.
func TestWhoWaitsIsServedWhenAKeyIsKnownAgain(t *testing.T) {
	inBubble(t, unproven(), func(st *streamTest) {
		a, b, _ := st.proven()
		st.forgotten(a, b)
		a, up := st.start()
		b, sp := st.second()
		sp.open()
		c := st.join("")
		if c.hasHead() {
			st.t.Error("has a head before it is known that the stream is shared")
		}
		time.Sleep(splicePause - proofDelay)
		if !c.hasHead() {
			st.t.Error("has no head though the stream is known to be shared")
		}
		c.read()
		time.Sleep(proofDelay) // until the second connection had its time to be greeted
		sp.expectGone(true)
		up.event("1")
		a.expect(newcomer, given("1", "1"))
		b.expect(newcomer, given("1", "1"))
		c.expect(given("1", "1"))
	})
}

// TestSlowGreetingsAreRemembered: where connections of a key are greeted late, the
// connection of a later stream is given as long before its silence shows anything. The
// second client's, which has waited for nothing else, is closed then.
func TestSlowGreetingsAreRemembered(t *testing.T) {
	inBubble(t, unproven(), func(st *streamTest) {
		const greeting = 4 * time.Second
		a, b, _ := st.proven()
		st.forgotten(a, b)
		fact, _ := st.hub.facts.sharedBy(st.key)
		fact.greeting = greeting
		st.hub.facts.noteShared(st.key, fact)
		a, _ = st.start()
		began := time.Now()
		_, sp := st.second()
		sp.open()
		time.Sleep(time.Until(began.Add(greeting)) - 1)
		if a.sub.Origin.isShared() {
			st.t.Error("shared before the connection had its time to be greeted")
		}
		sp.expectGone(false)
		time.Sleep(time.Nanosecond)
		sp.expectGone(true)
	})
}

// TestSilenceIsNotRememberedForLonger: that a connection was greeted with nothing is no
// evidence of its own. What is known of a key expires where there is no other.
func TestSilenceIsNotRememberedForLonger(t *testing.T) {
	inBubble(t, unproven(), func(st *streamTest) {
		a, _ := st.recalled()
		time.Sleep(factTime)
		a.leave()
		st.forgotten()
		if _, ok := st.hub.facts.sharedBy(st.key); ok {
			st.t.Error("it is still taken to be shared")
		}
	})
}

// TestDoubtLasts: a stream of a key has begun otherwise than was remembered, however short
// it was. Then the silence of a later one's connection shows nothing: it may be greeted
// late.
func TestDoubtLasts(t *testing.T) {
	for _, lasts := range []time.Duration{0, splicePause, time.Minute} {
		t.Run(lasts.String(), func(t *testing.T) {
			inBubble(t, unproven(), func(st *streamTest) {
				a, b, _ := st.proven()
				st.forgotten(a, b)
				a, up := st.start()
				up.event("session 1")
				time.Sleep(lasts)
				st.forgotten(a)
				time.Sleep(splicePause / 2)
				_, up = st.start()
				time.Sleep(2 * splicePause)
				b = st.join("")
				up.event("session 2")
				b.expect()
			})
		})
	}
}

// TestWhoLooksLateDoesNotKnowThatNothingCame: the gateway was so busy that it looks late
// whether a connection was greeted. It may not have read the greeting either.
func TestWhoLooksLateDoesNotKnowThatNothingCame(t *testing.T) {
	for name, late := range map[string]time.Duration{"in time": maxSettle, "late": maxSettle + 1} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, unproven(), func(st *streamTest) {
				a, b, _ := st.proven()
				st.forgotten(a, b)
				a, up := st.start()
				s, due := a.sub.Origin, time.Now().Add(splicePause)
				s.mu.Lock()
				s.recalled(intakeOf(up.conn), due, due.Add(late))
				s.mu.Unlock()
				if s.isShared() != (name == "in time") {
					st.t.Errorf("shared: %v", s.isShared())
				}
			})
		})
	}
}

// TestWhatASlowClientHeldUpShowsNothing: the connection of a client that reads slowly what
// an old ID brings it is read late. So what it brings later than it could was told at a
// time that nobody knows, and a pause in it may be one in which the gateway had no time to
// read. Neither makes the path one that tells each connection its own, nor does it that
// the splice cannot be merged in its time.
func TestWhatASlowClientHeldUpShowsNothing(t *testing.T) {
	for name, later := range map[string]func(up, sp *fakeConn){
		"history after a pause":    func(_, sp *fakeConn) { sp.numbered("7") },
		"an event that is not yet": func(up, _ *fakeConn) { up.numbered("11") },
		"not merged":               func(_, _ *fakeConn) { time.Sleep(defaultSpliceTimeout) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, unproven(func(o *Options) { o.Buffer.Events = 3 }), func(st *streamTest) {
				a, _, up := st.proven()
				time.Sleep(time.Minute)
				slow := st.join("1")
				sp := st.source.acceptOpen()
				go sp.numbered("2", "3", "4", "5", "6") // more than its buffer holds
				for range 10 {
					synctest.Wait()
					time.Sleep(100 * time.Millisecond)
					slow.read()
				}
				time.Sleep(2 * splicePause)
				later(up, sp)
				time.Sleep(2 * twinWindow)
				synctest.Wait()
				s := a.sub.Origin
				s.mu.Lock()
				defer s.mu.Unlock()
				if s.closed.Load() || s.only != nil || s.learned != (learned{}) {
					st.t.Errorf("the stream is closed: %v, per connection: %v; learnt %+v", s.closed.Load(), s.only != nil, s.learned)
				}
			})
		})
	}
}
