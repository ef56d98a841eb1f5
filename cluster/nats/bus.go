package natsbus

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/caddy-sse/caddy-sse/internal/cluster"
)

// defaultMaxMessage is what a message may have at most until a server has said so.
const defaultMaxMessage = 1 << 20

// errAlone is returned by Publish when there is no connection to any server.
var errAlone = errors.New("not connected to the cluster")

// bus implements cluster.Bus on one link after the other.
type bus struct {
	node string // never changes

	// changing is held while the link changes, which takes a while.
	changing sync.Mutex
	links    []*link // of the configurations that are loaded, in the order of their starts

	mu        sync.RWMutex
	session   *session // of the last of links, or nil
	topics    map[*topic]struct{}
	watchers  map[*watcher]struct{}
	connected bool
}

// Interface guard.
var _ cluster.Bus = (*bus)(nil)

func newBus() *bus {
	return &bus{node: nodeName(), topics: make(map[*topic]struct{}), watchers: make(map[*watcher]struct{})}
}

// nodeName names this life of this process: operators know the host, the rest is random.
func nodeName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "node"
	}
	host, _, _ = strings.Cut(host, ".")
	host = strings.Map(func(r rune) rune {
		if r == '-' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return '-'
	}, host)
	return host + "-" + strings.ToLower(rand.Text()[:8])
}

// Node implements cluster.Bus.
func (b *bus) Node() string { return b.node }

// MaxMessage implements cluster.Bus.
func (b *bus) MaxMessage() int {
	if s := b.current(); s != nil {
		return s.sealed.MaxMessage()
	}
	return defaultMaxMessage
}

func (b *bus) current() *session {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.session
}

// Ask implements cluster.Bus.
func (b *bus) Ask(ctx context.Context, subject string, request []byte) ([]byte, error) {
	s := b.current()
	if s == nil {
		return nil, cluster.ErrNobody
	}
	return s.sealed.Ask(ctx, subject, request)
}

// Publish implements cluster.Bus.
func (b *bus) Publish(subject string, message []byte) error {
	s := b.current()
	if s == nil {
		return errAlone
	}
	return s.sealed.Publish(subject, message)
}

// Answer implements cluster.Bus.
func (b *bus) Answer(subject string, answer func([]byte) []byte) (stop func(), err error) {
	return b.add(&topic{subject: subject, answer: answer})
}

// Subscribe implements cluster.Bus.
func (b *bus) Subscribe(subject string, receive func([]byte)) (stop func(), err error) {
	return b.add(&topic{subject: subject, receive: receive})
}

// add subscribes to a topic on the present session, and those to come.
func (b *bus) add(t *topic) (stop func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.session != nil {
		if err := t.join(b.session); err != nil {
			return nil, err
		}
	}
	b.topics[t] = struct{}{}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.topics, t)
		t.leave()
	}, nil
}

// start puts the bus on a link. If that cannot be opened, the bus stays as it was.
func (b *bus) start(l *link) error {
	b.changing.Lock()
	defer b.changing.Unlock()
	old := b.last()
	if old == l {
		return nil // a reload with the same configuration
	}
	if old != nil && old.settings.collides(l.settings) {
		b.put(nil)
		old.close() // its address is to be the new one's
	}
	if err := l.open(b.node, b.report); err != nil {
		b.resume()
		return err
	}
	b.links = append(slices.DeleteFunc(b.links, func(other *link) bool { return other == l }), l)
	b.put(l.session)
	return nil
}

// drop lets go of the link of a configuration that went. If that configuration has failed
// after its start, the one before it is used again.
func (b *bus) drop(l *link) {
	b.changing.Lock()
	defer b.changing.Unlock()
	used := b.last() == l
	b.links = slices.DeleteFunc(b.links, func(other *link) bool { return other == l })
	if used {
		b.put(nil)
	}
	l.close()
	if used {
		b.resume()
	}
}

// last is the link that is used, if any. The caller holds changing.
func (b *bus) last() *link {
	if len(b.links) == 0 {
		return nil
	}
	return b.links[len(b.links)-1]
}

// resume puts the bus back on the last link. The caller holds changing.
func (b *bus) resume() {
	l := b.last()
	if l == nil || l.session != nil && b.current() == l.session {
		return
	}
	if err := l.open(b.node, b.report); err != nil {
		l.logger.Error("cluster connection cannot be opened again", reason(err))
		return
	}
	b.put(l.session)
}

// put moves all topics to a session, or to none.
func (b *bus) put(s *session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.session = s
	b.tell(false)
	for t := range b.topics {
		t.leave()
		if s == nil {
			continue
		}
		if err := t.join(s); err != nil {
			s.logger.Error("subscribing to the cluster anew failed", reason(err))
		}
	}
	b.tell(s != nil && s.connected())
}

// report is called by a session when its connection to other nodes is lost, when it is
// there again, and when one more node is.
func (b *bus) report(s *session, connected bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.session == s {
		b.tell(connected)
	}
}

// tell tells all watchers how it is now. The caller holds mu.
func (b *bus) tell(connected bool) {
	if !connected && !b.connected {
		return
	}
	b.connected = connected
	for w := range b.watchers {
		w.tell(connected)
	}
}

// Watch implements cluster.Bus. It also tells of a further node, as connected once more:
// that one may have been away.
func (b *bus) Watch(changed func(connected bool)) (stop func()) {
	w := &watcher{changed: changed, wake: make(chan struct{}, 1), done: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.watchers[w] = struct{}{}
	w.tell(b.connected)
	go w.run()
	return sync.OnceFunc(func() {
		b.mu.Lock()
		delete(b.watchers, w)
		b.mu.Unlock()
		close(w.done)
	})
}

// watcher calls back in a goroutine of its own, once for each change and in their order.
type watcher struct {
	changed func(connected bool)
	wake    chan struct{}
	done    chan struct{}

	mu      sync.Mutex
	changes []bool
}

func (w *watcher) tell(connected bool) {
	w.mu.Lock()
	w.changes = append(w.changes, connected)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) run() {
	for {
		select {
		case <-w.wake:
		case <-w.done:
			return
		}
		w.mu.Lock()
		changes := w.changes
		w.changes = nil
		w.mu.Unlock()
		for _, connected := range changes {
			w.changed(connected)
		}
	}
}

// topic is a subject that this node receives messages of, or answers on.
type topic struct {
	subject string
	receive func(message []byte) // or
	answer  func(request []byte) (reply []byte)

	stop func() // on the present session; guarded by the bus's mu

	// receiving keeps what an earlier session still brings apart from what the next one does.
	receiving sync.Mutex
}

// join subscribes on a session.
func (t *topic) join(s *session) (err error) {
	if t.answer != nil {
		t.stop, err = s.sealed.Answer(t.subject, func(request []byte) []byte {
			t.receiving.Lock()
			defer t.receiving.Unlock()
			return t.answer(request)
		})
		return err
	}
	t.stop, err = s.sealed.Subscribe(t.subject, func(message []byte) {
		t.receiving.Lock()
		defer t.receiving.Unlock()
		t.receive(message)
	})
	return err
}

func (t *topic) leave() {
	if t.stop != nil {
		t.stop()
		t.stop = nil
	}
}
