package stream

import "github.com/caddy-sse/caddy-sse/internal/meter"

// Counts are what the streams of the process have done, for metrics.
var Counts = struct {
	Blocks, Bytes meter.Counter   // from upstreams
	Connections   *meter.Labelled // upstream connections that ended, by how
	Splices       *meter.Labelled // that ended, by how
	Gaps          *meter.Labelled // that were told, by reason
	Evictions     *meter.Labelled // for memory, by what
	Young         meter.Counter   // streams that lingered, and were ended because too many did
	Private       *meter.Labelled // streams that are one client's, by reason
}{
	Connections: meter.NewLabelled(ResultClean, ResultBroken, ResultStalled, ResultOversized, ResultRefused, ResultFailed, ResultCancelled),
	Splices:     meter.NewLabelled(SpliceMerged, SplicePrivate),
	Gaps:        meter.NewLabelled(GapEvicted, GapEpoch, gapLag, GapUpstream),
	Evictions:   meter.NewLabelled(EvictedStream, EvictedBlock),
	Private:     privateCounts(),
}
