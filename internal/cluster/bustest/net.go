// Package bustest has what tests of clusters need: nodes in one process, whose
// messages can be lost, late, or kept from each other; and what must hold of any Bus.
package bustest

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/cluster"
)

var errGone = errors.New("the node is gone")

// Net connects nodes in one process. Its time is that of package time, so that it can
// be fake. The zero faults are none.
type Net struct {
	mu     sync.Mutex
	rand   *rand.Rand
	nodes  []*netBus // in the order in which they came
	faults Faults
	apart  func(a, b string) bool
	max    int
	order  uint64
	wait   sync.WaitGroup
}

// Faults are what goes wrong on the way.
type Faults struct {
	Loss     float64       // of published messages and of requests: that part of them
	MinDelay time.Duration // of each message
	MaxDelay time.Duration // they come in order from one node only
}

// NewNet makes a net without nodes. The seed decides all that is random.
func NewNet(seed uint64) *Net {
	return &Net{rand: rand.New(rand.NewPCG(seed, 0)), max: 1 << 16} //nolint:gosec // a test is to be repeated
}

// SetMaxMessage sets how large a message may be. It is called before there are nodes.
func (n *Net) SetMaxMessage(size int) { n.max = size }

// SetFaults sets what goes wrong from now on.
func (n *Net) SetFaults(f Faults) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults = f
}

// Partition keeps nodes from each other that apart names; nil: none.
func (n *Net) Partition(apart func(a, b string) bool) {
	n.change(func() { n.apart = apart })
}

// change changes what nodes reach, and tells them.
func (n *Net) change(do func()) {
	n.mu.Lock()
	do()
	var calls []func()
	for _, b := range n.nodes {
		calls = append(calls, b.look()...)
	}
	n.mu.Unlock()
	for _, call := range calls {
		call()
	}
}

// Freeze stops or starts a node: what comes to it, and from it, comes when it runs again.
func (n *Net) Freeze(name string, frozen bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.node(name).frozen = frozen
	for _, other := range n.nodes {
		other.poke()
	}
}

// Close ends all nodes, and waits for what they do.
func (n *Net) Close() {
	n.mu.Lock()
	all := slices.Clone(n.nodes)
	n.mu.Unlock()
	for _, b := range all {
		n.Kill(b.name)
	}
	n.wait.Wait()
}

// Kill ends a node, as SIGKILL would.
func (n *Net) Kill(name string) {
	n.change(func() {
		if b := n.node(name); b != nil {
			n.nodes = slices.DeleteFunc(n.nodes, func(o *netBus) bool { return o == b })
			b.dead = true
			b.poke()
		}
	})
}

// node is the one with a name; nil: there is none.
func (n *Net) node(name string) *netBus {
	if i := slices.IndexFunc(n.nodes, func(b *netBus) bool { return b.name == name }); i >= 0 {
		return n.nodes[i]
	}
	return nil
}

// Add adds a node.
func (n *Net) Add(name string) cluster.Bus {
	b := &netBus{net: n, name: name, seen: make(map[string]bool)}
	n.change(func() { n.nodes = append(n.nodes, b) })
	return b
}

// netBus is one node's Bus. The net's lock guards it.
type netBus struct {
	net     *Net
	name    string
	inboxes []*inbox
	watches []*func(connected bool)
	seen    map[string]bool // the nodes that it reached when it last looked
	frozen  bool
	dead    bool
}

// inbox is a subscription, or one to answer requests.
type inbox struct {
	bus     *netBus
	subject string
	receive func(message []byte)
	answer  func(request []byte) []byte
	queue   []letter
	last    map[string]time.Time // when the newest letter of each sender comes
	stopped bool
	poked   chan struct{}
}

// letter is something on its way.
type letter struct {
	at    time.Time
	order uint64
	from  *netBus
	take  func()
}

func (b *netBus) poke() {
	for _, i := range b.inboxes {
		i.poke()
	}
}

// drop takes an inbox off the list.
func (b *netBus) drop(i *inbox) {
	b.inboxes = slices.DeleteFunc(b.inboxes, func(o *inbox) bool { return o == i })
}

func (i *inbox) poke() {
	select {
	case i.poked <- struct{}{}:
	default:
	}
}

// reaches reports whether a node's messages get to another one.
func (n *Net) reaches(a, b *netBus) bool {
	return a == b || (!a.dead && !b.dead && (n.apart == nil || !n.apart(a.name, b.name)))
}

// send puts a letter on its way to an inbox, unless it is lost.
func (n *Net) send(from *netBus, to *inbox, take func()) {
	if !n.reaches(from, to.bus) || (from != to.bus && n.rand.Float64() < n.faults.Loss) {
		return
	}
	at := time.Now()
	if from != to.bus {
		at = at.Add(n.delay())
	}
	if last := to.last[from.name]; at.Before(last) {
		at = last
	}
	to.last[from.name] = at
	n.order++
	to.queue = append(to.queue, letter{at, n.order, from, take})
	to.poke()
}

func (n *Net) delay() time.Duration {
	d := n.faults.MinDelay
	if spread := n.faults.MaxDelay - d; spread > 0 {
		d += time.Duration(n.rand.Int64N(int64(spread)))
	}
	return d
}

// run takes letters when they come.
func (i *inbox) run() {
	n := i.bus.net
	for {
		n.mu.Lock()
		if i.stopped || i.bus.dead {
			i.bus.drop(i)
			n.mu.Unlock()
			return
		}
		take, wait := i.next(time.Now())
		n.mu.Unlock()
		if take != nil {
			take()
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-i.poked:
		}
		timer.Stop()
	}
}

// next takes out the next letter that has come; nil: there is none, and when to look again.
func (i *inbox) next(now time.Time) (take func(), wait time.Duration) {
	wait = time.Hour
	if i.bus.frozen {
		return nil, wait
	}
	i.queue = slices.DeleteFunc(i.queue, func(l letter) bool { return l.from.frozen && l.from.dead })
	first := -1
	for j, l := range i.queue {
		if !l.from.frozen && (first < 0 || l.before(i.queue[first])) { // else it is in its sender's process yet
			first = j
		}
	}
	if first < 0 {
		return nil, wait
	}
	next := i.queue[first]
	if wait = next.at.Sub(now); wait > 0 {
		return nil, wait
	}
	i.queue = slices.Delete(i.queue, first, first+1)
	return next.take, 0
}

// before reports whether a letter comes before another one.
func (l letter) before(o letter) bool {
	if l.at.Equal(o.at) {
		return l.order < o.order
	}
	return l.at.Before(o.at)
}

// listen begins to take what comes to a subject: as a message, or as a request.
func (b *netBus) listen(subject string, receive func([]byte), answer func([]byte) []byte) (stop func(), err error) {
	n := b.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if b.dead {
		return nil, errGone
	}
	i := &inbox{bus: b, subject: subject, receive: receive, answer: answer, last: make(map[string]time.Time), poked: make(chan struct{}, 1)}
	b.inboxes = append(b.inboxes, i)
	n.wait.Go(i.run)
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		i.stopped = true
		b.drop(i)
		i.poke()
	}, nil
}

// Node implements cluster.Bus.
func (b *netBus) Node() string { return b.name }

// MaxMessage implements cluster.Bus.
func (b *netBus) MaxMessage() int { return b.net.max }

// Subscribe implements cluster.Bus.
func (b *netBus) Subscribe(subject string, receive func([]byte)) (func(), error) {
	return b.listen(subject, receive, nil)
}

// Answer implements cluster.Bus.
func (b *netBus) Answer(subject string, answer func([]byte) []byte) (func(), error) {
	return b.listen(subject, nil, answer)
}

// Publish implements cluster.Bus.
func (b *netBus) Publish(subject string, message []byte) error {
	n := b.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if b.dead {
		return errGone
	}
	if len(message) > n.max {
		return errors.New("the message is too large")
	}
	for _, to := range n.nodes {
		for _, i := range to.inboxes {
			if i.subject == subject && i.receive != nil {
				text, receive := append([]byte(nil), message...), i.receive
				n.send(b, i, func() { receive(text) })
			}
		}
	}
	return nil
}

// Ask implements cluster.Bus.
func (b *netBus) Ask(ctx context.Context, subject string, request []byte) ([]byte, error) {
	replies := make(chan []byte, 1)
	if !b.ask(subject, append([]byte(nil), request...), replies) {
		return nil, cluster.ErrNobody
	}
	select {
	case reply := <-replies:
		return reply, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ask sends a request to one of those who answer; false: there is none.
func (b *netBus) ask(subject string, request []byte, replies chan<- []byte) bool {
	n := b.net
	n.mu.Lock()
	defer n.mu.Unlock()
	var who []*inbox
	for _, to := range n.nodes {
		for _, i := range to.inboxes {
			if i.subject == subject && i.answer != nil && n.reaches(b, to) {
				who = append(who, i)
			}
		}
	}
	if len(who) == 0 {
		return false
	}
	to := who[n.rand.IntN(len(who))]
	n.send(b, to, func() {
		reply := append([]byte(nil), to.answer(request)...)
		n.mu.Lock()
		defer n.mu.Unlock()
		if !n.reaches(to.bus, b) || n.rand.Float64() < n.faults.Loss {
			return
		}
		time.AfterFunc(n.delay(), func() { replies <- reply })
	})
	return true
}

// Watch implements cluster.Bus.
func (b *netBus) Watch(changed func(connected bool)) (stop func()) {
	n := b.net
	n.mu.Lock()
	w := &changed
	b.watches = append(b.watches, w)
	connected := b.others()
	n.mu.Unlock()
	changed(connected)
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		b.watches = slices.DeleteFunc(b.watches, func(o *func(bool)) bool { return o == w })
	}
}

// others reports whether the node reaches another one.
func (b *netBus) others() bool {
	return slices.ContainsFunc(b.net.nodes, func(o *netBus) bool { return o != b && b.net.reaches(b, o) })
}

// look returns what is to be called since the node reaches others than before.
func (b *netBus) look() (calls []func()) {
	now := make(map[string]bool)
	for _, o := range b.net.nodes {
		if o != b && b.net.reaches(b, o) {
			now[o.name] = true
		}
	}
	connected, changed := len(now) > 0, (len(now) > 0) != (len(b.seen) > 0)
	for name := range now {
		changed = changed || !b.seen[name]
	}
	b.seen = now
	if !changed {
		return nil
	}
	for _, w := range b.watches {
		calls = append(calls, func() { (*w)(connected) })
	}
	return calls
}
