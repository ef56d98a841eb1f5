package stream

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/replay"
)

func TestStreamDelivers(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		t := st.t
		a, up := st.start()
		b := st.join("")
		if up.lastEventID != "" {
			t.Errorf("opened with the ID %q", up.lastEventID)
		}
		up.event("1")
		if err := up.send(": c\n\nevent: x\r\ndata: 2\r\nfoo: bar\r\n\r\nda"); err != nil {
			t.Fatal(err)
		}
		want := []string{newcomer, given("1", "1"), ": c\n\n", "event: x\ndata: 2\nfoo: bar\nid: sse1.E.3\n\n"}
		a.expect(want...)
		b.expect(want...)
		a.expect()
		if err := up.send("ta: 3\n\n"); err != nil {
			t.Fatal(err)
		}
		a.expect(given("4", "3"))
		b.expect(given("4", "3"))
		st.source.expectNone()
	})
}

func TestLinger(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		t := st.t
		a, up := st.start()
		b := st.join("")
		up.event("1")
		b.expect(newcomer, given("1", "1"))
		a.leave()
		time.Sleep(time.Hour)
		up.expectGone(false) // there is another
		b.leave()
		up.event("2")
		time.Sleep(DefaultLinger - 1)
		up.expectGone(false)

		// Who comes back within it has lost nothing, and it begins anew.
		c := st.join(b.id(1))
		c.expectOutcome("replayed; events=1")
		c.expect(given("2", "2"))
		time.Sleep(time.Hour)
		up.expectGone(false)
		c.leave()
		time.Sleep(DefaultLinger - 1)
		up.expectGone(false)
		st.expectStreams(1)
		time.Sleep(time.Nanosecond)
		up.expectGone(true)
		st.expectStreams(0)
		if n := st.source.running.Load(); n != 0 {
			t.Errorf("%d connections left", n)
		}

		// Too late: another stream, and the gap is known.
		d := st.join(b.id(1))
		d.expectOutcome("gap")
		if up = st.source.accept(); up.lastEventID != "" {
			t.Errorf("the gateway's ID %q was sent upstream", up.lastEventID)
		}
	})
}

// TestStreamThatIsOverIsNotJoined: the last client leaves before the upstream has
// answered, so that the stream is over. Who comes at that moment opens another one:
// the one that is over is still in the hub, as who ends it does not have the hub's
// lock.
func TestStreamThatIsOverIsNotJoined(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a := st.join("")
		old := st.source.accept()
		over := a.sub.Origin
		over.mu.Lock()
		over.endLocked() // as Leave does, before it asks for the hub's lock
		over.mu.Unlock()

		b := st.join("")
		up := st.source.acceptOpen()
		old.expectGone(true)
		if b.sub.Origin == over {
			t.Fatal("joined the stream that is over")
		}
		up.event("1")
		b.expect(newcomer, given("1", "1"))
		a.leave() // who is over takes nothing of the new stream out of the hub
		st.expectStreams(1)
		st.join("").expect(primed("sse1.E.1"))
	})
}

func TestLingerOff(t *testing.T) {
	inBubble(t, func(o *Options) { o.Linger = 0 }, func(st *streamTest) {
		a, up := st.start()
		a.leave()
		synctest.Wait()
		time.Sleep(time.Nanosecond)
		up.expectGone(true)
		st.expectStreams(0)
	})
}

func TestCleanEnd(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		b := st.join("")
		up.event("1", "2")
		if err := up.send("data: [DO\nNE"); err != nil {
			t.Fatal(err)
		}
		a.expect(newcomer, given("1", "1"), given("2", "2"))
		up.close()
		a.expectEnd(EndUpstream, "data: [DO\nNE")
		// Who is behind is given everything first.
		b.expectEnd(EndUpstream, newcomer, given("1", "1"), given("2", "2"), "data: [DO\nNE")
		time.Sleep(time.Minute)
		st.source.expectNone() // nobody asks for it
	})
}

// What comes back after a clean end, while the stream lingers.
func TestAfterCleanEnd(t *testing.T) {
	ended := func(st *streamTest) *reader {
		a, up := st.start()
		up.numbered("1", "2", "3")
		up.close()
		a.expectEnd(EndUpstream, newcomer, numbered("1", "2", "3"))
		a.leave()
		time.Sleep(DefaultLinger - 1)
		st.expectStreams(1)
		return a
	}
	t.Run("known ID", func(t *testing.T) {
		inBubble(t, nil, func(st *streamTest) {
			t := st.t
			a := ended(st)
			b := st.join("1")
			b.expectOutcome("replayed; events=2")
			b.expect(primed("1"), numbered("2", "3")) // before the upstream has answered
			if h, err := b.sub.stream.verdict(); h == nil || err != nil {
				t.Errorf("head %v, %v", h, err)
			}
			if b.sub.stream != a.sub.stream {
				t.Error("another stream")
			}
			// The app is being restarted.
			up := st.source.accept()
			if up.lastEventID != "3" {
				t.Errorf("opened with %q, expected the last ID of the stream", up.lastEventID)
			}
			up.answer(0, 0)
			up = st.source.acceptOpen()
			if up.lastEventID != "3" {
				t.Errorf("opened again with %q", up.lastEventID)
			}
			up.numbered("3", "4")
			b.expect(numbered("4"))
		})
	})
	t.Run("absent", func(t *testing.T) {
		// Who is new asks the application, and is given its answer.
		inBubble(t, nil, func(st *streamTest) {
			t := st.t
			a := ended(st)
			b := st.join("")
			up := st.source.accept()
			if up.lastEventID != "" {
				t.Errorf("opened with %q", up.lastEventID)
			}
			select {
			case <-b.sub.Origin.ready:
				t.Fatal("a head before the application has answered")
			default:
			}
			up.open()
			if b.sub.stream == a.sub.stream || b.sub.stream.epoch == a.sub.stream.epoch {
				t.Error("the same stream")
			}
			up.numbered("1", "2")
			b.expect(newcomer, numbered("1", "2")) // no repeats: it is a new life
			st.expectStreams(2)

			// What is kept stays for those who were there.
			st.join("2").expectOutcome("replayed; events=0")
			c := st.join(a.id(1))
			c.expectOutcome("replayed; events=2")
		})
	})
	t.Run("absent, and another answer", func(t *testing.T) {
		for _, status := range []int{http.StatusUnauthorized, http.StatusNoContent, http.StatusBadGateway} {
			inBubble(t, nil, func(st *streamTest) {
				ended(st)
				b := st.join("")
				st.source.accept().answer(status, 0)
				if _, err := b.sub.Origin.verdict(); !errors.Is(err, ErrUnshareable) {
					t.Errorf("%d: %v, expected the answer for the client that caused it", status, err)
				}
			})
		}
	})
	t.Run("known ID, after somebody new was told of a failure", func(t *testing.T) {
		inBubble(t, nil, func(st *streamTest) {
			ended(st)
			st.join("")
			up := st.source.accept()
			b := st.join("2") // not with the one who may get a 502
			again := st.source.accept()
			up.answer(http.StatusBadGateway, 0)
			again.answer(http.StatusBadGateway, 0)
			c := st.join("3")
			b.expect(primed("2"), numbered("3"))
			c.expect(primed("3"))
			st.source.acceptOpen().numbered("4")
			b.expect(numbered("4"))
			c.expect(numbered("4"))
		})
	})
	t.Run("known ID, and another answer", func(t *testing.T) {
		// Who opens the stream again is given it, and who came with it goes
		// upstream on its own.
		inBubble(t, nil, func(st *streamTest) {
			ended(st)
			b, c := st.join("2"), st.join("3")
			if b.sub.reopening() == nil || c.sub.reopening() == nil {
				t.Fatal("the kept head is given before the application has answered")
			}
			st.source.accept().answer(http.StatusNoContent, 0)
			for _, r := range []*reader{b, c} {
				if _, err := r.sub.Origin.verdict(); r.sub.reopening() != nil || !errors.Is(err, ErrUnshareable) {
					t.Errorf("%v", err)
				}
			}
			if _, err := st.tryJoin("3"); !errors.Is(err, ErrUnshareable) {
				t.Errorf("who comes now: %v", err)
			}
		})
	})
	t.Run("other ID", func(t *testing.T) {
		inBubble(t, nil, func(st *streamTest) {
			t := st.t
			ended(st)
			b := st.join("99")
			b.expect()
			up := st.source.accept()
			if up.lastEventID != "99" {
				t.Errorf("opened with %q, expected the client's", up.lastEventID)
			}
			up.open()
			up.numbered("100")
			b.expect(numbered("100"))
			st.expectStreams(1)
		})
	})
	t.Run("ID of another life", func(t *testing.T) {
		inBubble(t, func(o *Options) { o.GapEvent = "gap" }, func(st *streamTest) {
			t := st.t
			ended(st)
			id := replay.IDPrefix + strings.Repeat("0", 32) + ".5"
			b := st.join(id)
			b.expectOutcome("gap")
			b.expect(toldGap("epoch", id, "null"), "\n", newcomer)
			if up := st.source.accept(); up.lastEventID != "" {
				t.Errorf("opened with %q", up.lastEventID)
			}
		})
	})
	t.Run("too late", func(t *testing.T) {
		inBubble(t, nil, func(st *streamTest) {
			t := st.t
			a := ended(st)
			time.Sleep(time.Nanosecond)
			st.expectStreams(0)
			b := st.join("1")
			b.expectOutcome("spliced")
			if b.sub.stream == a.sub.stream {
				t.Error("the same stream")
			}
			if up := st.source.accept(); up.lastEventID != "1" {
				t.Errorf("opened with %q", up.lastEventID)
			}
		})
	})
}

// Who is still being given the end of a stream does not keep it from going on,
// and is not kept by it.
func TestCleanEndAndReturn(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		slow := st.join("")
		up.numbered("1", "2")
		up.close()
		a.expectEnd(EndUpstream, newcomer, numbered("1", "2"))
		a.leave()
		b := st.join("2")
		b.expectOutcome("replayed; events=0")
		up = st.source.acceptOpen()
		slow.expectEnd(EndUpstream, newcomer, numbered("1", "2"))
		slow.leave()
		up.numbered("3")
		b.expect(primed("2"), numbered("3"))
	})
}

// Nobody waits when a clean end comes.
func TestCleanEndWhileLingering(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		t := st.t
		a, up := st.start()
		up.numbered("1", "2")
		a.leave()
		time.Sleep(time.Second)
		up.close()
		b := st.join("1")
		b.expect(primed("1"), numbered("2"))
		if up = st.source.accept(); up.lastEventID != "2" {
			t.Errorf("opened with %q", up.lastEventID)
		}
		b.leave()
		time.Sleep(DefaultLinger)
		up.expectGone(true)
		st.expectStreams(0)
	})
}

func TestStreamsByKey(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		t := st.t
		a, up := st.start()
		st.key[0] = 1
		b, other := st.start()
		up.event("1")
		other.event("2")
		a.expect(newcomer, given("1", "1"))
		b.expect(newcomer, given("1", "2"))
		st.expectStreams(2)
		// An ID is looked up in the own stream only.
		if c := st.join(a.id(1)); !strings.HasPrefix(c.sub.Outcome(), "gap") {
			t.Errorf("an ID of another stream: %s", c.sub.Outcome())
		}
	})
}

// A slow client is given the bytes at a clean end before what the stream's next life
// brings.
func TestTailComesBeforeTheNextLife(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		slow := st.join("")
		up.numbered("1")
		_ = up.send("data: half\n")
		up.close()
		a.read()
		a.leave()
		b := st.join("1")
		up = st.source.acceptOpen()
		up.numbered("2", "3")
		_ = b
		slow.expectEnd(EndUpstream, newcomer, numbered("1"), "data: half\n")
	})
}

func TestTailComesAlsoAfterAReturn(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		slow := st.join("")
		up.numbered("1", "2")
		if err := up.send("data: tail"); err != nil {
			st.t.Fatal(err)
		}
		up.close()
		a.expectEnd(EndUpstream, newcomer, numbered("1", "2"), "data: tail")
		a.leave()
		st.join("2")
		st.source.acceptOpen().numbered("3")
		slow.expectEnd(EndUpstream, newcomer, numbered("1", "2"), "data: tail")
	})
}
