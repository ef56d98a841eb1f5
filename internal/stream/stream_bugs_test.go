package stream

import (
	"encoding/binary"
	"strings"
	"testing"
	"time"
)

func TestBugExclusiveNobodyThere(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		a.leave()
		if err := up.send("event: endpoint\ndata: /messages?session=1\n\n"); err == nil {
			st.t.Error("the connection goes on")
		}
		up.expectGone(true)
		st.expectStreams(0)
	})
}

func TestBugRenumberedLastID(t *testing.T) {
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

func TestBugTailAfterReturn(t *testing.T) {
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

func TestBugGiveUpCountsConnectedTime(t *testing.T) {
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

func BenchmarkMarkUnshareable(b *testing.B) {
	h := NewHub()
	var key Key
	i := uint64(0)
	mark := func() {
		i++
		binary.LittleEndian.PutUint64(key[:], i)
		h.markUnshareable(key, unshareableTime, Private{})
	}
	for range maxUnshareable {
		mark()
	}
	for b.Loop() {
		mark()
	}
}

var _ = strings.Repeat
