package delivery

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// newSocket makes the transport of a connection that was taken over. A plain
// one is detached from Go's network poller: a file descriptor is all that is
// left of it.
func newSocket(conn net.Conn, timeout time.Duration, p *poller) socket {
	if raw, ok := conn.(syscall.Conn); ok && p != nil {
		if fd, err := duplicate(raw); err == nil {
			_ = conn.Close()
			return &fdSocket{fd: fd}
		}
	}
	s := &asyncSocket{conn: conn, timeout: timeout, taken: acksOf(conn)}
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
	fd   int
	poll pollEntry
}

func (s *fdSocket) watch(c *connection) { s.poll = c.writer.set.poller.watchFD(s.fd, c, 0) }

func (s *fdSocket) write(p []byte) (n int, err error) {
	for {
		// Without telling Go's scheduler: the call does not wait.
		data := unsafe.Pointer(unsafe.SliceData(p)) //nolint:gosec // G103: as golang.org/x/sys/unix does it
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(s.fd), uintptr(data), uintptr(len(p)),
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
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
// yet what there is may take its time.
func (s *fdSocket) acks() (acks, bool) {
	if a, ok := acksOfSocket(s.fd); ok {
		return a, true
	}
	waiting, err := unix.IoctlGetInt(s.fd, unix.SIOCOUTQ)
	return acks{taken: -int64(waiting)}, err == nil
}

func (s *fdSocket) fault() error { return socketError(s.fd) }

// socketError takes the error that a socket has (socket(7), SO_ERROR).
func socketError(fd int) error {
	if errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && errno != 0 {
		return os.NewSyscallError("socket", syscall.Errno(errno))
	}
	return nil
}

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

// poller signals to connections what happens at their sockets.
type poller struct {
	epoll int

	mu    sync.Mutex
	slots []pollSlot
	free  []uint32
}

// pollSlot is a place for a connection. A later one in it has another
// generation: what was meant for an earlier one is dropped.
type pollSlot struct {
	c          *connection
	generation uint32
}

// pollEntry is a connection's place in a poller; the zero value: it has none.
type pollEntry struct {
	poller     *poller
	slot       uint32
	generation uint32
}

// newPoller returns nil if there is none; then heartbeats fail to those who
// have left.
func newPoller() *poller {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil
	}
	// The runtime waits for the epoll instance as it does for a socket: no
	// thread waits in the system.
	_ = unix.SetNonblock(epoll, true)
	file := os.NewFile(uintptr(epoll), "epoll")
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil
	}
	p := &poller{epoll: epoll}
	go func() {
		p.run(raw)
		_ = file.Close() // which would be done before, if nothing used it here
	}()
	return p
}

func (p *poller) run(raw syscall.RawConn) {
	events := make([]unix.EpollEvent, 128)
	for {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			var err error
			n, err = unix.EpollWait(int(fd), events, 0)
			return n > 0 || (err != nil && !errors.Is(err, unix.EINTR))
		})
		if err != nil {
			return
		}
		for _, event := range events[:max(n, 0)] {
			p.tell(event)
		}
	}
}

// tell signals an event to the connection that it is for.
func (p *poller) tell(event unix.EpollEvent) {
	slot, generation := uint32(event.Fd), uint32(event.Pad) //nolint:gosec // G115: bits, not numbers
	p.mu.Lock()
	c := p.slots[slot].c
	if p.slots[slot].generation != generation {
		c = nil
	}
	p.mu.Unlock()
	if c == nil {
		return
	}
	if event.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		c.signal(signalHungUp)
		return
	}
	if event.Events&unix.EPOLLOUT != 0 {
		c.signal(signalWritable)
	}
	if event.Events&unix.EPOLLIN != 0 {
		c.signal(signalReadable)
	}
}

// watch is watchFD for a connection of Go, over which the client may hang up in
// other ways as well: it signals that there is something to be read, too.
func (p *poller) watch(conn net.Conn, c *connection) (e pollEntry) {
	for {
		inner, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = inner.NetConn()
	}
	if sc, ok := conn.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { e = p.watchFD(int(fd), c, unix.EPOLLIN) })
		}
	}
	return e
}

// watchFD begins to signal that the client hangs up, also if it has, and the given
// events.
func (p *poller) watchFD(fd int, c *connection, events uint32) pollEntry {
	if p == nil {
		return pollEntry{}
	}
	p.mu.Lock()
	var slot uint32
	if last := len(p.free) - 1; last >= 0 {
		slot, p.free = p.free[last], p.free[:last]
	} else {
		slot = uint32(len(p.slots)) //nolint:gosec // G115: no more than there are file descriptors
		p.slots = append(p.slots, pollSlot{})
	}
	s := &p.slots[slot]
	s.c = c
	e := pollEntry{poller: p, slot: slot, generation: s.generation}
	p.mu.Unlock()
	e.control(unix.EPOLL_CTL_ADD, fd, events)
	return e
}

// awaitWritable signals when the socket takes more, if it does not now.
func (e *pollEntry) awaitWritable(fd int) { e.control(unix.EPOLL_CTL_MOD, fd, unix.EPOLLOUT) }

func (e *pollEntry) control(op, fd int, events uint32) {
	if e.poller == nil {
		return
	}
	event := unix.EpollEvent{
		Events: events | unix.EPOLLRDHUP | unix.EPOLLET,
		Fd:     int32(e.slot),       //nolint:gosec // G115: bits, not numbers
		Pad:    int32(e.generation), //nolint:gosec // G115: bits, not numbers
	}
	_ = unix.EpollCtl(e.poller.epoll, op, fd, &event)
}

// remove gives the place up. The system drops the socket when it is closed.
func (e *pollEntry) remove() {
	p := e.poller
	if p == nil {
		return
	}
	e.poller = nil
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.slots[e.slot]
	s.c = nil
	s.generation++
	p.free = append(p.free, e.slot)
}
