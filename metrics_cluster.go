package caddysse

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-sse/caddy-sse/internal/cluster"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// clusterMetrics are those of this node among others. Without a cluster there are none.
type clusterMetrics struct {
	nodes, streams, takeOvers, gaveWay, dropped, messages, bytes *prometheus.Desc
}

func newClusterMetrics(namespace string) *clusterMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(namespace+"cluster_"+name, help, labels, nil)
	}
	return &clusterMetrics{
		nodes:     desc("nodes", "Nodes that are alive, this one included."),
		streams:   desc("streams", "Streams of this node that nodes may share, by what it is in them.", "role"),
		takeOvers: desc("take_overs_total", "Streams that this node has taken over from one that was gone."),
		gaveWay:   desc("gave_way_total", "Streams that this node has given up because another one had them, too."),
		dropped:   desc("messages_dropped_total", "Malformed messages of other nodes."),
		messages:  desc("messages_total", "Messages between nodes.", "direction"),
		bytes:     desc("bytes_total", "Bytes of messages between nodes, before encryption.", "direction"),
	}
}

// Describe implements prometheus.Collector.
func (m *clusterMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.nodes, m.streams, m.takeOvers, m.gaveWay, m.dropped, m.messages, m.bytes} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m *clusterMetrics) Collect(to chan<- prometheus.Metric) {
	node := cluster.Process.Load()
	if node == nil {
		return
	}
	f := node.Figures()
	gauge := func(d *prometheus.Desc, n int64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	total := func(d *prometheus.Desc, n uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge(m.nodes, int64(len(f.Peers))+1)
	for role, n := range map[stream.NodeRole]int64{
		stream.NodeAsks: f.Asks, stream.NodeAlone: f.Alone, stream.NodeOwns: f.Owns, stream.NodeFollows: f.Follows,
	} {
		gauge(m.streams, n, string(role))
	}
	total(m.takeOvers, f.TakeOvers)
	total(m.gaveWay, f.GaveWay)
	total(m.dropped, f.Malformed)
	total(m.messages, f.MessagesReceived, "in")
	total(m.messages, f.MessagesSent, "out")
	total(m.bytes, f.BytesReceived, "in")
	total(m.bytes, f.BytesSent, "out")
}
