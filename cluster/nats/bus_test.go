package natsbus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/cluster"
	"github.com/caddy-sse/caddy-sse/internal/cluster/bustest"
)

// A cluster of embedded servers is what every Bus is.
func TestConformance(t *testing.T) {
	bustest.Test(t, func(t *testing.T) []cluster.Bus {
		t.Helper()
		var buses []cluster.Bus
		for _, n := range startNodes(t, 3) {
			buses = append(buses, n)
		}
		return buses
	})
}

// A request that is under way to a node that stops answering is not waited for.
func TestStoppedAnswerIsNobody(t *testing.T) {
	nodes := startNodes(t, 1)
	entered, release := make(chan struct{}, 10), make(chan struct{})
	stop, err := nodes[0].Answer("topic", func([]byte) []byte {
		entered <- struct{}{}
		<-release
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var asking sync.WaitGroup
	results := make(chan error, 3)
	for range cap(results) {
		asking.Go(func() {
			_, err := nodes[0].Ask(ctx, "topic", nil)
			results <- err
		})
	}
	<-entered // the others wait behind it
	waiting := nodes[0].current().conn
	await(t, "all requests", func() bool { return waiting.Stats().InMsgs >= uint64(cap(results)) })
	stop()
	close(release)
	asking.Wait()
	close(results)
	answered := 0
	for err := range results {
		switch {
		case err == nil:
			answered++
		case !errors.Is(err, cluster.ErrNobody):
			t.Error(err)
		}
	}
	if answered != 1 {
		t.Errorf("%d requests were answered", answered)
	}
}

// ways are the two ways in which embedded servers talk.
func ways(t *testing.T, test func(t *testing.T, change func(*settings))) {
	t.Helper()
	for _, insecure := range []bool{false, true} {
		t.Run(fmt.Sprintf("insecure=%t", insecure), func(t *testing.T) {
			test(t, func(s *settings) { s.embedded.insecure = insecure })
		})
	}
}

func TestNodesAskAndAnswer(t *testing.T) {
	ways(t, func(t *testing.T, change func(*settings)) {
		t.Helper()
		nodes := startNodes(t, 3, change)
		stop, err := nodes[0].Answer("a subject with spaces\x00>", func(request []byte) []byte {
			return append([]byte("reply to "), request...)
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range nodes {
			if reply := awaitAnswer(t, n, "a subject with spaces\x00>", n.Node()); reply != "reply to "+n.Node() {
				t.Errorf("reply %q", reply)
			}
		}
		stop()
		for _, n := range nodes {
			await(t, "nobody", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				_, err := n.Ask(ctx, "a subject with spaces\x00>", nil)
				return errors.Is(err, cluster.ErrNobody)
			})
		}
	})
}

// No time limit has to pass until it is known that nobody answers.
func TestNobodyIsKnownAtOnce(t *testing.T) {
	nodes := startNodes(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for range 100 {
		if _, err := nodes[1].Ask(ctx, "nothing", nil); !errors.Is(err, cluster.ErrNobody) {
			t.Fatal(err)
		}
	}
}

func TestAskEndsWithItsContext(t *testing.T) {
	nodes := startNodes(t, 2)
	asked, release := make(chan struct{}, 1), make(chan struct{})
	if _, err := nodes[0].Answer("slow", func([]byte) []byte {
		asked <- struct{}{}
		<-release
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	for {
		_, err := nodes[1].Ask(ctx, "slow", nil)
		if errors.Is(err, cluster.ErrNobody) {
			continue // not known yet
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		return
	}
}

// Messages of one node on one subject come in order, and to each subscriber once; also to
// those of the node itself.
func TestMessagesComeInOrder(t *testing.T) {
	ways(t, func(t *testing.T, change func(*settings)) {
		t.Helper()
		nodes := startNodes(t, 3, change)
		const count = 2000
		var got [3]recorder
		for i, n := range nodes {
			if _, err := n.Subscribe("topic", got[i].add); err != nil {
				t.Fatal(err)
			}
		}
		for i, n := range nodes[:2] {
			awaitSubscribers(t, n, "topic", &got, fmt.Sprintf("%d first", i))
		}
		var publishing sync.WaitGroup
		for i, n := range nodes[:2] {
			publishing.Go(func() {
				for j := range count {
					if err := n.Publish("topic", fmt.Appendf(nil, "%d %d", i, j)); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		publishing.Wait()
		for i := range got {
			for publisher := range 2 {
				last := fmt.Sprintf("%d %d", publisher, count-1)
				await(t, "the last message", func() bool { return got[i].has(last) })
				for j, message := range got[i].of(fmt.Sprintf("%d ", publisher)) {
					if want := fmt.Sprintf("%d %d", publisher, j); message != want {
						t.Fatalf("node %d: message %q, expected %q", i, message, want)
					}
				}
			}
		}
	})
}

// recorder keeps messages.
type recorder struct {
	mu  sync.Mutex
	all []string
}

func (r *recorder) add(m []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, string(m))
}

func (r *recorder) has(m string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.all, m)
}

// of are the messages with a prefix, but for the first ones of awaitSubscribers.
func (r *recorder) of(prefix string) (of []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.all {
		if len(m) > len(prefix) && m[:len(prefix)] == prefix && m != prefix+"first" {
			of = append(of, m)
		}
	}
	return of
}

// awaitSubscribers publishes until all have received it.
func awaitSubscribers(t *testing.T, n *node, subject string, got *[3]recorder, first string) {
	t.Helper()
	await(t, "all subscribers", func() bool {
		if err := n.Publish(subject, []byte(first)); err != nil {
			t.Fatal(err)
		}
		return got[0].has(first) && got[1].has(first) && got[2].has(first)
	})
}

func TestStoppedSubscriberReceivesNothing(t *testing.T) {
	nodes := startNodes(t, 2)
	var got, rest recorder
	stop, err := nodes[1].Subscribe("topic", got.add)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nodes[1].Subscribe("topic", rest.add); err != nil {
		t.Fatal(err)
	}
	await(t, "a message", func() bool {
		return nodes[0].Publish("topic", []byte("before")) == nil && got.has("before")
	})
	stop()
	stop()
	if err := nodes[0].Publish("topic", []byte("after")); err != nil {
		t.Fatal(err)
	}
	await(t, "the message", func() bool { return rest.has("after") })
	if got.has("after") {
		t.Error("it received a message")
	}
}

func TestLargestMessage(t *testing.T) {
	nodes := startNodes(t, 2)
	large := bytes.Repeat([]byte("x"), nodes[0].MaxMessage())
	if len(large) < 4<<20 {
		t.Errorf("a message of %d bytes is the largest: an event may have 4 MiB", len(large))
	}
	if _, err := nodes[0].Answer("echo", func(request []byte) []byte { return request }); err != nil {
		t.Fatal(err)
	}
	if reply := awaitAnswer(t, nodes[1], "echo", string(large)); reply != string(large) {
		t.Errorf("reply of %d bytes", len(reply))
	}
	if _, err := nodes[1].Ask(t.Context(), "echo", append(large, 'x')); err == nil || errors.Is(err, cluster.ErrNobody) {
		t.Errorf("one byte more: %v", err)
	}
}

// What a node has received is its own: a later message does not change it.
func TestReceivedIsTheReceivers(t *testing.T) {
	nodes := startNodes(t, 2)
	kept := make(chan []byte, 1000)
	if _, err := nodes[1].Subscribe("topic", func(m []byte) { kept <- m }); err != nil {
		t.Fatal(err)
	}
	await(t, "a message", func() bool { return nodes[0].Publish("topic", []byte("first")) == nil && len(kept) > 0 })
	for i := range 100 {
		if err := nodes[0].Publish("topic", fmt.Appendf(nil, "%05d", i)); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "all messages", func() bool { return len(kept) > 100 })
	if first := string(<-kept); first != "first" {
		t.Errorf("the first message is %q now", first)
	}
}

// A node that is gone is noticed: who asks it is told that there is nobody.
func TestNodeThatIsGoneIsNoticed(t *testing.T) {
	nodes := startNodes(t, 3)
	gone := make(chan struct{})
	if _, err := nodes[2].Answer("topic", func([]byte) []byte { return []byte("here") }); err != nil {
		t.Fatal(err)
	}
	awaitAnswer(t, nodes[0], "topic", "")
	go func() {
		defer close(gone)
		nodes[2].drop(nodes[2].link)
	}()
	await(t, "nobody", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := nodes[0].Ask(ctx, "topic", nil)
		return errors.Is(err, cluster.ErrNobody)
	})
	<-gone
	nodes[0].awaitOthers(t, 1)
}

// So is it by who waits for its reply, although nobody tells.
func TestAskedNodeThatGoesIsNoticed(t *testing.T) {
	nodes := startNodes(t, 2)
	entered, release := make(chan struct{}, 10), make(chan struct{})
	if _, err := nodes[1].Answer("topic", func([]byte) []byte {
		entered <- struct{}{}
		<-release
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	result := make(chan error, 1)
	go func() {
		for {
			_, err := nodes[0].Ask(ctx, "topic", nil)
			if len(entered) > 0 || err == nil { // else it was not known yet
				result <- err
				return
			}
		}
	}()
	await(t, "the request", func() bool { return len(entered) > 0 })
	nodes[1].current().server.close()
	if err := <-result; !errors.Is(err, cluster.ErrNobody) {
		t.Errorf("it was told %v", err)
	}
}

// A node that loses all others is told, and told again when one is back; what it had
// subscribed to works then.
func TestWatchTellsOfLossAndReturn(t *testing.T) {
	address := ownAddress(t)
	first := startNode(t, embeddedAt(t, testSecret, "127.0.0.1:0", address))
	states := make(chan bool, 100)
	stop := first.Watch(func(connected bool) { states <- connected })
	defer stop()
	expect := func(want bool) {
		t.Helper()
		select {
		case got := <-states:
			if got != want {
				t.Fatalf("told %t, expected %t", got, want)
			}
		case <-time.After(patience):
			t.Fatalf("not told %t", want)
		}
	}
	expect(false)
	if _, err := first.Answer("topic", func([]byte) []byte { return []byte("first") }); err != nil {
		t.Fatal(err)
	}
	second := startNode(t, embeddedAt(t, testSecret, address))
	expect(true)
	awaitAnswer(t, second, "topic", "")
	second.drop(second.link)
	expect(false)
	again := startNode(t, embeddedAt(t, testSecret, address))
	expect(true)
	awaitAnswer(t, again, "topic", "")

	// A further node is told of as well: it may have been away.
	startNode(t, embeddedAt(t, testSecret, "127.0.0.1:0", address))
	expect(true)
}

// A connection on which nothing comes any more is not waited for for long, which is what
// pings are for: no one has closed it.
func TestSilentNodeIsLeft(t *testing.T) {
	t.Parallel()
	first := startNode(t, embeddedAt(t, testSecret, "127.0.0.1:0"))
	between := startForwarder(t, first.address())
	second := startNode(t, embeddedAt(t, testSecret, "127.0.0.1:0", between.address()))
	for _, n := range []*node{first, second} {
		n.awaitOthers(t, 1)
	}
	between.hold()
	for _, n := range []*node{first, second} {
		n.awaitOthers(t, 0)
	}
	between.release()
	for _, n := range []*node{first, second} {
		n.awaitOthers(t, 1)
	}
}

// A bus without a connection answers at once.
func TestBusWithoutConnection(t *testing.T) {
	b := newBus()
	if _, err := b.Ask(t.Context(), "topic", nil); !errors.Is(err, cluster.ErrNobody) {
		t.Errorf("asking: %v", err)
	}
	if err := b.Publish("topic", nil); err == nil {
		t.Error("publishing worked")
	}
	if b.MaxMessage() < 64<<10 {
		t.Errorf("largest message %d", b.MaxMessage())
	}
}

// What was subscribed to before a connection was there works when it is.
func TestSubscriptionBeforeStart(t *testing.T) {
	nodes := startNodes(t, 1)
	n := &node{newBus(), newTestLink(t, embeddedAt(t, testSecret, "127.0.0.1:0", nodes[0].address()))}
	if _, err := n.Answer("topic", func([]byte) []byte { return []byte("early") }); err != nil {
		t.Fatal(err)
	}
	if err := n.start(n.link); err != nil {
		t.Fatal(err)
	}
	defer n.drop(n.link)
	if reply := awaitAnswer(t, nodes[0], "topic", ""); reply != "early" {
		t.Errorf("reply %q", reply)
	}
}

func TestNodesHaveDifferentNames(t *testing.T) {
	if a, b := newBus().Node(), newBus().Node(); a == b || a == "" {
		t.Errorf("names %q and %q", a, b)
	}
}
