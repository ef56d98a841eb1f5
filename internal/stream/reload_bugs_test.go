package stream

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// and leaves the old one as it is.
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
func TestReloadLateRequest(t *testing.T) {
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
func TestReloadExclusive(t *testing.T) {
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

// connection of the old one is the right one.
func TestReloadFailed(t *testing.T) {
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

// and refuses the request because of that.
func TestReloadReplacedWhileLooking(t *testing.T) {
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
func TestReloadClientComesWhileLooking(t *testing.T) {
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
func TestReloadBrokenSplice(t *testing.T) {
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
func TestReloadBreaksSplice(t *testing.T) {
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
func TestReloadWakesWaiting(t *testing.T) {
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

// whether it might join that. Each client that comes back finds its own.
func TestReloadTwoStreamsOfAKey(t *testing.T) {
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
