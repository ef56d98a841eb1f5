package delivery

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/caddy-sse/caddy-sse/internal/number"
)

// newSocket makes the transport of a connection that was taken over. A plain
// one is detached from Go's network poller, if there is another one: a file
// descriptor is all that is left of it.
func newSocket(conn net.Conn, timeout time.Duration, p *poller) socket {
	if raw, ok := conn.(syscall.Conn); ok && p != nil {
		if fd, err := duplicate(raw); err == nil {
			_ = conn.Close()
			return &fdSocket{fd: fd, poll: pollEntry{poller: p}}
		}
	}
	s := &asyncSocket{conn: conn, timeout: timeout, taken: acksOf(conn), poll: pollEntry{poller: p}}
	if over, ok := conn.(*tls.Conn); ok {
		if raw, ok := over.NetConn().(syscall.Conn); ok {
			s.room, s.pending = roomOf(raw), faultOf(raw)
		}
	}
	return s
}

// duplicate returns another file descriptor of a connection.
func duplicate(conn syscall.Conn) (fd int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	var errDup error
	err = raw.Control(func(old uintptr) {
		fd, errDup = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	})
	return fd, errors.Join(err, errDup)
}

// fdSocket is a plain TCP or unix connection. Only its writer uses the file
// descriptor, so it is not used after it was closed.
type fdSocket struct {
	fd      int
	poll    pollEntry
	written int64 // bytes
}

func (s *fdSocket) watch(c *connection) { s.poll = s.poll.poller.watchFD(s.fd, c, 0) }

func (s *fdSocket) write(p []byte) (n int, err error) {
	for {
		// Without telling Go's scheduler: the call does not wait.
		data := unsafe.Pointer(unsafe.SliceData(p)) //nolint:gosec // G103: as golang.org/x/sys/unix does it
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(s.fd), uintptr(data), uintptr(len(p)),
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			s.written += number.As[int64](int(n))
			return int(n), nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, nil
		default:
			return 0, os.NewSyscallError("send", errno)
		}
	}
}

func (s *fdSocket) await(*connection, []byte) { s.poll.awaitWritable(s.fd) }

func (s *fdSocket) resume(rest []byte) (n int, err error) { return s.write(rest) }

// readable is not called: that the client hangs up is an event of its own.
func (*fdSocket) readable(*connection) {}

// acks says of a Unix socket, whose peer acknowledges what it reads, only whether
// it reads while nothing is written, because there is no room: who has not read
// yet what there is may take its time. At each look it may be as full as at the last,
// so what was written counts too.
func (s *fdSocket) acks() (acks, bool) {
	if a, ok := acksOfSocket(s.fd); ok {
		return a, true
	}
	waiting, err := unix.IoctlGetInt(s.fd, unix.SIOCOUTQ)
	return acks{taken: s.written - int64(waiting)}, err == nil
}

func (s *fdSocket) fault() error { return socketError(s.fd) }

// socketError takes the error that a socket has (socket(7), SO_ERROR).
func socketError(fd int) error {
	if errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && errno != 0 {
		return os.NewSyscallError("socket", syscall.Errno(errno))
	}
	return nil
}

// finish does nothing: the last chunk is the end.
func (*fdSocket) finish() {}

// close closes the connection, after all that was written. What the client has
// sent is read before: otherwise the system would reset the connection, and the
// client might lose the end of the response.
func (s *fdSocket) close() {
	s.poll.remove()
	var scratch [4096]byte
	for range 16 {
		n, _, err := unix.Recvfrom(s.fd, scratch[:], unix.MSG_DONTWAIT)
		if n <= 0 || err != nil {
			break
		}
	}
	_ = unix.Close(s.fd)
}

// maxUnacknowledged is how many bytes may be on their way to a client while
// more are written to it over TLS without a goroutine: less than the smallest
// send buffer that Linux has by default (16 KiB), with room for its own data.
const maxUnacknowledged = 8 << 10

// roomOf tells how many bytes surely fit into a socket's buffer.
func roomOf(conn syscall.Conn) roomTeller {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil
	}
	return func() (room int) {
		_ = raw.Control(func(fd uintptr) {
			if used, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err == nil {
				room = maxUnacknowledged - used
			}
		})
		return room
	}
}

// faultOf tells the error that a connection's socket has.
func faultOf(conn syscall.Conn) func() error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil
	}
	return func() (fault error) {
		_ = raw.Control(func(fd uintptr) { fault = socketError(int(fd)) })
		return fault
	}
}
