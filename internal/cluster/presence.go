package cluster

import (
	"slices"
	"sync"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// PresenceInterval is how often nodes are to tell each other which handlers they have.
const PresenceInterval = 5 * time.Second

// Presence is a handler of this node, which others are told of: so that it is known whether
// another one has a handler that would make the same streams.
type Presence struct {
	node    *Node
	subject string
	stop    func()

	mu    sync.Mutex
	heard map[string]time.Time // when the handler of another node was
}

// Present lets others be told of a handler, by all that its streams are named by but for
// what is of a request.
func (n *Node) Present(place string, o *stream.Options) (*Presence, error) {
	p := &Presence{node: n, heard: make(map[string]time.Time)}
	p.subject = "handlers/" + n.Name([]stream.Part{{Name: "place", Value: place}}, o)
	stop, err := n.bus.Subscribe(p.subject, p.take)
	if err != nil {
		return nil, err
	}
	p.stop = stop
	return p, nil
}

// Close ends the telling.
func (p *Presence) Close() { p.stop() }

// Tell tells others that the handler is there. It is to be called at each PresenceInterval.
func (p *Presence) Tell() { p.node.publish(p.subject, &message{kind: kindBeat}) }

func (p *Presence) take(text []byte) {
	m := p.node.read(text)
	if m == nil || m.kind != kindBeat || m.node == p.node.name {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard[m.node] = time.Now()
}

// Elsewhere reports whether another node that is alive has the same handler.
func (p *Presence) Elsewhere() bool {
	alive := p.node.others()
	p.mu.Lock()
	defer p.mu.Unlock()
	for node, at := range p.heard {
		if time.Since(at) > 3*PresenceInterval {
			delete(p.heard, node)
		}
	}
	return slices.ContainsFunc(alive, func(node string) bool { return !p.heard[node].IsZero() })
}
