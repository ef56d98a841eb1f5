package natsbus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/cluster"
)

const (
	// A connection on which nothing is answered is closed when a third ping would be due.
	// Nodes that follow another are to notice within two seconds that it is gone.
	pingInterval = 500 * time.Millisecond
	maxPings     = 2

	// reconnectWait is the time between two attempts to reach a server.
	reconnectWait = 500 * time.Millisecond

	// lookInterval is how often the embedded server is asked which nodes it reaches: it does
	// not tell by itself.
	lookInterval = 100 * time.Millisecond
)

// reporter is told of a session that has lost its connection to other nodes, or has it
// again, or reaches one more node.
type reporter func(s *session, connected bool)

// session is one connection, and the embedded server that it is to, if any.
type session struct {
	settings *settings
	logger   *zap.Logger
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
	s := &session{settings: settings, logger: logger, report: report}
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

// maxMessage is what the server takes.
func (s *session) maxMessage() int {
	if most := s.conn.MaxPayload(); most > 0 {
		return int(most)
	}
	return defaultMaxMessage
}

// wire is what stands on the wire for a subject.
func (s *session) wire(subject string) string {
	return wireSubject(s.settings.prefix, s.settings.subjectKey, subject)
}

func (s *session) publish(subject string, message []byte) error {
	return s.conn.Publish(s.wire(subject), message)
}

// ask sends a request and waits for the reply.
func (s *session) ask(ctx context.Context, subject string, request []byte) ([]byte, error) {
	if !s.conn.IsConnected() {
		return nil, cluster.ErrNobody
	}
	s.mu.Lock()
	lost := s.lost
	s.mu.Unlock()
	waits, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(lost, cancel)()

	m, err := s.conn.RequestWithContext(waits, s.wire(subject), request)
	switch {
	case err == nil:
		return m.Data, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, nats.ErrConnectionClosed), lost.Err() != nil:
		return nil, cluster.ErrNobody
	}
	return nil, fmt.Errorf("asking the cluster: %w", err)
}

// reply answers a request.
func (s *session) reply(to string, reply []byte) {
	if err := s.conn.Publish(to, reply); err != nil {
		s.logger.Warn("reply to another node lost", zap.Int("bytes", len(reply)), reason(err))
	}
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

// reason is the field of the log for an error.
func reason(err error) zap.Field { return zap.NamedError("reason", err) }
