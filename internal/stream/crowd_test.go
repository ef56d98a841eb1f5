package stream

import (
	"fmt"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestCrowdIsToldOnce(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	h := NewHub()
	inst := h.Register("test", t)
	options := testOptions()
	var subs []*Subscriber
	for i := range 3 * crowdSize {
		parts := []Part{
			{"place", "test"},
			{"path", "/events"},
			{"query", fmt.Sprintf("a=1&_=%d", i)},
			{"header Cookie", fmt.Sprint("session=", i/2)},
			{"header X-New-Trace", fmt.Sprint("trace=", i)},
			{"header Origin", "https://example.com"},
		}
		sub, err := h.Join(&Request{
			Key: h.Key(parts), Parts: parts, Instance: inst, Options: options, Logger: zap.New(core),
			Source: func(bool) Source { return simSource{u: newSim()} },
		})
		if err != nil {
			t.Fatal(err)
		}
		subs = append(subs, sub)
		if i == crowdSize-1 && logs.Len() > 0 {
			t.Fatalf("told at %d streams: %v", i+1, logs.All())
		}
	}
	told := logs.FilterMessageSnippet("one subscriber each").All()
	if len(told) != 1 {
		t.Fatalf("told %d times", len(told))
	}
	fields := told[0].ContextMap()
	if got := fmt.Sprint(fields["kept_apart_by"]); got != "[header Cookie header X-New-Trace query _]" {
		t.Errorf("kept apart by %s", got)
	}
	if got := fmt.Sprint(fields["never_twice"]); got != "[header X-New-Trace query _]" {
		t.Errorf("never the same twice: %s", got)
	}
	option := fmt.Sprint(fields["option"])
	for _, want := range []string{"key_ignore query _", "key_ignore header X-New-Trace", "share cookies", "share public"} {
		if !strings.Contains(option, want) {
			t.Errorf("option %q does not name %q", option, want)
		}
	}
	if text := fmt.Sprint(told[0]); strings.Contains(text, "session=") || strings.Contains(text, "trace=") {
		t.Errorf("a cookie is shown: %s", text)
	}
	for _, sub := range subs {
		sub.Leave()
	}
	for _, s := range h.Every() {
		s.drain(0, EndStopping)
	}
	h.running.Wait()
	if len(h.crowds) > 0 || len(h.streams) > 0 {
		t.Errorf("%d paths and %d keys are left", len(h.crowds), len(h.streams))
	}
}
