package natsbus

import (
	"crypto/rand"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

const (
	clusterName = "sse"
	ownUser     = "gateway" // as which this process uses its own server
	routeUser   = "node"    // as which one node connects to another

	// maxPayload is what NATS recommends at most. A message is one batch of events.
	maxPayload = 8 << 20

	// startTimeout bounds how long the embedded server may take until it listens.
	startTimeout = 10 * time.Second
)

// embedded is a NATS server inside this process. Other nodes reach it by its route
// listener only; its listener for clients is on the loopback interface, where a server has
// to have one, and takes a password that only this process knows.
type embedded struct {
	*server.Server
	password string
}

// startEmbedded starts a server and returns when it listens.
func startEmbedded(settings *settings, logger *zap.Logger, node string) (*embedded, error) {
	options, err := serverOptions(settings, node)
	if err != nil {
		return nil, err
	}
	options.Username, options.Password = ownUser, rand.Text()
	if err := mayListen(settings.embedded.listen); err != nil {
		return nil, fmt.Errorf("listening for other nodes: %w", err)
	}
	s, err := server.NewServer(options)
	if err != nil {
		return nil, fmt.Errorf("configuring the embedded NATS server: %w", err)
	}
	log := &serverLog{logger: logger}
	s.SetLoggerV2(log, false, false, false)
	s.Start()
	if !s.ReadyForConnections(startTimeout) {
		s.Shutdown()
		s.WaitForShutdown()
		return nil, fmt.Errorf("starting the embedded NATS server: %s", log.failure())
	}
	return &embedded{s, options.Password}, nil
}

// serverOptions are those of the embedded server.
func serverOptions(settings *settings, node string) (*server.Options, error) {
	e := settings.embedded
	host, port, err := splitAddress(e.listen)
	if err != nil {
		return nil, err
	}
	if port == 0 {
		port = -1 // which is any, for the server
	}
	user := url.UserPassword(routeUser, settings.routePassword)
	routes := make([]*url.URL, len(e.routes))
	for i, address := range e.routes {
		routes[i] = &url.URL{Scheme: "nats-route", User: user, Host: address}
	}
	o := &server.Options{
		ServerName: node,
		Host:       "127.0.0.1",
		Port:       -1,
		NoSigs:     true,
		MaxPayload: maxPayload,
		Routes:     routes,
		Cluster: server.ClusterOpts{
			Name:           clusterName,
			Host:           host,
			Port:           port,
			Advertise:      e.advertise,
			NoAdvertise:    true, // the addresses of the client listeners
			Username:       routeUser,
			Password:       settings.routePassword,
			ConnectRetries: 1 << 30, // also to nodes of which others have told
			PoolSize:       1,       // all is of one account
			PingInterval:   pingInterval,
			MaxPingsOut:    maxPings,
		},
	}
	if !e.insecure {
		if o.Cluster.TLSConfig, err = settings.routeTLS(); err != nil {
			return nil, err
		}
		o.Cluster.TLSTimeout = 5
	}
	return o, nil
}

// mayListen tells in plain words what the server would only log.
func mayListen(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	return l.Close()
}

// connection is how this process connects to its own server.
func (e *embedded) connection() []nats.Option {
	return []nats.Option{nats.InProcessServer(e.Server), nats.UserInfo(ownUser, e.password)}
}

func (e *embedded) close() {
	e.Shutdown()
	e.WaitForShutdown()
}

// serverLog gives the server's lines to Caddy's log, as debug lines: they come once a second
// for each node that is away, and which nodes are there is told by the session. What keeps
// other nodes out is told, at most once a second.
type serverLog struct {
	logger *zap.Logger
	fatal  atomic.Pointer[string]
	last   atomic.Int64 // when the last warning was written
}

func (l *serverLog) line(log func(string, ...zap.Field), format string, v []any) {
	log("embedded NATS server", zap.String("line", strings.TrimSpace(fmt.Sprintf(format, v...))))
}

func (l *serverLog) Noticef(format string, v ...any) { l.line(l.logger.Debug, format, v) }
func (l *serverLog) Warnf(format string, v ...any)   { l.line(l.logger.Debug, format, v) }
func (l *serverLog) Debugf(format string, v ...any)  { l.line(l.logger.Debug, format, v) }
func (l *serverLog) Tracef(string, ...any)           {}

func (l *serverLog) Errorf(format string, v ...any) {
	now := time.Now().UnixNano()
	last := l.last.Load()
	away := strings.HasPrefix(format, "Error trying to connect to route") // the other node may be away
	if away || now-last < int64(time.Second) || !l.last.CompareAndSwap(last, now) {
		l.line(l.logger.Debug, format, v)
		return
	}
	l.line(l.logger.Warn, format, v)
}

// Fatalf is called where the server's own program would exit.
func (l *serverLog) Fatalf(format string, v ...any) {
	text := strings.TrimSpace(fmt.Sprintf(format, v...))
	l.fatal.Store(&text)
	l.logger.Error("embedded NATS server failed", zap.String("line", text))
}

func (l *serverLog) failure() string {
	if text := l.fatal.Load(); text != nil {
		return *text
	}
	return fmt.Sprintf("it was not ready after %v", startTimeout)
}
