package stream

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// follower is a reader that reads all the time, as a client does.
type follower struct {
	*reader
	pace   func(blocks []*replay.Block) // is called with what it was given, as if it were written
	events int                          // that it was given, as whole runs of numbers
	over   chan struct{}
}

// follow lets a reader read all the time, until its response ends.
func (r *reader) follow(pace func(blocks []*replay.Block)) *follower {
	f := &follower{reader: r, pace: pace, over: make(chan struct{})}
	go func() {
		defer close(f.over)
		for {
			blocks, wake, _, end := r.sub.Next(nil, time.Now())
			for _, b := range blocks {
				if b.Dispatches {
					f.events++
				}
			}
			if pace != nil && len(blocks) > 0 {
				pace(blocks)
			}
			r.sub.Writing.Stop()
			if end != "" {
				r.end = end
				return
			}
			if wake != nil {
				<-wake
			}
		}
	}()
	return f
}

// expectAll checks that a follower is there and was given so many events.
func (f *follower) expectAll(n int) {
	f.t.Helper()
	synctest.Wait()
	if f.end != "" || f.events != n {
		f.t.Fatalf("given %d of %d events, end %q", f.events, n, f.end)
	}
}

// burst is events in one piece.
func burst(from, to int) string {
	var text strings.Builder
	for _, n := range counting(from, to) {
		text.WriteString("data: " + n + "\n\n")
	}
	return text.String()
}

// A burst is many times larger than the replay buffer, and comes in one piece:
// whoever keeps up is given all of it, without any time passing.
func TestBurstIsGivenWhole(t *testing.T) {
	for _, clients := range []int{1, 3} {
		inBubble(t, func(o *Options) { o.Buffer.Events = 100 }, func(st *streamTest) {
			first, up := st.start()
			followers := []*follower{first.follow(nil)}
			for len(followers) < clients {
				followers = append(followers, st.join("").follow(nil))
			}
			began := time.Now()
			if err := up.send(burst(1, 20_000)); err != nil {
				t.Fatal(err)
			}
			for _, f := range followers {
				f.expectAll(20_000)
			}
			if d := time.Since(began); d != 0 {
				t.Errorf("the stream waited for %v", d)
			}
			up.close()
			for _, f := range followers {
				<-f.over
			}
		})
	}
}

// What an upstream keeps for those who come, or come back, is a burst too: a
// history larger than the replay buffer, and what an application has for the
// gateway after an outage.
func TestBacklogsAreGivenWhole(t *testing.T) {
	const events = 5000
	small := func(o *Options) { o.Buffer.Events = 100 }
	numberedBurst := func(from, to int) string { return numbered(counting(from, to)...) }
	t.Run("a greeting", func(t *testing.T) {
		inBubble(t, small, func(st *streamTest) {
			r := st.join("")
			f := r.follow(nil)
			up := st.source.acceptOpen()
			if err := up.send(burst(1, events)); err != nil {
				t.Fatal(err)
			}
			f.expectAll(events)
			up.close()
			<-f.over
		})
	})
	t.Run("the greeting of a splice", func(t *testing.T) {
		inBubble(t, auto(small), func(st *streamTest) {
			first, up := st.start()
			a := first.follow(nil)
			if err := up.send(numberedBurst(1, events)); err != nil {
				t.Fatal(err)
			}
			b := st.join("").follow(nil)
			sp := st.source.acceptOpen()
			if err := sp.send(numberedBurst(1, events)); err != nil {
				t.Fatal(err)
			}
			b.expectAll(events)
			time.Sleep(2 * splicePause)
			up.sendAll(numberedBurst(events+1, events+1))
			a.expectAll(events + 1)
			b.expectAll(events + 1)
			up.close()
			<-a.over
			<-b.over
		})
	})
	t.Run("after an outage", func(t *testing.T) {
		inBubble(t, small, func(st *streamTest) {
			first, up := st.start()
			followers := []*follower{first.follow(nil), st.join("").follow(nil), st.join("").follow(nil)}
			up.sendAll(numberedBurst(1, 1))
			up.breakOff()
			up = st.source.acceptOpen()
			if up.lastEventID != "1" {
				t.Fatalf("asked to go on after %q", up.lastEventID)
			}
			if err := up.send(numberedBurst(2, events)); err != nil {
				t.Fatal(err)
			}
			for _, f := range followers {
				f.expectAll(events)
			}
			up.close()
			for _, f := range followers {
				<-f.over
			}
		})
	})
}

// An event that is larger than the whole buffer is kept until those who keep up
// have it.
func TestLargeEventsAreGivenWhole(t *testing.T) {
	inBubble(t, func(o *Options) { o.Buffer.Size = 1000 }, func(st *streamTest) {
		r, up := st.start()
		f := r.follow(nil)
		large := "data: " + strings.Repeat("x", 2000) + "\n\n"
		if err := up.send(strings.Repeat(large, 10)); err != nil {
			t.Fatal(err)
		}
		f.expectAll(10)
		up.close()
		<-f.over
	})
}

// A client that takes its time for a moment, as one does that is far away, is
// waited for; the time is bounded for the whole burst and all clients.
func TestBurstWaitsForWrites(t *testing.T) {
	inBubble(t, func(o *Options) { o.Buffer.Events = 100 }, func(st *streamTest) {
		first, up := st.start()
		quick, left := first.follow(nil), 8
		slow := st.join("").follow(func(blocks []*replay.Block) {
			if left > 0 && len(blocks) > 1 {
				left--
				time.Sleep(DefaultBurstPatience / 10)
			}
		})
		time.Sleep(time.Minute)
		if err := up.send(burst(1, 2000)); err != nil {
			t.Fatal(err)
		}
		quick.expectAll(2000)
		slow.expectAll(2000)
		up.close()
		<-quick.over
		<-slow.over
	})
}

// A client that reads too slowly holds nobody up: it has DefaultBurstPatience in a
// burst, and is told when it is behind.
func TestSlowClientDoesNotHoldTheStream(t *testing.T) {
	inBubble(t, func(o *Options) { o.Buffer.Events = 100 }, func(st *streamTest) {
		first, up := st.start()
		quick := first.follow(nil)
		slow := st.join("").follow(func([]*replay.Block) { time.Sleep(DefaultBurstPatience / 4) })
		began := time.Now()
		if err := up.send(burst(1, 20_000)); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began); d > 3*DefaultBurstPatience/2 {
			t.Errorf("the stream waited for %v", d)
		}
		quick.expectAll(20_000)
		<-slow.over
		if slow.end != endLag {
			t.Errorf("end %q", slow.end)
		}
		up.close()
		<-quick.over
	})
}

// For a client that is stuck in a write nobody waits, and for those that one
// burst has left behind only once.
func TestStuckClientCostsNothing(t *testing.T) {
	inBubble(t, func(o *Options) { o.Buffer.Events = 100 }, func(st *streamTest) {
		first, up := st.start()
		quick, released := first.follow(nil), make(chan struct{})
		stuck := st.join("").follow(func(blocks []*replay.Block) {
			if blocks[len(blocks)-1].Dispatches {
				<-released
			}
		})
		up.event("0")
		expect := func(wait time.Duration, from, to int) {
			t.Helper()
			began := time.Now()
			if err := up.send(burst(from, to)); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(began); d != wait {
				t.Errorf("the stream waited for %v, expected %v", d, wait)
			}
			quick.expectAll(to + 1)
		}
		expect(DefaultBurstPatience, 1, 1000) // who knows
		expect(0, 1001, 2000)
		time.Sleep(time.Minute)
		expect(0, 2001, 3000)
		another := st.join("").follow(func(blocks []*replay.Block) {
			if blocks[len(blocks)-1].Dispatches {
				<-released
			}
		})
		up.event("3001")
		time.Sleep(2 * DefaultBurstPatience)
		expect(0, 3002, 4000) // it is seen that it is stuck
		close(released)
		<-stuck.over
		<-another.over
		up.close()
		<-quick.over
	})
}

// A subscriber whose turn does not come is given up, too.
func TestWhoDoesNotReadIsGivenUp(t *testing.T) {
	inBubble(t, func(o *Options) { o.Buffer.Events = 100 }, func(st *streamTest) {
		r, up := st.start()
		for _, wait := range []time.Duration{DefaultTurnPatience, 0} {
			began := time.Now()
			if err := up.send(burst(1, 1000)); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(began); d != wait {
				t.Errorf("the stream waited for %v, expected %v", d, wait)
			}
		}
		r.expectEnd(endLag, newcomer)
	})
}

// In the long run clients that always need time have a twentieth of the
// stream's.
func TestPatienceComesBackSlowly(t *testing.T) {
	inBubble(t, func(o *Options) { o.Buffer.Events = 10 }, func(st *streamTest) {
		_, up := st.start()
		time.Sleep(DefaultLinger) // for which it lingers
		st.readers[0].leave()
		slow := 0
		join := func() {
			slow++
			st.join("").follow(func([]*replay.Block) { time.Sleep(DefaultBurstPatience / 2) })
		}
		began := time.Now()
		held := time.Duration(0)
		for range 1000 {
			join()
			at := time.Now()
			if err := up.send(burst(1, 100)); err != nil {
				t.Fatal(err)
			}
			held += time.Since(at)
			time.Sleep(DefaultBurstPatience)
		}
		if all := time.Since(began); held < all/100 || held > all*5/4/patienceShare+2*DefaultBurstPatience {
			t.Errorf("the stream was held up for %v of %v", held, all)
		}
		up.close()
	})
}

// That the stream waits for its clients is no pause of the upstream's.
func TestBeingHeldUpIsNoPause(t *testing.T) {
	inBubble(t, func(o *Options) { o.Buffer.Events, o.Join = 10, JoinGreeting }, func(st *streamTest) {
		_, up := st.start()
		if err := up.send(burst(1, 11)); err != nil { // waits for DefaultTurnPatience
			t.Fatal(err)
		}
		up.event("12")
		s := st.readers[0].sub.Origin
		s.mu.Lock()
		n := len(s.greeting.blocks)
		s.mu.Unlock()
		if n != 12 {
			t.Errorf("the greeting has %d blocks", n)
		}
	})
}

// A splice waits for its clients by the size of its blocks as well.
func TestSpliceSlowSize(t *testing.T) {
	inBubble(t, auto(func(o *Options) { o.Buffer.Size = 40 }), testSpliceSlow)
}

// The IDs that the gateway adds to what a splice brings take room, too: a client does not lag
// for them.
func TestSpliceWaitsForRoomForIDs(t *testing.T) {
	inBubble(t, auto(func(o *Options) { o.Buffer.Size, o.LagSkip = 200, true }), func(st *streamTest) {
		st.begun()
		b, sp := st.spliced("hello")
		go sp.event("2", "3", "4", "5")
		var text strings.Builder
		for range 4 {
			time.Sleep(time.Millisecond)
			text.WriteString(b.read())
		}
		if text.String() != plain("2", "3", "4", "5") {
			st.t.Errorf("given %q", text.String())
		}
	})
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
// names no ID from which the client could go on.
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
		if text += b.read(); text != plain("2", "3")+toldGap("upstream", "", "null")+primed(nowhereID) || b.end != "" {
			st.t.Errorf("given %q, end %q", text, b.end)
		}
	})
}
