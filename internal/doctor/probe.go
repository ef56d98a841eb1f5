package doctor

import (
	"encoding/json"
	"time"
)

// The gateway's probe streams. A request for an event stream that has ProbeField
// is answered by the gateway itself, where its option probe is on, and the
// answer has the same field.
const (
	ProbeField = "Sse-Probe"

	// ProbeFlow asks for ProbeEvents events, one each ProbeInterval. They are
	// small: together they do not fill the smallest usual buffer of a proxy.
	ProbeFlow = "flow"

	// ProbeIdle asks for one event and then, but for heartbeats, silence; one
	// more event ends it.
	ProbeIdle = "idle"

	// ProbeType is the type of the events.
	ProbeType = "probe"

	ProbeEvents   = 12
	ProbeInterval = 250 * time.Millisecond
)

// ProbeData is the data of a probe stream's events, in JSON.
type ProbeData struct {
	// Number counts the events, from 1.
	Number int `json:"n"`

	// At is when the event was written, in milliseconds since the stream began.
	At float64 `json:"at_ms"`

	// Heartbeat is the interval of heartbeats in milliseconds; with ProbeIdle, if
	// there are any.
	Heartbeat float64 `json:"heartbeat_ms,omitempty"`

	// Last is set in the event that ends the stream.
	Last bool `json:"last,omitempty"`

	// Hints are the kinds of hints that the gateway has by then; with ProbeFlow, in
	// the event that ends it.
	Hints []string `json:"hints,omitempty"`
}

// probeEvent is an event of a probe stream and when it came.
type probeEvent struct {
	ProbeData
	came time.Duration // since the request
}

// takeProbe notes an event of a probe stream.
func (v *visit) takeProbe(data []byte, came time.Duration) {
	var p ProbeData
	if json.Unmarshal(data, &p) == nil && len(v.probes) < 2*ProbeEvents {
		v.probes = append(v.probes, probeEvent{p, came})
	}
}

// lateness is how much longer on its way the latest event was than the fastest:
// a lower bound of how long something held it. Where none came it is how long
// the first was waited for.
func (v *visit) lateness() time.Duration {
	if len(v.probes) == 0 {
		return v.ended
	}
	fastest, slowest := v.probes[0].took(), v.probes[0].took()
	for _, p := range v.probes[1:] {
		fastest, slowest = min(fastest, p.took()), max(slowest, p.took())
	}
	return slowest - fastest
}

// took is how long an event was on its way, and how long its request was.
func (p probeEvent) took() time.Duration {
	return p.came - time.Duration(p.At*float64(time.Millisecond))
}

// finished reports whether the last event of a probe stream came.
func (v *visit) finished() bool {
	return len(v.probes) > 0 && v.probes[len(v.probes)-1].Last
}

// heartbeatInterval is that which an idle probe has been told; 0: none.
func (v *visit) heartbeatInterval() time.Duration {
	if len(v.probes) == 0 {
		return 0
	}
	return time.Duration(v.probes[0].Heartbeat * float64(time.Millisecond))
}
