package admin

import (
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// glancesAt makes a history of glances that are five seconds apart.
func glancesAt(moments ...map[uint64]stream.Glance) *remembered {
	r := new(remembered)
	for i, of := range moments {
		g := glances{at: time.Unix(int64(i)*int64(glanceInterval/time.Second), 0), n: len(of), of: of}
		for _, one := range of {
			g.sum.Subscribers += one.Subscribers
			g.sum.Received += one.Received
			g.sum.Sent += one.Sent
		}
		r.last = append(r.last, g)
	}
	return r
}

// The points of a minute are rates between two glances; of a stream, from its beginning on.
func TestHistoryTellsRatesBetweenGlances(t *testing.T) {
	r := glancesAt(
		map[uint64]stream.Glance{1: {Number: 1, Subscribers: 2, Received: 10, Sent: 20}},
		map[uint64]stream.Glance{1: {Number: 1, Subscribers: 3, Received: 20, Sent: 50}},
		map[uint64]stream.Glance{2: {Number: 2, Subscribers: 1, Received: 5, Sent: 5}}, // the first one is over
	)
	all := r.all()
	want := []Point{{1, 3, 2, 6}, {1, 1, 1, 1}}
	if len(all) != 2 || all[0] != want[0] || all[1] != want[1] {
		t.Errorf("%+v", all)
	}
	if one := r.of([]uint64{2}); len(one) != 1 || one[0] != (Point{1, 1, 1, 1}) {
		t.Errorf("of the second: %+v", one)
	}
	if one := r.of([]uint64{1}); len(one) != 2 || one[0] != (Point{1, 3, 2, 6}) || one[1] != (Point{}) {
		t.Errorf("of the first: %+v", one)
	}
	if none := (*remembered)(nil).of([]uint64{1}); none == nil || len(none) != 0 {
		t.Errorf("of nothing: %v", none)
	}
}

// A history is a minute long, whatever there is.
func TestHistoryIsBounded(t *testing.T) {
	h := &history{hub: stream.NewHub()}
	for i := range 3 * maxGlances {
		h.glance(time.Unix(int64(i), 0))
	}
	if n := len(h.recall().all()); n != maxGlances-1 {
		t.Errorf("%d points", n)
	}
}
