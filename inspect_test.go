package caddysse

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
		seen, ok := s.sample(now)
		if want := (lagInfo{Blocks: 2, Seconds: 5}); !ok || seen.lag != want {
			t.Errorf("lag of the stream %+v", seen.lag)
		}
		lags := map[lagInfo]int{}
		for _, c := range s.sampleSubscribers(now) {
			lags[c.lag]++
		}
		if len(lags) != 2 || lags[lagInfo{}] != 1 {
			t.Errorf("lags %v", lags)
		}
		slow.read()
		if seen, _ := s.sample(now); seen.lag != (lagInfo{}) || seen.sent != 4 {
			t.Errorf("after both have read: %+v", seen)
		}
	})
}

// A tail that is too slow is told what it missed; the stream does not wait.
func TestTailMisses(t *testing.T) {
	inBubble(t, func(o *streamOptions) { o.buffer.Events = 3 }, func(st *streamTest) {
		t := st.t
		r, up := st.start()
		s := r.sub.home
		slow := newTail(s.watch(), 10, "")
		up.event(counting(1, 10)...)
		blocks, missed, wake, over := slow.next()
		if len(blocks) != 3 || missed == nil || *missed != (missedEvent{From: 1, To: 7}) || wake != nil || over {
			t.Errorf("%d blocks, missed %v", len(blocks), missed)
		}
		if resumed := newTail(s.watch(), 10, fmt.Sprintf("%d.8", s.number)); resumed.cursor != 8 {
			t.Errorf("goes on after %d", resumed.cursor)
		}
		for _, id := range []string{fmt.Sprintf("%d.11", s.number), fmt.Sprintf("%d.8", s.number+1), "8", ".", "x.8"} {
			if fresh := newTail(s.watch(), 1, id); fresh.cursor != 9 {
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
		early := newTail(s.watch(), 10, "")
		_, _, wake, over := early.next()
		if over {
			t.Fatal("over before there is an answer")
		}
		up.answer(http.StatusNotFound, 0)
		<-wake
		if _, _, _, over = early.next(); !over {
			t.Error("not over")
		}
	})
}

// An ID of the gateway proves that its owner was a client: the log has not all of
// it.
func TestLogKeepsEpochs(t *testing.T) {
	inBubble(t, func(o *streamOptions) { o.buffer.Events, o.lagSkip, o.gapEvent = 2, true, "gap" }, func(st *streamTest) {
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
