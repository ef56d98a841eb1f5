package natsbus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/cluster"
)

const (
	// A connection on which nothing is answered is closed when a fourth ping would be due.
	// That a node is gone is noticed before, by its beats (cluster.Node). Pings wait behind
	// messages, and a large one may take a while.
	pingInterval = 2 * time.Second
	maxPings     = 3

	// reconnectWait is the time between two attempts to reach a server.
	reconnectWait = 500 * time.Millisecond

	// lookInterval is how often the embedded server is asked which nodes it reaches: it does
	// not tell by itself.
	lookInterval = 100 * time.Millisecond
)

// reporter is told of a session that has lost its connection to other nodes, or has it
// again, or reaches one more node.
type reporter func(s *session, connected bool)

// While a node waits for a reply, it looks whether somebody is still there who answers: NATS
// tells of nobody only when a request is sent. One that is under way to a node that goes, or
// stops answering, is lost, and no one tells.
const (
	probeInterval = 250 * time.Millisecond
	probeHeader   = "Sse-Probe"
)

// goneHeader is in the reply of a node that does not answer any more, to a request that was
// under way to it.
const goneHeader = "Sse-Gone"

// session is one connection, and the embedded server that it is to, if any. It carries
// what sealed makes of subjects and messages.
type session struct {
	sealed   cluster.Bus
	settings *settings
	logger   *zap.Logger
	node     string
	report   reporter

	conn   *nats.Conn
	server *embedded // or nil
	end    context.CancelFunc
	work   sync.WaitGroup

	mu     sync.Mutex
	lost   context.Context // done when the connection to the server is lost
	lose   context.CancelFunc
	others int // nodes that the embedded server reaches
}

// newSession starts the embedded server, if there is to be one, and connects. Servers
// beside this process may be away: it goes on trying to reach them.
func newSession(settings *settings, logger *zap.Logger, node string, report reporter) (*session, error) {
	s := &session{settings: settings, logger: logger, node: node, report: report}
	s.sealed = cluster.Sealed(s, settings.key, logger)
	s.lost, s.lose = context.WithCancel(context.Background())
	options, err := settings.connection(node)
	if err != nil {
		return nil, err
	}
	if settings.embedded != nil {
		if s.server, err = startEmbedded(settings, logger, node); err != nil {
			return nil, err
		}
		options = append(options, s.server.connection()...)
	}
	if s.conn, err = nats.Connect(settings.servers, append(options, s.handlers()...)...); err != nil {
		if s.server != nil {
			s.server.close()
		}
		return nil, fmt.Errorf("connecting to NATS: %w", err)
	}
	ctx, end := context.WithCancel(context.Background())
	s.end = end
	if s.server != nil {
		s.work.Go(func() { s.look(ctx, s.server.Server) })
	}
	return s, nil
}

// handlers tell of what happens to the connection.
func (s *session) handlers() []nats.Option {
	found := func(*nats.Conn) {
		s.mu.Lock()
		if s.lost.Err() != nil {
			s.lost, s.lose = context.WithCancel(context.Background())
		}
		s.mu.Unlock()
		if s.server == nil {
			s.logger.Info("connected to the cluster")
			s.report(s, true)
		}
	}
	lost := func(_ *nats.Conn, err error) {
		s.mu.Lock()
		s.lose()
		s.mu.Unlock()
		if s.server == nil {
			if err != nil {
				s.logger.Warn("connection to the cluster lost", reason(err))
			}
			s.report(s, false)
		}
	}
	failed := func(_ *nats.Conn, _ *nats.Subscription, err error) {
		s.logger.Warn("error of the cluster's connection", reason(err))
	}
	return []nats.Option{
		nats.ConnectHandler(found), nats.ReconnectHandler(found), nats.DisconnectErrHandler(lost), nats.ErrorHandler(failed),
	}
}

// look reports when the embedded server has lost all other nodes, and when it reaches more
// than before.
func (s *session) look(ctx context.Context, of *server.Server) {
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		now := of.NumRemotes()
		s.mu.Lock()
		before := s.others
		s.others = now
		s.mu.Unlock()
		switch {
		case now > before:
			s.logger.Info("node joined the cluster", zap.Int("others", now))
			s.report(s, true)
		case now < before:
			s.logger.Warn("node left the cluster", zap.Int("others", now))
			if now == 0 {
				s.report(s, false)
			}
		}
	}
}

// connected reports whether other nodes may be reached.
func (s *session) connected() bool {
	if s.server == nil {
		return s.conn.IsConnected()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.others > 0
}

// Node implements cluster.Bus.
func (s *session) Node() string { return s.node }

// Watch implements cluster.Bus: it is the reporter who is told.
func (s *session) Watch(func(bool)) (stop func()) { return func() {} }

// MaxMessage implements cluster.Bus.
func (s *session) MaxMessage() int {
	if most := s.conn.MaxPayload(); most > 0 {
		return int(most)
	}
	return defaultMaxMessage
}

// What stands on the wire for a subject, of messages and of requests: those who listen to
// messages would count as those who answer.
func (s *session) messages(subject string) string { return s.settings.prefix + ".say." + subject }
func (s *session) requests(subject string) string { return s.settings.prefix + ".ask." + subject }

// Publish implements cluster.Bus.
func (s *session) Publish(subject string, message []byte) error {
	return s.conn.Publish(s.messages(subject), message)
}

// Subscribe implements cluster.Bus.
func (s *session) Subscribe(subject string, receive func(message []byte)) (stop func(), err error) {
	sub, err := s.conn.Subscribe(s.messages(subject), func(m *nats.Msg) {
		if m.Sub.IsValid() { // else it was stopped with messages waiting
			receive(m.Data)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("subscribing: %w", err)
	}
	return func() {
		_ = sub.Unsubscribe() // which fails only if the connection is gone, and the subscription with it
	}, nil
}

// Answer implements cluster.Bus. Of the requests that come after stop the askers are told
// that there is nobody: they would wait.
func (s *session) Answer(subject string, answer func(request []byte) []byte) (stop func(), err error) {
	var stopped atomic.Bool
	sub, err := s.conn.QueueSubscribe(s.requests(subject), "answer", func(m *nats.Msg) {
		reply := &nats.Msg{}
		switch {
		case stopped.Load():
			reply.Header = nats.Header{goneHeader: {"1"}}
		case m.Header.Get(probeHeader) == "":
			reply.Data = answer(m.Data)
		}
		if err := m.RespondMsg(reply); err != nil && !errors.Is(err, nats.ErrMsgNoReply) {
			s.logger.Warn("reply to another node lost", zap.Int("bytes", len(reply.Data)), reason(err))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("answering: %w", err)
	}
	return func() {
		stopped.Store(true)
		_ = sub.Drain() // which fails as Unsubscribe does
	}, nil
}

// Ask implements cluster.Bus.
func (s *session) Ask(ctx context.Context, subject string, request []byte) ([]byte, error) {
	if !s.conn.IsConnected() {
		return nil, cluster.ErrNobody
	}
	s.mu.Lock()
	lost := s.lost
	s.mu.Unlock()
	waits, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(lost, cancel)()
	var nobody atomic.Bool
	defer s.probe(waits, subject, func() {
		nobody.Store(true)
		cancel()
	})()

	m, err := s.conn.RequestWithContext(waits, s.requests(subject), request)
	switch {
	case err == nil && m.Header.Get(goneHeader) != "":
		return nil, cluster.ErrNobody
	case err == nil:
		return m.Data, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, nats.ErrConnectionClosed), nobody.Load(), lost.Err() != nil:
		return nil, cluster.ErrNobody
	}
	return nil, fmt.Errorf("asking the cluster: %w", err)
}

// probe looks now and then whether somebody answers on a subject, and calls back once if
// nobody does.
func (s *session) probe(ctx context.Context, subject string, nobody func()) (stop func() bool) {
	message := &nats.Msg{Subject: s.requests(subject), Header: nats.Header{probeHeader: {"1"}}}
	var timer *time.Timer
	armed := make(chan struct{}) // timer is set
	timer = time.AfterFunc(probeInterval, func() {
		<-armed
		switch m, err := s.conn.RequestMsgWithContext(ctx, message); {
		case errors.Is(err, nats.ErrNoResponders), err == nil && m.Header.Get(goneHeader) != "":
			nobody()
		case err == nil:
			timer.Reset(probeInterval)
		}
	})
	close(armed)
	return timer.Stop
}

// close ends the connection and the embedded server, and waits until they are gone.
func (s *session) close() {
	s.end()
	s.conn.Close()
	s.work.Wait()
	if s.server != nil {
		s.server.close()
	}
}

// Interface guard.
var _ cluster.Bus = (*session)(nil)

// reason is the field of the log for an error.
func reason(err error) zap.Field { return zap.NamedError("reason", err) }
