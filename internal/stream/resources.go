package stream

import (
	"math"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/logs"
	"github.com/caddy-sse/caddy-sse/internal/number"
)

// What there is of what is not the gateway's alone: files, and the memory of GOMEMLIMIT.

const (
	// filesShare is the part of the files that the process may have open that
	// streams may take which only linger: a quarter.
	filesShare = 4

	// filesGoAt is how many of the files may be open, in percent, until streams that
	// linger give way: where there is none left, no client is accepted any more, and
	// nobody notices.
	filesGoAt = 75

	// lingeringGoAt and noneBeginsAt are how much of GOMEMLIMIT may be in use, in
	// percent, until lingering streams end, and until no stream is begun.
	lingeringGoAt = 80
	noneBeginsAt  = 90

	// pressureInterval is how long a look at the memory in use counts: a request
	// that comes costs no more than reading a clock.
	pressureInterval = 20 * time.Millisecond

	// giveBackInterval is how far apart unused memory is looked for. That takes a
	// collection of garbage, and gives the system back what is free.
	giveBackInterval = 30 * time.Second

	// giveBackAfter is after how many streams that have ended it is looked for.
	giveBackAfter = 1000

	// wayBatch is how many streams give way at once.
	wayBatch = 64
)

// DefaultMemory is 128 replay buffers of the default size that are full of
// large events, 64 that are full of small ones, and fits a machine of 1 GiB.
const DefaultMemory = 512 << 20

// resources is what a hub knows of the process.
type resources struct {
	files  int64                       // that may be open; 0: that is not known
	open   func() int64                // how many are, about
	memory func() (used, limit uint64) // of which cannot be freed, and GOMEMLIMIT

	looked  Since        // at what is used, the last time
	percent atomic.Int64 // of the limit that is in use, as of then
	tidying atomic.Bool
	ended   atomic.Int64 // streams since memory was given back
	line    logs.Throttle
	full    logs.Throttle
}

// usedMemory is what of the process's memory is in use, and cannot be collected, as far
// as the newest collection of garbage has seen; and GOMEMLIMIT.
func usedMemory() (used, limit uint64) {
	limit = number.As[uint64](debug.SetMemoryLimit(-1)) // never negative
	if limit == math.MaxInt64 {
		return 0, limit
	}
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(samples)
	used = samples[0].Value.Uint64() + samples[1].Value.Uint64()
	for _, s := range samples[2:] {
		used -= s.Value.Uint64()
	}
	return used, limit
}

// defaultMemory is the limit for all replay buffers where none is stated: half of what
// the process may use is for others.
func (r *resources) defaultMemory() int64 {
	_, limit := r.memory()
	return int64(min(DefaultMemory, limit/2))
}

// giveBackSoon gives memory back that is not used any more, unless that was done soon
// before: Go keeps it for minutes, where nothing is allocated.
func (r *resources) giveBackSoon() {
	if r.tidying.CompareAndSwap(false, true) {
		time.AfterFunc(giveBackInterval, func() {
			r.ended.Store(0)
			r.tidying.Store(false)
			debug.FreeOSMemory()
		})
	}
}

// countEnded takes note that a stream has ended. Any lock may be held.
func (r *resources) countEnded() {
	if r.ended.Add(1) >= giveBackAfter {
		r.giveBackSoon()
	}
}
