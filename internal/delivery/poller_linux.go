package delivery

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/caddy-sse/caddy-sse/internal/number"
)

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
	generation uint32 // not 0
}

// pollEntry is a connection's place in a poller.
type pollEntry struct {
	poller     *poller // nil: there is none
	slot       uint32
	generation uint32 // 0: it has no place
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
	slot, generation := number.As[uint32](event.Fd), number.As[uint32](event.Pad) // bits, not numbers
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
		slot = number.As[uint32](len(p.slots)) // no more than there are file descriptors
		p.slots = append(p.slots, pollSlot{generation: 1})
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
	if e.generation == 0 {
		return
	}
	event := unix.EpollEvent{
		Events: events | unix.EPOLLRDHUP | unix.EPOLLET,
		Fd:     number.As[int32](e.slot), // bits, not numbers
		Pad:    number.As[int32](e.generation),
	}
	_ = unix.EpollCtl(e.poller.epoll, op, fd, &event)
}

// remove gives the place up. The system drops the socket when it is closed.
func (e *pollEntry) remove() {
	if e.generation == 0 {
		return
	}
	e.generation = 0
	p := e.poller
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.slots[e.slot]
	s.c = nil
	s.generation = max(1, s.generation+1)
	p.free = append(p.free, e.slot)
}
