package stream

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A stream without a head and without anybody who waits for it ends at once.
func TestOpeningWithoutClients(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a := st.join("")
		hung := st.source.accept()
		b := st.join("")
		a.leave()
		hung.expectGone(false)
		b.leave()
		hung.expectGone(true)
		st.expectStreams(0)
	})
}

// Lingering is earned.
func TestLingering(t *testing.T) {
	for _, test := range []struct {
		name    string
		before  func(st *streamTest, up *fakeConn)
		lingers time.Duration
	}{
		{"was there for a moment", func(*streamTest, *fakeConn) { time.Sleep(lingerMoment - 1) }, 0},
		{"was there for a little longer", func(*streamTest, *fakeConn) { time.Sleep(lingerMoment) }, lingerMoment},
		{"only comments came", func(_ *streamTest, up *fakeConn) { time.Sleep(time.Second); _ = up.send(": hello\n\n") }, time.Second},
		{"an event came", func(_ *streamTest, up *fakeConn) { up.event("1") }, DefaultLinger},
		{"an id came without an event", func(_ *streamTest, up *fakeConn) { _ = up.send("id: 1\n\n") }, DefaultLinger},
		{"another client came", func(st *streamTest, _ *fakeConn) { st.join("").leave() }, DefaultLinger},
		{"was there for a while", func(*streamTest, *fakeConn) { time.Sleep(10 * time.Second) }, 10 * time.Second},
		{"was there for long", func(*streamTest, *fakeConn) { time.Sleep(time.Hour) }, DefaultLinger},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, nil, func(st *streamTest) {
				a, up := st.start()
				test.before(st, up)
				a.leave()
				if test.lingers > 0 {
					time.Sleep(test.lingers - 1)
					up.expectGone(false)
					time.Sleep(time.Nanosecond)
				}
				up.expectGone(true)
				st.expectStreams(0)
			})
		})
	}
}

// A slow application's head is no time in which a client was there: who leaves when it
// comes would have the gateway hold a connection for twice as long as it takes.
func TestWaitingForAHeadEarnsNothing(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a := st.join("")
		slow := st.source.accept()
		time.Sleep(10 * time.Second)
		slow.open()
		synctest.Wait()
		time.Sleep(lingerMoment - 1)
		a.leave()
		slow.expectGone(true)
		st.expectStreams(0)
	})
}

// Nor does a later head, after a break, take anything away.
func TestTimeBeforeABreakCounts(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		time.Sleep(10 * time.Second)
		up.breakOff()
		second := st.source.accept()
		second.open()
		synctest.Wait()
		stayed := time.Since(a.sub.Origin.stay.answered)
		a.leave()
		time.Sleep(stayed - 1)
		second.expectGone(false)
		time.Sleep(time.Nanosecond)
		second.expectGone(true)
	})
}

// Over max_streams, streams that only linger make room, the oldest first.
func TestMaxStreamsEndsLingering(t *testing.T) {
	inBubble(t, func(o *Options) { o.MaxStreams = 3 }, func(st *streamTest) {
		var conns []*fakeConn
		var clients []*reader
		for i := range 3 {
			st.key = Key{byte(i)}
			c, up := st.start()
			up.event("1")
			clients, conns = append(clients, c), append(conns, up)
		}
		st.key = Key{3}
		if _, err := st.tryJoin(""); !errors.Is(err, errTooManyStreams) {
			st.t.Errorf("while each has a client: %v", err)
		}
		for _, i := range []int{1, 0} {
			clients[i].leave()
			time.Sleep(time.Second)
		}
		for i, gone := range [][]bool{{false, true, false}, {true, true, false}} {
			st.key = Key{byte(10 + i)}
			st.start()
			for j, up := range conns {
				up.expectGone(gone[j])
			}
			st.expectStreams(3)
		}
		st.key = Key{20}
		if _, err := st.tryJoin(""); !errors.Is(err, errTooManyStreams) {
			st.t.Errorf("when none lingers any more: %v", err)
		}
	})
}

// Who asks for one thing after the other and leaves when it has an event holds no more
// than a bound of upstream connections; streams that others are in, or were in for as
// long as they linger, are not touched.
func TestChurnHoldsFewConnections(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		come := func(n int) (*reader, *fakeConn) {
			st.key = Key{byte(n), byte(n >> 8), byte(n >> 16)}
			return st.start()
		}
		used, _ := come(1 << 16)
		stayed, _ := come(1<<16 + 1)
		shared, _ := come(1<<16 + 2)
		st.join("").leave()
		time.Sleep(DefaultLinger)
		stayed.leave()
		shared.leave()
		before := Counts.GaveWay.With(gaveWayMany).Value()
		const churn = 5 * maxYoung
		for n := range churn {
			r, up := come(n)
			up.event("1")
			r.leave()
			synctest.Wait()
			if open := st.source.running.Load(); open > maxYoung+4 {
				t.Fatalf("%d upstream connections after %d clients", open, n+1)
			}
		}
		synctest.Wait()
		if open := st.source.running.Load(); open != maxYoung+3 {
			t.Errorf("%d upstream connections", open)
		}
		if ended := Counts.GaveWay.With(gaveWayMany).Value() - before; ended != churn-maxYoung {
			t.Errorf("%v were counted", ended)
		}
		// The newest linger, and those that come back find them.
		again := st.join("")
		if again.sub.Origin.arrivals != 2 {
			t.Error("the newest does not linger")
		}
		again.leave()
		time.Sleep(DefaultLinger)
		synctest.Wait()
		if open := st.source.running.Load(); open != 1 {
			t.Errorf("%d upstream connections at the end", open)
		}
		if left := len(st.hub.lingering.have) + st.hub.lingering.young.Len(); left != 0 {
			t.Errorf("%d are counted at the end", left)
		}
		used.leave()
	})
}

// Two clients for a moment are no more than one: what lingers is paid for with the time
// in which clients were there, and each time only once.
func TestLingeringIsPaidFor(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		come := func(n int) { st.key = Key{byte(n), byte(n >> 8)} }
		churn := func() {
			for n := range 2 * maxYoung {
				come(1 + n)
				r, up := st.start()
				up.event("1")
				st.join("").leave()
				r.leave()
			}
			synctest.Wait()
		}
		churn()
		if open := st.source.running.Load(); open != maxYoung {
			t.Errorf("%d upstream connections after pairs of clients", open)
		}
		time.Sleep(DefaultLinger)

		// Once it was there for linger, it comes for a moment in each.
		come(0)
		r, up := st.start()
		up.event("1")
		time.Sleep(DefaultLinger)
		r.leave()
		time.Sleep(DefaultLinger / 2)
		st.join("").leave()
		churn()
		if up.expectGone(true); st.hub.lingering.grown.Len() != 0 {
			t.Error("it lingers for a moment's time")
		}
	})
}

// Of a place with many streams that are used, the one that may go is found at once, and
// one that nobody can join is no place.
func TestMakePlaceOfStreamsNobodyCanJoin(t *testing.T) {
	inBubble(t, func(o *Options) { o.MaxStreams = 2 }, func(st *streamTest) {
		st.key = Key{1}
		a, first := st.start()
		first.event("1")
		st.hub.remove(a.sub.Origin) // as one that answers too late
		a.leave()
		for i := range 2 {
			st.key = Key{byte(2 + i)}
			b, up := st.start()
			up.event("1")
			b.leave()
			time.Sleep(time.Second)
		}
		st.key = Key{4}
		_, up := st.start()
		up.event("1")
		first.expectGone(true)
		st.expectStreams(2)
	})
}
