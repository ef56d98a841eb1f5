package main

import (
	"math"
	"math/bits"
	"time"
)

// hist counts durations in buckets that grow with them: a quantile is at most 1/64 too high.
type hist struct {
	counts []int64
	n      int64
	max    time.Duration
}

const (
	histBits = 6
	histSub  = 1 << histBits
	histMax  = 1 << 40 // ns, 18 minutes; longer ones count as that
)

func (h *hist) add(d time.Duration) {
	d = min(max(d, 0), histMax)
	i := histIndex(uint64(d))
	if i >= len(h.counts) {
		h.counts = append(h.counts, make([]int64, i+1+histSub-len(h.counts))...)
	}
	h.counts[i]++
	h.n++
	h.max = max(h.max, d)
}

// quantile returns the least bucket's upper end that q of all durations do not exceed.
func (h *hist) quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := max(int64(math.Ceil(q*float64(h.n))), 1)
	for i, c := range h.counts {
		if rank -= c; rank <= 0 {
			return min(histUpper(i), h.max)
		}
	}
	return h.max
}

// histIndex keeps the highest bit of v and the histBits below it.
func histIndex(v uint64) int {
	if v < histSub {
		return int(v)
	}
	shift := bits.Len64(v) - histBits - 1
	return shift<<histBits + int(v>>shift)
}

func histUpper(i int) time.Duration {
	if i < histSub {
		return time.Duration(i)
	}
	shift := i>>histBits - 1
	top := i - shift<<histBits
	return time.Duration((int64(top)+1)<<shift - 1)
}
