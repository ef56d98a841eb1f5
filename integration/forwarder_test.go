package integration

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// forwarder stands between clients and the gateway, and cuts their connections.
type forwarder struct {
	listener net.Listener
	target   string
	running  sync.WaitGroup

	mu    sync.Mutex
	conns map[*net.TCPConn]*net.TCPConn // of the client, and of the gateway
	cuts  int
	all   int
}

// startForwarder starts a forwarder to an address, which is stopped when the test ends.
func startForwarder(t *testing.T, target string) *forwarder {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &forwarder{listener: listener, target: target, conns: make(map[*net.TCPConn]*net.TCPConn)}
	f.running.Go(f.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		f.cut()
		f.running.Wait()
	})
	return f
}

func (f *forwarder) url(path string) string { return "http://" + f.listener.Addr().String() + path }

func (f *forwarder) accept() {
	for {
		client, err := f.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", f.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		f.forward(client.(*net.TCPConn), server.(*net.TCPConn))
	}
}

func (f *forwarder) forward(client, server *net.TCPConn) {
	f.mu.Lock()
	f.conns[client] = server
	f.all++
	f.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { pipe(server, client) })
	both.Go(func() { pipe(client, server) })
	f.running.Go(func() {
		both.Wait()
		f.mu.Lock()
		delete(f.conns, client)
		f.mu.Unlock()
	})
}

// pipe copies until one side ends, and closes both.
func pipe(dst, src *net.TCPConn) {
	_, _ = io.Copy(dst, src)
	_ = dst.Close()
	_ = src.Close()
}

// cut cuts all connections at once: every other time with a reset, so that clients see both.
func (f *forwarder) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cuts++
	for client, server := range f.conns {
		if f.cuts%2 == 0 {
			_ = client.SetLinger(0)
		}
		_ = client.Close()
		_ = server.Close()
	}
}

// connections returns how many connections there have been.
func (f *forwarder) connections() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all
}

// awaitConnections waits until there have been n connections.
func (f *forwarder) awaitConnections(t *testing.T, n int) {
	t.Helper()
	for timeout := time.Now().Add(testTimeout); f.connections() < n; time.Sleep(time.Millisecond) {
		if time.Now().After(timeout) {
			t.Fatalf("%d connections, expected %d", f.connections(), n)
		}
	}
}
