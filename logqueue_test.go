package caddysse

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// stuckSink takes a line when it is let.
type stuckSink struct {
	reached chan struct{}
	release chan struct{}
}

func (s stuckSink) Write(p []byte) (int, error) {
	select {
	case s.reached <- struct{}{}:
	default:
	}
	<-s.release
	return len(p), nil
}

func (stuckSink) Sync() error { return nil }

// A log that takes no line keeps nobody from joining.
func TestStuckLogHoldsNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := stuckSink{make(chan struct{}, 1), make(chan struct{})}
		logger := queuedLogger(zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{}), sink, zapcore.InfoLevel)))
		h := newHub()
		inst := h.register("place", "server")
		options := new(Handler).streamOptions()
		for i := range 3 {
			src := &fakeSource{t: t, conns: make(chan *fakeConn, 1)}
			sub, err := h.join(&joinRequest{
				key: streamKey{byte(i)}, instance: inst, lastEventID: "sse1.0123456789abcdef0123456789abcdef.7", options: options,
				varies: func([]string) string { return "" }, source: func(bool) source { return src }, logger: logger,
			})
			if err != nil {
				t.Fatal(err)
			}
			sub.tellGap()
			sub.detach()
			if i == 0 {
				<-sink.reached
			}
		}
		theLogQueue.flush() // which does not wait for ever
		close(sink.release)
		h.endAll()
		h.running.Wait()
		time.Sleep(2 * throttleInterval)
	})
}

// Lines keep their order, fields and time.
func TestLogQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		log := queuedLogger(zap.New(core)).With(zap.String("of", "all"))
		log.Debug("not enabled")
		began := time.Now()
		for i := range 100 {
			log.Info("line", zap.Int("number", i))
			time.Sleep(time.Millisecond)
		}
		theLogQueue.flush()
		all := logs.All()
		if len(all) != 100 {
			t.Fatalf("%d lines", len(all))
		}
		for i, line := range all {
			if want := map[string]any{"of": "all", "number": int64(i)}; fmt.Sprint(line.ContextMap()) != fmt.Sprint(want) {
				t.Errorf("line %d: %v", i, line.ContextMap())
			}
			if at := line.Time.Sub(began); at != time.Duration(i)*time.Millisecond {
				t.Errorf("line %d is of %v", i, at)
			}
		}
	})
}

// Lines that a slow log has no room for are counted.
func TestLogQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := stuckSink{make(chan struct{}, 1), make(chan struct{})}
		var queue logQueue
		core, logs := observer.New(zap.InfoLevel)
		stuck := zapcore.NewTee(core, zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{}), sink, zapcore.InfoLevel))
		line := logLineEntry{core: stuck, entry: zapcore.Entry{Message: "line"}}
		queue.add(line)
		<-sink.reached
		for range maxQueuedLines + 7 {
			queue.add(line)
		}
		close(sink.release)
		synctest.Wait()
		dropped := logs.Filter(func(e observer.LoggedEntry) bool { return strings.HasPrefix(e.Message, "log lines were dropped") }).All()
		if n := logs.FilterMessage("line").Len(); n != maxQueuedLines+1 || len(dropped) != 1 || dropped[0].ContextMap()["dropped"] != int64(7) {
			t.Errorf("%d lines; %v", n, dropped)
		}
	})
}
