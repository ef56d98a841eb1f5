package caddysse

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-sse/caddy-sse/eventstream"
)

// metrics are the process's, like the hub: they go on over reloads, and each
// configuration's registry is given the same collector.
type metrics struct {
	blocks                [2]prometheus.Counter // by direction
	bytes                 [2]prometheus.Counter
	heartbeats            prometheus.Counter
	subscribers           *prometheus.GaugeVec
	connectionSubscribers prometheus.Gauge // those with a connection of their own that was taken over
	connections           *prometheus.CounterVec
	resumes               *prometheus.CounterVec
	splices               *prometheus.CounterVec
	ended                 *prometheus.CounterVec
	gaps                  *prometheus.CounterVec
	turnedAway            *prometheus.CounterVec
	evictions             *prometheus.CounterVec
	lag                   prometheus.Histogram

	streams     *prometheus.Desc
	upstreams   *prometheus.Desc
	bufferBytes *prometheus.Desc
	all         []prometheus.Collector
}

// Indices of what is counted by direction.
const (
	in = iota
	out
)

// theMetrics are shared by all handlers of all configurations of the process.
var theMetrics = newMetrics()

// How a splice ended, as a label.
const (
	spliceMerged  = "merged"
	splicePrivate = "private"
)

// What a client was turned away by, as a label.
const (
	limitStreams     = "max_streams"
	limitSubscribers = "max_subscribers"
)

// endReasons are all reasons for which responses end.
var endReasons = []string{
	string(endClient), string(endWrite), string(endUpstream), string(endGaveUp), string(endRefused), string(endOversized),
	string(endReload), string(endStopping), string(endMaxAge), string(endLag), string(endBroken), string(endAdmin), string(endPerClient),
}

// How an upstream connection ended, as a label.
const (
	resultClean     = "clean"     // as HTTP says
	resultBroken    = "broken"    // reset, or an unexpected end
	resultStalled   = "stalled"   // upstream_timeout, or an attempt that took too long
	resultOversized = "oversized" // a block over max_event_size
	resultRefused   = "refused"   // the answer was no event stream
	resultFailed    = "failed"    // there was no answer
	resultCancelled = "cancelled" // by the gateway: nobody needs it any more
)

// Kinds of streams, as a label.
const (
	kindShared  = "shared"
	kindSplice  = "splice"
	kindPrivate = "private"

	// kindDetached is a private stream that may outlive its client.
	kindDetached = "detached"
)

// States of the upstream connections of shared streams, as a label.
const (
	stateOpening = "opening" // the first one, no head came yet
	stateOpen    = "open"
	stateWaiting = "waiting" // lost, and not reached again yet

	// stateEnded is no label: the upstream, or the gateway, has ended the
	// stream, and there is no connection.
	stateEnded = "ended"
)

// metricsNamespace begins the names of all metrics.
const metricsNamespace = "caddy_sse_"

func newMetrics() *metrics {
	m := new(metrics)
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: metricsNamespace + name, Help: help})
		m.all = append(m.all, c)
		return c
	}
	// The series are there from the beginning, so that a rate sees the first one.
	vector := func(name, help, label string, values ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: metricsNamespace + name, Help: help}, []string{label})
		m.all = append(m.all, c)
		for _, value := range values {
			c.WithLabelValues(value)
		}
		return c
	}
	directed := func(name, help string) (both [2]prometheus.Counter) {
		v := vector(name, help, "direction")
		both[in], both[out] = v.WithLabelValues("in"), v.WithLabelValues("out")
		return both
	}
	m.blocks = directed("blocks_total", "Blocks (events, comments, and what only sets an id or a reconnection time) that came from upstreams and went to clients.")
	m.bytes = directed("bytes_total", "Bytes of event streams that came from upstreams and went to clients, without transfer coding.")
	m.heartbeats = counter("heartbeats_total", "Heartbeats sent to clients.")
	m.connections = vector("upstream_connections_total", "Upstream connections that ended.", "result",
		resultClean, resultBroken, resultStalled, resultOversized, resultRefused, resultFailed, resultCancelled)
	m.resumes = vector("resumes_total", "Subscribers that came, by what became of their last event ID.", "outcome",
		resumeLive, resumeReplayed, resumeGap, resumeSpliced)
	m.splices = vector("splices_total", "Splices that ended.", "end", spliceMerged, splicePrivate)
	m.ended = vector("subscribers_ended_total", "Subscribers whose response ended.", "reason", endReasons...)
	m.gaps = vector("gaps_total", "Gaps that were told.", "reason", gapEvicted, gapEpoch, gapLag, gapUpstream)
	m.turnedAway = vector("turned_away_total", "Clients that were turned away with 503.", "limit", limitStreams, limitSubscribers)
	m.evictions = vector("memory_evictions_total", "What was evicted because of the limit for all replay buffers together.", "evicted", evictedStream, evictedBlock)
	m.subscribers = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: metricsNamespace + "subscribers", Help: "Clients of event streams.",
	}, []string{"protocol", "delivery"})
	m.connectionSubscribers = m.subscribers.WithLabelValues("1.1", deliveryConnection)
	m.lag = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    metricsNamespace + "delivery_lag_seconds",
		Help:    "Time from when a block was complete until it was written to a client; of blocks that are written together, of the first. Replays are not in it.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	})
	m.all = append(m.all, m.subscribers, m.lag)
	m.streams = prometheus.NewDesc(metricsNamespace+"streams", "Streams that there are.", []string{"kind"}, nil)
	m.upstreams = prometheus.NewDesc(metricsNamespace+"upstream_connections", "Upstream connections of shared and detached streams, and of splices.", []string{"state"}, nil)
	m.bufferBytes = prometheus.NewDesc(metricsNamespace+"replay_buffer_bytes", "Bytes in all replay buffers.", nil, nil)
	return m
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, c := range m.all {
		c.Describe(to)
	}
	to <- m.streams
	to <- m.upstreams
	to <- m.bufferBytes
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	for _, c := range m.all {
		c.Collect(to)
	}
	census := theHub.census()
	for kind, n := range census.kinds {
		to <- prometheus.MustNewConstMetric(m.streams, prometheus.GaugeValue, float64(n), kind)
	}
	for state, n := range census.states {
		to <- prometheus.MustNewConstMetric(m.upstreams, prometheus.GaugeValue, float64(n), state)
	}
	to <- prometheus.MustNewConstMetric(m.bufferBytes, prometheus.GaugeValue, float64(theHub.memory.used.Load()))
}

// register gives the collector to the registry of a configuration, where
// another handler may have.
func (m *metrics) register(registry *prometheus.Registry) error {
	err := registry.Register(m)
	if _, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		return nil
	}
	return err
}

// census is what there is at a moment.
type census struct {
	kinds  map[string]int
	states map[string]int
}

// census counts streams and upstream connections.
func (h *hub) census() census {
	c := census{
		kinds:  map[string]int{kindShared: 0, kindSplice: 0, kindPrivate: 0, kindDetached: 0},
		states: map[string]int{stateOpening: 0, stateOpen: 0, stateWaiting: 0},
	}
	for _, s := range h.every() {
		s.countIn(&c)
	}
	h.allMu.Lock()
	defer h.allMu.Unlock()
	c.kinds[kindPrivate] = len(h.private)
	return c
}

// countIn adds a stream to a census.
func (s *stream) countIn(c *census) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.kinds[s.kind()]++
	if state := s.upstreamState(); state != stateEnded {
		c.states[state]++
	}
}

// kind tells streams apart, as a label.
func (s *stream) kind() string {
	switch {
	case s.isSplice:
		return kindSplice
	case s.detached:
		return kindDetached
	}
	return kindShared
}

// upstreamState is that of the stream's upstream connection. The stream's lock
// is held.
func (s *stream) upstreamState() string {
	switch {
	case s.phase == phaseLive:
		return stateOpen
	case s.phase == phaseOpening, s.phase == phaseBroken && s.headAt.IsZero() && s.conn != nil && !s.conn.ended:
		return stateOpening
	case s.phase == phaseBroken:
		return stateWaiting
	}
	return stateEnded
}

// protocolOf is the protocol of a request, as a label.
func protocolOf(r *http.Request) string {
	switch {
	case r.ProtoMajor > 1:
		return strconv.Itoa(r.ProtoMajor)
	case r.ProtoMinor == 0:
		return "1.0"
	}
	return "1.1"
}

// resultOf tells how an upstream connection ended, as a label. ctx is that of
// the stream's interest in it.
func resultOf(ctx context.Context, end ending) string {
	switch {
	case end.events && end.clean:
		return resultClean
	case ctx.Err() != nil:
		return resultCancelled
	case errors.Is(end.err, errStalled), errors.Is(end.err, errNoAnswer):
		return resultStalled
	case errors.Is(end.err, eventstream.ErrBlockTooLarge):
		return resultOversized
	case end.events:
		return resultBroken
	case end.answered:
		return resultRefused
	}
	return resultFailed
}
