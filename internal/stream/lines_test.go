package stream

import (
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-sse/caddy-sse/internal/logs"
)

// expectLines checks how often a line was written, and how often it was caused.
func expectLines(t *testing.T, observed *observer.ObservedLogs, message string, lines, all int) {
	t.Helper()
	time.Sleep(logs.Interval)
	synctest.Wait()
	entries := observed.FilterMessage(message).All()
	caused := 0
	for _, entry := range entries {
		caused += 1 + int(entry.ContextMap()["suppressed"].(int64))
	}
	if len(entries) != lines || caused != all {
		t.Errorf("%q: %d lines for %d, expected %d for %d", message, len(entries), caused, lines, all)
	}
}

// Clients that come with stale ids, all at once.
func TestGapLinesAreThrottled(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		_, up := st.start()
		up.event("1")
		for range 100 {
			st.join("sse1.0123456789abcdef0123456789abcdef.7").leave()
		}
		expectLines(st.t, st.logs, "client missed events", 2, 100)
	})
}

// A slow client that is told of gap after gap.
func TestLagLinesAreThrottled(t *testing.T) {
	inBubble(t, func(o *Options) {
		o.Buffer.Events, o.LagSkip, o.GapEvent = 1, true, "gap"
	}, func(st *streamTest) {
		a, up := st.start()
		for i := range 50 {
			up.event(strconv.Itoa(i), "next")
			a.read()
		}
		expectLines(st.t, st.logs, "client missed events", 2, 50)
	})
}

// An upstream that breaks each time that it is reached, which is at once.
func TestUpstreamLinesAreThrottled(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		a, up := st.start()
		for range 100 {
			up.event("x")
			up.breakOff()
			a.sub.stream.hurryUp()
			up = st.source.acceptOpen()
		}
		for _, message := range []string{
			"upstream lost: trying again", "upstream recovered",
			"possible gap: reconnected to an upstream that gives no event IDs",
		} {
			expectLines(st.t, st.logs, message, 2, 100)
		}
	})
}

// Clients that come with an ID each which the upstream refuses: each opens a
// splice, whose lines are throttled with those of the others.
func TestSpliceLinesAreThrottled(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		_, up := st.start()
		up.numbered("1", "2")
		for i := range 50 {
			r := st.join("x" + strconv.Itoa(i))
			st.source.accept().answer(http.StatusInternalServerError, 0)
			synctest.Wait()
			r.leave()
		}
		time.Sleep(logs.Interval)
		synctest.Wait()
		told := st.logs.Filter(func(e observer.LoggedEntry) bool { return e.Level >= zap.WarnLevel })
		if told.Len() > 2 {
			t.Errorf("%d lines for 50 clients: %v", told.Len(), told.All()[:3])
		}
	})
}

// How long the upstream was lost and what was missed is told when it is back.
func TestRecoveredLine(t *testing.T) {
	inBubble(t, nil, func(st *streamTest) {
		t := st.t
		st.join("")
		_, up := st.start()
		up.numbered("1", "2")
		began := time.Now()
		up.breakOff()
		for range 3 {
			st.source.accept().answer(http.StatusBadGateway, 5*time.Second)
		}
		up = st.source.acceptOpen()
		took := time.Since(began)
		if took < 15*time.Second {
			t.Fatalf("recovered after %v", took)
		}
		expectFields := func(times int, want map[string]any) {
			t.Helper()
			time.Sleep(logs.Interval)
			entries := st.logs.FilterMessage("upstream recovered").All()
			if len(entries) != times {
				t.Fatalf("logged %d times", len(entries))
			}
			for name, value := range want {
				if got := entries[times-1].ContextMap()[name]; got != value {
					t.Errorf("%s: %v, expected %v", name, got, value)
				}
			}
		}
		expectFields(1, map[string]any{
			"after": took, "attempts": int64(4), "resumed": true, "missed": missedRequested, "last_event_id": "2",
			"subscribers": int64(2), "suppressed": int64(0),
		})

		// Not counted from when it was lost before.
		up.numbered("3")
		time.Sleep(time.Hour)
		began = time.Now()
		if err := up.send("id\ndata: x\n\n"); err != nil { // no id to go on from
			t.Fatal(err)
		}
		up.breakOff()
		st.source.acceptOpen()
		took = time.Since(began)
		expectFields(2, map[string]any{
			"after": took, "attempts": int64(1), "resumed": false, "missed": missedUnknown, "last_event_id": "",
		})
	})
}

// stuckOutput takes a line when it is let.
type stuckOutput struct {
	reached chan struct{}
	release chan struct{}
}

func (s stuckOutput) Write(p []byte) (int, error) {
	select {
	case s.reached <- struct{}{}:
	default:
	}
	<-s.release
	return len(p), nil
}

func (stuckOutput) Sync() error { return nil }

// A log that takes no line keeps nobody from joining.
func TestStuckLogHoldsNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := stuckOutput{make(chan struct{}, 1), make(chan struct{})}
		logger := logs.Queued(zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{}), sink, zapcore.InfoLevel)))
		h := NewHub()
		inst := h.Register("place", "server")
		options := testOptions()
		for i := range 3 {
			src := &fakeSource{t: t, conns: make(chan *fakeConn, 1)}
			sub, err := h.Join(&Request{
				Key: Key{byte(i)}, Instance: inst, LastEventID: "sse1.0123456789abcdef0123456789abcdef.7", Options: options,
				Source: func(bool) Source { return src }, Logger: logger,
			})
			if err != nil {
				t.Fatal(err)
			}
			sub.TellGap()
			sub.Leave()
			if i == 0 {
				<-sink.reached
			}
		}
		logs.Flush() // which does not wait for ever
		close(sink.release)
		h.EndAll()
		h.running.Wait()
		time.Sleep(2 * logs.Interval)
	})
}
