package caddysse

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/cluster"
	"github.com/caddy-sse/caddy-sse/internal/cluster/bustest"
	"github.com/caddy-sse/caddy-sse/internal/hints"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// Without a cluster operators are told nothing of nodes: there is no metric of them, and
// the admin API says that there is none. Once this process is a node there is all of it.
func TestNodesAreToldOfWithAClusterOnly(t *testing.T) {
	u := startUpstream(t, nil)
	g, a := startAdmin(t, proxied("", u))
	c := g.subscribe("/events")
	u.accept()
	ofNodes := func() (names []string) {
		for name := range gather(t) {
			if strings.HasPrefix(name, "cluster_") {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return names
	}
	if names := ofNodes(); len(names) > 0 {
		t.Errorf("without a cluster there are the metrics %q", names)
	}
	if l := a.list(); l.Cluster != nil || len(l.Streams) != 1 || l.Streams[0].Nodes != nil {
		t.Errorf("without a cluster the admin API tells %+v", l)
	}
	if text := a.json(http.StatusOK, http.MethodGet, "/sse/streams", "", nil); !strings.Contains(text, `"cluster":null`) {
		t.Errorf("the admin API does not say that there is no cluster: %s", text)
	}

	node, err := cluster.New(bustest.NewNet(1).Add("here"), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	cluster.Process.Store(node)
	t.Cleanup(func() {
		cluster.Process.Store(nil)
		node.Close()
	})
	if names := ofNodes(); !slices.Equal(names, []string{
		"cluster_bytes_total direction=in", "cluster_bytes_total direction=out", "cluster_gave_way_total",
		"cluster_messages_dropped_total", "cluster_messages_total direction=in", "cluster_messages_total direction=out", "cluster_nodes",
		"cluster_streams role=alone", "cluster_streams role=asks", "cluster_streams role=follows", "cluster_streams role=owns", "cluster_take_overs_total",
	}) {
		t.Errorf("with a cluster there are the metrics %q", names)
	}
	if l := a.list(); l.Cluster == nil || l.Cluster.Node != "here" || l.Cluster.Peers == nil || gather(t)["cluster_nodes"] != 1 {
		t.Errorf("with a cluster the admin API tells %+v", l.Cluster)
	}
	c.close()
}

// hintedNode is a node of a cluster with one handler, and the hints that it gives.
type hintedNode struct {
	handler *Handler
	source  *hints.Source
	watch   *nodeWatch
	stop    func()
}

// watchNode makes a node with a handler at a place.
func watchNode(t *testing.T, net *bustest.Net, name, place string, ids stream.IDsMode) *hintedNode {
	t.Helper()
	node, err := cluster.New(net.Add(name), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	store, options := new(hints.Store), stream.Defaults()
	options.IDs = ids
	w := &hintedNode{source: store.Source("", "", zap.NewNop()), handler: &Handler{
		options: options, instance: &stream.Instance{Place: place}, hints: store.Source("", "", zap.NewNop()),
	}}
	w.watch = newNodeWatch(node, w.source, zap.NewNop(), func(yield func(*Handler) bool) { yield(w.handler) })
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		w.watch.run(end)
	}()
	w.stop = func() {
		close(end)
		<-ended
		node.Close()
	}
	return w
}

// expect fails unless there are some hints, and no others.
func (w *hintedNode) expect(t *testing.T, when string, kinds ...hints.Kind) {
	t.Helper()
	if got := slices.Concat(w.handler.hints.Kinds(), w.source.Kinds()); !slices.Equal(got, kinds) {
		t.Errorf("%s there are the hints %q, expected %q", when, got, kinds)
	}
}

// That a node reaches no other one is told, and that others are reached that have no such
// handler; and no more when it is otherwise.
func TestNodesThatDoNotMeetAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := bustest.NewNet(1)
		defer net.Close()
		one := watchNode(t, net, "one", ":443\x00feed", stream.IDsAuto)
		defer one.stop()
		time.Sleep(nodePatience - time.Second)
		one.expect(t, "so early")
		time.Sleep(time.Minute)
		one.expect(t, "while there is no other node", hints.NoNode)

		other := watchNode(t, net, "other", ":443\x00another", stream.IDsAuto)
		time.Sleep(20 * time.Second)
		one.expect(t, "when another node has come")
		time.Sleep(time.Minute)
		one.expect(t, "while the other one has another handler", hints.Apart)
		other.expect(t, "while the first one has another handler", hints.Apart)

		third := watchNode(t, net, "third", ":8443\x00feed", stream.IDsAuto) // a name is a place on all nodes
		defer third.stop()
		time.Sleep(20 * time.Second)
		one.expect(t, "when a third one has the handler")
		third.expect(t, "of one that has the same handler as another")
		other.expect(t, "of one that has a handler that nobody else has", hints.Apart)

		net.Partition(func(a, b string) bool { return a != b })
		time.Sleep(time.Minute)
		one.expect(t, "while no node reaches another", hints.NoNode)
		net.Partition(func(string, string) bool { return false })
		time.Sleep(20 * time.Second)
		one.expect(t, "when all have met again")

		fourth := watchNode(t, net, "fourth", ":443\x00feed", stream.IDsUpstream)
		defer fourth.stop()
		time.Sleep(time.Minute)
		fourth.expect(t, "with other options than all others", hints.Apart)
		other.stop()
	})
}
