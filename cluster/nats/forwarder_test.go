package natsbus

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
)

// forwarder passes connections on, until it is told to hold what they bring, as a network
// does that is cut: nobody is told of it.
type forwarder struct {
	listener net.Listener
	work     sync.WaitGroup

	mu    sync.Mutex
	held  chan struct{} // closed when it is released, nil when it passes on
	conns []net.Conn
}

// startForwarder starts one to an address, which the test's end stops.
func startForwarder(t *testing.T, to string) *forwarder {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &forwarder{listener: l}
	f.work.Go(func() { f.accept(to) })
	t.Cleanup(func() {
		f.listener.Close()
		f.release()
		f.mu.Lock()
		for _, c := range f.conns {
			c.Close()
		}
		f.mu.Unlock()
		f.work.Wait()
	})
	return f
}

func (f *forwarder) address() string { return f.listener.Addr().String() }

func (f *forwarder) accept(to string) {
	for {
		client, err := f.listener.Accept()
		if err != nil {
			return
		}
		f.pass()
		server, err := net.Dial("tcp", to)
		if err != nil {
			client.Close()
			continue
		}
		f.mu.Lock()
		f.conns = append(f.conns, client, server)
		f.mu.Unlock()
		f.work.Go(func() { f.copy(client, server) })
		f.work.Go(func() { f.copy(server, client) })
	}
}

// copy passes on what comes, and the end.
func (f *forwarder) copy(to, from net.Conn) {
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		f.pass()
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				from.Close()
			}
			return
		}
	}
}

// pass waits while connections are held.
func (f *forwarder) pass() {
	f.mu.Lock()
	held := f.held
	f.mu.Unlock()
	if held != nil {
		<-held
	}
}

func (f *forwarder) hold() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held == nil {
		f.held = make(chan struct{})
	}
}

func (f *forwarder) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held != nil {
		close(f.held)
		f.held = nil
	}
}
