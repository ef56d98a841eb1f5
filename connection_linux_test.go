package caddysse

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Many clients come and go while events flow, and with them file descriptors,
// which others use next. None of these is ever written to, and every client
// gets whole events, none twice and none left out.
func TestNoForeignFileIsWritten(t *testing.T) {
	const (
		workers = 8
		visits  = 60 // of each
		size    = 8 << 10
	)
	u := startUpstream(t, nil)
	all := startTransports(t, u, "buffer 4096 64MiB\nprime off")
	done := make(chan struct{})
	var others, clients sync.WaitGroup
	for _, tr := range all { // each is a stream
		stay := subscribeRaw(t, tr, "/")
		up := u.accept()
		ahead := make(chan struct{}, 256) // of who stays
		others.Go(func() {
			for n := 1; ; n++ {
				select {
				case ahead <- struct{}{}:
					up.event(numberedEvent(n, size))
				case <-done:
					stay.close()
					return
				}
			}
		})
		others.Go(func() {
			last := 0
			for m, err := range stay.messages() {
				if err != nil {
					break
				}
				if last, err = follows(last, m, size); err != nil {
					t.Errorf("%s, who stays: %v", tr.name, err)
				}
				<-ahead
			}
			if open(done) {
				t.Errorf("%s: who stays was cut", tr.name)
			}
		})
	}
	for range 2 {
		others.Go(func() {
			for open(done) {
				if err := witness(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range workers {
		clients.Go(func() {
			for range visits {
				tr := all[rand.IntN(len(all))]
				if err := visit(t.Context(), tr, size); err != nil {
					t.Errorf("%s: %v", tr.name, err)
					return
				}
			}
		})
	}
	clients.Wait()
	close(done)
	others.Wait()
}

// visit subscribes, reads some events, or does not, and leaves in one of the
// ways in which clients do.
func visit(ctx context.Context, tr transport, size int) error {
	c, err := tr.subscribe(ctx, "/")
	if err != nil {
		return err
	}
	defer c.close()
	_ = c.conn.SetReadDeadline(time.Now().Add(testTimeout))
	if left := rand.IntN(12); left < 8 {
		last := 0
		for m, err := range c.messages() {
			if err == nil {
				last, err = follows(last, m, size)
			}
			if err != nil {
				return fmt.Errorf("after event %d: %w", last, err)
			}
			if left--; left < 0 {
				break
			}
		}
	}
	if tcp, ok := c.conn.(*net.TCPConn); ok && rand.IntN(2) == 0 {
		_ = tcp.SetLinger(0) // a reset
	}
	return nil
}

// witness opens sockets that nobody else knows and reports what comes to them.
func witness() error {
	var pairs [8][2]int
	for i := range pairs {
		pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		pairs[i] = pair
		runtime.Gosched()
	}
	var found error
	for _, pair := range pairs {
		for _, fd := range pair {
			var got [100]byte
			n, err := syscall.Read(fd, got[:])
			if err != syscall.EAGAIN {
				found = fmt.Errorf("a foreign socket was written to, or closed: %q, %w", got[:max(n, 0)], err)
			}
		}
		for _, fd := range pair {
			if err := syscall.Close(fd); err != nil {
				found = fmt.Errorf("a foreign socket was closed: %w", err)
			}
		}
	}
	return found
}
