package stream

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

func TestMaxSubscribers(t *testing.T) {
	inBubble(t, func(o *Options) { o.MaxSubscribers = 2 }, func(st *streamTest) {
		t := st.t
		a, up := st.start()
		b := st.join("")
		if _, err := st.tryJoin(""); !errors.Is(err, ErrTooManySubscribers) {
			t.Errorf("the third: %v", err)
		}
		up.event("1") // the others go on
		b.expect(newcomer, given("1", "1"))
		b.leave()
		st.join("")
		a.expect(newcomer, given("1", "1"))
		st.expectStreams(1)
	})
}

func TestMaxStreams(t *testing.T) {
	inBubble(t, func(o *Options) { o.MaxStreams = 2 }, func(st *streamTest) {
		t := st.t
		a, _ := st.start()
		st.key[0] = 1
		_, second := st.start()
		st.key[0] = 2
		if _, err := st.tryJoin(""); !errors.Is(err, errTooManyStreams) {
			t.Errorf("the third: %v", err)
		}
		st.source.expectNone()
		st.key[0] = 0
		st.join("") // a stream that there is
		st.key[0] = 2
		// One that is over makes room, whatever it ended of.
		second.close()
		if _, err := st.tryJoin(""); !errors.Is(err, errTooManyStreams) {
			t.Errorf("one lingers: %v", err)
		}
		st.readers[1].expectEnd(EndUpstream, newcomer)
		st.readers[1].leave()
		time.Sleep(DefaultLinger)
		st.expectStreams(1)
		if _, err := st.tryJoin(""); err != nil {
			t.Errorf("one is over: %v", err)
		}
		// Another handler has its own count.
		st.instance = st.hub.Register("other place", "server")
		st.key[0] = 3
		if _, err := st.tryJoin(""); err != nil {
			t.Errorf("another handler: %v", err)
		}
		_ = a
	})
}

func TestMaxAge(t *testing.T) {
	const age = 100 * time.Second
	inBubble(t, func(o *Options) { o.MaxAge = age }, func(st *streamTest) {
		t := st.t
		const clients = 200
		_, up := st.start()
		for range clients - 1 {
			st.join("")
		}
		began := time.Now()
		leave := map[int]int{} // by tenth of the age
		for left := 0; left < clients; {
			time.Sleep(time.Second / 2)
			up.event("1")
			for _, r := range st.readers {
				if r.left {
					continue
				}
				text := r.read()
				if r.end == "" {
					continue
				}
				if r.end != EndMaxAge || (text != "" && !strings.HasSuffix(text, "\n\n")) {
					t.Fatalf("end %q after %q", r.end, text)
				}
				r.leave()
				left++
				leave[int(10*time.Since(began)/age)]++
			}
			if time.Since(began) > age {
				t.Fatalf("%d are left after max_age", clients-left)
			}
		}
		for tenth, n := range leave {
			if tenth < 8 || tenth > 10 {
				t.Errorf("%d left at %d %%", n, 10*tenth)
			}
		}
		if leave[8] < clients/4 || leave[9] < clients/4 {
			t.Errorf("by tenth of the age: %v", leave)
		}
	})
}

// The end by age comes with a new reconnection time.
func TestMaxAgeRetry(t *testing.T) {
	set := func(o *Options) { o.MaxAge, o.RetryMin, o.RetryMax = time.Minute, time.Second, time.Second }
	inBubble(t, set, func(st *streamTest) {
		a, up := st.start()
		a.expect("retry: 1000\nid: sse1.E.0\n\n")
		time.Sleep(time.Minute)
		a.expectEnd(EndMaxAge, "retry: 1000\n\n")
		up.expectGone(false)
	})
}

func TestMaxEventSize(t *testing.T) {
	set := func(o *Options) { o.MaxEventSize = 100 }
	large := "data: " + strings.Repeat("x", 100) + "\n\n"
	oversized := func(t *testing.T, up *fakeConn) {
		t.Helper()
		err := up.send(large)
		if !errors.Is(err, eventstream.ErrBlockTooLarge) || !strings.Contains(err.Error(), "100") {
			t.Fatalf("error %v, expected one that names the limit", err)
		}
		up.fail(err)
	}
	inBubble(t, set, func(st *streamTest) {
		t := st.t
		a, up := st.start()
		up.event("1")
		oversized(t, up) // one is a break
		up = st.source.acceptOpen()
		up.event("2")
		oversized(t, up) // not in a row
		up = st.source.acceptOpen()
		if err := up.send(":\n\n"); err != nil {
			t.Fatal(err)
		}
		a.expect(newcomer, given("1", "1"), given("2", "2"), ":\n\n")
		oversized(t, up)
		time.Sleep(DefaultDrain)
		a.expectEnd(EndOversized)
		if st.logged("upstream sends blocks over max_event_size") != 1 {
			t.Error("nothing was logged")
		}
		st.source.expectNone()
		a.leave()
		st.expectStreams(0)
	})
	inBubble(t, set, func(st *streamTest) {
		t := st.t
		a, up := st.start()
		if err := up.send("data: " + strings.Repeat("x", 94) + "\n\n"); err == nil {
			// 100 bytes and the LF of the line
			t.Log("the line's end does not count")
		}
		_ = a
	})
}

// An upstream that gives each connection a session of its own.
func TestExclusive(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		t := st.t
		a, up := st.start()
		b, c := st.join(""), st.join("")
		if err := up.send(": comments do not count\n\nevent: endpoint\ndata: /messages?session=1\n\n"); err != nil {
			t.Fatal(err)
		}
		b.expectEnd(EndPerClient) // and nothing of another's session
		c.expectEnd(EndPerClient)
		a.expect(newcomer, ": comments do not count\n\n", "event: endpoint\ndata: /messages?session=1\n\n")
		b.leave()
		c.leave()
		time.Sleep(time.Hour)
		up.expectGone(false)
		if _, err := st.tryJoin(""); !errors.Is(err, ErrUnshareable) {
			t.Errorf("another asks: %v", err)
		}
		a.leave() // closing is cancelling
		up.expectGone(true)
		st.expectStreams(0)
	})
	// A break is not hidden: the session is gone.
	inBubble(t, nil, func(st *streamTest) {
		t := st.t
		a, up := st.start()
		if err := up.send("event: endpoint\ndata: /messages?session=1\n\n"); err != nil {
			t.Fatal(err)
		}
		up.breakOff()
		a.expectEnd(EndBroken, newcomer, "event: endpoint\ndata: /messages?session=1\n\n")
		time.Sleep(time.Hour)
		st.source.expectNone()
	})
	// Only the first block says so.
	inBubble(t, nil, func(st *streamTest) {
		t := st.t
		a, up := st.start()
		b := st.join("")
		if err := up.send("data: 1\n\nevent: endpoint\ndata: x\n\n"); err != nil {
			t.Fatal(err)
		}
		a.expect(newcomer, given("1", "1"), "event: endpoint\ndata: x\nid: sse1.E.2\n\n")
		b.expect(newcomer, given("1", "1"), "event: endpoint\ndata: x\nid: sse1.E.2\n\n")
	})
}

func TestUnshareableKeys(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		t := st.t
		a := st.join("")
		b := st.join("")
		st.source.accept().answer(http.StatusNotFound, 0)
		for _, r := range []*reader{a, b} {
			if h, err := r.sub.stream.verdict(); h != nil || !errors.Is(err, ErrUnshareable) {
				t.Errorf("verdict %v, %v", h, err)
			}
			r.leave()
		}
		st.expectStreams(0)
		time.Sleep(unshareableTime - 1)
		if _, err := st.tryJoin(""); !errors.Is(err, ErrUnshareable) {
			t.Errorf("before a minute: %v", err)
		}
		st.source.expectNone()
		time.Sleep(time.Nanosecond)
		st.join("")
		st.source.acceptOpen()

		// An answer to share makes it shareable before.
		st.hub.markUnshareable(st.key, unshareableTime, Private{})
		st.hub.Shareable(st.key)
		st.join("")
		// But not one for good.
		st.hub.markUnshareable(st.key, unshareableForever, Private{})
		st.hub.Shareable(st.key)
		if _, ok := st.hub.unshareable[st.key]; !ok {
			t.Error("forgotten for an answer to share")
		}
		clear(st.hub.unshareable)
	})
}

// The answer to a last event ID says nothing of the key: neither one to a splice, of
// a stream that is there, nor one to the first request.
func TestRefusedIDLeavesKeyShareable(t *testing.T) {
	for _, status := range []int{http.StatusBadRequest, http.StatusNoContent, http.StatusNotFound, http.StatusFound} {
		inBubble(t, auto(), func(st *streamTest) {
			a, up := st.start()
			up.event("1")
			time.Sleep(time.Minute)
			up.numbered("2")
			b := st.join("garbage")
			st.source.accept().answer(status, 0)
			b.expectEnd(EndPerClient) // it asks the upstream itself, and gets the answer
			b.leave()
			up.numbered("3")
			c := st.join("2")
			c.expectOutcome("replayed; events=1")
			c.expect(primed("2"), numbered("3"))
			a.expect(newcomer, given("1", "1"), numbered("2", "3"))
		})
		inBubble(t, nil, func(st *streamTest) {
			a := st.join("garbage")
			st.source.accept().answer(status, 0)
			a.leave()
			st.start()
			st.join("").expectOutcome(ResumeLive)
		})
	}
	// A stream that is there is joined, whatever was remembered since.
	inBubble(t, nil, func(st *streamTest) {
		_, up := st.start()
		up.event("1")
		st.hub.markUnshareable(st.key, unshareableTime, Private{})
		st.join("").expect(primed("sse1.E.1"))
	})
}

// Clients choose keys: what is remembered of them is bounded.
func TestUnshareableKeysAreBounded(t *testing.T) {
	h := NewHub()
	var key Key
	for i := range maxUnshareable + 20 {
		key[0], key[1], key[2] = byte(i), byte(i>>8), byte(i>>16)
		h.markUnshareable(key, unshareableTime, Private{})
	}
	if n := len(h.unshareable); n > maxUnshareable {
		t.Errorf("%d keys are remembered", n)
	}
	if _, ok := h.unshareable[key]; !ok {
		t.Error("the newest is not")
	}
}

func TestStop(t *testing.T) {
	inBubble(t, func(o *Options) { o.Drain = 10 * time.Second }, func(st *streamTest) {
		t := st.t
		a, up := st.start()
		b := st.join("")
		up.event("1")
		st.hub.Stop()
		up.event("2")
		time.Sleep(10 * time.Second)
		for _, r := range []*reader{a, b} {
			r.read()
			if r.end != EndStopping {
				t.Errorf("end %q", r.end)
			}
			r.leave()
		}
		up.expectGone(true)
		if _, err := st.tryJoin(""); !errors.Is(err, ErrStopping) {
			t.Errorf("a newcomer: %v", err)
		}
		st.expectStreams(0)
	})
}

// A configuration that is gone opens no connection.
func TestRetiredSource(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		st.source.retire.Store(true)
		up.numbered("2")
		up.breakOff()
		a.expect(newcomer, numbered("1", "2"))
		time.Sleep(time.Second)
		st.source.expectNone()
		// Who comes through the new one brings it.
		st.source = &fakeSource{t: st.t, conns: make(chan *fakeConn, 8)}
		st.instance = st.hub.Register("place", "next server")
		b := st.join("1")
		b.expectOutcome("replayed; events=1")
		if up = st.source.acceptOpen(); up.lastEventID != "2" {
			st.t.Errorf("opened with %q", up.lastEventID)
		}
		up.numbered("3")
		b.expect(primed("1"), numbered("2", "3"))
		a.expect(numbered("3"))
	})
}

// If nobody brings a new one, the clients are let go.
func TestRetiredSourceForGood(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		st.source.retire.Store(true)
		up.breakOff()
		a.expect(newcomer, numbered("1"))
		time.Sleep(upstreams.HandlersTime + time.Second)
		a.expectEnd(endReload)
		st.source.expectNone()
	})
}

// An endpoint event that comes when the only client has left.
func TestSessionWithoutAClientLeavesNothing(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		time.Sleep(time.Second) // which it lingers for
		a.leave()
		_ = up.send("event: endpoint\ndata: /x\n\n")
		time.Sleep(time.Hour)
		st.expectStreams(0)
	})
}

func TestSessionWithoutAClientEnds(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		time.Sleep(time.Second) // which it lingers for
		a.leave()
		if err := up.send("event: endpoint\ndata: /messages?session=1\n\n"); err == nil {
			st.t.Error("the connection goes on")
		}
		up.expectGone(true)
		st.expectStreams(0)
	})
}
