package delivery

import (
	"github.com/caddy-sse/caddy-sse/internal/meter"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// Counts are what clients of the process were sent, for metrics.
var Counts = struct {
	Blocks, Bytes meter.Counter
	Heartbeats    meter.Counter
	Ended         *meter.Labelled  // responses, by reason
	OnConnections meter.Gauge      // clients whose connection was taken over
	OnStreams     meter.Gauge      // and whose stream of HTTP/2 was
	ByHandler     *meter.Labelled  // clients whose connection is not taken over, by cause
	Lag           *meter.Histogram // seconds from when a block was complete until it was written
}{
	Ended:     meter.NewLabelled(stream.EndReasons...),
	ByHandler: meter.NewLabelled(Causes...),
	Lag:       meter.NewHistogram(.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10),
}
