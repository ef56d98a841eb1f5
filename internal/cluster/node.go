package cluster

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/logs"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

const (
	// beatInterval is how often a node tells that it is alive, and lifetime for how long
	// one such word holds: two may be lost or late.
	beatInterval = 400 * time.Millisecond
	lifetime     = 3 * beatInterval

	// lostTime is how long the bus may take until it knows that a node is gone.
	lostTime = 10 * time.Second

	// checkInterval is how often a node looks which others are alive.
	checkInterval = 200 * time.Millisecond
)

// beatSubject is where nodes tell that they are alive.
const beatSubject = "nodes"

// Node is this process among the nodes. It implements stream.Cluster.
type Node struct {
	bus    Bus
	name   string
	logger *zap.Logger
	wrong  logs.Throttle // the line on malformed messages
	figures

	stop     chan struct{}
	stopped  sync.WaitGroup
	stopBeat func()
	unwatch  func()

	mu     sync.Mutex
	peers  map[string]*peer
	lostAt time.Time     // when a node was last lost; zero: none was
	met    chan struct{} // closed when another node is met, or again; then there is another
}

// peer is another node.
type peer struct {
	heard    time.Time
	sequence uint64        // of its newest beat
	lost     chan struct{} // closed when it was not heard for too long
}

var _ stream.Cluster = (*Node)(nil)

// New makes a node, which tells others that it is alive until it is closed.
func New(bus Bus, logger *zap.Logger) (*Node, error) {
	n := &Node{
		bus: bus, name: bus.Node(), logger: logger,
		stop: make(chan struct{}), peers: make(map[string]*peer), met: make(chan struct{}),
	}
	stop, err := bus.Subscribe(beatSubject, n.takeBeat)
	if err != nil {
		return nil, fmt.Errorf("listening to other nodes: %w", err)
	}
	n.stopBeat = stop
	n.unwatch = bus.Watch(func(connected bool) {
		if connected {
			n.meet()
		}
	})
	n.stopped.Go(n.beat)
	return n, nil
}

// Close ends what the node does by itself. Streams are ended by their hub.
func (n *Node) Close() {
	close(n.stop)
	n.stopped.Wait()
	n.unwatch()
	n.stopBeat()
}

// Name names a stream by all that its key is made of, and by what decides how its blocks
// are made.
func (n *Node) Name(parts []stream.Part, o *stream.Options) string {
	h := sha256.New()
	add := func(text string) {
		var size [8]byte
		binary.LittleEndian.PutUint64(size[:], uint64(len(text)))
		h.Write(size[:])
		h.Write([]byte(text))
	}
	add(fmt.Sprint(version, o.IDs, o.Join, o.Vouched, o.EmptyBlocks, o.Reconnect))
	add(o.GapEvent)
	add(o.Keys)
	for _, part := range parts {
		if part.Name == "place" {
			part.Value = placeOf(part.Value)
		}
		add(part.Name)
		add(part.Value)
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// placeOf is what of a handler's place is to be equal on nodes: its name, if it has one, or
// else all listen addresses. That two servers with other addresses, which may be meant for
// other clients, are one place only the operator knows.
func placeOf(place string) string {
	listen, name := stream.PlaceOf(place)
	if name != "" {
		return "name " + name
	}
	return "listen " + listen
}

// beat tells that the node is alive, and looks who else is.
func (n *Node) beat() {
	timer := time.NewTicker(checkInterval)
	defer timer.Stop()
	sequence, last, told := uint64(time.Now().UnixNano()), time.Now(), time.Time{}
	for {
		now := time.Now()
		if now.Sub(told) >= beatInterval {
			told = now
			sequence++
			n.publish(beatSubject, &message{kind: kindBeat, sequence: sequence})
		}
		n.check(now, now.Sub(last) > lifetime/2)
		last = now
		select {
		case <-n.stop:
			return
		case <-timer.C:
		}
	}
}

// check looks who was not heard for too long. If the node itself did not run, it has heard
// nobody.
func (n *Node) check(now time.Time, slept bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, p := range n.peers {
		switch {
		case slept:
			p.heard = now
		case now.Sub(p.heard) > lifetime:
			close(p.lost)
			delete(n.peers, name)
			n.lostAt = now
		}
	}
}

func (n *Node) takeBeat(text []byte) {
	if m := n.read(text); m != nil && m.kind == kindBeat && m.node != n.name {
		n.hear(m.node, m.sequence)
	}
}

// hear takes note that a node is alive. A beat that was heard before says nothing.
func (n *Node) hear(name string, sequence uint64) {
	n.mu.Lock()
	p := n.peers[name]
	isNew := p == nil
	if isNew {
		p = &peer{lost: make(chan struct{})}
		n.peers[name] = p
	}
	if sequence == 0 || sequence > p.sequence {
		p.heard, p.sequence = time.Now(), max(p.sequence, sequence)
	}
	n.mu.Unlock()
	if isNew {
		n.meet()
	}
}

// meet lets owners tell again what they have: another node may not know it.
func (n *Node) meet() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.met)
	n.met = make(chan struct{})
}

// meets returns what is closed when another node is met.
func (n *Node) meets() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.met
}

// lost returns what is closed when a node is not heard any more.
func (n *Node) lost(name string) <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p := n.peers[name]; p != nil {
		return p.lost
	}
	gone := make(chan struct{})
	close(gone)
	return gone
}

// hasLost reports whether a node was lost so lately that requests may still go to it: it is
// longer until its connection is given up.
func (n *Node) hasLost() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.lostAt.IsZero() && time.Since(n.lostAt) < lostTime
}

// alive returns those of some nodes that are, this one included, in order.
func (n *Node) alive(names []string) (alive []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, name := range names {
		if name == n.name || n.peers[name] != nil {
			alive = append(alive, name)
		}
	}
	slices.Sort(alive)
	return slices.Compact(alive)
}

// others returns those that are alive, in order.
func (n *Node) others() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Sorted(maps.Keys(n.peers))
}

// publish sends a message to all who listen. Nobody is told that it failed: whatever is
// missing is found missing.
func (n *Node) publish(subject string, m *message) {
	m.node = n.name
	if err := n.bus.Publish(subject, n.sent(m.encode(time.Now()))); err != nil {
		if c := n.logger.Check(zap.DebugLevel, "a message to other nodes was not sent"); c != nil {
			c.Write(zap.NamedError("reason", err))
		}
	}
}

// read decodes a message; nil: it is malformed, which is logged and ends nothing else.
func (n *Node) read(text []byte) *message {
	n.received(text)
	m, err := decode(text, time.Now())
	if err != nil {
		n.malformed.Add(1)
		n.wrong.Log(func(suppressed int) {
			n.logger.Warn("dropped a message of another node", zap.NamedError("reason", err), zap.Int("bytes", len(text)), zap.Int("suppressed", suppressed))
		})
		return nil
	}
	return m
}
