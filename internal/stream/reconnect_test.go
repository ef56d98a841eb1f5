package stream

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/logs"
	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

func TestReconnect(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		t := st.t
		a, up := st.start()
		up.numbered("1", "2")
		broke := time.Now()
		up.breakOff()
		b := st.join("1") // meanwhile: head, replay
		b.expect(primed("1"), numbered("2"))
		up = st.source.acceptOpen()
		if up.lastEventID != "2" {
			t.Errorf("opened with %q, expected 2", up.lastEventID)
		}
		if wait := up.at.Sub(broke); wait > time.Second {
			t.Errorf("after %v, expected at most a second", wait)
		}
		up.numbered("3")
		a.expect(newcomer, numbered("1", "2", "3"))
		b.expect(numbered("3"))
		if a.end != "" || st.logged("upstream lost: trying again") != 1 || st.logged("upstream recovered") != 1 {
			t.Errorf("end %q, log %v", a.end, st.logs.All())
		}
	})
}

// A stream without subscribers that lingers is kept up too.
func TestReconnectWhileLingering(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		a.leave()
		up.breakOff()
		up = st.source.acceptOpen()
		up.numbered("2", "3")
		b := st.join("1")
		b.expect(primed("1"), numbered("2", "3"))
		b.leave()
		up.breakOff()
		time.Sleep(DefaultLinger)
		st.expectStreams(0) // and no reconnect is under way
		time.Sleep(time.Hour)
		if n := len(st.source.conns); n > 0 {
			<-st.source.conns
		}
		st.source.expectNone()
	})
}

// The delays grow until there is an event; a connection alone is none.
func TestReconnectDelays(t *testing.T) {
	inBubble(t, func(o *Options) { o.GiveUp = 1000 * time.Hour }, func(st *streamTest) {
		t := st.t
		a, up := st.start()
		for _, base := range []time.Duration{time.Second, 100 * time.Millisecond, 90 * time.Second} {
			if base != time.Second {
				if err := up.send("retry: " + strconv.FormatInt(base.Milliseconds(), 10) + "\n\n"); err != nil {
					t.Fatal(err)
				}
			}
			up.event("new")
			a.read()
			least, limit := max(base, minReconnectDelay), max(2*base, 2*minReconnectDelay)
			if base == time.Second { // what there is without a retry
				least, limit = minReconnectDelay, time.Second
			}
			limit = max(least, min(limit, maxReconnectDelay))
			jitter := least == limit
			for attempt := range 40 {
				failed := time.Now()
				switch {
				case attempt == 0:
					up.breakOff()
				case attempt%3 == 0: // connects, and breaks without an event
					up.open()
					if err := up.send(": hello\n\n"); err != nil {
						t.Fatal(err)
					}
					up.breakOff()
				default:
					up.answer(0, 0)
				}
				up = st.source.accept()
				wait := up.at.Sub(failed)
				if wait < least || wait > limit {
					t.Errorf("base %v, attempt %d: after %v, expected %v to %v", base, attempt+1, wait, least, limit)
				}
				jitter = jitter || (wait > least+(limit-least)/4 && wait < limit-(limit-least)/4)
				limit = max(limit, min(2*limit, maxReconnectDelay))
			}
			if !jitter {
				t.Errorf("base %v: no delay of 40 was near the middle", base)
			}
			up.open()
		}
		up.event("end")
		if got := a.read(); a.end != "" || len(got) == 0 {
			t.Errorf("end %q", a.end)
		}
		// The attempts since the last event are counted in the log, those too
		// that came too fast to be told each.
		time.Sleep(logs.Interval)
		told := int64(0)
		for i, entry := range st.logs.FilterMessage("upstream lost: trying again").All() {
			fields := entry.ContextMap()
			told += fields["suppressed"].(int64)
			if n := fields["attempt"]; n != told%40+1 {
				t.Errorf("entry %d is attempt %v", i, n)
			}
			told++
		}
		if told != 120 {
			t.Fatalf("%d attempts logged", told)
		}
	})
}

// After many attempts the delay is long; an event makes it short again.
func TestReconnectDelaysGrow(t *testing.T) {
	inBubble(t, func(o *Options) { o.GiveUp = 1000 * time.Hour }, func(st *streamTest) {
		t := st.t
		_, up := st.start()
		var longest time.Duration
		for range 50 {
			failed := time.Now()
			up.breakOff()
			up = st.source.acceptOpen()
			longest = max(longest, up.at.Sub(failed))
		}
		if longest < maxReconnectDelay/2 {
			t.Errorf("the longest of 50 delays is %v", longest)
		}
		for range 50 {
			up.event("1")
			failed := time.Now()
			up.breakOff()
			up = st.source.acceptOpen()
			if wait := up.at.Sub(failed); wait > time.Second {
				t.Errorf("after an event: %v", wait)
			}
		}
	})
}

// A reconnection time of a millisecond is for clients: an upstream that sends one
// event and breaks is not asked more often than four times a second.
func TestReconnectIsNotHurriedByRetry(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		_, up := st.start()
		begun := time.Now()
		const connections = 100
		for range connections {
			if err := up.send("retry: 1\ndata: x\n\n"); err != nil {
				st.t.Fatal(err)
			}
			up.breakOff()
			up = st.source.acceptOpen()
		}
		if took := time.Since(begun); took < connections*minReconnectDelay {
			st.t.Errorf("%d connections in %v", connections, took)
		}
	})
}

// Something cuts connections on which nothing is said for 10 s. Somebody is to
// listen nearly all the time.
func TestReconnectAfterIdleCuts(t *testing.T) {
	inBubble(t, func(o *Options) { o.GiveUp = time.Minute }, func(st *streamTest) {
		a, up := st.start()
		var away time.Duration
		const cuts = 1000
		for range cuts {
			time.Sleep(10 * time.Second)
			cut := time.Now()
			up.breakOff()
			up = st.source.acceptOpen()
			if gap := up.at.Sub(cut); gap > defaultReconnectionTime {
				st.t.Fatalf("nobody listened for %v", gap)
			} else {
				away += gap
			}
			if away > 30*time.Second {
				// Now and then something is said.
				away = 0
				if err := up.send(": here\n\n"); err != nil {
					st.t.Fatal(err)
				}
			}
		}
		if a.read(); a.end != "" {
			st.t.Errorf("end %q", a.end)
		}
	})
}

// An upstream that answers each time and breaks before it has said anything is
// given up like one that does not answer.
func TestGiveUpAnswersWithoutBlocks(t *testing.T) {
	inBubble(t, func(o *Options) { o.GiveUp, o.Drain = time.Minute, 0 }, func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		a.read()
		lost := time.Now()
		for a.end == "" && time.Since(lost) < 10*time.Minute {
			up.breakOff()
			select {
			case up = <-st.source.conns:
				up.open()
			case <-time.After(maxReconnectDelay + 1):
			}
			a.read()
		}
		if took := time.Since(lost); a.end != endGaveUp || took < time.Minute || took > time.Minute+2*maxReconnectDelay {
			st.t.Errorf("end %q after %v", a.end, took)
		}
	})
}

// fails lets the stream's attempts to connect fail for so long.
func (st *streamTest) fails(d time.Duration) {
	st.t.Helper()
	for until := time.Now().Add(d); ; {
		select {
		case up := <-st.source.conns:
			up.answer(0, 0)
		case <-time.After(time.Until(until)):
			return
		}
	}
}

// After give_up the clients' responses end, spread over the time of drain, so
// that they do not come back in one moment.
func TestGiveUp(t *testing.T) {
	inBubble(t, func(o *Options) { o.GiveUp, o.Drain = time.Minute, 10*time.Second }, func(st *streamTest) {
		t := st.t
		var clients []*reader
		a, up := st.start()
		for range 99 {
			clients = append(clients, st.join(""))
		}
		up.numbered("1")
		up.breakOff()
		st.fails(time.Minute - time.Second)
		for _, c := range append(clients, a) {
			c.expect(newcomer, numbered("1"))
		}
		st.fails(time.Second + maxReconnectDelay)
		if st.logged("upstream lost: giving up") != 1 {
			t.Fatalf("log %v", st.logs.All())
		}
		var last time.Time
		most := 0
		for _, c := range append(clients, a) {
			at := c.sub.finishFrom()
			if c.sub.finish() != endGaveUp || at.IsZero() {
				t.Fatalf("a client leaves for %q at %v", c.sub.finish(), at)
			}
			if at.After(last) {
				last = at
			}
			near := 0
			for _, o := range clients {
				if o.sub.finishFrom().Sub(at).Abs() < st.options.Drain/20 {
					near++
				}
			}
			most = max(most, near)
		}
		if most > 40 {
			t.Errorf("%d of 100 clients end within a tenth of the time", most)
		}
		time.Sleep(time.Until(last))
		for _, c := range append(clients, a) {
			c.expectEnd(endGaveUp)
		}
	})
}

// Who comes back after that goes on where it was. It is not told that the
// upstream still fails: at any status EventSource would give up for good.
func TestGiveUpComeBack(t *testing.T) {
	inBubble(t, func(o *Options) { o.GiveUp = time.Minute }, func(st *streamTest) {
		t := st.t
		a, up := st.start()
		up.numbered("1", "2")
		up.breakOff()
		st.fails(time.Minute + maxReconnectDelay + DefaultDrain)
		a.expectEnd(endGaveUp, newcomer, numbered("1", "2")) // who is behind is given everything first
		a.leave()
		b := st.join("1")
		if up = st.source.accept(); up.lastEventID != "2" {
			t.Errorf("opened with %q", up.lastEventID)
		}
		up.answer(http.StatusInternalServerError, 0)
		b.expect(primed("1"), numbered("2"))
		up = st.source.acceptOpen()
		up.numbered("3")
		b.expect(numbered("3"))
		// It can be given up again, after as long.
		up.breakOff()
		st.fails(time.Minute - time.Second)
		b.expect()
		st.fails(time.Second + maxReconnectDelay + DefaultDrain)
		b.expectEnd(endGaveUp)
		b.leave()

		// Who is new asks the application.
		c, err := st.tryJoin("")
		if err != nil {
			t.Fatal(err)
		}
		if up = st.source.accept(); up.lastEventID != "" || c.sub.Origin == b.sub.Origin {
			t.Errorf("opened with %q", up.lastEventID)
		}
		up.answer(http.StatusInternalServerError, 0)
		if _, err := c.sub.Origin.verdict(); !errors.Is(err, ErrUnshareable) {
			t.Errorf("%v: it is to get the answer", err)
		}
		c.leave()
		// Which takes nothing away from those who come back.
		d := st.join("3")
		st.source.acceptOpen().numbered("4")
		d.expect(primed("3"), numbered("4"))
	})
}

// A final answer ends the stream.
func TestReconnectRefused(t *testing.T) {
	for _, status := range []int{http.StatusNoContent, http.StatusFound, http.StatusBadRequest, http.StatusUnauthorized,
		http.StatusForbidden, http.StatusNotFound, http.StatusGone} {
		inBubble(t, nil, func(st *streamTest) {
			t := st.t
			a, up := st.start()
			up.event("1")
			up.breakOff()
			st.source.accept().answer(status, 0)
			a.expect(newcomer, given("1", "1"))
			time.Sleep(DefaultDrain) // spread: their next requests go upstream on their own
			a.expectEnd(EndRefused)
			if st.logged("upstream does not continue the stream") != 1 {
				t.Errorf("%d: log %v", status, st.logs.All())
			}
			if _, err := st.tryJoin(a.id(1)); !errors.Is(err, ErrUnshareable) {
				t.Errorf("%d: %v: who comes now is to see the status", status, err)
			}
			time.Sleep(time.Hour)
			st.source.expectNone()
		})
	}
}

// A temporary failure is tried again, when the upstream wants it.
func TestReconnectRetried(t *testing.T) {
	for _, status := range []int{0, http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests,
		http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout} {
		inBubble(t, nil, func(st *streamTest) {
			t := st.t
			a, up := st.start()
			up.event("1")
			up.breakOff()
			up = st.source.accept()
			up.answer(status, 7*time.Second)
			again := st.source.acceptOpen()
			if wait := again.at.Sub(up.at); wait < 7*time.Second || wait > 8*time.Second {
				t.Errorf("%d: tried again after %v, expected 7 s", status, wait)
			}
			again.event("2")
			a.expect(newcomer, given("1", "1"), given("2", "2"))
		})
	}
}

func TestReconnectRepeats(t *testing.T) {
	for _, test := range []struct {
		name     string
		sent     string // on the second connection
		given    string
		dropped  bool
		renumber bool
	}{
		{"resumes after", numbered("4"), numbered("4"), false, false},
		{"from the last", numbered("3", "4"), numbered("4"), true, false},
		{"all", numbered("1", "2", "3", "4"), numbered("4"), true, false},
		{"all and no more", numbered("1", "2", "3"), "", true, false},
		{"comments between", ": a\n\n" + numbered("2") + ": b\n\n" + numbered("3", "4"), ": a\n\n: b\n\n" + numbered("4"), true, false},
		{"one left out ends it", numbered("1", "3", "4"), numbered("3", "4"), true, false},
		{"a new one ends it", numbered("2", "4", "3"), numbered("4", "3"), true, false},
		{"once over it stays so", numbered("4", "3"), numbered("4", "3"), false, false},
		{"event without id first", "data: hello\n\n" + numbered("2", "3"), "data: hello\n\n", true, false},
		{"event without id between", numbered("2") + "data: x\n\n" + numbered("3"), "data: x\n\n" + numbered("3"), true, false},
		{"other type", "event: x\nid: 2\ndata: 2\n\n", "event: x\nid: 2\ndata: 2\n\n", false, true},
		{"another event with the last ID", "event: x\nid: 3\ndata: 3\n\n", "event: x\nid: 3\ndata: 3\n\n", false, false},
		{"begun anew", "id: 1\ndata: other\n\n", "id: 1\ndata: other\n\n", false, true},
		{"other bytes in a run", numbered("1") + "id: 2\ndata: other\n\n" + numbered("3"), "id: 2\ndata: other\n\n" + numbered("3"), true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, nil, func(st *streamTest) {
				t := st.t
				a, up := st.start()
				up.numbered("1", "2", "3")
				a.expect(newcomer, numbered("1", "2", "3"))
				up.breakOff()
				up = st.source.acceptOpen()
				if err := up.send(test.sent); err != nil {
					t.Fatal(err)
				}
				a.expect(test.given)
				up.breakOff()
				if n := st.logged("upstream repeated events after the reconnect"); n != bit(test.dropped) {
					t.Errorf("repeats logged %d times", n)
				}
				const renumbered = "possible gap: upstream reused event IDs (did its counter restart?)"
				if n := st.logged(renumbered); n != bit(test.renumber) {
					t.Errorf("new ids logged %d times", n)
				}
			})
		})
	}
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// A counter in the memory of a restarted upstream: an ID means its newest
// event, and what came before is not found any more.
func TestReconnectRenumbered(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		t := st.t
		a, up := st.start()
		up.numbered("1", "2", "3")
		up.breakOff()
		up = st.source.acceptOpen()
		for _, id := range []string{"1", "2"} {
			if err := up.send("id: " + id + "\ndata: new " + id + "\n\n"); err != nil {
				panic(err)
			}
		}
		a.read()
		b := st.join("1")
		b.expectOutcome("replayed; events=1")
		b.expect(primed("1"), "id: 2\ndata: new 2\n\n")
		if c := st.join("3"); strings.HasPrefix(c.sub.Outcome(), ResumeReplayed) {
			t.Errorf("an ID of before: %s", c.sub.Outcome())
		}
	})
}

// Several events share an ID, and the connection broke between them: who has
// the first is given all others.
func TestReconnectWithinSharedID(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		t := st.t
		a, up := st.start()
		const first, second, third = "id: 1\ndata: a\n\n", "data: b\n\n", "id: 1\ndata: c\n\n"
		if err := up.send(first); err != nil {
			t.Fatal(err)
		}
		a.expect(newcomer, first)
		up.breakOff()
		up = st.source.acceptOpen()
		if err := up.send(second + third); err != nil {
			t.Fatal(err)
		}
		a.expect(second + third)
		b := st.join("1")
		b.expectOutcome("replayed; events=2")
		b.expect(primed("1"), second+third)
	})
}

// Several events share an ID, and the upstream goes on after the first of them. Those
// without an id are not known for repeats; then what came after them comes again, too,
// so that nobody is left with an older one for the newest. What each connection is
// greeted with is no such event.
func TestReconnectAfterFirstOfSharedID(t *testing.T) {
	const hello, first, second, third, fourth = "data: hello\n\n", "id: 1\ndata: a\n\n", "data: b\n\n", "id: 1\ndata: c\n\n", "id: 2\ndata: d\n\n"
	for _, test := range []struct{ name, before, again, given string }{
		{"all but the first", first + second + third, second + third + fourth, second + third + fourth},
		{"after a greeting", hello + first + second + third, hello + second + third + fourth, hello + second + third + fourth},
		{"all", first + second + third, first + second + third + fourth, fourth},
		{"all, after a greeting", hello + first + second + third, hello + first + second + third + fourth, hello + fourth},
		{"only those with an id", first + second + third, third + fourth, fourth},
		{"a ping", first + second + third, "data: ping\n\n" + third + fourth, "data: ping\n\n" + fourth},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(o *Options) { o.IDs = IDsUpstream }, func(st *streamTest) {
				a, up := st.start()
				up.sendAll(test.before)
				a.expect(test.before)
				up.breakOff()
				up = st.source.acceptOpen()
				up.sendAll(test.again)
				a.expect(test.given)
			})
			inBubble(t, func(o *Options) { o.IDs = IDsGateway }, func(st *streamTest) {
				a, up := st.start()
				up.sendAll(test.before)
				a.read()
				up.breakOff()
				up = st.source.acceptOpen()
				up.sendAll(test.again)
				if got, want := dataOf(a.read()), dataOf(test.given); got != want {
					t.Errorf("with the gateway's ids: given %q, expected %q", got, want)
				}
			})
		})
	}
}

// dataOf returns the data lines of a text.
func dataOf(text string) (data string) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "data:") {
			data += line
		}
	}
	return data
}

// What an upstream without ids sent while it was lost, nobody knows: it is told.
func TestPossibleGap(t *testing.T) {
	const message = "possible gap: reconnected to an upstream that gives no event IDs"
	gapEvent := func(o *Options) { o.GapEvent = "gap" }
	t.Run("without ids", func(t *testing.T) {
		inBubble(t, gapEvent, func(st *streamTest) {
			t := st.t
			a, up := st.start()
			up.event("1", "2")
			a.expect(newcomer, given("1", "1"), given("2", "2"))
			up.breakOff()
			a.expect() // not before it is over
			st.source.accept().answer(0, 0)
			up = st.source.acceptOpen()
			if up.lastEventID != "" {
				t.Errorf("opened with %q", up.lastEventID)
			}
			told := toldGap("upstream", "sse1.E.2", "null") + "id: sse1.E.3\n\n"
			a.expect(told)
			up.event("3")
			a.expect(given("4", "3"))
			if n := st.logged(message); n != 1 {
				t.Errorf("logged %d times", n)
			}
			// It is part of the stream: who was away is told too.
			b := st.join(a.id(1))
			b.expect(given("2", "2"), told, given("4", "3"))
		})
	})
	t.Run("without gap_event", func(t *testing.T) {
		inBubble(t, nil, func(st *streamTest) {
			t := st.t
			a, up := st.start()
			up.event("1")
			up.breakOff()
			st.source.acceptOpen().event("2")
			a.expect(newcomer, given("1", "1"), given("2", "2"))
			if n := st.logged(message); n != 1 {
				t.Errorf("logged %d times", n)
			}
		})
	})
	t.Run("with ids", func(t *testing.T) {
		inBubble(t, gapEvent, func(st *streamTest) {
			t := st.t
			a, up := st.start()
			up.numbered("1")
			up.breakOff()
			st.source.acceptOpen().numbered("2")
			a.expect(newcomer, numbered("1", "2"))
			if n := st.logged(message); n != 0 {
				t.Errorf("logged %d times", n)
			}
		})
	})
}

func TestIDs(t *testing.T) {
	set := func(mode IDsMode) func(o *Options) {
		return func(o *Options) { o.IDs = mode }
	}
	const mixed = "data: a\n\nid: 7\ndata: b\n\ndata: c\n\nid:\ndata: d\n\nretry: 5\n\ndata: e\n\n"
	send := func(t *testing.T, up *fakeConn, text string) {
		t.Helper()
		if err := up.send(text); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("auto", func(t *testing.T) {
		inBubble(t, set(IDsAuto), func(st *streamTest) {
			t := st.t
			a, up := st.start()
			send(t, up, "data: a\n\nretry: 5\n\nid: 7\ndata: b\n\ndata: c\n\ndata: d\n\nid: 7\ndata: e\n\n")
			rest := "data: c\n\ndata: d\n\nid: 7\ndata: e\n\n"
			a.expect(newcomer, given("1", "a"), "retry: 5\n\n", "id: 7\ndata: b\n\n", rest)
			// At least once: which of the events with the ID it had, nobody knows.
			b := st.join("7")
			b.expectOutcome("replayed; events=3")
			b.expect("retry: 5\nid: 7\n\n", rest)
			c := st.join(a.id(1))
			c.expectOutcome("replayed; events=4")
			c.expect("retry: 5\nid: sse1.E.1\n\n", "retry: 5\n\n", "id: 7\ndata: b\n\n", rest)
			d := st.join("")
			d.expect("retry: 5\nid: 7\n\n")
			up.breakOff()
			if up = st.source.acceptOpen(); up.lastEventID != "7" {
				t.Errorf("opened with %q", up.lastEventID)
			}
			up.event("f") // for the rest of the epoch
			d.expect("data: f\n\n")
		})
	})
	t.Run("auto, reset", func(t *testing.T) {
		inBubble(t, set(IDsAuto), func(st *streamTest) {
			t := st.t
			a, up := st.start()
			send(t, up, mixed)
			a.expect(newcomer, given("1", "a"), "id: 7\ndata: b\n\ndata: c\n\nid:\ndata: d\n\nretry: 5\n\ndata: e\n\n")
			up.breakOff()
			if up = st.source.accept(); up.lastEventID != "" {
				t.Errorf("opened with %q: the upstream took its ID back", up.lastEventID)
			}
		})
	})
	t.Run("auto, an empty id gives none", func(t *testing.T) {
		inBubble(t, set(IDsAuto), func(st *streamTest) {
			t := st.t
			a, up := st.start()
			send(t, up, "id:\ndata: a\n\n")
			a.expect(newcomer, "id:\ndata: a\nid: sse1.E.1\n\n")
		})
	})
	t.Run("upstream", func(t *testing.T) {
		inBubble(t, set(IDsUpstream), func(st *streamTest) {
			t := st.t
			a, up := st.start()
			send(t, up, mixed)
			a.expect(mixed)
			b := st.join("7")
			b.expectOutcome("replayed; events=3")
			// Behind another gateway: its IDs are the upstream's.
			id := replay.IDPrefix + "00112233445566778899aabbccddeeff.3"
			send(t, up, "id: "+id+"\ndata: x\n\ndata: y\n\n")
			c := st.join(id)
			c.expect("retry: 5\nid: "+id+"\n\n", "data: y\n\n")
			d := st.join("")
			d.expect("retry: 5\nid: " + id + "\n\n")
			up.breakOff()
			if up = st.source.accept(); up.lastEventID != id {
				t.Errorf("opened with %q, expected %q", up.lastEventID, id)
			}
		})
	})
	t.Run("gateway", func(t *testing.T) {
		inBubble(t, set(IDsGateway), func(st *streamTest) {
			t := st.t
			a, up := st.start()
			send(t, up, "id: 7\ndata: a\n\ndata: b\n\ndata: c\nid: 8\n\n")
			a.expect(newcomer, given("1", "a"), given("2", "b"), given("3", "c"))
			b := st.join(a.id(2))
			b.expectOutcome("replayed; events=1")
			b.expect(given("3", "c"))
			st.join("7").expectOutcome("gap") // no client of ours has it
			st.join("").expect(primed("sse1.E.3"))
			up.breakOff()
			up = st.source.acceptOpen()
			if up.lastEventID != "8" {
				t.Errorf("opened with %q, expected the upstream's own", up.lastEventID)
			}
			send(t, up, "data: c\nid: 8\n\nid: 9\ndata: d\n\n")
			a.expect(given("4", "d")) // the repeat is known by the upstream's id
		})
	})
}

// After a clean end the stream goes on with who comes back. What an upstream
// without ids sent meanwhile, nobody knows.
func TestPossibleGapAfterCleanEnd(t *testing.T) {
	inBubble(t, gapEvent, func(st *streamTest) {
		a, up := st.start()
		up.event("1")
		up.close()
		a.expectEnd(EndUpstream, newcomer, given("1", "1"))
		b := st.join(a.id(1))
		st.source.accept().answer(0, 0)
		b.expect()
		up = st.source.acceptOpen()
		up.event("2")
		b.expect(toldGap("upstream", "sse1.E.1", "null")+"id: sse1.E.2\n\n", given("3", "2"))
	})
	inBubble(t, gapEvent, func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		up.close()
		a.expectEnd(EndUpstream, newcomer, numbered("1"))
		b := st.join("1")
		st.source.acceptOpen().numbered("2")
		b.expect(primed("1"), numbered("2"))
	})
}

// A connection that was given up on this side, by the transport of reverse_proxy,
// is no answer of the upstream's.
func TestCancelledAttempt(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		up.breakOff()
		st.source.accept().answer(upstreams.StatusCancelled, 0)
		st.source.acceptOpen().numbered("2")
		a.expect(newcomer, numbered("1", "2"))
	})
}

// Who has a head and waits until it is known whether a new connection is shared is let
// go when that does not come to be known: it is not left waiting.
func TestWaitingEndsWithTheProbe(t *testing.T) {
	inBubble(t, auto(func(o *Options) { o.Vouched = false }), func(st *streamTest) {
		a, up := st.start()
		time.Sleep(proofDelay)
		b := st.join("")
		sp := st.source.acceptOpen()
		time.Sleep(2 * time.Second)
		up.numbered("x")
		sp.numbered("x")
		b.read()
		sp.expectGone(true) // they share
		up.breakOff()
		c := st.join("")
		if !c.hasHead() {
			st.t.Fatal("a client has to wait for its head while the stream is broken")
		}
		up = st.source.acceptOpen()
		up.numbered("y")
		probe := st.source.acceptOpen()
		a.read()
		b.read()
		c.read()
		probe.breakOff()
		for name, r := range map[string]*reader{"merged": b, "waiting": c} {
			r.read()
			if r.end != EndBroken {
				st.t.Errorf("the response of the client that is %s ended: %q, expected %q", name, r.end, EndBroken)
			}
		}
		up.numbered("z")
		if got := a.read(); !strings.Contains(got, "data: z") || a.end != "" {
			st.t.Errorf("the stream's own client read %q, end %q", got, a.end)
		}
	})
}

func TestRenumberedIDIsFoundWhereItIsNewest(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		_, up := st.start()
		up.numbered("1")
		up.breakOff()
		// A counter that begins anew, or another event with the same ID: who has that
		// is given all that he may lack.
		up = st.source.acceptOpen()
		if err := up.send("id: 1\ndata: new 1\n\nid: 2\ndata: new 2\n\n"); err != nil {
			st.t.Fatal(err)
		}
		st.join("1").expectOutcome("replayed; events=2")
		st.join("2").expectOutcome("replayed; events=0")
	})
}

func TestGiveUpDoesNotCountConnectedTime(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		up.event("1")
		for range 4 {
			time.Sleep(40 * time.Second)
			up.breakOff() // each time it is back at once
			if a.read(); a.end != "" {
				st.t.Fatalf("end %q, though the upstream was never away for %v", a.end, maxReconnectDelay)
			}
			up = st.source.acceptOpen()
		}
	})
}
