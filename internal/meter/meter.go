// Package meter counts: what the streams and the writers do in the life of the process, for whoever shows it as metrics.
// All methods may be called from any goroutine, under any lock: they take none and never wait.
package meter

import (
	"iter"
	"math"
	"sort"
	"sync/atomic"
)

// Counter counts up. The zero value is ready to use.
type Counter struct{ n atomic.Int64 }

// Add counts n, which is not negative.
func (c *Counter) Add(n int) { c.n.Add(int64(n)) }

// Inc counts one.
func (c *Counter) Inc() { c.n.Add(1) }

// Value is how much was counted.
func (c *Counter) Value() float64 { return float64(c.n.Load()) }

// Gauge counts up and down. The zero value is ready to use.
type Gauge struct{ n atomic.Int64 }

// Inc counts one up.
func (g *Gauge) Inc() { g.n.Add(1) }

// Dec counts one down.
func (g *Gauge) Dec() { g.n.Add(-1) }

// Value is the count.
func (g *Gauge) Value() float64 { return float64(g.n.Load()) }

// Labelled is a counter for each of some labels, which are fixed: each is there, with 0, from the beginning.
type Labelled struct{ of map[string]*Counter }

// NewLabelled makes counters for labels.
func NewLabelled(labels ...string) *Labelled {
	l := &Labelled{of: make(map[string]*Counter, len(labels))}
	for _, label := range labels {
		l.of[label] = new(Counter)
	}
	return l
}

// With is the counter of a label. It panics if there is no such label: labels are constants.
func (l *Labelled) With(label string) *Counter {
	c, ok := l.of[label]
	if !ok {
		panic("meter: no counter for the label " + label)
	}
	return c
}

// All are the labels and what was counted for each, in no order.
func (l *Labelled) All() iter.Seq2[string, float64] {
	return func(yield func(string, float64) bool) {
		for label, c := range l.of {
			if !yield(label, c.Value()) {
				return
			}
		}
	}
}

// Histogram counts values by size.
type Histogram struct {
	bounds []float64       // ascending
	counts []atomic.Uint64 // of the values up to each bound and over the one before; the last one: over all
	sum    atomic.Uint64   // the bits of a float64
}

// NewHistogram makes a histogram with buckets up to each of the bounds, which ascend.
func NewHistogram(bounds ...float64) *Histogram {
	return &Histogram{bounds: bounds, counts: make([]atomic.Uint64, len(bounds)+1)}
}

// Observe counts a value.
func (h *Histogram) Observe(value float64) {
	h.counts[sort.SearchFloat64s(h.bounds, value)].Add(1)
	for {
		old := h.sum.Load()
		if h.sum.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+value)) {
			return
		}
	}
}

// Snapshot tells how many values there were, their sum, and how many of them were up to each bound.
func (h *Histogram) Snapshot() (count uint64, sum float64, upTo map[float64]uint64) {
	sum = math.Float64frombits(h.sum.Load())
	upTo = make(map[float64]uint64, len(h.bounds))
	for i := range h.counts {
		count += h.counts[i].Load()
		if i < len(h.bounds) {
			upTo[h.bounds[i]] = count
		}
	}
	return count, sum, upTo
}
