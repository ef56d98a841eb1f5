package main

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// One thread serves all sockets, with epoll and system calls that bypass Go's scheduler: what the load costs is not to
// be seen in the figures.

const (
	readable = unix.EPOLLIN | unix.EPOLLRDHUP
	writable = unix.EPOLLOUT
)

type poller struct {
	ep     int
	events []unix.EpollEvent
}

func newPoller() (*poller, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	return &poller{ep: ep, events: make([]unix.EpollEvent, 512)}, nil
}

func (p *poller) close() { _ = unix.Close(p.ep) }

func (p *poller) add(fd int, events uint32) error {
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}))
}

func (p *poller) modify(fd int, events uint32) error {
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.ep, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}))
}

// wait returns what is ready, after at most d. It needs Linux 5.11: the timeouts of epoll_wait are too coarse to publish
// on time. Go's scheduler is not told that the thread blocks: its monitor thread would wake up at each return, dozens of
// times for an event, on the same core.
func (p *poller) wait(d time.Duration) ([]unix.EpollEvent, error) {
	ts := unix.NsecToTimespec(max(int64(d), 0))
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.ep), uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)),
		uintptr(unsafe.Pointer(&ts)), 0, 0)
	if errno == unix.EINTR {
		return nil, nil
	}
	if errno != 0 {
		return nil, os.NewSyscallError("epoll_pwait2", errno)
	}
	return p.events[:n], nil
}

// receive reads what a non-blocking socket has. At the end of the stream it returns 0 and no error.
func receive(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// send gives a non-blocking socket what it takes.
func send(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// again tells errors that are over once the socket is ready from those that end the connection.
func again(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)
}

func newSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	return fd, nil
}

func socketAddress(address string) (*unix.SockaddrInet4, error) {
	a, err := netip.ParseAddrPort(address)
	if err != nil || !a.Addr().Is4() {
		return nil, fmt.Errorf("%q is not an IPv4 address with a port", address)
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}, nil
}

// stuckSegment is the segment size of clients that never read. With the one of the loopback interface, 64 KiB, the
// server's kernel takes 2 MiB for each before a write waits; with this, as on a network, 30 KiB.
const stuckSegment = 1400

// dial starts to connect a socket; it is writable when it is connected. rcvbuf above 0 is the size of its receive
// buffer: it is not going to be read.
func dial(to *unix.SockaddrInet4, rcvbuf int) (int, error) {
	fd, err := newSocket()
	if err != nil {
		return -1, err
	}
	if rcvbuf > 0 {
		err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, rcvbuf),
			unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, stuckSegment))
	}
	err = errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	if err == nil {
		if err = unix.Connect(fd, to); errors.Is(err, unix.EINPROGRESS) {
			err = nil
		}
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, os.NewSyscallError("connect", err)
	}
	return fd, nil
}

// listen opens a listening socket and returns its port, too.
func listen(address string) (fd, port int, err error) {
	at, err := socketAddress(address)
	if err != nil {
		return -1, 0, err
	}
	if fd, err = newSocket(); err != nil {
		return -1, 0, err
	}
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, at), unix.Listen(fd, 1<<15))
	if err == nil {
		var bound unix.Sockaddr
		if bound, err = unix.Getsockname(fd); err == nil {
			return fd, bound.(*unix.SockaddrInet4).Port, nil
		}
	}
	_ = unix.Close(fd)
	return -1, 0, fmt.Errorf("listening on %s: %w", address, err)
}

// reset closes a connection with an RST, so that neither side keeps its port.
func reset(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = unix.Close(fd)
}

// clock is CLOCK_MONOTONIC without a system call: that is what Go's monotonic time is, but for a constant.
type clock struct {
	base   time.Time
	offset int64
}

// newClock finds the constant: the best of some readings, since the thread may be held up within one.
func newClock() clock {
	c := clock{base: time.Now()}
	least := time.Duration(math.MaxInt64)
	for range 10 {
		var ts unix.Timespec
		before := time.Since(c.base)
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
			panic(err) // every Linux has it
		}
		if took := time.Since(c.base) - before; took < least {
			least, c.offset = took, ts.Nano()-int64(before+took/2)
		}
	}
	return c
}

func (c clock) now() int64 { return c.offset + int64(time.Since(c.base)) }
