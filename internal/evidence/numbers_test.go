package evidence

import (
	"strconv"
	"testing"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// counted has seen the ids from 1 to n, one connection's.
func counted(n int) *Numbers {
	q := new(Numbers)
	for i := 1; i <= n; i++ {
		q.Add(strconv.Itoa(i), i == 1)
	}
	return q
}

// That an upstream counts takes enough ids in a row, and no other.
func TestNumbersCount(t *testing.T) {
	if counted(enoughCounting).Count() {
		t.Errorf("%d ids are taken for enough", enoughCounting)
	}
	q := counted(enoughCounting + 1)
	if !q.Count() {
		t.Fatalf("%d ids are not enough", enoughCounting+1)
	}
	q.Add("100", true) // another connection may begin elsewhere
	if !q.Count() {
		t.Error("a new connection ends it")
	}
	q.Add("200", false)
	if q.Count() {
		t.Error("an upstream that leaves numbers out counts")
	}
}

// What the first ids of an answer show, after 1 to 20.
func TestAnswerShows(t *testing.T) {
	for name, c := range map[string]struct {
		ids    []string
		splice bool
		shows  Continuation
		missed int64
	}{
		"the next one":               {ids: []string{"21"}, shows: WentOn},
		"a later one":                {ids: []string{"25"}, shows: Skipped, missed: 4},
		"a word":                     {ids: []string{"x"}, shows: Unknown},
		"the same one":               {ids: []string{"20"}, shows: Unknown},
		"an older one":               {ids: []string{"1"}, shows: Unknown},
		"it begins anew":             {ids: []string{"1", "2"}, shows: Skipped, missed: -1},
		"an older one, then another": {ids: []string{"1", "21"}, shows: Unknown},
		"a history for a splice":     {ids: []string{"1", "2"}, splice: true, shows: Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			q, answer := counted(20), new(Answer)
			var shows Continuation
			var missed int64
			for i, id := range c.ids {
				answer.Add()
				shows, missed = answer.Look(id, q, c.splice)
				q.Add(id, i == 0)
			}
			if shows != c.shows || (shows == Skipped && missed != c.missed) {
				t.Errorf("it shows %d, %d missed; expected %d, %d", shows, missed, c.shows, c.missed)
			}
		})
	}
}

// Blocks of a later connection are repeats while they form a run of those that the
// stream has, from the first one with an id.
func TestRepeats(t *testing.T) {
	block := func(id, data string) (eventstream.Block, []byte) {
		lines := []byte("data: " + data + "\n")
		return eventstream.Block{Lines: lines, HasData: true, ID: []byte(id), HasID: id != ""}, lines
	}
	type event struct {
		id, data string
		repeated bool
	}
	for name, events := range map[string][]event{
		"what comes next is new":         {{"4", "d", false}},
		"the last two, then a new one":   {{"2", "b", true}, {"3", "c", true}, {"4", "d", false}},
		"another block ends the run":     {{"2", "b", true}, {"4", "d", false}, {"3", "c", false}},
		"the same id, other bytes":       {{"2", "other", false}, {"3", "c", false}},
		"without an id nothing is known": {{"", "b", false}, {"2", "b", true}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newTrack(timeline{}).Buffer
			for _, e := range []event{{"1", "a", false}, {"2", "b", false}, {"3", "c", false}} {
				b, lines := block(e.id, e.data)
				f.Append(replay.NewBlock(b, lines, nil, began))
			}
			r := Repeats{Start: f.Newest, ID: "1"}
			begun := false
			for _, e := range events {
				b, lines := block(e.id, e.data)
				if got := r.Has(f, b, lines, begun); got != e.repeated {
					t.Errorf("%q %q is repeated: %v, expected %v", e.id, e.data, got, e.repeated)
				} else if !got {
					f.Append(replay.NewBlock(b, lines, nil, began))
					begun = true
				}
			}
		})
	}
}
