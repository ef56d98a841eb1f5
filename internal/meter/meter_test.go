package meter

import (
	"maps"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// A histogram counts as one of Prometheus does, on the bounds, too.
func TestHistogramCountsLikePrometheus(t *testing.T) {
	bounds := []float64{.5, 1, 2.5}
	ours := NewHistogram(bounds...)
	theirs := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "x", Help: "x", Buckets: bounds})
	for _, value := range []float64{0, .25, .5, .75, 1, 1.5, 2.5, 3, 100} {
		ours.Observe(value)
		theirs.Observe(value)
	}
	var m dto.Metric
	if err := theirs.Write(&m); err != nil {
		t.Fatal(err)
	}
	count, sum, upTo := ours.Snapshot()
	want := make(map[float64]uint64)
	for _, b := range m.GetHistogram().GetBucket() {
		want[b.GetUpperBound()] = b.GetCumulativeCount()
	}
	if count != m.GetHistogram().GetSampleCount() || sum != m.GetHistogram().GetSampleSum() || !maps.Equal(upTo, want) {
		t.Errorf("%d values of %v, %v; expected %d of %v, %v", count, sum, upTo,
			m.GetHistogram().GetSampleCount(), m.GetHistogram().GetSampleSum(), want)
	}
}

// Each label has its own count, from the beginning.
func TestLabelledCounts(t *testing.T) {
	l := NewLabelled("a", "b")
	l.With("a").Inc()
	l.With("a").Add(2)
	if got := maps.Collect(l.All()); !maps.Equal(got, map[string]float64{"a": 3, "b": 0}) {
		t.Errorf("counted %v", got)
	}
	defer func() {
		if recover() == nil {
			t.Error("a label that there is not was counted")
		}
	}()
	l.With("c")
}
