package delivery

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddy-sse/caddy-sse/internal/number"
)

// tcpOf returns the TCP connection that a connection is, or goes over; nil: it
// does not.
func tcpOf(conn net.Conn) syscall.RawConn {
	for {
		inner, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = inner.NetConn()
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// acksOf tells what the peer of a connection has acknowledged; nil: that is not
// known.
func acksOf(conn net.Conn) ackTeller {
	raw := tcpOf(conn)
	if raw == nil {
		return nil
	}
	return func() (a acks, ok bool) {
		_ = raw.Control(func(fd uintptr) { a, ok = acksOfSocket(int(fd)) })
		return a, ok
	}
}

// readsOf tells of a Unix connection whether its peer reads, while something is
// written to it: then less and more waits in turn. Nothing else of it counts.
func readsOf(conn net.Conn) ackTeller {
	over, ok := conn.(*net.UnixConn)
	if !ok {
		return nil
	}
	raw, err := over.SyscallConn()
	if err != nil {
		return nil
	}
	return func() (a acks, ok bool) {
		_ = raw.Control(func(fd uintptr) {
			waiting, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
			a, ok = acks{taken: -int64(waiting), waiting: int64(waiting)}, err == nil
		})
		return a, ok
	}
}

// acksOfSocket is acksOf for a file descriptor: what tcp(7) and
// linux/tcp.h say of TCP_INFO and SIOCOUTQ.
func acksOfSocket(fd int) (a acks, ok bool) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return acks{}, false
	}
	waiting, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		return acks{}, false
	}
	return acks{taken: number.As[int64](info.Bytes_acked), waiting: int64(waiting)}, true
}

// setUserTimeout ends a TCP connection whose peer has not acknowledged what was
// sent to it for the given time (RFC 5482).
func setUserTimeout(conn net.Conn, timeout time.Duration) {
	if raw := tcpOf(conn); raw != nil {
		_ = raw.Control(func(fd uintptr) {
			// Best effort: without it the system takes minutes.
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(timeout.Milliseconds()))
		})
	}
}
