package cluster_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// live is what a client sees that came without an ID, and then these.
func live(events ...string) []string { return append([]string{stream.ResumeLive}, events...) }

func TestNodesShareOneUpstreamConnection(t *testing.T) {
	inCluster(t, 1, 3, nil, func(ct *clusterTest) {
		var all []*client
		for i, g := range ct.nodes {
			for j := range 3 {
				all = append(all, g.join(fmt.Sprintf("%d/%d", i, j)))
			}
			time.Sleep(100 * time.Millisecond)
		}
		ct.emit(5)
		ct.expectConnections(1)
		for _, c := range all {
			c.expect(live(numbers(1, 5)...)...)
		}
	})
}
