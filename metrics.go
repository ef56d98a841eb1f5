package caddysse

import (
	"errors"
	"iter"
	"net/http"
	"runtime"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-sse/caddy-sse/internal/access"
	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/hints"
	"github.com/caddy-sse/caddy-sse/internal/meter"
	"github.com/caddy-sse/caddy-sse/internal/stream"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// metrics are the process's, like the hub: they go on over reloads, and each
// configuration's registry is given the same collector.
type metrics struct {
	subscribers *prometheus.GaugeVec
	resumes     *prometheus.CounterVec
	lag         histogram

	streams     *prometheus.Desc
	upstreams   *prometheus.Desc
	bufferBytes *prometheus.Desc
	hints       *prometheus.Desc
	all         []prometheus.Collector
}

// counters show counts by one label.
type counters struct {
	desc *prometheus.Desc
	all  iter.Seq2[string, float64]
}

// Describe implements prometheus.Collector.
func (c counters) Describe(to chan<- *prometheus.Desc) { to <- c.desc }

// Collect implements prometheus.Collector.
func (c counters) Collect(to chan<- prometheus.Metric) {
	for label, n := range c.all {
		to <- prometheus.MustNewConstMetric(c.desc, prometheus.CounterValue, n, label)
	}
}

// histogram shows a histogram.
type histogram struct {
	desc *prometheus.Desc
	of   *meter.Histogram
}

// Describe implements prometheus.Collector.
func (h histogram) Describe(to chan<- *prometheus.Desc) { to <- h.desc }

// Collect implements prometheus.Collector.
func (h histogram) Collect(to chan<- prometheus.Metric) {
	count, sum, upTo := h.of.Snapshot()
	to <- prometheus.MustNewConstHistogram(h.desc, count, sum, upTo)
}

// theMetrics are shared by all handlers of all configurations of the process.
var theMetrics = newMetrics()

// metricsNamespace begins the names of all metrics.
const metricsNamespace = "caddy_sse_"

func newMetrics() *metrics {
	m := new(metrics)
	// The series are there from the beginning, so that a rate sees the first one.
	vector := func(name, help, label string, values ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: metricsNamespace + name, Help: help}, []string{label})
		m.all = append(m.all, c)
		for _, value := range values {
			c.WithLabelValues(value)
		}
		return c
	}
	total := func(name, help string, of *meter.Counter) {
		m.all = append(m.all, prometheus.NewCounterFunc(prometheus.CounterOpts{Name: metricsNamespace + name, Help: help}, of.Value))
	}
	labelled := func(name, help, label string, of *meter.Labelled) {
		m.all = append(m.all, counters{prometheus.NewDesc(metricsNamespace+name, help, []string{label}, nil), of.All()})
	}
	directed := func(name, help string, in, out *meter.Counter) {
		m.all = append(m.all, counters{prometheus.NewDesc(metricsNamespace+name, help, []string{"direction"}, nil),
			func(yield func(string, float64) bool) { _ = yield("in", in.Value()) && yield("out", out.Value()) }})
	}
	directed("blocks_total", "Blocks (events, comments, and what only sets an id or a reconnection time) that came from upstreams and went to clients.",
		&stream.Counts.Blocks, &delivery.Counts.Blocks)
	directed("bytes_total", "Bytes of event streams that came from upstreams and went to clients, without transfer coding.",
		&upstreams.Counts.Bytes, &delivery.Counts.Bytes)
	total("heartbeats_total", "Heartbeats sent to clients.", &delivery.Counts.Heartbeats)
	labelled("upstream_connections_ended_total", "Upstream connections that ended.", "result", upstreams.Counts.Connections)
	m.resumes = vector("resumes_total", "Subscribers that came, by what became of their last event ID.", "outcome",
		stream.ResumeLive, stream.ResumeReplayed, stream.ResumeGap, stream.ResumeSpliced)
	labelled("splices_total", "Splices that ended.", "end", stream.Counts.Splices)
	labelled("subscribers_ended_total", "Subscribers whose response ended.", "reason", delivery.Counts.Ended)
	labelled("gaps_total", "Gaps that were told.", "reason", stream.Counts.Gaps)
	labelled("turned_away_total", "Clients that were asked to come later.", "reason", theRefusals)
	labelled("lingering_ended_total", "Streams that only lingered, and were ended because something was short, by what.", "reason", stream.Counts.GaveWay)
	labelled("reauthorizations_total", "Requests of clients that were run again to see whether they are let in, by what became of them.", "result", theReauthorized)
	labelled("revocations_total", "Revocations of clients' access.", "by", access.Revoked)
	labelled("memory_evictions_total", "What was evicted because of the limit for all replay buffers together.", "evicted", stream.Counts.Evictions)
	m.subscribers = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: metricsNamespace + "subscribers", Help: "Clients of event streams.",
	}, []string{"protocol", "delivery"})
	m.lag = histogram{prometheus.NewDesc(metricsNamespace+"delivery_lag_seconds",
		"Time from when a block was complete until it was written to a client; of blocks that are written together, of the first. Replays are not in it.",
		nil, nil), delivery.Counts.Lag}
	m.all = append(m.all, m.subscribers, m.lag, memoryLimit(), buildInfo())
	seconds := func(name, help string, of *meter.Histogram) {
		m.all = append(m.all, histogram{prometheus.NewDesc(metricsNamespace+name, help, nil, nil), of})
	}
	seconds("answer_head_seconds", "Time from a request to the head of the event stream that answers it, private or detached.", stream.Answers.Head)
	seconds("answer_first_event_seconds", "Time from a request to the first event of the private or detached stream that answers it.", stream.Answers.First)
	seconds("answer_between_events_seconds", "Time from an event of a private or detached stream to the next.", stream.Answers.Between)
	labelled("by_handler_total", "Clients of shared streams whose connection is not taken over, by why.", "cause", delivery.Counts.ByHandler)
	labelled("private_streams_total", "Streams that are one client's, by why they are.", "reason", stream.Counts.Private)
	labelled("answer_resumes_total", "Private and detached streams whose upstream connection broke, with resume_upstream.", "result", theAnswerResumes)
	labelled("answers_ended_total", "Private and detached streams whose upstream connection ended, and answers that came late and are no event streams.", "result", stream.Answers.Ended)
	m.streams = prometheus.NewDesc(metricsNamespace+"streams", "Streams that there are.", []string{"kind"}, nil)
	m.upstreams = prometheus.NewDesc(metricsNamespace+"upstream_connections", "Upstream connections of shared and detached streams, and of splices.", []string{"state"}, nil)
	m.all = append(m.all, newClusterMetrics(metricsNamespace))
	m.hints = prometheus.NewDesc(metricsNamespace+"hints", "Hints that hold: what the gateway has noticed of its configuration.", []string{"kind"}, nil)
	m.bufferBytes = prometheus.NewDesc(metricsNamespace+"replay_buffer_bytes", "Bytes in all replay buffers, and in decoders.", nil, nil)
	return m
}

// memoryLimit is what the replay buffers may take.
func memoryLimit() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: metricsNamespace + "memory_limit_bytes", Help: "What all replay buffers may take together.",
	}, func() float64 { limit, _ := stream.Process.MemoryLimit(); return float64(limit) })
}

// buildInfo is always 1; what runs is in its labels.
func buildInfo() prometheus.Collector {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: metricsNamespace + "build_info", Help: "Always 1. The labels tell what runs.",
		ConstLabels: prometheus.Labels{"version": moduleVersion(), "goversion": runtime.Version()},
	})
	info.Set(1)
	return info
}

// modulePath names the module.
const modulePath = "github.com/caddy-sse/caddy-sse"

// moduleVersion is that of the module in this program: "(devel)" where it was built from a working copy.
func moduleVersion() string {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if build.Main.Path == modulePath {
		return build.Main.Version
	}
	for _, dependency := range build.Deps {
		if dependency.Path == modulePath {
			return dependency.Version
		}
	}
	return "unknown"
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, c := range m.all {
		c.Describe(to)
	}
	to <- m.streams
	to <- m.upstreams
	to <- m.bufferBytes
	to <- m.hints
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	m.subscribers.WithLabelValues("1.1", delivery.ByConnection).Set(delivery.Counts.OnConnections.Value())
	m.subscribers.WithLabelValues("2", delivery.ByConnection).Set(delivery.Counts.OnStreams.Value())
	for _, c := range m.all {
		c.Collect(to)
	}
	census := stream.Process.Census()
	for kind, n := range census.Kinds {
		to <- prometheus.MustNewConstMetric(m.streams, prometheus.GaugeValue, float64(n), kind)
	}
	for state, n := range census.States {
		to <- prometheus.MustNewConstMetric(m.upstreams, prometheus.GaugeValue, float64(n), state)
	}
	for kind, n := range hints.Process.Counts() {
		to <- prometheus.MustNewConstMetric(m.hints, prometheus.GaugeValue, float64(n), string(kind))
	}
	to <- prometheus.MustNewConstMetric(m.bufferBytes, prometheus.GaugeValue, float64(stream.Process.Memory.Used.Load()))
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

// subscribersBy counts the subscribers that are written to by their requests'
// goroutines.
func subscribersBy(r *http.Request) prometheus.Gauge {
	return theMetrics.subscribers.WithLabelValues(protocolOf(r), delivery.ByHandler)
}
