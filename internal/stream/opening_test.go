package stream

import (
	"errors"
	"testing"
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
		{"left at once", func(*streamTest, *fakeConn) {}, leastLinger},
		{"only comments came", func(_ *streamTest, up *fakeConn) { _ = up.send(": hello\n\n") }, leastLinger},
		{"an event came", func(_ *streamTest, up *fakeConn) { up.event("1") }, DefaultLinger},
		{"another client came", func(st *streamTest, _ *fakeConn) { st.join("").leave() }, DefaultLinger},
		{"was there for a while", func(*streamTest, *fakeConn) { time.Sleep(10 * time.Second) }, 10 * time.Second},
		{"was there for long", func(*streamTest, *fakeConn) { time.Sleep(time.Hour) }, DefaultLinger},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, nil, func(st *streamTest) {
				a, up := st.start()
				test.before(st, up)
				a.leave()
				time.Sleep(test.lingers - 1)
				up.expectGone(false)
				time.Sleep(time.Nanosecond)
				up.expectGone(true)
				st.expectStreams(0)
			})
		})
	}
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
