package stream

import "github.com/caddy-sse/caddy-sse/internal/meter"

// Counts are what the streams of the process have done, for metrics.
var Counts = struct {
	Blocks    meter.Counter   // from upstreams
	Splices   *meter.Labelled // that ended, by how
	Gaps      *meter.Labelled // that were told, by reason
	Evictions *meter.Labelled // for memory, by what
	GaveWay   *meter.Labelled // streams that only lingered, and were ended, by why
	Private   *meter.Labelled // streams that are one client's, by reason
}{
	Splices:   meter.NewLabelled(SpliceMerged, SplicePrivate),
	Gaps:      meter.NewLabelled(GapEvicted, GapEpoch, gapLag, GapUpstream),
	GaveWay:   meter.NewLabelled(gaveWayMany, gaveWayPlace, GaveWayFiles, gaveWayMemory),
	Evictions: meter.NewLabelled(EvictedStream, EvictedBlock),
	Private:   privateCounts(),
}

// How a splice ended, as a label.
const (
	SpliceMerged  = "merged"
	SplicePrivate = "private"
)

// Reasons of a gap, as in the gap event's data.
const (
	GapEvicted  = "evicted"  // the blocks are no longer in the replay buffer
	GapEpoch    = "epoch"    // the ID is of another life of the stream
	gapLag      = "lag"      // the client was too slow
	GapUpstream = "upstream" // the upstream connection was lost meanwhile
)

// What is evicted for memory, as a label.
const (
	EvictedStream = "stream"
	EvictedBlock  = "block"
)

// Why streams that only lingered were ended, as a label.
const (
	gaveWayMany   = "young"       // too many did for longer than clients had been there
	gaveWayPlace  = "max_streams" // for others
	GaveWayFiles  = "files"
	gaveWayMemory = "memory" // GOMEMLIMIT
)
