package caddysse

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/cluster"
	"github.com/caddy-sse/caddy-sse/internal/cluster/bustest"
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
