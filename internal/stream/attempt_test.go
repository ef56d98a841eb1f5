package stream

import (
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// An upstream that was lost and does not answer, one of several that is frozen,
// say, is asked again.
func TestAttemptThatHangs(t *testing.T) {
	inBubble(t, func(o *Options) { o.GiveUp = time.Hour }, func(st *streamTest) {
		t := st.t
		a, up := st.start()
		up.numbered("1")
		up.breakOff()
		before := countsNow()
		hung := st.source.accept()
		synctest.Wait()
		if states := st.hub.Census().States; states[StateWaiting] != 1 || states[StateOpening] != 0 {
			t.Errorf("states %v: the upstream is lost, whatever is under way", states)
		}
		next := st.source.acceptOpen()
		hung.expectGone(true)
		if took := next.at.Sub(hung.at); took < AttemptTime || took > AttemptTime+2*time.Second {
			t.Errorf("the next attempt came after %v", took)
		}
		next.numbered("2")
		a.expect(newcomer, numbered("1", "2"))
		if n := countsNow().since(before)["upstream_connections_ended_total result=stalled"]; n != 1 {
			t.Errorf("%v connections counted as stalled", n)
		}
		// Once there is a head, it may say nothing for as long as it likes.
		time.Sleep(10 * AttemptTime)
		next.expectGone(false)
	})
}

// An application that sends its head with its first event is not slow: it has
// nothing to say. Another attempt is made, but at once, and not before it has had
// twice the time that it took before.
func TestAttemptOfALateHead(t *testing.T) {
	inBubble(t, func(o *Options) { o.GiveUp = time.Hour }, func(st *streamTest) {
		st.join("")
		up := st.source.accept()
		const late = time.Minute
		time.Sleep(late)
		up.open()
		up.numbered("1")
		up.breakOff()
		for range 10 {
			hung := st.source.accept()
			time.Sleep(time.Until(hung.at.Add(2*late - time.Second)))
			hung.expectGone(false)
			time.Sleep(time.Second + defaultReconnectionTime)
			hung.expectGone(true)
			if len(st.source.conns) != 1 {
				st.t.Fatal("nobody listens")
			}
		}
		st.source.acceptOpen()
	})
}

// The time of an attempt counts against give_up.
func TestAttemptsThatHangAreGivenUp(t *testing.T) {
	for _, giveUp := range []time.Duration{3 * time.Second, 10 * time.Minute} {
		inBubble(t, func(o *Options) { o.GiveUp = giveUp }, func(st *streamTest) {
			a, up := st.start()
			up.numbered("1")
			a.read()
			up.breakOff()
			time.Sleep(giveUp - time.Second)
			if a.read(); a.end != "" {
				st.t.Fatalf("give_up %v: ended early: %s", giveUp, a.end)
			}
			time.Sleep(time.Second + maxReconnectDelay)
			a.expectEnd(endGaveUp)
			for len(st.source.conns) > 0 {
				<-st.source.conns
			}
		})
	}
}

// So is a connection to a new configuration's upstream, while the old one goes on.
func TestSuccessorThatHangs(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		up.numbered("1")
		st.reload()
		hung := st.source.accept()
		next := st.source.acceptOpen()
		hung.expectGone(true)
		up.expectGone(false)
		up.numbered("2")
		next.numbered("2", "3")
		a.expect(newcomer, numbered("1", "2", "3"))
	})
}

// And the later ones of a splice.
func TestSpliceAttemptThatHangs(t *testing.T) {
	inBubble(t, func(o *Options) { o.Join = joinAuto; o.SpliceTimeout = time.Hour; o.GiveUp = time.Hour }, func(st *streamTest) {
		_, up := st.start()
		up.numbered("1")
		b := st.join("")
		splice := st.source.acceptOpen()
		splice.numbered("hello")
		splice.breakOff()
		hung := st.source.accept()
		next := st.source.acceptOpen()
		hung.expectGone(true)
		next.numbered("again")
		b.expect(numbered("hello", "again"))
	})
}

// Handlers that do not return when their upstream connection is given up hold
// the stream up no longer, and cannot bring it anything.
func TestHandlersThatDoNotReturn(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		t := st.t
		st.source.deaf.Store(true)
		a, old := st.start()
		old.numbered("1")
		late := func(do func()) {
			done := make(chan struct{})
			old.do <- func() { do(); close(done) }
			<-done
		}
		old.conn.Cancel(upstreams.ErrStalled)
		next := st.source.acceptOpen()
		if took := next.at.Sub(old.at); took > upstreams.ReturnTime+2*time.Second {
			t.Errorf("the next connection was opened after %v", took)
		}
		next.numbered("2")
		late(func() {
			if _, err := old.conn.Write([]byte("data: late\n\n")); !errors.Is(err, ErrStreamOver) {
				t.Errorf("a late write: %v", err)
			}
			old.conn.Opened(&upstreams.Head{Header: http.Header{"X": {"late"}}}, nil)
		})
		next.numbered("3")
		a.expect(newcomer, numbered("1", "2", "3"))
		if a.sub.stream.head.Header.Get("X") != "" {
			t.Error("a late head was taken")
		}
		a.leave()
		time.Sleep(DefaultLinger + 2*upstreams.ReturnTime)
		st.hub.running.Wait() // nobody waits for them
		for _, c := range []*fakeConn{old, next} {
			c.finish(upstreams.Ending{Events: true, Err: errReset})
		}
	})
}

// A session that such handlers are given in the end is nobody's: the stream has
// another connection.
func TestLateEndpointOfHandlersThatDoNotReturn(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		st.source.deaf.Store(true)
		a, old := st.start()
		b := st.join("")
		old.conn.Cancel(upstreams.ErrStalled)
		next := st.source.acceptOpen()
		done := make(chan error)
		old.do <- func() {
			_, err := old.conn.Write([]byte("event: endpoint\ndata: /late\n\n"))
			done <- err
		}
		if err := <-done; !errors.Is(err, ErrStreamOver) {
			st.t.Errorf("a late write: %v", err)
		}
		next.numbered("1")
		a.expect(newcomer, numbered("1"))
		b.expect(newcomer, numbered("1"))
		for _, c := range []*fakeConn{old, next} {
			c.finish(upstreams.Ending{Events: true, Err: errReset})
		}
	})
}
