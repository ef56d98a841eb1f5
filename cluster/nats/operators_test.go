package natsbus

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-sse/caddy-sse/internal/cluster"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// What operators are told of the nodes: the admin API and the metrics of whole gateways.

// adminSocket is where the admin endpoint of a gateway is, in the gateway's folder.
const adminSocket = "admin.sock"

// ask asks the admin endpoint of a gateway, and has the answer read.
func (g *gateway) ask(t *testing.T, path string, read func(body io.Reader) error) {
	t.Helper()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(g.dir, adminSocket))
		},
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1"+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", path, response.Status)
	}
	if err := read(response.Body); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// told is what the admin API tells of a gateway that has one stream.
type told struct {
	Cluster *cluster.Figures `json:"cluster"`
	Streams []struct {
		Nodes *stream.NodesInfo `json:"nodes"`
	} `json:"streams"`
}

// tells returns it, and fails if there is not one stream that nodes share.
func (g *gateway) tells(t *testing.T) (c cluster.Figures, n stream.NodesInfo) {
	t.Helper()
	var all told
	g.ask(t, "/sse/streams", func(body io.Reader) error { return json.NewDecoder(body).Decode(&all) })
	if all.Cluster == nil || len(all.Streams) != 1 || all.Streams[0].Nodes == nil {
		t.Fatalf("gateway %s tells %+v", g.name, all)
	}
	return *all.Cluster, *all.Streams[0].Nodes
}

// shows reports whether each of some series has its value in the gateway's metrics.
func (g *gateway) shows(t *testing.T, series ...string) bool {
	t.Helper()
	var text []byte
	g.ask(t, "/metrics", func(body io.Reader) (err error) {
		text, err = io.ReadAll(body)
		return err
	})
	return !slices.ContainsFunc(series, func(one string) bool { return !bytes.Contains(text, []byte("\ncaddy_sse_"+one+"\n")) })
}

// Operators see on each node who owns a stream, who follows, in which term, which nodes are
// alive, and that one has taken over.
func TestOperatorsSeeWhoHasWhat(t *testing.T) {
	t.Parallel()
	a := startApp(t, true)
	gateways := newGateways(t, a, 3)
	var clients []*client
	for _, g := range gateways {
		g.admin = "unix/" + adminSocket
		g.start(t)
	}
	for _, g := range gateways {
		g.awaitOthers(t, 2)
		clients = append(clients, connect(t, "/events", "", g))
	}
	a.settle(t, 1, clients...)
	owner := a.owner(t, gateways)
	others := slices.Delete(slices.Clone(gateways), owner, owner+1)
	await(t, "all say the same", func() bool { return agree(t, gateways[owner], others) })
	await(t, "the owner's metrics", func() bool {
		return gateways[owner].shows(t, "cluster_nodes 3", `cluster_streams{role="owns"} 1`, `cluster_streams{role="follows"} 0`,
			`upstream_connections{state="open"} 1`, "cluster_take_overs_total 0")
	})
	for _, g := range others {
		await(t, "a follower's metrics", func() bool {
			return g.shows(t, "cluster_nodes 3", `cluster_streams{role="owns"} 0`, `cluster_streams{role="follows"} 1`, `upstream_connections{state="open"} 0`)
		})
		if c, _ := g.tells(t); c.MessagesSent == 0 || c.MessagesReceived == 0 || c.BytesSent == 0 || c.BytesReceived == 0 {
			t.Errorf("a follower tells %+v", c)
		}
		g.expectGroup(t, 0, 1)
	}
	gateways[owner].expectGroup(t, 1, 0)

	_, before := others[0].tells(t)
	gateways[owner].kill()
	await(t, "one takes over, and says so", func() bool {
		for i, g := range others {
			c, n := g.tells(t)
			if c.TakeOvers == 1 && n.Term > before.Term && g.shows(t, "cluster_nodes 2", "cluster_take_overs_total 1") {
				return agree(t, g, slices.Delete(slices.Clone(others), i, i+1))
			}
		}
		return false
	})
}

// agree reports whether an owner and all others say that it is, and who follows.
func agree(t *testing.T, owner *gateway, others []*gateway) bool {
	t.Helper()
	c, n := owner.tells(t)
	if n.Role != stream.NodeOwns || n.Owner != c.Node || n.Term == 0 || c.Owns != 1 || len(c.Peers) != len(others) || len(n.Followers) != len(others) {
		return false
	}
	for _, g := range others {
		theirs, seen := g.tells(t)
		if seen.Role != stream.NodeFollows || seen.Owner != c.Node || seen.Term != n.Term || theirs.Follows != 1 ||
			!slices.Contains(n.Followers, theirs.Node) || !slices.Contains(c.Peers, theirs.Node) || !slices.Contains(theirs.Peers, c.Node) {
			return false
		}
	}
	return true
}

// expectGroup fails unless the live page is told of the nodes, and how many streams of the
// only path this node and others own.
func (g *gateway) expectGroup(t *testing.T, owned, followed int) {
	t.Helper()
	var event struct {
		Cluster *cluster.Figures `json:"cluster"`
		Groups  []struct {
			Owned    int `json:"owned"`
			Followed int `json:"followed"`
		} `json:"groups"`
	}
	g.ask(t, "/sse/feed?by=path", func(body io.Reader) error {
		lines := bufio.NewScanner(body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				return json.Unmarshal([]byte(data), &event)
			}
		}
		return fmt.Errorf("no event: %w", lines.Err())
	})
	if event.Cluster == nil || len(event.Groups) != 1 || event.Groups[0].Owned != owned || event.Groups[0].Followed != followed {
		t.Errorf("gateway %s: the live page is told %+v, expected %d owned, %d followed", g.name, event, owned, followed)
	}
}
