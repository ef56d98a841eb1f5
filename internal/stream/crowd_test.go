package stream

import (
	"fmt"
	"strings"
	"testing"

	"go.uber.org/zap"
)

// crowded opens n streams of one path with a client each, and returns what is told of them.
func crowded(t *testing.T, n int, meant func(string) bool, parts func(i int) []Part) (told []Crowd) {
	t.Helper()
	h := NewHub()
	inst := h.Register("test", t)
	options := testOptions()
	options.Crowded = func(c Crowd) { told = append(told, c) }
	options.Meant = meant
	var subs []*Subscriber
	for i := range n {
		all := append([]Part{{"place", "test"}, {"host", "a.test"}, {"path", "/events"}}, parts(i)...)
		sub, err := h.Join(&Request{
			Key: h.Key(all), Parts: all, Instance: inst, Options: options, Logger: zap.NewNop(),
			Source: func(bool) Source { return simSource{u: newSim()} },
		})
		if err != nil {
			t.Fatal(err)
		}
		subs = append(subs, sub)
		if i == crowdSize-1 && len(told) > 0 {
			t.Fatalf("told at %d streams: %+v", i+1, told)
		}
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
	return told
}

// Many streams with one client each are told, with what keeps them apart and what to write; no value is shown.
func TestCrowdIsTold(t *testing.T) {
	told := crowded(t, crowdSize+1, nil, func(i int) []Part {
		return []Part{
			{"query", fmt.Sprintf("a=1&_=%d", i)},
			{"header Cookie", fmt.Sprintf("session=s%d; _ga=g%d; theme=dark", i/2, i)},
			{"header X-New-Trace", fmt.Sprint("trace=", i)},
			{"header Origin", "https://example.com"},
		}
	})
	if len(told) != 1 {
		t.Fatalf("told %d times", len(told))
	}
	c := told[0]
	if c.Place != "a.test/events" || c.Streams != crowdSize+1 {
		t.Errorf("told %+v", c)
	}
	if got := fmt.Sprint(c.Apart); got != "[cookie _ga cookie session header X-New-Trace query _]" {
		t.Errorf("kept apart by %s", got)
	}
	if got := fmt.Sprint(c.Unique); got != "[cookie _ga header X-New-Trace query _]" {
		t.Errorf("never the same twice: %s", got)
	}
	for _, want := range []string{"key_ignore query _", "key_ignore header X-New-Trace", "share cookies session", "share public"} {
		if !strings.Contains(c.Remedy, want) {
			t.Errorf("remedy %q does not name %q", c.Remedy, want)
		}
	}
	if text := fmt.Sprint(c); strings.Contains(text, "s1") || strings.Contains(text, "trace=") || strings.Contains(text, "dark") {
		t.Errorf("a value is shown: %s", text)
	}
}

// What is meant to keep clients apart is no news: users, and what the operator has named.
func TestCrowdOfUsersIsNotTold(t *testing.T) {
	meant := func(part string) bool { return part == "header Authorization" }
	user := func(i int) Part { return Part{"header Authorization", fmt.Sprint("token", i)} }
	if told := crowded(t, 10*crowdSize, meant, func(i int) []Part { return []Part{user(i), {"header Cookie", fmt.Sprint("_ga=", i)}} }); len(told) > 0 {
		t.Errorf("told of users: %+v", told)
	}
	told := crowded(t, crowdSize+1, meant, func(i int) []Part { return []Part{user(i % 3), {"query", fmt.Sprint("_=", i)}} })
	if len(told) != 1 || fmt.Sprint(told[0].Apart) != "[query _]" || told[0].Remedy != "key_ignore query _, if the application does not look at it" {
		t.Errorf("told of three users who ask again and again: %+v", told)
	}
}

// Clients choose paths: of so many at most it is counted how many streams they have.
func TestCountedPathsAreBounded(t *testing.T) {
	h := NewHub()
	for i := range maxCrowds + 100 {
		h.joinCrowdLocked(&Stream{identity: identity{path: fmt.Sprint("/", i)}, life: life{options: testOptions()}})
	}
	if n := len(h.crowds); n != maxCrowds {
		t.Errorf("%d paths are counted, expected %d", n, maxCrowds)
	}
}
