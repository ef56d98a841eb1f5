package natsbus

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// limit fails if something took longer than it may. That holds for runs by hand: in CI the
// machine may be busy with anything.
func limit(t *testing.T, what string, began time.Time, most time.Duration) {
	t.Helper()
	took := time.Since(began)
	t.Logf("%s: %v", what, took.Round(time.Millisecond))
	if *full && took > most {
		t.Errorf("%s took %v, expected %v at most", what, took, most)
	}
}

// All clients of all gateways share one connection; each has every event once, in order;
// and one that moves to another gateway goes on there.
func TestGatewaysShareOneConnection(t *testing.T) {
	t.Parallel()
	bothIDs(t, func(t *testing.T, a *app) {
		t.Helper()
		gateways := startGateways(t, a, 3)
		var clients []*client
		for range size(500, 20) {
			for _, g := range gateways {
				clients = append(clients, connect(t, "/events", "", g))
			}
		}
		a.settle(t, 1, clients...)
		first := a.send(1)
		last := 0
		for range 100 {
			last = a.send(1)
		}
		for _, c := range clients {
			c.expect(t, first, last)
		}
		for i, c := range clients[:size(90, 3)] {
			c.leave()
			last := a.send(10)
			moved := connect(t, "/events", c.id, gateways[(i+1)%3])
			moved.expect(t, last-9, last)
			last = a.send(1)
			moved.expect(t, last-10, last)
			clients[i+1].awaitEvent(t, last) // which moves next
			for _, c := range clients[len(clients)-3:] {
				c.awaitEvent(t, last) // each gateway has it
			}
		}
		if n := a.connections(); n != 1 {
			t.Errorf("%d upstream connections", n)
		}
	})
}

// startBusy starts three gateways, each with two clients that go to another one if it is
// away. The application sends 200 events a second.
func startBusy(t *testing.T, a *app) (gateways []*gateway, clients []*client, stop func()) {
	t.Helper()
	gateways = startGateways(t, a, 3)
	for i := range 6 {
		of := slices.Concat(gateways[i%3:], gateways[:i%3])
		clients = append(clients, connect(t, "/events", "", of...))
	}
	a.settle(t, 1, clients...)
	return gateways, clients, a.keepSending(t)
}

// awaitAll waits until all clients have an event that is sent from now on.
func (a *app) awaitAll(t *testing.T, clients []*client) {
	t.Helper()
	number, _ := a.now()
	for _, c := range clients {
		c.awaitEvent(t, number+1)
	}
}

// expectAll stops the application, and fails unless all clients have all that it has sent,
// once and in order, or were told what is missing, if that may be. It returns how often.
func (a *app) expectAll(t *testing.T, clients []*client, stop func(), mayGap bool) (gaps int) {
	t.Helper()
	stop()
	last, _ := a.now()
	var longest time.Duration
	for _, c := range clients {
		c.awaitEvent(t, last)
		gaps += c.expectWhole(t, mayGap)
		seen := c.events()
		for i := range seen[1:] {
			longest = max(longest, seen[i+1].at.Sub(seen[i].at))
		}
	}
	t.Logf("%d events, %d gaps told to %d clients, longest silence %v", last, gaps, len(clients), longest.Round(time.Millisecond))
	return gaps
}

// When the gateway that has the connection is killed, another one takes over. With ids of
// the application nobody misses an event: neither the other gateways' clients nor those
// who come from the one that is gone. Without, they are told that something is missing.
func TestOwnerIsKilled(t *testing.T) {
	t.Parallel()
	bothIDs(t, func(t *testing.T, a *app) {
		t.Helper()
		gateways, clients, stop := startBusy(t, a)
		for range size(10, 2) {
			owner := gateways[a.owner(t, gateways)]
			owner.kill()
			began := time.Now()
			await(t, "another connection", func() bool { return a.connections() > 0 && !a.hasOf(owner.name) })
			limit(t, "take-over", began, 2*time.Second)
			a.awaitAll(t, clients)
			owner.start(t)
			for _, g := range gateways {
				g.awaitOthers(t, 2)
			}
			for _, c := range clients {
				c.goHome() // or else all of them are at one gateway soon
			}
			a.awaitAll(t, clients)
		}
		a.awaitConnections(t, 1)
		if gaps := a.expectAll(t, clients, stop, !a.ids); !a.ids && gaps == 0 {
			t.Error("nobody was told of a gap")
		}
	})
}

// A gateway that was frozen, and goes on, brings nothing twice, nor do its clients miss
// anything.
func TestOwnerIsFrozen(t *testing.T) {
	t.Parallel()
	bothIDs(t, func(t *testing.T, a *app) {
		t.Helper()
		gateways, clients, stop := startBusy(t, a)
		i := a.owner(t, gateways)
		frozen := gateways[i]
		frozen.signal(t, syscall.SIGSTOP)
		thawed := time.NewTimer(time.Duration(size(10, 2)) * time.Second)
		defer frozen.signal(t, syscall.SIGCONT)
		others := slices.DeleteFunc(slices.Clone(clients), func(c *client) bool { return c.at() == frozen })
		await(t, "another connection", func() bool { return a.connections() > 1 })
		a.awaitAll(t, others)
		<-thawed.C // that is how long it is frozen
		frozen.signal(t, syscall.SIGCONT)
		began := time.Now()
		await(t, "the frozen gateway's connection goes", func() bool { return !a.hasOf(frozen.name) })
		a.awaitConnections(t, 1)
		limit(t, "one connection after the freeze", began, 5*time.Second)
		a.awaitAll(t, clients)
		a.awaitConnections(t, 1)
		a.expectAll(t, clients, stop, !a.ids)
	})
}

// All gateways are restarted one after the other, and reloaded, and nobody misses anything
// or has it twice.
func TestRollingRestartAndReload(t *testing.T) {
	t.Parallel()
	a := startApp(t, true)
	gateways, clients, stop := startBusy(t, a)
	for _, g := range gateways {
		g.stop(t)
		g.start(t)
		for _, g := range gateways {
			g.awaitOthers(t, 2)
		}
		a.awaitAll(t, clients)
	}
	for i, g := range gateways {
		g.reload(t, i+1)
		a.awaitAll(t, clients)
	}
	a.awaitConnections(t, 1)
	a.expectAll(t, clients, stop, false)
	comes := 0
	for _, c := range clients {
		comes += strings.Count(c.said(), "\n")
	}
	t.Logf("clients came back %d times, connections to the application %d", comes, a.openedSoFar())
}

// between are the ways from gateways to each other: from the first to the second.
type between [3][3]*forwarder

// hold keeps gateways from each other, if apart says so of the two; or nobody.
func (b *between) hold(apart func(i, j int) bool) {
	for i := range b {
		for j, f := range b[i] {
			switch {
			case f == nil:
			case apart(i, j):
				f.hold()
			default:
				f.release()
			}
		}
	}
}

// startBetween starts three gateways, which reach each other through forwarders only, with two
// clients each, and the application that sends.
func startBetween(t *testing.T, a *app) (gateways []*gateway, ways *between, clients []*client, stop func()) {
	t.Helper()
	gateways, ways = newGateways(t, a, 3), new(between)
	for i, g := range gateways {
		g.routes, g.advertise = nil, ownAddress(t) // where nobody listens
		for j, to := range gateways {
			if i != j {
				ways[i][j] = startForwarder(t, to.listen)
				g.routes = append(g.routes, ways[i][j].address())
			}
		}
		g.start(t)
	}
	for _, g := range gateways {
		g.awaitOthers(t, 2)
		clients = append(clients, connect(t, "/events", "", g), connect(t, "/events", "", g))
	}
	a.settle(t, 1, clients...)
	stop = a.keepSending(t)
	a.awaitAll(t, clients)
	return gateways, ways, clients, stop
}

// expectHealed waits until gateways that were apart have one connection again, and fails if a
// client has missed anything then, or had it twice.
func (a *app) expectHealed(t *testing.T, gateways []*gateway, clients []*client, stop func()) {
	t.Helper()
	for _, g := range gateways {
		g.awaitOthers(t, 2)
	}
	began := time.Now()
	a.awaitConnections(t, 1)
	limit(t, "one connection after all have met", began, 5*time.Second)
	a.awaitAll(t, clients)
	a.awaitConnections(t, 1)
	a.expectAll(t, clients, stop, !a.ids)
}

// Gateways that cannot reach each other serve on, each with a connection; when they can
// again there is one, and nobody has missed anything or had it twice.
func TestPartitionHeals(t *testing.T) {
	t.Parallel()
	bothIDs(t, func(t *testing.T, a *app) {
		t.Helper()
		gateways, ways, clients, stop := startBetween(t, a)
		ways.hold(func(int, int) bool { return true })
		healed := time.NewTimer(time.Duration(size(20, 3)) * time.Second)
		a.awaitConnections(t, 3)
		a.awaitAll(t, clients)
		<-healed.C // that is how long they are apart
		if n := a.connections(); n != 3 {
			t.Errorf("%d connections for three sides", n)
		}
		a.awaitAll(t, clients)
		ways.hold(func(int, int) bool { return false })
		a.expectHealed(t, gateways, clients, stop)
	})
}

// Where the one gateway of three that has the connection is cut off, the other two have one
// connection together, and it has its own; and so where one of the others is.
func TestPartitionOfTwoAgainstOne(t *testing.T) {
	t.Parallel()
	bothIDs(t, func(t *testing.T, a *app) {
		t.Helper()
		gateways, ways, clients, stop := startBetween(t, a)
		for _, next := range []int{0, 1} { // the owner, and one that is not
			alone := (a.owner(t, gateways) + next) % 3
			ways.hold(func(i, j int) bool { return i == alone || j == alone })
			healed := time.NewTimer(time.Duration(size(20, 3)) * time.Second)
			a.awaitConnections(t, 2)
			a.awaitAll(t, clients)
			<-healed.C // that is how long it is apart
			if n := a.connections(); n != 2 || !a.hasOf(gateways[alone].name) {
				t.Errorf("%d connections for two sides", n)
			}
			a.awaitAll(t, clients)
			ways.hold(func(int, int) bool { return false })
			for _, g := range gateways {
				g.awaitOthers(t, 2)
			}
			a.awaitConnections(t, 1)
			a.awaitAll(t, clients)
		}
		a.expectHealed(t, gateways, clients, stop)
	})
}

// Streams that are opened on two gateways at one moment have one connection each.
func TestOpenedAtTheSameMoment(t *testing.T) {
	t.Parallel()
	a := startApp(t, true)
	gateways := startGateways(t, a, 2)
	streams := size(1000, 100)
	began := time.Now()
	var clients []*client
	for i := range streams {
		for _, g := range gateways {
			clients = append(clients, connect(t, fmt.Sprintf("/stream/%d", i), "", g))
		}
	}
	a.awaitOneEach(t, streams, clients)
	limit(t, fmt.Sprintf("%d streams, for which %d connections were opened", streams, a.openedSoFar()), began, 5*time.Second)
	a.settle(t, streams, clients...)
	for range 3 {
		last := a.send(1)
		for _, c := range clients {
			c.awaitEvent(t, last)
		}
	}
	if !a.hasOneEach(streams) {
		t.Errorf("%d connections for %d streams", a.connections(), streams)
	}
	for _, c := range clients {
		c.expectWhole(t, false)
	}
}

// When a gateway goes that has most of the clients, they go on at the others, and the
// application has as many connections as before.
func TestClientsReturnToOtherGateways(t *testing.T) {
	t.Parallel()
	a := startApp(t, true)
	gateways := startGateways(t, a, 3)
	const streams = 10
	path := func(i int) string { return fmt.Sprintf("/stream/%d", i%streams) }
	var clients []*client
	for i := range 2 * streams {
		clients = append(clients, connect(t, path(i), "", gateways[1+i/streams]))
	}
	a.awaitOneEach(t, streams, clients)
	for i := range size(10_000, 200) {
		clients = append(clients, connect(t, path(i), "", gateways[0], gateways[1+i%2]))
	}
	a.settle(t, streams, clients...)
	before := [2]int{gateways[1].memory(t), gateways[2].memory(t)}
	gateways[0].kill()
	began := time.Now()
	last := a.send(1)
	for _, c := range clients {
		c.awaitEvent(t, last)
	}
	limit(t, "all have returned", began, 20*time.Second)
	a.awaitConnections(t, streams)
	for _, c := range clients {
		c.expectWhole(t, false)
	}
	t.Logf("resident memory in MiB: %v, then %d and %d", before, gateways[1].memory(t), gateways[2].memory(t))
}

// memory is how much of it a gateway has, in MiB.
func (g *gateway) memory(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.command.Process.Pid))
	if err != nil {
		return 0 // only Linux tells
	}
	match := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(text)
	if match == nil {
		t.Fatalf("no memory in %s", text)
	}
	kib, _ := strconv.Atoi(string(match[1]))
	return kib >> 10
}

// Gateways of which options differ that decide what clients are sent do not share with each
// other, nor do those that listen elsewhere, unless their handlers have the same name; nor
// is one with another secret let in.
func TestDifferentGatewaysDoNotShare(t *testing.T) {
	t.Parallel()
	a := startApp(t, true)
	const alike = 3
	different := []func(g *gateway){
		func(g *gateway) { g.options = "ids gateway" },
		func(g *gateway) { g.options = "name other" },
		func(g *gateway) { g.gapEvent = "other" },
		func(g *gateway) { g.socket = "elsewhere.sock" },
		func(g *gateway) { g.secret = "another secret of thirty-two bytes" },
	}
	gateways := newGateways(t, a, alike+len(different)+1)
	for i, change := range different {
		change(gateways[alike+i])
	}
	// These two share although they listen at different addresses.
	named := gateways[len(gateways)-1]
	named.options, named.socket = "name events", "third.sock"
	gateways[2].options, gateways[2].socket = "name events", "fourth.sock"
	var starting sync.WaitGroup
	for _, g := range gateways {
		starting.Go(func() { g.start(t) })
	}
	starting.Wait()
	for _, g := range gateways {
		if g.secret == testSecret {
			g.awaitOthers(t, len(gateways)-2)
		}
	}
	var clients []*client
	for _, g := range gateways {
		c := connect(t, "/events", "", g)
		clients = append(clients, c)
		a.sendUntil(t, 100*time.Millisecond, func(int) bool { return len(c.events()) > 0 })
	}
	last := a.send(1)
	for i, c := range clients {
		c.awaitEvent(t, last)
		c.expectWhole(t, false)
		has := i != 1 && gateways[i] != named
		if a.hasOf(gateways[i].name) != has {
			t.Errorf("gateway %d has a connection: %t", i, !has)
		}
	}
}

// What is malformed, or not made with the secret, is dropped with a log line, and clients
// do not notice.
func TestMalformedMessagesEndNothing(t *testing.T) {
	t.Parallel()
	a := startApp(t, true)
	gateways, clients, stop := startBusy(t, a)
	opened := a.openedSoFar()
	peer := startNode(t, embeddedAt(t, testSecret, "127.0.0.1:0", gateways[0].listen))
	peer.awaitOthers(t, 3)
	conn := peer.current().conn
	var seen recorder
	if _, err := conn.Subscribe("sse.say.>", func(m *nats.Msg) { seen.add([]byte(m.Subject)) }); err != nil {
		t.Fatal(err)
	}
	await(t, "the stream's subject", func() bool { return len(slices.Compact(slices.Sorted(slices.Values(seen.of(""))))) > 1 })
	lines := []string{"dropped a message of another node", "not made with the cluster's secret"}
	await(t, "the log lines", func() bool {
		for _, subject := range seen.of("") {
			if err := conn.Publish(subject, []byte("a stranger's message, which is long enough")); err != nil {
				t.Fatal(err)
			}
		}
		if err := peer.Publish("nodes", []byte("malformed")); err != nil {
			t.Fatal(err)
		}
		return !slices.ContainsFunc(gateways, func(g *gateway) bool {
			return slices.ContainsFunc(lines, func(line string) bool { return !strings.Contains(g.logged(), line) })
		})
	})
	a.awaitAll(t, clients)
	a.awaitConnections(t, 1)
	a.expectAll(t, clients, stop, false)
	if n := a.openedSoFar(); n != opened {
		t.Errorf("%d connections were opened anew", n-opened)
	}
}
