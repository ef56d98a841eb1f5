package upstreams

import "github.com/caddy-sse/caddy-sse/internal/meter"

// Counts are what the upstream connections of streams have done, for metrics.
var Counts = struct {
	Bytes       meter.Counter
	Connections *meter.Labelled // that ended, by how
}{
	Connections: meter.NewLabelled(ResultClean, ResultBroken, ResultStalled, ResultOversized, ResultRefused, ResultFailed, ResultCancelled),
}

// How an upstream connection ended, as a label.
const (
	ResultClean     = "clean"     // as HTTP says
	ResultBroken    = "broken"    // reset, or an unexpected end
	ResultStalled   = "stalled"   // upstream_timeout, or an attempt that took too long
	ResultOversized = "oversized" // a block over max_event_size
	ResultRefused   = "refused"   // the answer was no event stream
	ResultFailed    = "failed"    // there was no answer
	ResultCancelled = "cancelled" // by the gateway: nobody needs it any more
)
