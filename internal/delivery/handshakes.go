package delivery

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/h2"
)

// Handshakes is a listener that does the TLS handshake before it hands a connection
// out. Those of HTTP/2 it hands out as the server's side of a connection that the
// writers share. timeout is how long a handshake may take; 0: as long as it likes.
func Handshakes(ln net.Listener, timeout func() time.Duration) net.Listener {
	return &handshakes{
		Listener: ln, timeout: timeout,
		ready: make(chan net.Conn), failed: make(chan error),
		closed: make(chan struct{}), idle: make(chan struct{}), over: make(chan struct{}),
	}
}

const (
	// prefaceTime is how long a client may take after the handshake to say that it
	// speaks HTTP/2: as long as the server would give it.
	prefaceTime = 10 * time.Second

	// lastHandshakes is how long the handshakes that have begun are waited for
	// when the listener is closed, at a reload. Their clients would have to
	// connect again.
	lastHandshakes = 500 * time.Millisecond
)

// handshakes is a listener that does the TLS handshake before it hands a
// connection out: only then is it known whether that speaks HTTP/2.
type handshakes struct {
	net.Listener
	timeout func() time.Duration

	mu      sync.Mutex
	begun   bool
	ended   bool
	running sync.WaitGroup // who accepts, and each handshake
	ready   chan net.Conn
	failed  chan error
	closed  chan struct{} // closed by Close
	idle    chan struct{} // and when nobody runs any more
	over    chan struct{} // and when nobody is waited for any more
}

// Accept implements net.Listener.
func (l *handshakes) Accept() (net.Conn, error) {
	l.begin()
	select {
	case conn := <-l.ready:
		return conn, nil
	case err := <-l.failed:
		return nil, err
	case <-l.closed:
	}
	select {
	case conn := <-l.ready:
		return conn, nil
	case <-l.idle:
	case <-l.over:
	}
	return nil, net.ErrClosed
}

// begin begins to accept connections.
func (l *handshakes) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.begun && !l.ended {
		l.begun = true
		l.running.Go(l.accept)
	}
}

// Close implements net.Listener.
func (l *handshakes) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.ended = true
		close(l.closed)
		time.AfterFunc(lastHandshakes, func() { close(l.over) })
		go func() {
			l.running.Wait()
			close(l.idle)
		}()
	}
	return l.Listener.Close()
}

// accept accepts connections until the listener is closed.
func (l *handshakes) accept() {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			select {
			case l.failed <- err:
				continue
			case <-l.closed:
				return
			}
		}
		l.running.Go(func() { l.handOut(conn) })
		runtime.Gosched() // see ConnContext
	}
}

// handOut hands a connection to the server.
func (l *handshakes) handOut(conn net.Conn) {
	if over, ok := conn.(*tls.Conn); ok {
		if conn = l.shake(over); conn == nil {
			return
		}
	}
	select {
	case l.ready <- conn:
	case <-l.over:
		_ = conn.Close()
	}
}

// shake does the handshake. It returns the connection as it is for all but
// HTTP/2, also if the handshake fails: the server finds out by itself. nil: it was
// closed.
func (l *handshakes) shake(over *tls.Conn) net.Conn {
	if timeout := l.timeout(); timeout > 0 {
		_ = over.SetDeadline(time.Now().Add(timeout))
	}
	if err := over.HandshakeContext(context.Background()); err != nil {
		return over
	}
	state := over.ConnectionState()
	if state.NegotiatedProtocol != "h2" || !sharable(state) {
		_ = over.SetDeadline(time.Time{})
		return over
	}
	_ = over.SetDeadline(time.Now().Add(prefaceTime))
	var preface [len(h2.Preface)]byte
	if _, err := io.ReadFull(over, preface[:]); err != nil || string(preface[:]) != h2.Preface {
		_ = over.Close()
		return nil
	}
	_ = over.SetDeadline(time.Time{})
	var room func() int
	if raw, ok := over.NetConn().(syscall.Conn); ok {
		room = roomOf(raw)
	}
	return h2.New(over, room).Side()
}

// sharable reports whether a connection is one of those that the server does not
// refuse for its cipher suite (RFC 9113, 9.2): it cannot see that of one that it
// shares.
func sharable(state tls.ConnectionState) bool {
	return state.Version >= tls.VersionTLS13 || (state.Version == tls.VersionTLS12 && slices.Contains([]uint16{
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	}, state.CipherSuite))
}
