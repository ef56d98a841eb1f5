package stream

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

func TestResumeOutcomes(t *testing.T) {
	set := func(o *Options) {
		o.GapEvent = "gap"
		o.Buffer.Events = 3
	}
	inBubble(t, set, func(st *streamTest) {
		a, up := st.start()
		up.event("1", "2", "3")
		a.expect(newcomer, given("1", "1"), given("2", "2"), given("3", "3"))
		foreign := replay.IDPrefix + strings.Repeat("a", 32) + ".2"
		everything := given("1", "1") + given("2", "2") + given("3", "3")
		for _, test := range []struct{ id, outcome, given string }{
			{a.id(0), "replayed; events=3", everything},
			{a.id(1), "replayed; events=2", given("2", "2") + given("3", "3")},
			{a.id(3), "replayed; events=0", ""},
			// Nothing is lost: all that there is.
			{foreign, "gap", toldGap("epoch", foreign, "null") + "\n" + everything},
			// A position that there is not.
			{a.id(4), "gap", toldGap("evicted", "sse1.E.4", "null") + "\n" + everything},
			{"a\nb", "gap", toldGap("evicted", `a\nb`, "null") + "\n" + everything},
			{"a\x00b", "gap", toldGap("evicted", `a\u0000b`, "null") + "\n" + everything},
			{"a\xffb", "gap", toldGap("evicted", "a\uFFFDb", "null") + "\n" + everything},
			{strings.Repeat("x", 1025), "gap", toldGap("evicted", strings.Repeat("x", 1024), "null") + "\n" + everything},
		} {
			r := st.join(test.id)
			r.expectOutcome(test.outcome)
			r.expect(test.given)
		}
		// Now something is lost.
		up.event("4", "5")
		for _, test := range []struct{ id, outcome, given string }{
			{a.id(2), "replayed; events=3", given("3", "3") + given("4", "4") + given("5", "5")},
			{a.id(1), "gap", toldGap("evicted", "sse1.E.1", "4") + "\n" + primed("sse1.E.5")},
			{foreign, "gap", toldGap("epoch", foreign, "null") + "\n" + primed("sse1.E.5")},
		} {
			r := st.join(test.id)
			r.expectOutcome(test.outcome)
			r.expect(test.given)
		}
	})
}

// Comments are for those who are there.
func TestResumeSkipsComments(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		t := st.t
		a, up := st.start()
		up.event("1")
		if err := up.send(": a\n\nretry: 7\n\n: b\n\n"); err != nil {
			t.Fatal(err)
		}
		up.event("2")
		b := st.join(a.id(1))
		b.expectOutcome("replayed; events=1")
		if err := up.send(": c\n\n"); err != nil {
			t.Fatal(err)
		}
		b.expect("retry: 7\n\n", "retry: 7\n\n", given("5", "2"), ": c\n\n")
		a.expect(newcomer, given("1", "1"), ": a\n\n", "retry: 7\n\n", ": b\n\n", given("5", "2"), ": c\n\n")
	})
}

func TestPrime(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		up.event("1", "2")
		a.read()
		b := st.join("")
		b.expect(primed("sse1.E.2"))
		b.leave() // before its first event
		up.event("3")
		c := st.join(b.id(2))
		c.expectOutcome("replayed; events=1")
		c.expect(given("3", "3"))
	})
	inBubble(t, func(o *Options) { o.Prime = false }, func(st *streamTest) {
		a, up := st.start()
		up.event("1")
		a.expect(given("1", "1"))
		st.join("").expect()
	})
}

// With ids upstream a client is primed as with auto: with an ID that the upstream has
// sent on this stream, and with its own, never with that of another client.
func TestPrimeOfUpstreamIDs(t *testing.T) {
	inBubble(t, func(o *Options) { withGaps(o); o.IDs = IDsUpstream }, func(st *streamTest) {
		a := st.join("foreign")
		up := st.source.acceptOpen()
		b := st.join("")
		b.expect()
		if err := up.send(":\n\ndata: x\n\n"); err != nil {
			st.t.Fatal(err)
		}
		c := st.join("")
		c.expect()
		up.breakOff()
		up = st.source.acceptOpen()
		b.expect(":\n\ndata: x\n\n", toldGap("upstream", "", "null"), "\n") // nor with a gap
		up.numbered("1", "2")
		d := st.join("")
		d.expect(primed("2"))
		e := st.join("1")
		e.expect(primed("1"), numbered("2"))
		a.leave()
	})
}

func TestJoinReplay(t *testing.T) {
	for _, test := range []struct {
		n    int
		want string
	}{
		{-1, given("1", "1") + given("2", "2") + given("4", "3")},
		{2, given("2", "2") + given("4", "3")},
		{9, given("1", "1") + given("2", "2") + given("4", "3")},
		{1, given("4", "3")},
	} {
		inBubble(t, func(o *Options) { o.Join, o.JoinReplay = JoinReplay, test.n }, func(st *streamTest) {
			t := st.t
			a, up := st.start()
			up.event("1", "2")
			if err := up.send(":\n\n"); err != nil {
				t.Fatal(err)
			}
			up.event("3")
			a.expect(newcomer, given("1", "1"), given("2", "2"), ":\n\n", given("4", "3"))
			b := st.join("")
			b.expectOutcome("live")
			b.expect(test.want)
			up.event("4")
			b.expect(given("5", "4"))
		})
	}
}

func TestJoinGreeting(t *testing.T) {
	inBubble(t, func(o *Options) { o.Join = JoinGreeting }, func(st *streamTest) {
		t := st.t
		a, up := st.start()
		if err := up.send(":\n\n"); err != nil {
			t.Fatal(err)
		}
		up.event("hello", "state")
		time.Sleep(time.Second / 2)
		early := st.join("")
		early.expect(given("2", "hello"), given("3", "state"))
		time.Sleep(time.Second / 2)
		up.event("still")
		time.Sleep(time.Second + 1)
		up.event("1", "2")
		a.expect(newcomer, ":\n\n", given("2", "hello"), given("3", "state"), given("4", "still"), given("5", "1"), given("6", "2"))
		early.expect(given("4", "still"), given("5", "1"), given("6", "2"))
		b := st.join("")
		b.expect(given("2", "hello"), given("3", "state"), given("4", "still"), primed("sse1.E.6"))
		up.event("3")
		b.expect(given("7", "3"))
	})
	// It is given whole, though the buffer does not hold so much.
	inBubble(t, func(o *Options) { o.Join, o.Buffer.Events = JoinGreeting, 2 }, func(st *streamTest) {
		a, up := st.start()
		for _, data := range []string{"hello", "state", "more"} {
			up.event(data)
			a.read()
		}
		b := st.join("")
		b.expect(given("1", "hello"), given("2", "state"), given("3", "more"), primed("sse1.E.3"))
		up.event("still")
		b.expect(given("4", "still"))
	})
}

func TestRetry(t *testing.T) {
	configured := func(o *Options) { o.RetryMin, o.RetryMax = 2*time.Second, 4*time.Second }
	inBubble(t, configured, func(st *streamTest) {
		t := st.t
		_, up := st.start()
		seen := map[string]bool{}
		for range 50 {
			text := st.join("").read()
			seen[text] = true
			ms, ok := strings.CutPrefix(text, "retry: ")
			ms, _, _ = strings.Cut(ms, "\n")
			n, err := strconv.Atoi(ms)
			if !ok || err != nil || n < 2000 || n > 4000 || !strings.HasSuffix(text, "\nid: sse1.E.0\n\n") {
				t.Fatalf("given %q", text)
			}
		}
		if len(seen) < 10 {
			t.Errorf("%d different times of 50", len(seen))
		}
		// The upstream's own wins, and the newest of them.
		if err := up.send("retry: 100\n\ndata: 1\nretry: 200\n\nretry: x\n\n"); err != nil {
			t.Fatal(err)
		}
		st.join("").expect("retry: 200\nid: sse1.E.3\n\n")
	})
	inBubble(t, func(o *Options) { configured(o); o.Prime = false }, func(st *streamTest) {
		t := st.t
		a, up := st.start()
		if text := a.read(); !strings.HasPrefix(text, "retry: ") || !strings.HasSuffix(text, "00\n\n") && strings.Count(text, "\n") != 2 {
			t.Errorf("given %q", text)
		}
		up.event("1")
	})
}

func TestLagDisconnect(t *testing.T) {
	inBubble(t, func(o *Options) { o.Buffer.Events = 3 }, func(st *streamTest) {
		a, up := st.start()
		b := st.join("")
		up.event("1")
		a.expect(newcomer, given("1", "1"))
		up.event("2", "3", "4")
		a.expect(given("2", "2"), given("3", "3"), given("4", "4")) // just in time
		up.event("5", "6", "7", "8")
		a.expectEnd(endLag)
		b.expectEnd(endLag, newcomer)
		// When it comes back it is told.
		a.leave()
		c := st.join(a.id(4))
		c.expectOutcome("gap")
	})
}

func TestLagSkip(t *testing.T) {
	set := func(o *Options) { o.Buffer.Events, o.LagSkip, o.GapEvent = 3, true, "gap" }
	inBubble(t, set, func(st *streamTest) {
		t := st.t
		a, up := st.start()
		slow := st.join("")
		up.event("1", "2")
		a.expect(newcomer, given("1", "1"), given("2", "2"))
		up.event("3", "4", "5", "6", "7", "8", "9")
		rest := []string{given("7", "7"), given("8", "8"), given("9", "9")}
		a.expect(append([]string{toldGap("lag", "sse1.E.2", "4"), "\n"}, rest...)...)
		slow.expect(append([]string{newcomer, toldGap("lag", "sse1.E.0", "6"), "\n"}, rest...)...)
		// Blocks that are no events are not counted, comments are no loss.
		if err := up.send("retry: 1\n\n:\n\ndata: 12\n\n:\n\n:\n\nretry: 2\n\ndata: 16\n\ndata: 17\n\ndata: 18\n\n"); err != nil {
			t.Fatal(err)
		}
		a.expect(toldGap("lag", "sse1.E.9", "1"), "\n", given("16", "16"), given("17", "17"), given("18", "18"))
		if err := up.send(strings.Repeat(":\n\n", 10)); err != nil {
			t.Fatal(err)
		}
		if got := a.read(); strings.Contains(got, "gap") {
			t.Errorf("a gap for comments: %q", got)
		}
	})
}

// With the upstream's ids, a gap event changes no client's last event ID.
func TestLagSkipUpstreamIDs(t *testing.T) {
	set := func(o *Options) { o.Buffer.Events, o.LagSkip, o.GapEvent = 2, true, "gap" }
	inBubble(t, set, func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		a.expect(newcomer, numbered("1"))
		up.numbered("2", "3", "4", "5")
		a.expect(toldGap("lag", "", "2"), "\n", numbered("4", "5"))
	})
}

// A write has about MaxWrite bytes, and always a block.
func TestWritesAreBounded(t *testing.T) {
	inBubble(t, func(o *Options) { o.Prime = false }, func(st *streamTest) {
		t := st.t
		a, up := st.start()
		large := strings.Repeat("x", MaxWrite*2)
		const pieces = 200
		piece := strings.Repeat("y", MaxWrite/10)
		for range pieces {
			up.event(piece)
		}
		up.event(large, "end")
		total, writes := 0, 0
		for {
			chunks, wake, _, end := a.sub.Next(nil, time.Now())
			if wake != nil || end != "" {
				break
			}
			size := 0
			for _, chunk := range chunks {
				size += len(chunk.Wire)
			}
			if size > MaxWrite && len(chunks) > 1 {
				t.Errorf("%d bytes in %d blocks", size, len(chunks))
			}
			total += len(chunks)
			writes++
		}
		if total != pieces+2 || writes < pieces/10 || writes > pieces/5 {
			t.Errorf("%d blocks in %d writes", total, writes)
		}
	})
}

// TestJoinIsAtomic has clients come and go in real time while events flow. Each
// gets every event after its join point, once and in order.
func TestJoinIsAtomic(t *testing.T) {
	const events, joiners = 4000, 8
	st := newStreamTest(t, func(o *Options) { o.Buffer.Events = 2 * events })
	first := st.join("")
	up := st.source.acceptOpen()
	var wg sync.WaitGroup
	var number atomic.Int64
	wg.Go(func() {
		for i := range events {
			up.event(strconv.Itoa(i + 1))
			number.Store(int64(i + 1))
		}
	})
	var mu sync.Mutex // of st
	for range joiners {
		wg.Go(func() {
			id := ""
			for number.Load() < events {
				mu.Lock()
				r := st.join(id)
				mu.Unlock()
				var err error
				if id, err = follow(r, id, 100); err != nil {
					t.Error(err)
				}
				r.sub.Leave()
			}
		})
	}
	// One stays from the beginning to the end.
	wg.Go(func() {
		if _, err := follow(first, "", events); err != nil {
			t.Error(err)
		}
	})
	wg.Wait()
	first.leave()
	st.hub.EndAll()
	st.hub.running.Wait()
}

// follow reads up to n events, or to the last one, and checks that they are
// those after id, or after the prime block. It returns the new last event ID.
func follow(r *reader, id string, n int) (string, error) {
	var decoder eventstream.Decoder
	last, primed := int64(-1), false
	if id != "" {
		_, position, _ := replay.ParseID(id)
		last = int64(position)
	}
	take := func(b eventstream.Block) error {
		id = string(b.ID)
		_, position, ok := replay.ParseID(id)
		switch at := int64(position); {
		case !ok:
			return fmt.Errorf("block %q has no ID", b.Lines)
		case !b.Dispatches() && !primed && last < 0:
			primed = true
			last = at
		case !b.Dispatches() || at != last+1 || string(b.AppendData(nil)) != strconv.FormatInt(at, 10):
			return fmt.Errorf("block %q after %d", b.Lines, last)
		default:
			last = at
			n--
		}
		return nil
	}
	for n > 0 {
		chunks, wake, _, end := r.sub.Next(nil, time.Now())
		for _, chunk := range chunks {
			if err := decoder.Write(chunk.Wire, take); err != nil {
				return id, err
			}
		}
		if end != "" {
			return id, fmt.Errorf("ended: %s", end)
		}
		if wake == nil {
			continue
		}
		select {
		case <-wake:
		case <-time.After(time.Second / 10):
			return id, nil // the events are over
		}
	}
	return id, nil
}

// Some clients of the older MCP transport take any block before the event of
// type endpoint for that event.
func TestNothingBeforeFirstBlock(t *testing.T) {
	set := func(o *Options) {
		o.primeAfter = primeAfter
		o.RetryMin, o.RetryMax = 2*time.Second, 2*time.Second
	}
	t.Run("endpoint", func(t *testing.T) {
		inBubble(t, set, func(st *streamTest) {
			a, up := st.start()
			time.Sleep(primeAfter / 2)
			a.expect()
			_ = up.send("event: endpoint\ndata: /session\n\n")
			a.expect("event: endpoint\ndata: /session\n\n")
			time.Sleep(time.Minute)
			a.expect()
		})
	})
	t.Run("an event", func(t *testing.T) {
		inBubble(t, set, func(st *streamTest) {
			a, up := st.start()
			up.event("1")
			a.expect(given("1", "1"), "retry: 2000\n\n")
			time.Sleep(time.Minute)
			a.expect()
		})
	})
	// An event that is not for a client before the connection is proven to be for all.
	t.Run("an event that is held back", func(t *testing.T) {
		inBubble(t, func(o *Options) { set(o); o.Vouched, o.Join = false, JoinLive }, func(st *streamTest) {
			a, up := st.start()
			b := st.join("")
			b.hasHead()
			up.event("1")
			a.expect(given("1", "1"), "retry: 2000\n\n")
			time.Sleep(2 * primeAfter)
			b.expect()
		})
	})
	// Blocks that are no events count for nothing, whoever comes when.
	for name, first := range map[string]struct{ sent, passes string }{
		"a comment": {":comment\n", ":comment\n\n"},
		"retry":     {"retry: 3000\n\n", "retry: 3000\n\n"},
		"an ID":     {"id: 1\n\n", "id: 1\n\n"},
	} {
		t.Run("endpoint after "+name, func(t *testing.T) {
			inBubble(t, set, func(st *streamTest) {
				a, up := st.start()
				time.Sleep(primeAfter / 4)
				up.sendAll(first.sent)
				b := st.join("")
				b.expect()
				time.Sleep(primeAfter / 4)
				c := st.join("")
				up.sendAll("event: endpoint\ndata: /session\n\n")
				a.expect(first.passes, "event: endpoint\ndata: /session\n\n")
				b.expectEnd(EndPerClient)
				c.expectEnd(EndPerClient)
				time.Sleep(time.Minute)
				a.expect()
				if _, err := st.tryJoin(""); !errors.Is(err, ErrUnshareable) {
					st.t.Errorf("who comes later: %v", err)
				}
			})
		})
	}
	// Also when the first connection broke before its first event.
	t.Run("endpoint after a reconnect", func(t *testing.T) {
		inBubble(t, func(o *Options) { set(o); o.primeAfter = time.Hour }, func(st *streamTest) {
			a, up := st.start()
			b := st.join("")
			up.breakOff()
			up = st.source.acceptOpen()
			up.sendAll("event: endpoint\ndata: /session\n\n")
			a.expect("event: endpoint\ndata: /session\n\n")
			b.expectEnd(EndPerClient)
		})
	})
	// And on the connection that newcomers have until they share.
	t.Run("endpoint on a splice", func(t *testing.T) {
		inBubble(t, func(o *Options) { set(o); o.Join, o.Vouched = joinAuto, false }, func(st *streamTest) {
			a, up := st.start()
			up.sendAll("retry: 3000\n\n")
			b, c := st.join(""), st.join("")
			time.Sleep(proofDelay)
			b.expect()
			c.expect()
			splice := st.source.acceptOpen()
			st.source.expectNone()
			splice.sendAll("retry: 3000\n\n", "event: endpoint\ndata: /b\n\n")
			b.expect("retry: 3000\n\n", "event: endpoint\ndata: /b\n\n")
			c.expect()
			own := st.source.acceptOpen()
			own.sendAll("event: endpoint\ndata: /c\n\n")
			c.expect("event: endpoint\ndata: /c\n\n")
			up.sendAll("event: endpoint\ndata: /a\n\n")
			a.expect("retry: 3000\n\n", "event: endpoint\ndata: /a\n\n")
			up.sendAll("data: for a\n\n")
			splice.sendAll("data: for b\n\n")
			a.expect("data: for a\n\n")
			b.expect("data: for b\n\n")
		})
	})
	// What counts is the time since the head.
	t.Run("endpoint after a slow head", func(t *testing.T) {
		inBubble(t, set, func(st *streamTest) {
			a := st.join("")
			up := st.source.accept()
			time.Sleep(2 * primeAfter)
			up.open()
			a.expect()
			time.Sleep(primeAfter - time.Millisecond)
			a.expect()
			up.sendAll("event: endpoint\ndata: /session\n\n")
			a.expect("event: endpoint\ndata: /session\n\n")
		})
	})
	t.Run("long after the head", func(t *testing.T) {
		inBubble(t, set, func(st *streamTest) {
			a, up := st.start()
			up.sendAll("retry: 3000\n\n")
			time.Sleep(primeAfter)
			a.expect("retry: 3000\n\n", "id: sse1.E.1\n\n")
			b := st.join("")
			b.expect("retry: 3000\nid: sse1.E.1\n\n") // there will be no endpoint any more
		})
	})
	// Also for who has the stream's connection after one of its own.
	merged := func(st *streamTest) (a, b *reader, up *fakeConn) {
		a, up = st.start()
		up.sendAll("id: 1\n\n") // who comes now needs a splice
		a.expect("id: 1\n\n")
		b = st.join("")
		b.expect()
		splice := st.source.acceptOpen()
		splice.sendAll("id: 1\n\n")
		b.expect("id: 1\n\n")
		time.Sleep(splicePause + time.Millisecond)
		b.expect()
		splice.expectGone(true)
		return a, b, up
	}
	t.Run("endpoint after a merge", func(t *testing.T) {
		inBubble(t, func(o *Options) { set(o); o.Join = joinAuto }, func(st *streamTest) {
			a, b, up := merged(st)
			up.sendAll("event: endpoint\ndata: /a\n\n")
			b.expectEnd(EndPerClient)
			a.expect("event: endpoint\ndata: /a\n\n")
		})
	})
	t.Run("no event after a merge", func(t *testing.T) {
		inBubble(t, func(o *Options) { set(o); o.Join = joinAuto }, func(st *streamTest) {
			_, b, _ := merged(st)
			time.Sleep(primeAfter)
			b.expect("retry: 2000\nid: 1\n\n")
		})
	})
	t.Run("endpoint for another key of the path", func(t *testing.T) {
		inBubble(t, func(o *Options) { set(o); o.Vouched = false }, func(st *streamTest) {
			_, up := st.start()
			up.sendAll("event: endpoint\ndata: /a\n\n")
			st.key = Key{1}
			if _, err := st.tryJoin(""); !errors.Is(err, ErrUnshareable) {
				st.t.Errorf("another key: %v", err)
			}
		})
	})
	t.Run("no event", func(t *testing.T) {
		inBubble(t, set, func(st *streamTest) {
			a, up := st.start()
			_ = up.send(": comment\n\n")
			a.expect(": comment\n\n")
			_, wake, at, _ := a.sub.Next(nil, time.Now())
			if wake == nil || !at.Equal(time.Now().Add(primeAfter)) {
				st.t.Errorf("to be asked again %v", at)
			}
			time.Sleep(primeAfter)
			a.expect("retry: 2000\nid: sse1.E.1\n\n")
			up.event("1")
			a.expect(given("2", "1"))
		})
	})
}

// Who is not let in any more is given nothing of what is there, and is not served in
// another way.
func TestRevokedSubscribersAreGivenNothing(t *testing.T) {
	inBubble(t, func(o *Options) { o.RetryMin, o.RetryMax = 0, 0 }, func(st *streamTest) {
		a, up := st.start()
		b := st.join("")
		up.event("1")
		a.expect(newcomer, given("1", "1"))
		b.sub.EndAt(time.Now(), EndRevoked)
		b.expectEnd(EndRevoked)
		if b.sub.Sent != 0 {
			t.Errorf("%d events were counted", b.sub.Sent)
		}
		b.leave()
		up.event("2")
		a.expect(given("2", "2"))

		c := st.join("")
		c.sub.EndAt(time.Now().Add(time.Minute), EndRevoked)
		c.sub.EndAt(time.Now().Add(time.Hour), EndMaxAge) // is later
		up.event("3")
		c.expect(primed("sse1.E.2"), given("3", "3"))
		up.event("4")
		time.Sleep(time.Minute)
		c.expectEnd(EndRevoked)

		d := st.join("")
		d.sub.Origin.mu.Lock()
		d.sub.finishFor(EndPerClient)
		d.sub.Origin.mu.Unlock()
		d.sub.EndAt(time.Now(), EndRevoked)
		d.expectEnd(EndRevoked)
	})
}

// How many events a client has missed is told without those that the gateway has made
// itself: the upstream did not send them, and each tells of others.
func TestGapEventsAreNotMissed(t *testing.T) {
	set := func(o *Options) { o.Buffer.Events, o.GapEvent, o.LagSkip = 2, "gap", true }
	inBubble(t, set, func(st *streamTest) {
		a, up := st.start()
		up.event("1")
		a.read()
		up.breakOff()
		again := st.source.acceptOpen() // the gap at position 2
		again.event("2", "3", "4")
		a.expect(toldGap("lag", "sse1.E.1", "1")+"\n", given("4", "3"), given("5", "4"))
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

// There may be a million of them: one byte more is 32 more of memory for each.
func TestSubscriberTakesNoMoreThan256Bytes(t *testing.T) {
	if size := reflect.TypeFor[Subscriber]().Size(); size > 256 {
		t.Errorf("a Subscriber takes %d bytes: what few of them have is behind a pointer", size)
	}
}
