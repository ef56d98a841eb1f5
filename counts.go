package caddysse

import "github.com/caddy-sse/caddy-sse/internal/meter"

// theCounts are what the streams of the process have done, for metrics.
var theCounts = struct {
	blocks, bytes meter.Counter   // from upstreams
	connections   *meter.Labelled // upstream connections that ended, by how
	splices       *meter.Labelled // that ended, by how
	gaps          *meter.Labelled // that were told, by reason
	evictions     *meter.Labelled // for memory, by what
}{
	connections: meter.NewLabelled(resultClean, resultBroken, resultStalled, resultOversized, resultRefused, resultFailed, resultCancelled),
	splices:     meter.NewLabelled(spliceMerged, splicePrivate),
	gaps:        meter.NewLabelled(gapEvicted, gapEpoch, gapLag, gapUpstream),
	evictions:   meter.NewLabelled(evictedStream, evictedBlock),
}
