package logs

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

// Lines keep their order, fields and time.
func TestLogQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		log := Queued(zap.New(core)).With(zap.String("of", "all"))
		log.Debug("not enabled")
		began := time.Now()
		for i := range 100 {
			log.Info("line", zap.Int("number", i))
			time.Sleep(time.Millisecond)
		}
		Flush()
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
		var queue queue
		core, logs := observer.New(zap.InfoLevel)
		stuck := zapcore.NewTee(core, zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{}), sink, zapcore.InfoLevel))
		line := queuedLine{core: stuck, entry: zapcore.Entry{Message: "line"}}
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
