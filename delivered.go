package caddysse

import (
	"github.com/caddy-sse/caddy-sse/internal/meter"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// theDelivered are what clients of the process were sent, for metrics.
var theDelivered = struct {
	blocks, bytes meter.Counter
	heartbeats    meter.Counter
	ended         *meter.Labelled  // responses, by reason
	onConnections meter.Gauge      // clients whose connection was taken over
	onStreams     meter.Gauge      // and whose stream of HTTP/2 was
	lag           *meter.Histogram // seconds from when a block was complete until it was written
}{
	ended: meter.NewLabelled(stream.EndReasons...),
	lag:   meter.NewHistogram(.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10),
}
