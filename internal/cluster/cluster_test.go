package cluster_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/cluster"
	"github.com/caddy-sse/caddy-sse/internal/cluster/bustest"
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

// A client that lands on another node goes on there: with the ids of the application, and
// with those of the gateway.
func TestClientResumesOnAnotherNode(t *testing.T) {
	for _, ids := range []bool{true, false} {
		t.Run(fmt.Sprintf("ids=%v", ids), func(t *testing.T) {
			inCluster(t, 1, 3, func(ct *clusterTest) { ct.app.ids = ids }, func(ct *clusterTest) {
				stays := ct.nodes[0].join("stays")
				ct.emit(1)
				moves := ct.nodes[0].join("moves")
				ct.emit(3)
				moves.cut()
				ct.emit(3) // while it is nowhere
				moves.moveTo(ct.nodes[1])
				ct.emit(3)
				moves.cut()
				ct.emit(1)
				moves.moveTo(ct.nodes[2])
				ct.emit(1)
				moves.expect(live(numbers(2, 12)...)...)
				stays.expect(live(numbers(1, 12)...)...)
				ct.expectConnections(1)
			})
		})
	}
}

// The owner dies: a follower takes over within 2 s, and nobody misses anything where the
// application goes on after an id. The dead node's clients resume on another one.
func TestFollowerTakesOver(t *testing.T) {
	inCluster(t, 1, 3, nil, func(ct *clusterTest) {
		all := ct.joinAll()
		for range 5 {
			ct.emit(10)
			owner := ct.owner()
			owner.kill()
			died := time.Now()
			for ct.app.connections() == 0 {
				ct.emit(1)
			}
			if took := time.Since(died); took > 2*time.Second {
				t.Fatalf("taken over after %v", took)
			}
			for _, c := range all {
				if c.at == owner {
					c.moveTo(ct.add())
				}
			}
			ct.emit(50)
			ct.expectConnections(1)
		}
		for _, c := range all {
			c.expect(live(numbers(1, ct.app.count)...)...)
		}
	})
}

// The clients of those nodes that the owner did not die with do not notice: their responses
// go on.
func TestTakeOverEndsNoResponse(t *testing.T) {
	for _, ids := range []bool{true, false} {
		inCluster(t, 1, 3, func(ct *clusterTest) { ct.app.ids = ids }, func(ct *clusterTest) {
			all := ct.joinAll()
			ct.emit(10)
			ct.owner().kill()
			ct.emit(250)
			for _, c := range all[1:] {
				c.cut()
				if c.comes != 1 {
					t.Errorf("ids %v: %s came %d times", ids, c.name, c.comes)
				}
				c.moveTo(c.at)
			}
		})
	}
}

// What the owner has sent to one follower only is fetched from that before another one takes
// over.
func TestFollowersGiveEachOtherWhatTheyHave(t *testing.T) {
	inCluster(t, 1, 3, func(ct *clusterTest) { ct.app.ids = false }, func(ct *clusterTest) {
		all := ct.joinAll()
		ct.emit(5)
		first, second := ct.nodes[1].name, ct.nodes[2].name // in the order in which they take over
		ct.net.Partition(func(a, b string) bool { return a == "node1" && b == first || b == "node1" && a == first })
		ct.emit(1) // the second one has it
		ct.nodes[0].kill()
		ct.net.Partition(nil)
		time.Sleep(3 * time.Second)
		ct.emit(1)
		for _, c := range all[1:] {
			c.expect(live("1", "2", "3", "4", "5", "6", "gap", "7")...)
		}
		if got := ct.owner().name; got != first {
			t.Errorf("%s has taken over, and %s was to; the other one is %s", got, first, second)
		}
	})
}

// Clients of a dead owner that open the stream on another node before anybody has taken over
// are not in the way: there is one connection in the end, and nobody misses anything.
func TestClientsComeBeforeAnybodyTakesOver(t *testing.T) {
	inCluster(t, 1, 3, nil, func(ct *clusterTest) {
		all := ct.joinAll()
		for range 5 {
			ct.emit(10)
			owner := ct.owner()
			owner.kill()
			for _, c := range all {
				if c.at == owner {
					c.moveTo(ct.add())
				}
			}
			ct.emit(250)
			ct.expectConnections(1)
		}
		for _, c := range all {
			c.expect(live(numbers(1, ct.app.count)...)...)
		}
	})
}

// Where the application gives no ids a gap is told, to those who stay and to those of the
// dead node who have seen what no follower has. Other IDs of the epoch before still stand
// for what they stood for.
func TestTakeOverWithoutIDsIsToldAsAGap(t *testing.T) {
	inCluster(t, 1, 3, func(ct *clusterTest) { ct.app.ids = false }, func(ct *clusterTest) {
		of := ct.nodes[0].join("of the owner")
		stays, resumes := ct.nodes[1].join("stays"), ct.nodes[2].join("resumes")
		also := ct.nodes[2].join("also there")
		ct.emit(3)
		resumes.cut()
		ct.emit(2)
		ct.net.Freeze(ct.nodes[0].name, true)
		ct.emit(1) // only the owner has it
		ct.nodes[0].kill()
		of.moveTo(ct.nodes[2])
		time.Sleep(3 * time.Second)
		ct.emit(2)
		resumes.moveTo(ct.nodes[1])
		ct.emit(1)
		ct.expectConnections(1)
		for _, c := range []*client{stays, resumes, also} {
			c.expect(live("1", "2", "3", "4", "5", "gap", "7", "8", "9")...)
		}
		if seen := of.seen(); seen[6] != "6" || !slices.Contains(seen[6:], "gap") || seen[len(seen)-1] != "9" {
			t.Errorf("the owner's client has seen %q", seen)
		}
	})
}

// A client of an owner that is gone, which had what no other node has, is told so and goes on
// after what they have: it is given nothing that it had.
func TestClientOfAnEpochBeforeGoesOnWhereThatEnded(t *testing.T) {
	inCluster(t, 1, 3, func(ct *clusterTest) { ct.app.ids = false }, func(ct *clusterTest) {
		of := ct.nodes[0].join("of the owner")
		ct.nodes[1].join("stays")
		ct.emit(5)
		ct.net.Freeze(ct.nodes[0].name, true)
		ct.emit(1) // only the owner has it
		ct.nodes[0].kill()
		time.Sleep(3 * time.Second)
		ct.emit(2)
		of.moveTo(ct.nodes[1])
		ct.emit(1)
		of.expect(live("1", "2", "3", "4", "5", "6", anew, "gap", "gap", "7", "8", "9")...)
	})
}

// A client of a connection that has lost against another node's is told a gap, and not given
// what it had: neither by the node that follows nor by the one that has won.
func TestClientOfAConnectionThatWasGivenUpIsGivenNothingTwice(t *testing.T) {
	for _, to := range []int{0, 1} {
		t.Run(fmt.Sprint("to node ", to), func(t *testing.T) {
			inCluster(t, 1, 2, func(ct *clusterTest) { ct.app.ids = false }, func(ct *clusterTest) {
				ct.nodes[0].join("a")
				ct.emit(1)
				ct.net.Partition(func(a, b string) bool { return a != b })
				time.Sleep(2 * time.Second)
				b := ct.nodes[1].join("b")
				ct.emit(5)
				ct.net.Partition(nil)
				ct.emit(5) // b's response ends
				b.moveTo(ct.nodes[to])
				ct.emit(100)
				ct.expectConnections(1)
				b.checkNoneTwice()
			})
		})
	}
}

// checkNoneTwice checks that a client was given nothing a second time, told or not.
func (c *client) checkNoneTwice() {
	c.t.Helper()
	seen := make(map[string]bool)
	for _, event := range c.seen() {
		if _, err := strconv.Atoi(event); err == nil && seen[event] {
			c.t.Errorf("%s was given %s a second time: %q", c.name, event, c.seen())
			return
		}
		seen[event] = true
	}
}

// A client that comes from another node faster than what it had there waits for that, and goes on
// after it; but not for long.
func TestClientThatIsFasterThanItsEventsWaits(t *testing.T) {
	for _, late := range []time.Duration{500 * time.Millisecond, time.Hour} {
		t.Run(fmt.Sprint("late ", late), func(t *testing.T) {
			var loses atomic.Bool
			inCluster(t, 1, 2, func(ct *clusterTest) {
				ct.app.ids = false
				ct.loses(func(subject string) error {
					if loses.Load() && subject != "nodes" {
						return context.DeadlineExceeded
					}
					return nil
				})
			}, func(ct *clusterTest) {
				ct.nodes[1].join("stays")
				time.Sleep(100 * time.Millisecond)
				moves := ct.nodes[1].join("moves")
				ct.nodes[0].join("follows")
				ct.emit(5)
				ct.net.SetFaults(bustest.Faults{MinDelay: min(late, time.Second), MaxDelay: min(late, time.Second)})
				loses.Store(late > time.Second)
				ct.app.emit()
				synctest.Wait()
				moves.moveTo(ct.nodes[0])
				time.Sleep(late / 2)
				if want := live(numbers(1, 6)...); late < time.Second {
					moves.expect(want...)
					time.Sleep(late)
					ct.app.emit()
					ct.app.emit()
					time.Sleep(late)
					moves.expect(append(want, "7", "8")...)
				} else if got := moves.seen(); !slices.Equal(got[:9], append(want, anew, "gap")) {
					t.Errorf("it has seen %q", got)
				}
			})
		})
	}
}

// A frozen owner that runs again gives way, and what it was sent meanwhile is given to nobody
// a second time.
func TestFrozenOwnerGivesWay(t *testing.T) {
	inCluster(t, 1, 3, nil, func(ct *clusterTest) {
		all := ct.joinAll()
		ct.emit(5)
		owner := ct.owner()
		ct.net.Freeze(owner.name, true)
		ct.emit(500) // 10 s
		ct.net.Freeze(owner.name, false)
		ct.emit(250)
		ct.expectConnections(1)
		if ct.owner() == owner {
			t.Error("it is the owner still")
		}
		for _, c := range all {
			c.expect(live(numbers(1, ct.app.count)...)...)
		}
	})
}

// Both sides of a partition are served, with one connection each, and there is one connection
// 5 s after it is over.
func TestPartitionHeals(t *testing.T) {
	inCluster(t, 1, 3, nil, func(ct *clusterTest) {
		all := ct.joinAll()
		ct.emit(5)
		alone := ct.owner().name
		ct.net.Partition(func(a, b string) bool { return (a == alone) != (b == alone) })
		ct.emit(1000) // 20 s
		ct.expectConnections(2)
		for _, c := range all {
			c.expect(live(numbers(1, ct.app.count)...)...)
		}
		ct.net.Partition(nil)
		ct.emit(250)
		ct.expectConnections(1)
		for _, c := range all {
			c.expect(live(numbers(1, ct.app.count)...)...)
		}
	})
}

// Two nodes that open a stream at the same moment end with one connection.
func TestOpenedAtTheSameMoment(t *testing.T) {
	inCluster(t, 1, 2, func(ct *clusterTest) { ct.app.slowness = 300 * time.Millisecond }, func(ct *clusterTest) {
		all := []*client{ct.nodes[0].join("a"), ct.nodes[1].join("b")}
		ct.emit(250) // 5 s
		ct.expectConnections(1)
		if ct.app.opened < 2 {
			t.Error("only one of them has opened it")
		}
		for _, c := range all {
			if err := c.checkOrder(); err != nil {
				t.Error(err)
			}
			if seen := c.seen(); seen[len(seen)-1] != "250" {
				t.Errorf("%s is at %q", c.name, seen[len(seen)-1])
			}
		}
	})
}

// Of two nodes that open a stream at the same moment neither may be known to the other at
// first, so that what they tell and ask is lost. They find each other all the same, soon.
func TestOwnersFindEachOtherSoon(t *testing.T) {
	for _, unknown := range []time.Duration{100 * time.Millisecond, 600 * time.Millisecond, 3 * time.Second} {
		t.Run("after "+unknown.String(), func(t *testing.T) {
			var known atomic.Pointer[time.Time]
			known.Store(new(time.Time))
			inCluster(t, 1, 2, func(ct *clusterTest) {
				ct.loses(func(subject string) error {
					if subject != "nodes" && time.Now().Before(*known.Load()) {
						return cluster.ErrNobody
					}
					return nil
				})
			}, func(ct *clusterTest) {
				known.Store(new(time.Now().Add(unknown)))
				ct.nodes[0].join("a")
				ct.nodes[1].join("b")
				ct.expectConnections(2)
				time.Sleep(unknown + unknown/2 + 250*time.Millisecond)
				ct.expectConnections(1)
			})
		})
	}
}

// A node with a connection that is not proven to be for all looks for another owner as soon as
// it is told of one.
func TestUnprovenConnectionIsGivenUpForAnOwner(t *testing.T) {
	var proven time.Time
	inCluster(t, 1, 2, func(ct *clusterTest) { ct.options.Vouched, ct.options.Join = false, 0 }, func(ct *clusterTest) {
		ct.nodes[1].join("alone")
		ct.nodes[0].join("a")
		ct.nodes[0].join("b") // who shows that all are told the same
		for range 500 {
			ct.emit(1)
			if proven.IsZero() && ct.nodes[0].node.Figures().Owns == 1 {
				proven = time.Now()
			}
			if ct.app.connections() == 1 {
				if took := time.Since(proven); took > 100*time.Millisecond {
					t.Errorf("one connection %v after there was an owner", took)
				}
				return
			}
		}
		t.Error("there is more than one connection in the end")
	})
}

// Who is not answered in time asks again, while all nodes are alive: somebody is there, who
// has much to do. So is who asks a node that is about to give the stream up.
func TestBusyOwnerIsAskedAgain(t *testing.T) {
	var lost atomic.Int64
	inCluster(t, 1, 2, func(ct *clusterTest) {
		ct.loses(func(subject string) error {
			if strings.HasPrefix(subject, "owner/") && lost.Add(-1) >= 0 {
				return context.DeadlineExceeded
			}
			return nil
		})
	}, func(ct *clusterTest) {
		ct.nodes[0].join("a")
		ct.emit(1)
		lost.Store(2)
		b := ct.nodes[1].join("b")
		ct.emit(200)
		if n := ct.app.opened; n != 1 {
			t.Errorf("%d connections were opened", n)
		}
		if seen := b.seen(); seen[len(seen)-1] != "201" {
			t.Errorf("the client is at %q", seen)
		}
	})
}

// A node that does not run is not waited for by who comes to a third one: it may be the owner.
func TestFrozenOwnerIsNotWaitedFor(t *testing.T) {
	inCluster(t, 1, 3, nil, func(ct *clusterTest) {
		ct.nodes[0].join("a")
		ct.emit(1)
		ct.net.Freeze(ct.nodes[0].name, true)
		ct.emit(100) // it is missed by now
		ct.nodes[1].join("b")
		time.Sleep(1100 * time.Millisecond)
		ct.expectConnections(2)
		ct.net.Freeze(ct.nodes[0].name, false)
	})
}

// The owner's clients leave, and those of other nodes do not notice.
func TestOwnerWithoutClientsGoesOn(t *testing.T) {
	inCluster(t, 1, 2, nil, func(ct *clusterTest) {
		first := ct.nodes[0].join("first")
		ct.emit(1)
		other := ct.nodes[1].join("other")
		ct.emit(1)
		first.cut()
		first.at = nil
		ct.emit(5000) // 100 s, more than linger
		ct.expectConnections(1)
		other.expect(live(numbers(2, ct.app.count)...)...)
		other.cut()
		time.Sleep(2 * time.Minute)
		ct.expectConnections(0)
	})
}

// joinAll lets one client come to each node.
func (ct *clusterTest) joinAll() (all []*client) {
	for _, g := range ct.nodes {
		all = append(all, g.join("of "+g.name))
		time.Sleep(100 * time.Millisecond)
	}
	return all
}

// owner is the node with the upstream connection.
func (ct *clusterTest) owner() (owner *gateway) {
	ct.t.Helper()
	for _, g := range ct.nodes {
		if !g.dead && g.source.connections() > 0 {
			if owner != nil {
				ct.t.Fatal("two nodes have a connection")
			}
			owner = g
		}
	}
	if owner == nil {
		ct.t.Fatal("no node has a connection")
	}
	return owner
}

// Who comes while nothing is proven is given nothing of another node's connection: the
// application tells each connection its own.
func TestUnprovenStreamStaysOnItsNode(t *testing.T) {
	inCluster(t, 1, 2, func(ct *clusterTest) {
		ct.app.apart, ct.options.Vouched = true, false
		ct.options.Join = 0 // auto
	}, func(ct *clusterTest) {
		var all []*client
		served := 0
		for range 3 {
			all = append(all, ct.nodes[0].join("a"), ct.nodes[1].join("b"))
			ct.emit(100)
		}
		for _, c := range all {
			whose := ""
			for _, event := range c.seen() {
				if _, of, ok := strings.Cut(event, " for "); ok && whose == "" {
					whose = of
				} else if ok && of != whose {
					t.Fatalf("a client was given what was for connections %s and %s", whose, of)
				}
			}
			if whose != "" {
				served++
			}
		}
		if served < 2 { // the others are left to handlers that know private streams
			t.Errorf("%d clients were served", served)
		}
	})
}

// What two clients of each of two nodes have shown is that all are told the same: then one
// connection is enough for all, though nobody vouches for it.
func TestProvenStreamsBecomeOne(t *testing.T) {
	inCluster(t, 1, 2, func(ct *clusterTest) { ct.options.Vouched, ct.options.Join = false, 0 }, func(ct *clusterTest) {
		var all []*client
		for _, g := range ct.nodes {
			all = append(all, g.join("1"), g.join("2"))
		}
		ct.emit(1500) // 30 s
		ct.expectConnections(1)
		for _, c := range all {
			if err := c.checkOrder(); err != nil {
				t.Error(err)
			}
			if seen := c.seen(); seen[len(seen)-1] != "1500" {
				t.Errorf("%s is at %q", c.name, seen[len(seen)-1])
			}
		}
	})
}

// The application ends the stream: clients of all nodes are given all of it, and its end.
func TestEndOfTheUpstreamIsPassedOn(t *testing.T) {
	inCluster(t, 1, 2, nil, func(ct *clusterTest) {
		all := ct.joinAll()
		ct.emit(5)
		ct.app.emit()
		ct.app.finish()
		time.Sleep(500 * time.Millisecond)
		ct.expectConnections(0)
		for _, c := range all {
			c.expect(live(numbers(1, 6)...)...)
		}
		ct.emit(250)
		ct.expectConnections(1)
		for _, c := range all {
			c.expect(live(numbers(1, ct.app.count)...)...)
		}
	})
}

// All that is kept is fetched in parts when it is too much for one message.
func TestLongHistoryComesInParts(t *testing.T) {
	inCluster(t, 1, 2, func(ct *clusterTest) { ct.net.SetMaxMessage(2000) }, func(ct *clusterTest) {
		first := ct.nodes[0].join("first")
		ct.emit(10)
		moves := ct.nodes[0].join("moves")
		ct.emit(10)
		moves.cut()
		ct.emit(500)
		moves.moveTo(ct.nodes[1])
		ct.emit(10)
		ct.expectConnections(1)
		moves.expect(live(numbers(11, 530)...)...)
		first.expect(live(numbers(1, 530)...)...)
	})
}

// However long the history is, and however large a message may be, beats of the nodes do not
// wait behind much of it. A single large event goes in one.
func TestLongHistoryLetsOtherMessagesPass(t *testing.T) {
	const large = 600 << 10
	var most atomic.Int64
	inCluster(t, 1, 2, func(ct *clusterTest) {
		ct.net.SetMaxMessage(8 << 20)
		ct.options.Buffer.Size = 64 << 20
		ct.wrap = func(bus cluster.Bus) cluster.Bus {
			return lossyBus{Bus: bus, loses: func(string) error { return nil }, reply: func(size int) {
				if size < large {
					most.Store(max(most.Load(), int64(size)))
				}
			}}
		}
	}, func(ct *clusterTest) {
		ct.nodes[0].join("first")
		ct.emit(1)
		moves := ct.nodes[0].join("moves")
		ct.emit(1)
		moves.cut()
		ct.app.padding = strings.Repeat(":"+strings.Repeat("x", 1000)+"\n", 100)
		ct.emit(20)
		ct.app.padding = strings.Repeat(":"+strings.Repeat("x", 1000)+"\n", large/1000)
		ct.emit(1)
		ct.app.padding = ""
		ct.emit(1)
		moves.moveTo(ct.nodes[1])
		moves.expect(live(numbers(2, 24)...)...)
		if n := most.Load(); n > 300<<10 || n < 100<<10 {
			t.Errorf("the largest reply of more than one event has %d bytes", n)
		}
		ct.expectConnections(1)
	})
}

// Messages that are lost, late, and come from several nodes out of order cost nobody an event.
func TestLossyNetwork(t *testing.T) {
	for seed := range uint64(5) {
		inCluster(t, seed, 3, nil, func(ct *clusterTest) {
			all := ct.joinAll()
			ct.net.SetFaults(bustest.Faults{Loss: 0.1, MaxDelay: 100 * time.Millisecond})
			ct.emit(1000)
			ct.net.SetFaults(bustest.Faults{})
			ct.emit(300)
			for _, c := range all {
				c.expect(live(numbers(1, 1300)...)...)
			}
		})
	}
}

// expectRole checks what a node tells operators of its one stream, and of all.
func (g *gateway) expectRole(want stream.NodesInfo) {
	g.test.t.Helper()
	synctest.Wait()
	for _, s := range g.hub.Every() {
		info, ok := s.Inspect()
		if !ok {
			continue
		}
		if got := *info.Nodes; got.Role != want.Role || got.Owner != want.Owner || got.Term != want.Term || !slices.Equal(got.Followers, want.Followers) {
			g.test.t.Errorf("%s tells %+v of the stream, expected %+v", g.name, got, want)
		}
		if seen, _ := s.Sample(time.Now()); seen.Role != want.Role {
			g.test.t.Errorf("%s tells %q of the stream", g.name, seen.Role)
		}
	}
	f := g.node.Figures()
	got := map[stream.NodeRole]int64{stream.NodeAsks: f.Asks, stream.NodeAlone: f.Alone, stream.NodeOwns: f.Owns, stream.NodeFollows: f.Follows}
	for role, n := range got {
		if (n == 1) != (role == want.Role) || n > 1 {
			g.test.t.Errorf("%s tells that it %s %d streams", g.name, role, n)
		}
	}
}

// Operators are told which node has a stream, who follows, and what a node has done.
func TestOperatorsAreToldWhoHasAStream(t *testing.T) {
	inCluster(t, 1, 3, nil, func(ct *clusterTest) {
		ct.joinAll()
		ct.emit(300) // so that all are told of each other
		followers := []string{"node2", "node3"}
		for i, role := range []stream.NodeRole{stream.NodeOwns, stream.NodeFollows, stream.NodeFollows} {
			ct.nodes[i].expectRole(stream.NodesInfo{Role: role, Owner: "node1", Followers: followers, Term: 1})
		}
		f := ct.nodes[0].node.Figures()
		if f.Node != "node1" || !slices.Equal(f.Peers, followers) || f.BytesSent == 0 || f.BytesReceived == 0 || f.MessagesSent < 300 || f.MessagesReceived == 0 {
			t.Errorf("node1 tells %+v", f)
		}
		ct.nodes[0].kill()
		ct.emit(500)
		ct.nodes[1].expectRole(stream.NodesInfo{Role: stream.NodeOwns, Owner: "node2", Followers: []string{"node3"}, Term: 2})
		ct.nodes[2].expectRole(stream.NodesInfo{Role: stream.NodeFollows, Owner: "node2", Followers: []string{"node3"}, Term: 2})
		if f := ct.nodes[1].node.Figures(); f.TakeOvers != 1 || !slices.Equal(f.Peers, []string{"node3"}) {
			t.Errorf("node2 tells %+v", f)
		}
	})
}

// What an owner of a term before says of the stream is of the past: that it has left it, that
// it is over, or not shared any more.
func TestOwnerOfATermBeforeIsNotHeard(t *testing.T) {
	inCluster(t, 1, 3, nil, func(ct *clusterTest) {
		all := ct.joinAll()
		ct.emit(5)
		ct.nodes[0].kill()
		ct.emit(200)
		owner := ct.owner()
		ghost := cluster.Sealed(ct.net.Add("ghost"), []byte("secret"), zap.NewNop())
		name := owner.node.Name([]stream.Part{{Name: "path", Value: "/events"}}, ct.options)
		for _, kind := range []struct {
			say  func(term uint64) error
			what string
		}{
			{func(term uint64) error { return cluster.Say(ghost, name, cluster.KindLeft, term, 0) }, "left"},
			{func(term uint64) error { return cluster.Say(ghost, name, cluster.KindEnded, term, 0) }, "ended"},
			{func(term uint64) error { return cluster.Say(ghost, name, cluster.KindClosed, term, 0) }, "closed"},
		} {
			if err := kind.say(1); err != nil {
				t.Fatal(err)
			}
			ct.emit(100)
			for _, c := range all[1:] {
				if c.comes != 1 {
					t.Errorf("%s has come %d times, after an owner before has said that it has %s the stream", c.name, c.comes, kind.what)
				}
			}
			if got := ct.owner(); got != owner {
				t.Errorf("%s is the owner, after one before has said that it has %s the stream", got.name, kind.what)
			}
		}
	})
}

// What a node tells that has a stream no more is no reason to give it up, whatever term it had.
func TestOwnerDoesNotGiveWayToWhoHasLeft(t *testing.T) {
	inCluster(t, 1, 2, nil, func(ct *clusterTest) {
		all := ct.joinAll()
		ct.emit(5)
		ghost := cluster.Sealed(ct.net.Add("ghost"), []byte("secret"), zap.NewNop())
		name := ct.nodes[0].node.Name([]stream.Part{{Name: "path", Value: "/events"}}, ct.options)
		if err := cluster.Say(ghost, name, cluster.KindLeft, 9, 0); err != nil {
			t.Fatal(err)
		}
		ct.emit(100)
		if n := all[0].comes; n != 1 || ct.owner() != ct.nodes[0] {
			t.Errorf("the owner's client has come %d times", n)
		}
	})
}

// A client of a connection that is not proven, of an application that gives no ids, is not sent
// to another node's: it would miss something.
func TestClientThatWouldMissSomethingStays(t *testing.T) {
	inCluster(t, 1, 2, func(ct *clusterTest) { ct.app.ids, ct.options.Vouched, ct.options.Join = false, false, 0 }, func(ct *clusterTest) {
		stays := ct.nodes[1].join("stays")
		ct.nodes[0].join("a")
		ct.nodes[0].join("b") // who shows that all are told the same
		ct.emit(1000)
		if f := ct.nodes[0].node.Figures(); f.Owns != 1 {
			t.Fatalf("nothing is proven: %+v", f)
		}
		if stays.comes != 1 {
			t.Errorf("it has come %d times", stays.comes)
		}
		stays.expect(live(numbers(1, 1000)...)...)
	})
}

// A node whose clients have left does not open the stream again when its owner is gone.
func TestFollowerWithoutClientsDoesNotTakeOver(t *testing.T) {
	inCluster(t, 1, 2, nil, func(ct *clusterTest) {
		all := ct.joinAll()
		ct.emit(50)
		all[1].cut()
		all[1].at = nil
		ct.nodes[0].kill()
		opened := ct.app.opened
		for range 100 {
			ct.emit(5)
			ct.expectConnections(0)
		}
		if ct.app.opened != opened {
			t.Error("it was opened again")
		}
	})
}

// A follower that is gone is no reason to keep the stream.
func TestFollowerThatIsGoneIsForgotten(t *testing.T) {
	inCluster(t, 1, 2, nil, func(ct *clusterTest) {
		all := ct.joinAll()
		ct.emit(50)
		ct.nodes[1].kill()
		all[0].cut()
		all[0].at = nil
		time.Sleep(2 * time.Minute)
		ct.expectConnections(0)
	})
}

// A quiet stream whose one client has left at once goes on for those of other nodes, and the
// owner has nothing to do meanwhile but to look again whether they are there.
func TestQuietOwnerWithoutClientsRests(t *testing.T) {
	inCluster(t, 1, 2, nil, func(ct *clusterTest) {
		first := ct.nodes[0].join("first")
		other := ct.nodes[1].join("other")
		time.Sleep(100 * time.Millisecond)
		first.cut()
		first.at = nil
		time.Sleep(time.Minute)
		ct.expectConnections(1)
		ct.emit(1)
		other.expect(live("1")...)
		other.cut()
		time.Sleep(2 * time.Minute)
		ct.expectConnections(0)
	})
}
