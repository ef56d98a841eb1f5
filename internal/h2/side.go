package h2

import (
	"crypto/tls"
	"net"
	"time"
)

// Side is a connection as its server has it. The server may close it while
// streams that were taken over go on.
type Side struct{ conn *Conn }

// Side is what the server is given.
func (c *Conn) Side() *Side { return &Side{c} }

// Conn is the connection.
func (s *Side) Conn() *Conn { return s.conn }

// NetConn returns the transport.
func (s *Side) NetConn() net.Conn { return s.conn.transport }

// ConnectionState is that of the transport.
func (s *Side) ConnectionState() tls.ConnectionState {
	if over, ok := s.conn.transport.(interface{ ConnectionState() tls.ConnectionState }); ok {
		return over.ConnectionState()
	}
	return tls.ConnectionState{}
}

// Read implements net.Conn.
func (s *Side) Read(p []byte) (int, error) { return s.conn.read(p) }

// Write implements net.Conn.
func (s *Side) Write(p []byte) (int, error) { return s.conn.write(p) }

// Close implements net.Conn.
func (s *Side) Close() error { return s.conn.closeSide() }

// LocalAddr implements net.Conn.
func (s *Side) LocalAddr() net.Addr { return s.conn.transport.LocalAddr() }

// RemoteAddr implements net.Conn.
func (s *Side) RemoteAddr() net.Addr { return s.conn.transport.RemoteAddr() }

// SetDeadline implements net.Conn.
func (s *Side) SetDeadline(t time.Time) error {
	return s.whileThere(func() error { return s.conn.transport.SetDeadline(t) })
}

// SetReadDeadline implements net.Conn.
func (s *Side) SetReadDeadline(t time.Time) error {
	return s.whileThere(func() error { return s.conn.transport.SetReadDeadline(t) })
}

// SetWriteDeadline implements net.Conn.
func (s *Side) SetWriteDeadline(t time.Time) error {
	return s.whileThere(func() error { return s.conn.transport.SetWriteDeadline(t) })
}

// whileThere does something unless the server has closed its side.
func (s *Side) whileThere(do func() error) error {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	if s.conn.sideGone {
		return net.ErrClosed
	}
	return do()
}

// Interface guard.
var _ net.Conn = (*Side)(nil)
