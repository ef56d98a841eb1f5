package cluster_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/cluster/bustest"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

var (
	modelSeed  = flag.Uint64("cluster.seed", 1, "seed of TestModelOfOwnership; 0: a new one, as the weekly run has")
	modelRuns  = flag.Int("cluster.runs", 2, "how many clusters each of its applications has")
	modelTells = flag.Bool("cluster.tells", false, "tell all that happens to them")
	modelSteps = flag.Int("cluster.steps", 400, "what happens to each of them")
)

// modelRun is one run of the model test: whatever happens to nodes, and between them, no
// client sees an event twice or out of order, or a gap that it was not told of; and no two
// clients see what was meant for one connection.
type modelRun struct {
	*clusterTest
	rand    *rand.Rand
	clients []*client
	frozen  *gateway
}

func TestModelOfOwnership(t *testing.T) {
	for _, kind := range []struct {
		name string
		set  func(ct *clusterTest)
	}{
		{"ids", nil},
		{"no ids", func(ct *clusterTest) { ct.app.ids = false }},
		{"ids, earned", func(ct *clusterTest) { ct.options.Vouched, ct.options.Join, ct.privately = false, 0, true }},
		{"no ids, earned", func(ct *clusterTest) {
			ct.options.Vouched, ct.options.Join, ct.app.ids, ct.privately = false, 0, false, true
		}},
		{"each its own", func(ct *clusterTest) { ct.options.Vouched, ct.options.Join, ct.app.apart = false, 0, true }},
	} {
		t.Run(kind.name, func(t *testing.T) {
			for i := range *modelRuns {
				seed := *modelSeed + uint64(i)
				if *modelSeed == 0 {
					seed = rand.Uint64()
				}
				inCluster(t, seed, 3, kind.set, func(ct *clusterTest) {
					t.Logf("-cluster.seed %d", seed)
					if ct.tells = *modelTells; ct.tells {
						ct.app.log = ct.logf
					}
					(&modelRun{clusterTest: ct, rand: rand.New(rand.NewPCG(seed, 1))}).run()
				})
			}
		})
	}
}

func (r *modelRun) run() {
	for i := range 6 {
		r.clients = append(r.clients, r.anyNode().join(fmt.Sprint("client ", i)))
	}
	for range *modelSteps {
		r.step()
		time.Sleep(time.Duration(r.rand.IntN(200)) * time.Millisecond)
	}
	r.check()
	r.net.SetFaults(bustest.Faults{})
	r.net.Partition(nil)
	r.thaw()
	for range 300 { // half a minute, and half of one more
		r.app.emit()
		time.Sleep(150 * time.Millisecond)
	}
	r.check()
	if r.app.apart {
		return
	}
	// Without ids and the operator's word a client may stay on a connection of its own: to
	// come over would cost it events.
	alone := !r.options.Vouched && !r.app.ids
	if n := r.app.connections() - r.private(); n < 1 || (n > 1 && !alone) {
		r.t.Errorf("%d upstream connections in the end", n)
	}
	for _, c := range r.clients {
		if seen := c.seen(); seen[len(seen)-1] != fmt.Sprint(r.app.count) {
			r.t.Errorf("%s is at %s of %d in the end", c.name, seen[len(seen)-1], r.app.count)
		}
	}
}

// private is how many splices could not be merged while nodes were away, and are their
// clients' own; and how many clients have connections of their own, since a node that was cut
// off compared what the owner sent late with what a connection of its own brought at once, and
// found that they differ.
func (r *modelRun) private() (n int) {
	n = int(r.app.alone.Load())
	for _, g := range r.nodes {
		for _, s := range g.hub.Every() {
			if seen, ok := s.Sample(time.Now()); ok && seen.Kind == stream.KindSplice {
				n++
			}
		}
	}
	return n
}

// anyNode is one that is alive.
func (r *modelRun) anyNode() *gateway {
	return r.nodes[r.rand.IntN(len(r.nodes))]
}

func (r *modelRun) thaw() {
	if r.frozen != nil {
		r.net.Freeze(r.frozen.name, false)
		r.frozen = nil
	}
}

// step lets something happen.
func (r *modelRun) step() {
	switch n := r.rand.IntN(100); {
	case n < 60:
		r.app.emit()
	case n < 80:
		r.clients[r.rand.IntN(len(r.clients))].moveTo(r.anyNode())
	case n < 84:
		r.replace(r.anyNode())
	case n < 88:
		alone := r.anyNode().name
		r.net.Partition(func(a, b string) bool { return (a == alone) != (b == alone) })
	case n < 93:
		r.net.Partition(nil)
		r.net.SetFaults(bustest.Faults{})
	case n < 95:
		r.net.SetFaults(bustest.Faults{Loss: 0.2 * r.rand.Float64(), MaxDelay: time.Duration(r.rand.IntN(300)) * time.Millisecond})
	case n < 97 && r.frozen == nil:
		r.frozen = r.anyNode()
		r.net.Freeze(r.frozen.name, true)
	default:
		r.thaw()
	}
}

// replace kills a node, and starts another one. Its clients go elsewhere.
func (r *modelRun) replace(g *gateway) {
	if g == r.frozen {
		r.frozen = nil
	}
	g.kill()
	r.nodes = slices.DeleteFunc(r.nodes, func(o *gateway) bool { return o == g })
	r.add()
	for _, c := range r.clients {
		if c.at == g {
			c.at = nil // it was cut
			c.moveTo(r.anyNode())
		}
	}
}

func (r *modelRun) check() {
	r.t.Helper()
	synctest.Wait()
	given := make(map[string]string) // connections to whom they were
	for _, c := range r.clients {
		if !r.app.apart {
			if err := c.checkOrder(); err != nil {
				r.t.Fatal(err)
			}
			continue
		}
		for _, event := range c.seen() {
			if event == anew || event == "gap" || event == stream.ResumeLive {
				continue
			}
			_, of, _ := strings.Cut(event, " for ")
			if other, ok := given[of]; ok && other != c.name {
				r.t.Fatalf("%s was given %q, which is %s's", c.name, event, other)
			}
			given[of] = c.name
		}
	}
}
