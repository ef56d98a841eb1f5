package stream

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

func gapEvent(o *Options) { o.GapEvent = "gap" }

// A stream whose upstream gives ids moves to the new configuration without loss
// or repetition, whichever connection is ahead.
func TestReloadMoves(t *testing.T) {
	for name, meet := range map[string]func(old, next *fakeConn){
		"the old is ahead": func(old, next *fakeConn) {
			old.numbered("3", "4")
			next.numbered("3")
			old.expectGone(true)
			next.numbered("4")
		},
		"the new is ahead": func(old, next *fakeConn) {
			next.numbered("3")
			old.expectGone(false)
			next.numbered("4")
			old.numbered("3", "4")
			old.expectGone(true)
		},
		"the old is silent": func(old, next *fakeConn) {
			next.numbered("3", "4")
			old.expectGone(false)
			time.Sleep(overlap)
			old.expectGone(true)
		},
		"nothing comes": func(old, next *fakeConn) {
			time.Sleep(overlap)
			old.expectGone(true)
			next.numbered("3", "4")
		},
		"the old ends": func(old, next *fakeConn) {
			old.numbered("3")
			old.close()
			next.numbered("3", "4")
		},
		"the old breaks": func(old, next *fakeConn) {
			next.numbered("3")
			old.breakOff()
			next.numbered("4")
		},
		"the new goes on after a later ID": func(old, next *fakeConn) {
			old.numbered("3")
			next.numbered("4")
			old.numbered("4")
			old.expectGone(true)
		},
		"the new greets with a comment": func(old, next *fakeConn) {
			_ = next.send(": hello\n\n")
			old.numbered("3")
			next.numbered("3", "4")
			old.expectGone(true)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, gapEvent, func(st *streamTest) {
				a, up := st.start()
				up.numbered("1", "2")
				st.reload()
				next := st.source.acceptOpen()
				if next.lastEventID != "2" {
					st.t.Errorf("opened with %q", next.lastEventID)
				}
				meet(up, next)
				next.numbered("5")
				a.expect(newcomer, numbered("1", "2", "3", "4", "5"))
				b := st.join("3")
				b.expect(primed("3"), numbered("4", "5"))
				next.breakOff()
				again := st.source.acceptOpen()
				if again.lastEventID != "5" {
					st.t.Errorf("opened again with %q", again.lastEventID)
				}
				again.numbered("6")
				b.expect(numbered("6"))
				st.source.expectNone()
			})
		})
	}
}

// An application gives ids and does not look at the ID that it is asked with. The old connection is behind, and brings
// what the new one is not told, if it is given the time.
func TestReloadOfWhoDoesNotGoOn(t *testing.T) {
	gap := toldGap("upstream", "3", "null") + "\n"
	for name, test := range map[string]struct {
		then func(old *fakeConn) // when the old one has brought 3, and the new one 6
		want string
	}{
		"the old brings it": {func(old *fakeConn) {
			time.Sleep(2 * overlap)
			old.expectGone(false)
			old.numbered("4", "5", "6")
		}, numbered("3", "4", "5", "6", "7")},
		"the old brings some of it": {func(old *fakeConn) {
			old.numbered("4")
			time.Sleep(meetingTime)
		}, numbered("3", "4") + strings.Replace(gap, `"3"`, `"4"`, 1) + numbered("6", "7")},
		"the old brings nothing more": {func(*fakeConn) { time.Sleep(meetingTime) }, numbered("3") + gap + numbered("6", "7")},
		"the old breaks":              {func(old *fakeConn) { old.breakOff() }, numbered("3") + gap + numbered("6", "7")},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, gapEvent, func(st *streamTest) {
				a, up := st.start()
				up.numbered("1", "2")
				st.reload()
				next := st.source.acceptOpen()
				up.numbered("3")
				next.numbered("6")
				test.then(up)
				up.expectGone(true)
				next.numbered("7")
				a.expect(newcomer, numbered("1", "2"), test.want)
			})
		})
	}
}

// Without ids the connections have to be seen to bring the same, or be quiet.
func TestReloadMovesWithoutIDs(t *testing.T) {
	t.Run("events", func(t *testing.T) {
		inBubble(t, gapEvent, func(st *streamTest) {
			a, up := st.start()
			up.event("1")
			st.reload()
			next := st.source.acceptOpen()
			next.event("snapshot", "2")
			up.event("2", "3", "4", "5")
			next.event("3", "4")
			up.expectGone(true)
			next.event("5", "6")
			a.expect(newcomer, given("1", "1"), given("2", "2"), given("3", "3"), given("4", "4"), given("5", "5"), given("6", "6"))
		})
	})
	t.Run("quiet", func(t *testing.T) {
		inBubble(t, gapEvent, func(st *streamTest) {
			a, up := st.start()
			up.event("hello")
			time.Sleep(time.Minute)
			st.reload()
			next := st.source.acceptOpen()
			next.event("hello")
			time.Sleep(2 * splicePause)
			up.expectGone(true)
			next.event("1")
			a.expect(newcomer, given("1", "hello"), given("2", "1"))
		})
	})
	t.Run("nothing in common", func(t *testing.T) {
		inBubble(t, gapEvent, func(st *streamTest) {
			a, up := st.start()
			up.event("1")
			st.reload()
			next := st.source.acceptOpen()
			next.event("x")
			for range 3 {
				time.Sleep(time.Second / 2)
				up.event("old")
				next.event("new")
				time.Sleep(time.Second / 2)
			}
			up.expectGone(false)
			time.Sleep(time.Second)
			up.expectGone(true)
			next.event("y")
			a.expect(newcomer, given("1", "1"), given("2", "old"), given("3", "old"), given("4", "old"),
				toldGap("upstream", "sse1.E.4", "null")+"id: sse1.E.5\n\n",
				given("6", "y")) // what the new one brought beside the old one is not given: it may be the same
		})
	})
	t.Run("the old ends", func(t *testing.T) {
		inBubble(t, gapEvent, func(st *streamTest) {
			a, up := st.start()
			up.event("1")
			st.reload()
			next := st.source.acceptOpen()
			next.event("1") // from the start: it is a finite stream, say
			up.event("2")
			up.close()
			next.expectGone(true)
			a.expectEnd(EndUpstream, newcomer, given("1", "1"), given("2", "2"))
		})
	})
	t.Run("more than the buffer holds", func(t *testing.T) {
		set := func(o *Options) { o.Buffer.Events, o.GapEvent = 4, "gap" }
		inBubble(t, set, func(st *streamTest) {
			a, up := st.start()
			st.reload()
			next := st.source.acceptOpen()
			want := []string{newcomer}
			for _, n := range counting(1, 10) {
				up.event(n)
				want = append(want, given(n, n))
				a.expect(want...)
				want = nil
			}
			next.event(counting(1, 10)...) // in one piece: a part of it is behind the switch
			up.expectGone(true)
			next.event("11")
			a.expect(given("11", "11"))
		})
	})
}

// What the old and the new connection bring beside each other is given once,
// whether or not a common point is found.
func TestReloadDoublesNothing(t *testing.T) {
	gap := func(position int) string {
		id := strconv.Itoa(position - 1)
		return toldGap("upstream", "sse1.E."+id, "null") + "id: sse1.E." + strconv.Itoa(position) + "\n\n"
	}
	both := func(old, next *fakeConn, data ...string) {
		for _, d := range data {
			time.Sleep(250 * time.Millisecond)
			old.event(d)
			next.event(d)
		}
	}
	t.Run("events go round", func(t *testing.T) {
		inBubble(t, gapEvent, func(st *streamTest) {
			a, up := st.start()
			up.event(strings.Split("a b c d a b c d a b c d a b c d", " ")...)
			st.reload()
			next := st.source.acceptOpen()
			both(up, next, strings.Split("a b c d a b c d a b c d a b c", " ")...)
			up.expectGone(false)
			a.read()
			time.Sleep(meetingTime)
			up.expectGone(true)
			next.event("d")
			a.expect(gap(32), given("33", "d"))
		})
	})
	t.Run("the old breaks", func(t *testing.T) {
		inBubble(t, gapEvent, func(st *streamTest) {
			a, up := st.start()
			up.event("1")
			st.reload()
			next := st.source.acceptOpen()
			both(up, next, "2")
			up.breakOff()
			next.event("3")
			a.expect(newcomer, given("1", "1"), given("2", "2"), gap(3), given("4", "3"))
		})
	})
	t.Run("the old ends, and that is hidden", func(t *testing.T) {
		inBubble(t, func(o *Options) { o.GapEvent, o.Reconnect = "gap", ReconnectAlways }, func(st *streamTest) {
			a, up := st.start()
			up.event("1")
			st.reload()
			next := st.source.acceptOpen()
			both(up, next, "2")
			time.Sleep(100 * time.Millisecond)
			up.close()
			next.event("3") // which the old one has not brought
			a.expect(newcomer, given("1", "1"), given("2", "2"), gap(3), given("4", "3"))
		})
	})
	t.Run("ids, and events without", func(t *testing.T) {
		inBubble(t, gapEvent, func(st *streamTest) {
			a, up := st.start()
			up.numbered("1")
			a.read()
			st.reload()
			next := st.source.acceptOpen()
			both(up, next, "ping", "ping", "ping")
			time.Sleep(overlap)
			up.expectGone(true)
			next.event("ping")
			next.numbered("2")
			a.expect(strings.Repeat("data: ping\n\n", 4), numbered("2"))
		})
	})
	t.Run("ids, and events without, which the new one brings late", func(t *testing.T) {
		inBubble(t, gapEvent, func(st *streamTest) {
			a, up := st.start()
			up.numbered("1")
			up.event("x") // is not brought again
			a.read()
			st.reload()
			next := st.source.acceptOpen()
			up.event("y", "z")
			next.event("y")
			time.Sleep(overlap)
			up.expectGone(true)
			next.event("z", "x")
			next.numbered("2")
			a.expect("data: y\n\ndata: z\n\ndata: x\n\n", numbered("2"))
		})
	})
	// What the new one brings first is not in the replay buffer any more.
	for _, behind := range []string{"its time is over", "its buffer is full"} {
		t.Run("evicted, and "+behind, func(t *testing.T) {
			small := func(o *Options) { o.Buffer.Events = 4 }
			inBubble(t, small, func(st *streamTest) {
				a, up := st.start()
				up.numbered("1")
				a.read()
				st.reload()
				next := st.source.acceptOpen()
				for _, id := range counting(2, 12) {
					up.numbered(id)
					a.expect(numbered(id))
				}
				next.event("hello")
				next.numbered("2", "3")
				if behind == "its buffer is full" {
					next.numbered("4", "5", "6")
				}
				time.Sleep(overlap)
				up.expectGone(true)
				if behind != "its buffer is full" {
					next.numbered("4", "5", "6")
				}
				next.numbered(counting(7, 13)...)
				a.expect("data: hello\n\n", numbered("13"))
			})
		})
	}
	// So is the event with the ID that the new one is asked with, if the upstream has an older one with that.
	t.Run("evicted, and the ID is that of more events", func(t *testing.T) {
		inBubble(t, func(o *Options) { o.Buffer.Events = 4 }, func(st *streamTest) {
			a, up := st.start()
			up.numbered("1")
			a.read()
			st.reload()
			next := st.source.acceptOpen()
			for _, id := range counting(2, 12) {
				up.numbered(id)
				a.expect(numbered(id))
			}
			next.numbered("1", "2")
			time.Sleep(overlap)
			up.expectGone(true)
			next.numbered(counting(3, 13)...)
			a.expect(numbered("13"))
		})
	})
	// So are events without ids that came after the ID which the new one is asked with.
	t.Run("evicted, and without ids", func(t *testing.T) {
		inBubble(t, func(o *Options) { o.Buffer.Events = 4 }, func(st *streamTest) {
			a, up := st.start()
			up.numbered("1")
			up.event("x", "y")
			a.read()
			st.reload()
			next := st.source.acceptOpen()
			for _, id := range counting(2, 12) {
				up.numbered(id)
				a.expect(numbered(id))
			}
			next.event("x", "y")
			next.numbered("2")
			time.Sleep(overlap)
			up.expectGone(true)
			next.numbered(counting(3, 13)...)
			a.expect(numbered("13"))
		})
	})
	// So is what came after the ID, and which the old one has brought twice: it has broken, and several events have that ID.
	t.Run("evicted, and brought twice", func(t *testing.T) {
		inBubble(t, func(o *Options) { o.Buffer.Events = 4 }, func(st *streamTest) {
			a, up := st.start()
			again := func(c *fakeConn) {
				t.Helper()
				c.event("x")
				if err := c.send("id: 1\ndata: y\n\n"); err != nil {
					t.Fatal(err)
				}
			}
			up.numbered("1")
			again(up)
			a.read()
			up.breakOff()
			up = st.source.acceptOpen()
			st.reload()
			next := st.source.accept()
			again(up)
			next.open()
			a.read()
			for _, id := range counting(2, 12) {
				up.numbered(id)
				a.expect(numbered(id))
			}
			again(next)
			next.numbered("2", "3")
			time.Sleep(overlap)
			up.expectGone(true)
			next.numbered(counting(4, 13)...)
			a.expect(numbered("13"))
		})
	})
	t.Run("ids that the new one begins to give", func(t *testing.T) {
		inBubble(t, gapEvent, func(st *streamTest) {
			a, up := st.start()
			up.event("1")
			st.reload()
			next := st.source.acceptOpen()
			if err := next.send("retry: 77\nid: 5\ndata: x\n\n"); err != nil {
				st.t.Fatal(err)
			}
			up.event("2") // so that it is not quiet
			time.Sleep(meetingTime)
			up.expectGone(true)
			a.expect(newcomer, given("1", "1"), given("2", "2"), toldGap("upstream", "", "null")+"\n")
			next.breakOff()
			next = st.source.acceptOpen()
			if next.lastEventID != "5" {
				st.t.Errorf("opened with %q", next.lastEventID)
			}
			next.numbered("6")
			a.expect(numbered("6"))
		})
	})
}

// The upstream of the new configuration cannot be reached: the old connection
// goes on, and the attempts do.
func TestReloadUpstreamDown(t *testing.T) {
	inBubble(t, gapEvent, func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		st.reload()
		for range 5 {
			st.source.accept().answer(http.StatusBadGateway, 0)
		}
		next := st.source.accept()
		up.numbered("2")
		a.expect(newcomer, numbered("1", "2"))
		up.breakOff() // there is one attempt at a time
		next.expectGone(true)
		next = st.source.acceptOpen()
		next.numbered("3")
		a.expect(numbered("3"))
		st.source.expectNone()
	})
	inBubble(t, gapEvent, func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		st.reload()
		st.source.acceptOpen().breakOff()
		next := st.source.acceptOpen()
		next.numbered("2")
		up.numbered("2")
		up.expectGone(true)
		a.expect(newcomer, numbered("1", "2"))
	})
	inBubble(t, gapEvent, func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		st.reload()
		st.source.accept().answer(http.StatusNoContent, 0)
		a.expect(newcomer, numbered("1"))
		up.expectGone(true)
		time.Sleep(DefaultDrain)
		a.expectEnd(EndRefused)
	})
}

// A stream that is broken goes on with the new configuration at once.
func TestReloadWhileBroken(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		up.breakOff()
		st.source.accept().answer(http.StatusBadGateway, time.Hour)
		before := time.Now()
		st.reload()
		next := st.source.acceptOpen()
		if waited := time.Since(before); waited > renewalInterval {
			st.t.Errorf("waited %v", waited)
		}
		next.numbered("2")
		a.expect(newcomer, numbered("1", "2"))
	})
}

// The old connection dies with its configuration, as those over HTTP/3 do.
func TestReloadBreaksConnection(t *testing.T) {
	inBubble(t, gapEvent, func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		renewed := make(chan struct{})
		old, older := st.another()
		old.renewed = func(q *Renewal) bool {
			<-renewed
			return st.renewal()(q)
		}
		st.gone(old, older)
		up.breakOff()
		a.expect(newcomer, numbered("1"))
		time.Sleep(time.Second)
		close(renewed)
		next := st.source.acceptOpen()
		next.numbered("2")
		a.expect(numbered("2"))
		old.expectNone()
	})
}

// An attempt that the reload breaks is made again at once.
func TestReloadBreaksAttempt(t *testing.T) {
	inBubble(t, gapEvent, func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		up.breakOff()
		attempt := st.source.accept()
		st.reload()
		attempt.answer(upstreams.StatusCancelled, 0)
		now := time.Now()
		next := st.source.acceptOpen()
		if waited := time.Since(now); waited > 0 {
			st.t.Errorf("waited %v", waited)
		}
		next.numbered("2")
		a.expect(newcomer, numbered("1", "2"))
	})
}

// A reload while the stream waits for its first answer, and one after another.
func TestReloadWhileOpening(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a := st.join("")
		up := st.source.accept()
		st.reload()
		st.source.expectNone()
		up.open()
		second := st.source.accept()
		st.reload()
		second.expectGone(true)
		third := st.source.accept()
		up.numbered("1")
		third.open()
		time.Sleep(2 * splicePause)
		up.expectGone(false) // it brought an event meanwhile
		time.Sleep(meetingTime)
		up.expectGone(true)
		third.numbered("2")
		a.expect(newcomer, numbered("1", "2"))
	})
}

// A client that comes through the new configuration first brings it along.
func TestReloadClientFirst(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		old, older := st.another()
		old.renewed = nil // nothing else does
		b := st.join("1")
		st.source.expectNone()
		st.gone(old, older)
		next := st.source.acceptOpen()
		next.numbered("2")
		up.numbered("2")
		up.expectGone(true)
		a.expect(newcomer, numbered("1", "2"))
		b.expect(primed("1"), numbered("2"))
	})
}

// No handler of the new configuration is for the stream: its clients are let
// go, spread over the time of drain.
func TestReloadWithoutHandler(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		b := st.join("")
		up.numbered("1")
		st.source.retire.Store(true)
		st.hub.Retire(st.instance)
		synctest.Wait()
		up.numbered("2") // they get what comes until then
		time.Sleep(DefaultDrain)
		for _, r := range []*reader{a, b} {
			if text := r.read(); text != newcomer+numbered("1") && r.end != endReload {
				st.t.Errorf("read %q, end %q", text, r.end)
			}
			r.leave()
		}
		up.expectGone(true)
		st.expectStreams(0)
	})
}

// Who lingers is moved too; what ended is not opened.
func TestReloadWithoutSubscribers(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		a.leave()
		st.reload()
		next := st.source.acceptOpen()
		time.Sleep(overlap)
		up.expectGone(true)
		next.numbered("2")
		b := st.join("1")
		b.expect(primed("1"), numbered("2"))
		next.close()
		b.expectEnd(EndUpstream)
		b.leave()
		st.reload()
		st.source.expectNone()
		time.Sleep(DefaultLinger)
		st.expectStreams(0)
	})
}

// Many streams do not all move at once, and none waits for long.
func TestReloadIsSpread(t *testing.T) {
	const streams = 10_000
	inBubble(t, nil, func(st *streamTest) {
		for i := range streams {
			st.key[0], st.key[1] = byte(i), byte(i>>8)
			st.join("")
			st.source.accept().open()
		}
		old := st.source
		st.source = &fakeSource{t: st.t, conns: make(chan *fakeConn, streams)}
		older := st.instance
		st.instance = st.hub.Register("place", "another server")
		old.renewed = func(q *Renewal) bool {
			st.renewal()(q)
			return true
		}
		began := time.Now()
		old.retire.Store(true)
		st.hub.Retire(older)
		var times []time.Duration
		for range streams {
			times = append(times, st.source.accept().at.Sub(began))
		}
		if last := slices.Max(times); last > maxRenewalSpread || last < maxRenewalSpread*9/10 {
			st.t.Errorf("the last one moved after %v", last)
		}
	})
}

// The option reconnect.
func TestReconnectMode(t *testing.T) {
	mode := func(m reconnectMode) func(o *Options) {
		return func(o *Options) { o.Reconnect, o.GapEvent = m, "gap" }
	}
	t.Run("always", func(t *testing.T) {
		inBubble(t, mode(ReconnectAlways), func(st *streamTest) {
			a, up := st.start()
			up.numbered("1")
			up.close()
			up = st.source.acceptOpen()
			if up.lastEventID != "1" {
				st.t.Errorf("opened with %q", up.lastEventID)
			}
			up.numbered("2")
			a.expect(newcomer, numbered("1", "2"))
		})
		inBubble(t, mode(ReconnectAlways), func(st *streamTest) {
			a, up := st.start()
			up.event("1")
			up.close()
			up = st.source.acceptOpen()
			up.event("2")
			a.expect(newcomer, given("1", "1"), toldGap("upstream", "sse1.E.1", "null")+"id: sse1.E.2\n\n", given("3", "2"))
		})
	})
	t.Run("resumable", func(t *testing.T) {
		inBubble(t, mode(ReconnectResumable), func(st *streamTest) {
			a, up := st.start()
			up.numbered("1")
			up.breakOff()
			st.source.acceptOpen().numbered("2")
			a.expect(newcomer, numbered("1", "2"))
		})
		inBubble(t, mode(ReconnectResumable), func(st *streamTest) {
			a, up := st.start()
			up.event("1")
			up.breakOff()
			a.expectEnd(EndBroken, newcomer, given("1", "1"))
			a.leave()
			st.expectStreams(0)
			st.source.expectNone()
		})
	})
	t.Run("never", func(t *testing.T) {
		for _, end := range []func(*fakeConn){(*fakeConn).close, (*fakeConn).breakOff} {
			inBubble(t, mode(ReconnectNever), func(st *streamTest) {
				a, up := st.start()
				up.numbered("1")
				end(up)
				a.read()
				if a.end != EndUpstream && a.end != EndBroken {
					st.t.Errorf("end %q", a.end)
				}
				a.leave()
				st.expectStreams(0)
				b := st.join("1") // sees the upstream's own answer
				up = st.source.accept()
				select {
				case <-b.sub.Origin.ready:
					st.t.Error("the head was kept")
				default:
				}
				up.open()
				up.numbered("2")
				b.expect(numbered("2"))
			})
		}
	})
}

// Reloads, breaks and events in any order: a client is given each event once, or
// where the upstream gives no ids it is told where one may be missing.
func TestReloadAtRandom(t *testing.T) {
	for seed := range uint64(600) {
		ok := t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			inBubble(t, gapEvent, func(st *streamTest) {
				w := &reloadWorld{
					streamTest: st,
					rnd:        rand.New(rand.NewPCG(seed, 1)),
					ids:        int(seed % 3),
					sources:    []*fakeSource{st.source},
					opened:     make(map[*fakeSource]bool),
				}
				w.client = st.join("")
				w.accept()
				w.broadcast(1)
				w.pump(true)
				for range 150 {
					w.step()
				}
				for range 20 {
					w.accept()
					w.pump(true)
					time.Sleep(5 * time.Second)
				}
				w.broadcast(1)
				w.pump(true)
				w.text.WriteString(w.client.read())
				w.check()
			})
		})
		if !ok {
			return
		}
	}
}

// reloadWorld is an upstream that broadcasts numbered events, and a client of a
// gateway that is reloaded.
type reloadWorld struct {
	*streamTest
	rnd     *rand.Rand
	ids     int // so many events have an id: 0: none, 1: each, 2: each second one
	sources []*fakeSource
	opened  map[*fakeSource]bool
	conns   []*reloadConn
	events  int
	client  *reader
	text    strings.Builder
}

type reloadConn struct {
	*fakeConn
	given int
}

func (w *reloadWorld) step() {
	switch n := w.rnd.IntN(100); {
	case n < 50:
		w.broadcast(w.rnd.IntN(4))
		w.pump(false)
	case n < 70:
		time.Sleep(time.Duration(w.rnd.IntN(3000)) * time.Millisecond)
	case n < 80:
		w.accept()
	case n < 88:
		w.reload()
		w.sources = append(w.sources, w.source)
	case n < 94 && len(w.conns) > 0 && w.ids != 2: // that one repeats events without ids, which the stream cannot know
		if c := w.conns[w.rnd.IntN(len(w.conns))]; c.ctx.Err() == nil {
			c.breakOff()
			w.conns = slices.DeleteFunc(w.conns, func(o *reloadConn) bool { return o == c })
		}
	default:
		w.text.WriteString(w.client.read())
	}
}

func (w *reloadWorld) broadcast(n int) { w.events += n }

// pump sends what connections have to send, some of it or all.
func (w *reloadWorld) pump(all bool) {
	for _, c := range w.conns {
		for c.given < w.events && (all || w.rnd.IntN(3) > 0) && c.ctx.Err() == nil {
			c.given++
			text := "data: " + strconv.Itoa(c.given) + "\n\n"
			if w.ids > 0 && c.given%w.ids == 0 {
				text = "id: " + strconv.Itoa(c.given) + "\n" + text
			}
			_ = c.send(text)
			synctest.Wait()
		}
	}
	w.conns = slices.DeleteFunc(w.conns, func(c *reloadConn) bool { return c.ctx.Err() != nil })
}

// accept answers the upstream connections that wait for it.
func (w *reloadWorld) accept() {
	synctest.Wait()
	if w.ids != 1 {
		w.pump(true) // nothing shows that an old connection is behind with what no new one is told
	}
	for _, source := range w.sources {
		for len(source.conns) > 0 {
			c := &reloadConn{fakeConn: <-source.conns, given: w.events}
			switch {
			case c.ctx.Err() != nil:
				continue
			case w.opened[source] && w.rnd.IntN(5) == 0:
				c.answer(http.StatusBadGateway, 0)
				continue
			case c.lastEventID != "":
				c.given, _ = strconv.Atoi(c.lastEventID)
			}
			w.opened[source] = true
			c.open()
			synctest.Wait()
			w.conns = append(w.conns, c)
		}
	}
}

func (w *reloadWorld) check() {
	last, gap := 0, false
	data, _ := decode([]byte(w.text.String()))
	for _, text := range data {
		n, err := strconv.Atoi(text)
		if err != nil { // a gap event
			gap = true
			continue
		}
		if n <= last || (n != last+1 && (!gap || w.ids == 1)) {
			w.t.Errorf("given %d after %d", n, last)
		}
		last, gap = n, false
	}
	if last != w.events || w.client.end != "" {
		w.t.Errorf("given %d of %d events, end %q", last, w.events, w.client.end)
	}
	open := int64(0)
	for _, source := range w.sources {
		open += source.running.Load()
	}
	if open != 1 {
		w.t.Errorf("%d upstream connections", open)
	}
}

// another loads a configuration, and leaves the one before as it is.
func (st *streamTest) another() (old *fakeSource, older *Instance) {
	old, older = st.source, st.instance
	st.source = &fakeSource{t: st.t, conns: make(chan *fakeConn, 1024)}
	st.instance = st.hub.Register("place", new(int))
	old.renewed = st.renewal()
	return old, older
}

// gone lets a configuration go.
func (st *streamTest) gone(old *fakeSource, older *Instance) {
	old.retire.Store(true)
	st.hub.Retire(older)
	synctest.Wait()
}

// expectMoved checks that a stream whose upstream has sent event 1 goes on with a
// connection of the new configuration, and that its client stays.
func (st *streamTest) expectMoved(a *reader, up *fakeConn) {
	st.t.Helper()
	next := st.source.acceptOpen()
	next.numbered("2")
	up.numbered("2")
	up.expectGone(true)
	time.Sleep(2 * DefaultDrain)
	a.expect(newcomer, numbered("1", "2"))
	if a.end != "" {
		st.t.Errorf("end %q", a.end)
	}
}

// A request that was on its way through a configuration opens a stream when that
// is gone already.
func TestStreamOfALateRequestMoves(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		old, older := st.another()
		st.gone(old, older)
		fresh, newer := st.source, st.instance
		st.source, st.instance = old, older
		a := st.join("")
		st.source, st.instance = fresh, newer
		up := old.acceptOpen()
		up.numbered("1")
		next := st.source.acceptOpen()
		next.numbered("2")
		up.numbered("2")
		up.expectGone(true)
		a.expect(newcomer, numbered("1", "2"))
	})
}

// The upstream gives each connection a session: there is nothing to move to.
func TestStreamWithASessionDoesNotMove(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a := st.join("")
		up := st.source.accept()
		st.reload()
		up.open()
		next := st.source.acceptOpen()
		if err := up.send("event: endpoint\ndata: /s1\n\n"); err != nil {
			st.t.Fatal(err)
		}
		next.expectGone(true)
		time.Sleep(2 * meetingTime)
		up.expectGone(false)
		a.expect(newcomer, "event: endpoint\ndata: /s1\n\n")
	})
}

// A configuration that fails when it is started goes without having been used: the
// connection of the old one is the right one.
func TestFailedReloadMovesNothing(t *testing.T) {
	inBubble(t, gapEvent, func(st *streamTest) {
		a, up := st.start()
		up.event("1")
		good, older := st.another()
		st.join("")
		failed, newer := st.source, st.instance
		st.source, st.instance = &fakeSource{t: st.t, conns: make(chan *fakeConn, 8)}, older
		failed.renewed = st.renewal()
		st.gone(failed, newer)
		time.Sleep(2 * meetingTime)
		failed.expectNone()
		good.expectNone()
		st.source.expectNone()
		up.expectGone(false)
		up.event("2")
		a.expect(newcomer, given("1", "1"), given("2", "2"))
	})
}

// The second configuration is replaced while the first one's request runs in it,
// and refuses the request because of that.
func TestStreamMovesPastAConfigurationThatWasReplaced(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		old, older := st.another()
		second, secondInstance := st.another()
		third := st.renewal()
		st.hub.instances = st.hub.instances[:2] // the third is yet to come
		tries := 0
		old.renewed = func(q *Renewal) bool {
			if tries++; tries > 1 {
				return third(q)
			}
			st.hub.mu.Lock()
			st.hub.instances = append(st.hub.instances, st.instance)
			st.hub.mu.Unlock()
			second.retire.Store(true)
			st.hub.Retire(secondInstance)
			return false
		}
		st.gone(old, older)
		st.expectMoved(a, up)
	})
}

// A client brings the new handlers while they are looked for in vain.
func TestStreamMovesWithAClientsHandlers(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		old, older := st.another()
		old.renewed = func(*Renewal) bool {
			st.join("1")
			return false
		}
		st.gone(old, older)
		st.expectMoved(a, up)
	})
}

// A splice that is broken at the reload goes on with the new configuration.
func TestBrokenSpliceGoesOnAfterAReload(t *testing.T) {
	inBubble(t, auto(), func(st *streamTest) {
		_, up := st.begun()
		b, sp := st.spliced("hello")
		sp.breakOff()
		st.reload()
		for range 2 {
			next := st.source.acceptOpen()
			next.event("hello again")
		}
		up.expectGone(false)
		time.Sleep(2 * meetingTime)
		up.expectGone(true)
		if text := b.read(); b.end != "" || !strings.Contains(text, "hello again") {
			st.t.Errorf("read %q, end %q", text, b.end)
		}
	})
}

// A splice whose connection dies with the old configuration waits for the new
// handlers as its stream does.
func TestSpliceThatAReloadBreaksWaits(t *testing.T) {
	inBubble(t, auto(), func(st *streamTest) {
		st.begun()
		b, sp := st.spliced("hello")
		old, older := st.another()
		found, find := make(chan struct{}), old.renewed
		old.renewed = func(q *Renewal) bool { <-found; return find(q) }
		st.gone(old, older)
		sp.breakOff()
		time.Sleep(5 * time.Second)
		if b.read(); b.end != "" {
			st.t.Errorf("end %q", b.end)
		}
		close(found)
		synctest.Wait()
		if n := len(st.source.conns); n != 2 {
			st.t.Errorf("%d connections, expected a successor and a splice", n)
		}
	})
}

// Who waits for a place in a splice is served when the new handlers are there.
func TestWhoWaitsIsServedAfterAReload(t *testing.T) {
	set := func(o *Options) { o.SpliceLimit = 1 }
	inBubble(t, auto(set), func(st *streamTest) {
		st.begun()
		b, _ := st.spliced("hello")
		c := st.join("")
		c.read()
		old, older := st.another()
		found, find := make(chan struct{}), old.renewed
		old.renewed = func(q *Renewal) bool { <-found; return find(q) }
		st.gone(old, older)
		b.leave()
		c.read()
		woken := make(chan struct{})
		_, wake, _, _ := c.sub.Next(nil, time.Now())
		go func() { <-wake; close(woken) }()
		close(found)
		synctest.Wait()
		select {
		case <-woken:
		default:
			st.t.Error("nobody told the one who waits")
		}
		c.read()
		synctest.Wait()
		if n := len(st.source.conns); n != 2 {
			st.t.Errorf("%d connections, expected a successor and a splice", n)
		}
	})
}

// Two streams of a key are there, of handlers that are not alone: neither is asked
// whether it might join the other. Each client that comes back finds its own.
func TestTwoStreamsOfAKeyMoveApart(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		server := new(int)
		st.instance = st.hub.Register("place", server)
		st.hub.Register("place", server)
		st.start()
		old, older := st.source, st.instance
		server = new(int)
		st.source = &fakeSource{t: st.t, conns: make(chan *fakeConn, 8)}
		st.instance = st.hub.Register("place", server)
		st.hub.Register("place", server)
		old.renewed = st.renewal()
		b, up := st.start()
		up.event("1", "2")
		b.expect(newcomer, given("1", "1"), given("2", "2"))
		st.gone(old, older)
		st.source.acceptOpen()
		c := st.join(b.id(1))
		c.expectOutcome("replayed; events=1")
		c.expect(given("2", "2"))
	})
}

// Handlers that were not alone are retired, then one of them opens a stream.
func TestStreamsOfTwoOldHandlersAreNotAdopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub()
		x1, x2 := h.Register("p", "old"), h.Register("p", "old")
		y := h.Register("p", "new")
		h.Retire(x1)
		h.Retire(x2)
		src := &fakeSource{t: t, conns: make(chan *fakeConn, 10)}
		join := func(i *Instance) *Subscriber {
			sub, err := h.Join(&Request{Instance: i, Options: testOptions(), Logger: zap.NewNop(),
				Source: func(bool) Source { return src }})
			if err != nil {
				t.Fatal(err)
			}
			return sub
		}
		a := join(x1) // a request that was on its way in the old configuration
		b := join(y)
		if a.Origin == b.Origin {
			t.Error("a client of the new handler is given the stream of one of two old ones")
		}
		a.Leave()
		b.Leave()
		h.EndAll()
		h.running.Wait()
	})
}

// A reload while it is not known yet whether clients may share disconnects nobody: the
// stream's connection moves, the second client's stays until the verdict, and then all
// who have waited are given the first event.
func TestReloadBeforeTheVerdict(t *testing.T) {
	inBubble(t, unproven(), func(st *streamTest) {
		a, up := st.start()
		b, sp := st.second()
		sp.open()
		time.Sleep(3 * splicePause)
		var waiting []*reader
		for range 4 {
			r := st.join("")
			if !r.hasHead() {
				st.t.Error("the head of a silent stream is held")
			}
			waiting = append(waiting, r)
		}
		st.reload()
		next := st.source.acceptOpen()
		time.Sleep(2 * meetingTime)
		up.expectGone(true)
		both(sp, next, "1")
		sp.expectGone(true)
		next.event("2")
		a.expect(newcomer, given("1", "1"), given("2", "2"))
		b.expect(plain("1"), primed("sse1.E.1"), given("2", "2"))
		for _, r := range waiting {
			r.expect(given("1", "1"), given("2", "2"))
		}
	})
}

// However far one connection is behind the other at a reload: so many blocks are remembered of each at most, the newest
// among them, and so many bytes.
func TestWhatConnectionsBringBesideEachOtherIsBounded(t *testing.T) {
	var a beside
	for i := range uint64(3 * maxBeside) {
		a.bringsOld(i)
		if n := len(a.old); n > maxBeside || a.old[n-1] != i {
			t.Fatalf("%d blocks of the old connection after %d, the last %d", n, i+1, a.old[n-1])
		}
	}
	line := []byte("data: 12345678\n")
	for i := range uint64(3 * maxBeside) {
		a.bringsNew(heldBlock{lines: line, hash: 1<<32 + i}, 1<<30)
		if n := len(a.ahead); n > maxBeside || a.ahead[n-1].hash != 1<<32+i {
			t.Fatalf("%d blocks of the new connection after %d", n, i+1)
		}
	}
	const limit = 100 * 15
	for i := range uint64(1000) {
		a.bringsNew(heldBlock{lines: line, hash: 1<<33 + i}, limit)
		if a.size > limit || a.size != int64(len(a.ahead)*len(line)) {
			t.Fatalf("%d bytes of %d blocks, expected %d at most", a.size, len(a.ahead), limit)
		}
	}
}
