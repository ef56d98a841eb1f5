package stream

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/logs"
)

func TestAdminTellsLag(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		t := st.t
		slow, up := st.start()
		fast := st.join("")
		up.event("1")
		time.Sleep(3 * time.Second)
		up.event("2")
		time.Sleep(2 * time.Second)
		fast.read()
		s := slow.sub.home
		now := time.Now()
		seen, ok := s.Sample(now)
		if want := (LagInfo{Blocks: 2, Seconds: 5}); !ok || seen.Lag != want {
			t.Errorf("lag of the stream %+v", seen.Lag)
		}
		lags := map[LagInfo]int{}
		for _, c := range s.SampleSubscribers(now) {
			lags[c.Lag]++
		}
		if len(lags) != 2 || lags[LagInfo{}] != 1 {
			t.Errorf("lags %v", lags)
		}
		slow.read()
		if seen, _ := s.Sample(now); seen.Lag != (LagInfo{}) || seen.Sent != 4 {
			t.Errorf("after both have read: %+v", seen)
		}
	})
}

// A tail that is too slow is told what it missed; the stream does not wait.
func TestTailMisses(t *testing.T) {
	inBubble(t, func(o *Options) { o.Buffer.Events = 3 }, func(st *streamTest) {
		t := st.t
		r, up := st.start()
		s := r.sub.home
		slow := NewTail(s, 10, "")
		up.event(counting(1, 10)...)
		blocks, missed, wake, over := slow.Next()
		if len(blocks) != 3 || missed == nil || *missed != (Missed{From: 1, To: 7}) || wake != nil || over {
			t.Errorf("%d blocks, missed %v", len(blocks), missed)
		}
		if resumed := NewTail(s, 10, fmt.Sprintf("%d.8", s.number)); resumed.cursor != 8 {
			t.Errorf("goes on after %d", resumed.cursor)
		}
		for _, id := range []string{fmt.Sprintf("%d.11", s.number), fmt.Sprintf("%d.8", s.number+1), "8", ".", "x.8"} {
			if fresh := NewTail(s, 1, id); fresh.cursor != 9 {
				t.Errorf("with the ID %q it goes on after %d", id, fresh.cursor)
			}
		}
	})
}

// The tail of a stream that never came about ends.
func TestTailOfRefused(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		t := st.t
		s := st.join("").sub.home
		up := st.source.accept()
		early := NewTail(s, 10, "")
		_, _, wake, over := early.Next()
		if over {
			t.Fatal("over before there is an answer")
		}
		up.answer(http.StatusNotFound, 0)
		<-wake
		if _, _, _, over = early.Next(); !over {
			t.Error("not over")
		}
	})
}

// An ID of the gateway proves that its owner was a client: the log has not all of
// it.
func TestLogKeepsEpochs(t *testing.T) {
	inBubble(t, func(o *Options) { o.Buffer.Events, o.LagSkip, o.GapEvent = 2, true, "gap" }, func(st *streamTest) {
		slow, up := st.start()
		up.event("1", "2", "3", "4", "5")
		s := slow.sub.home
		st.join("sse1." + s.epoch + ".1")
		time.Sleep(logs.Interval)
		slow.read()
		time.Sleep(logs.Interval)
		lines := st.logs.FilterMessage("client missed events").All()
		if len(lines) != 2 {
			st.t.Errorf("%d lines", len(lines))
		}
		for _, line := range lines {
			if id := fmt.Sprint(line.ContextMap()["last_event_id"]); !strings.HasPrefix(id, "sse1."+s.epoch[:8]+"….") {
				st.t.Errorf("last_event_id %q", id)
			}
		}
	})
}
