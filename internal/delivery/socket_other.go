//go:build !linux

package delivery

import (
	"net"
	"syscall"
	"time"
)

// newSocket makes the transport of a connection that was taken over.
func newSocket(conn net.Conn, timeout time.Duration, _ *poller) socket {
	return &asyncSocket{conn: conn, timeout: timeout}
}

// roomOf tells nothing here: each write is a goroutine's.
func roomOf(syscall.Conn) func() int { return nil }

// poller does nothing here: that a client has hung up is seen when a heartbeat
// cannot be sent.
type poller struct{}

type pollEntry struct{ poller *poller }

func newPoller() *poller { return nil }

func (*poller) watch(net.Conn, *connection) pollEntry { return pollEntry{} }

func (*pollEntry) remove() {}
