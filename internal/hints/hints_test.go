package hints

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// observed is a source of a store of its own, and its log.
func observed() (*Store, *Source, *observer.ObservedLogs) {
	core, logs := observer.New(zap.DebugLevel)
	s := new(Store)
	return s, s.Source(":80", "ticker", zap.New(core)), logs
}

func say(text, remedy string) func() (string, string) {
	return func() (string, string) { return text, remedy }
}

func TestHintIsToldOnceAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, src, logs := observed()
		src.Doubt(Linger, "example.com", "linger is short", "linger 30s")
		began := time.Now()
		for range 3 {
			src.Notice(Query, "/events", say("the key leaves the query out", "key {uri}"))
			time.Sleep(time.Second)
		}
		list := s.List()
		if len(list) != 2 || list[0].Kind != Linger || list[1].Kind != Query {
			t.Fatalf("hints %+v, expected those of the configuration first", list)
		}
		h := list[1]
		want := Hint{
			Kind: Query, Listen: ":80", Handler: "ticker", Place: "/events", Text: "the key leaves the query out", Remedy: "key {uri}",
			Count: 3, First: began, Last: began.Add(2 * time.Second),
		}
		if h != want {
			t.Errorf("hint %+v, expected %+v", h, want)
		}
		if logs.Len() != 2 || logs.All()[0].Level != zap.WarnLevel || logs.All()[1].Level != zap.InfoLevel {
			t.Errorf("log lines %v, expected a warning and an info", logs.All())
		}
		if s.Told() != 2 {
			t.Errorf("%d hints were told", s.Told())
		}
		if n := s.Counts(); n[Query] != 1 || n[Linger] != 1 || n[Memory] != 0 || len(n) != len(Kinds) {
			t.Errorf("counts %v", n)
		}
	})
}

func TestHintsGoWithWhatCausedThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, src, _ := observed()
		src.Doubt(Linger, "", "linger is short", "linger 30s")
		src.Notice(Query, "/a", say("", ""))
		time.Sleep(hintTime - time.Second)
		src.Notice(Query, "/a", say("", ""))
		src.Notice(Withheld, "/a", say("", ""))
		src.Settled(Withheld, "/a", 0)
		time.Sleep(hintTime - time.Second)
		if n := s.Counts(); n[Query] != 1 || n[Withheld] != 0 {
			t.Errorf("%v: expected what was seen again, and not what was settled", n)
		}
		time.Sleep(time.Second)
		if n := s.Counts(); n[Query] != 0 || n[Linger] != 1 {
			t.Errorf("%v: expected only that of the configuration after %v", n, hintTime)
		}
		src.Close()
		if list := s.List(); len(list) != 0 {
			t.Errorf("%v is left of a configuration that went", list)
		}
	})
}

// What was seen to be otherwise is not listed, unless it is seen again: then it is, and the log has one line in all. What was
// seen a moment ago holds.
func TestSettledHintComesBackWithoutALine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, src, logs := observed()
		src.Settled(Query, "/a", 0) // there is none yet
		for range 3 {
			src.Notice(Query, "/a", say("text", "remedy"))
			src.Settled(Query, "/a", time.Minute)
			if n := s.Counts()[Query]; n != 1 || len(src.Kinds()) != 1 {
				t.Errorf("%d hints of what was seen a moment ago", n)
			}
			time.Sleep(time.Minute)
			src.Settled(Query, "/b", time.Minute)
			src.Settled(Query, "/a", time.Minute)
			if n := s.Counts()[Query]; n != 0 || len(src.Kinds()) != 0 {
				t.Errorf("%d hints of what was settled", n)
			}
		}
		src.Notice(Query, "/a", say("text", "remedy"))
		if list := s.List(); len(list) != 1 || list[0].Count != 4 || logs.Len() != 1 || s.Told() != 1 {
			t.Errorf("%+v, %d lines, told %d times", list, logs.Len(), s.Told())
		}
	})
}

// A stranger with 10,000 random paths floods neither the log nor the list nor memory, and does not drive out what is seen
// again and again.
func TestStrangersDoNotFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, src, logs := observed()
		random := rand.New(rand.NewPCG(1, 2))
		for i := range 10_000 {
			path := fmt.Sprintf("/%x", random.Uint64())
			src.Notice(Kinds[i%len(Kinds)], path+strings.Repeat("x", random.IntN(5000)), say(path+strings.Repeat("é", 5000), path))
			if i%10 == 0 {
				src.Notice(Query, "/real", say("real", ""))
			}
		}
		list := s.List()
		if len(list) > maxPlaces*len(Kinds) {
			t.Errorf("%d hints", len(list))
		}
		found := false
		for _, h := range list {
			found = found || h.Place == "/real"
			if n := len(h.Place) + len(h.Text) + len(h.Remedy); n > 3*maxText+10 {
				t.Errorf("a hint of %d bytes", n)
			}
		}
		if !found {
			t.Error("what was seen 1,000 times was driven out by what was seen once")
		}
		if logs.Len() > maxPlaces*len(Kinds) {
			t.Errorf("%d log lines", logs.Len())
		}
	})
}

// Line ends of a path do not reach the log or a page.
func TestHintIsOneLine(t *testing.T) {
	s, src, _ := observed()
	src.Notice(Query, "/a\nb\x00", say("x\r\ny", ""))
	if h := s.List()[0]; h.Place != "/a b " || h.Text != "x  y" {
		t.Errorf("%q, %q", h.Place, h.Text)
	}
}

// A handler that was not provisioned has no source.
func TestNoSourceGivesNoHints(*testing.T) {
	var src *Source
	src.Doubt(Linger, "", "", "")
	src.Notice(Query, "", nil)
	src.Settled(Query, "", 0)
	src.Close()
}
