package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const drainTime = 15 * time.Second // from the planned end until what has not come is missing

// client opens subscribers and reads what they get, on one thread.
type client struct {
	clientConfig
	poll  *poller
	clock clock
	to    *unix.SockaddrInet4
	conns []*clientConn // by file
	buf   []byte
	now   int64 // of the read that is handled

	waiting   int // subscribers without a response head
	answered  int
	failed    int
	firstFail error
	subs      []*subscriber
	stuckFDs  []int

	sequence sequence
	segments segments
}

// subscriber is one event stream.
type subscriber struct {
	client   *client
	scanner  scanner
	track    track
	headDone bool
	closed   bool
}

// sequence counts what subscribers saw of their streams' order.
type sequence struct {
	duplicate, reordered, corrupt, foreign int64
	ended                                  int
	marked                                 int // subscribers that have had the end mark
	saturated                              bool
}

// clientConn is a connection: HTTP/1.1 with one subscriber, or HTTP/2 with several.
type clientConn struct {
	fd    int
	tls   *tls.Conn // nil without TLS
	out   []byte
	sub   *subscriber // HTTP/1.1
	head  head
	body  body
	h2    *h2Conn
	first int // with h2: its subscribers
	count int
}

func newClient(cfg clientConfig) (*client, error) {
	to, err := socketAddress(cfg.address)
	if err != nil {
		return nil, err
	}
	poll, err := newPoller()
	if err != nil {
		return nil, err
	}
	return &client{clientConfig: cfg, poll: poll, clock: newClock(), to: to, buf: make([]byte, 256<<10)}, nil
}

func (c *client) close() {
	for _, conn := range c.conns {
		if conn != nil {
			reset(conn.fd)
		}
	}
	for _, fd := range c.stuckFDs {
		reset(fd)
	}
	c.poll.close()
}

// run measures, and returns what it measured.
func (c *client) run(ctx context.Context) (*result, error) {
	defer c.close()
	proto := "http/1.1"
	if c.h2 {
		proto = "http/2"
	}
	if c.tls {
		proto += " tls"
	}
	r := &result{
		Label: c.label, Scenario: c.scenario, Time: time.Now().UTC().Truncate(time.Second), N: c.n, Proto: proto, Streams: c.streams,
		Stuck: c.stuck, Size: c.order.size, Burst: c.order.burst, Load: loadAverage(),
	}
	before := treeUsage(c.pid)
	begun := time.Now()
	if err := c.connect(ctx); err != nil {
		return nil, err
	}
	took := time.Since(begun).Seconds()
	connected := treeUsage(c.pid)
	r.Connect = connectResult{Seconds: took, Failed: c.failed, CPU: connected.cpu - before.cpu, PerS: float64(c.answered) / took}
	if r.Connect.CPU > 0 {
		r.Connect.PerCore = float64(c.answered) / r.Connect.CPU
	}
	if err := c.serve(ctx, time.Now().Add(c.settle), func() bool { return false }); err != nil {
		return nil, err
	}
	r.Idle = idleResult{RSS0: before.rss, RSS1: treeUsage(c.pid).rss}
	r.Idle.PerSubscriber = float64(r.Idle.RSS1-r.Idle.RSS0) / float64(max(c.answered, 1))
	if c.origin != "" {
		if err := c.measure(ctx, r); err != nil {
			return nil, err
		}
	}
	r.Idle.RSS2 = treeUsage(c.pid).rss
	return r, nil
}

// measure has the origin publish its events, and reads them.
func (c *client) measure(ctx context.Context, r *result) error {
	c.segments.begin(c.pid, len(c.order.plan))
	if _, err := control(ctx, c.origin, "start?"+c.order.query()); err != nil {
		return err
	}
	deadline := time.Now().Add(c.order.plan.duration() + drainTime)
	err := c.serve(ctx, deadline, func() bool { return c.sequence.marked+c.sequence.ended >= c.answered || c.sequence.saturated })
	if err == nil && c.sequence.saturated {
		stopped := make(chan error, 1)
		go func() {
			_, err := control(ctx, c.origin, "stop")
			stopped <- err
		}()
		deadline = time.Now().Add(2 * drainTime)
		err = errors.Join(c.serve(ctx, deadline, func() bool { return c.sequence.marked+c.sequence.ended >= c.answered }), <-stopped)
	}
	if err != nil {
		return err
	}
	c.segments.end()
	s, err := control(ctx, c.origin, "status")
	if err != nil {
		return err
	}
	c.report(r, s)
	return nil
}

func (c *client) report(r *result, s status) {
	r.Origin = &s
	r.Published = int64(s.Published)
	for _, sub := range c.subs {
		r.Received += int64(sub.track.got)
		if sub.headDone {
			r.Missing += sub.track.missing(s.Published)
		}
	}
	q := c.sequence
	r.Duplicate, r.Reordered, r.Corrupt, r.Foreign = q.duplicate, q.reordered, q.corrupt, q.foreign
	r.Ended, r.Saturated = q.ended, q.saturated
	c.segments.report(r, c.order)
}

// connect opens all subscribers, and returns when each has its response head or has failed.
func (c *client) connect(ctx context.Context) error {
	if err := c.openStuck(ctx); err != nil {
		return err
	}
	deadline := time.Now().Add(c.timeout)
	for c.answered+c.failed < c.n {
		for len(c.subs) < c.n && c.waiting < c.conc {
			if err := c.openConn(ctx); err != nil {
				return err
			}
		}
		before := c.answered + c.failed
		if err := c.serve(ctx, deadline, func() bool {
			done := c.answered + c.failed
			return done == c.n || done > before && len(c.subs) < c.n
		}); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			c.fail(c.n-c.answered-c.failed, errors.New("no response head in time"))
		}
	}
	if c.failed > 0 {
		fmt.Fprintf(os.Stderr, "%d subscribers failed: %v\n", c.failed, c.firstFail)
	}
	return nil
}

func (c *client) fail(n int, err error) {
	if c.failed += n; c.firstFail == nil {
		c.firstFail = err
	}
}

// openStuck opens the clients that never read.
func (c *client) openStuck(ctx context.Context) error {
	for i := range c.stuck {
		fd, err := dial(c.to, c.rcvbuf)
		if err != nil {
			return err
		}
		c.stuckFDs = append(c.stuckFDs, fd)
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 1000) // send says if it failed
		if _, err := send(fd, c.request(i)); err != nil {
			return os.NewSyscallError("send", err)
		}
	}
	if c.stuck > 0 {
		return c.serve(ctx, time.Now().Add(time.Second), func() bool { return false })
	}
	return nil
}

func (c *client) openConn(ctx context.Context) error {
	fd, err := dial(c.to, 0)
	if err != nil {
		return err
	}
	conn := &clientConn{fd: fd, first: len(c.subs), count: 1}
	if c.tls {
		if conn.tls, err = handshake(ctx, fd, c.h2); err != nil {
			reset(fd)
			return err
		}
	}
	if c.h2 {
		conn.h2, conn.count = newH2Conn(), min(c.perConn, c.n-len(c.subs))
		conn.out = conn.h2.out
	}
	for range conn.count {
		c.subs = append(c.subs, &subscriber{client: c})
	}
	c.waiting += conn.count
	if !c.h2 {
		conn.sub, conn.out = c.subs[conn.first], c.request(conn.first)
	}
	for len(c.conns) <= fd {
		c.conns = append(c.conns, nil)
	}
	c.conns[fd] = conn
	return c.poll.add(fd, readable|writable)
}

// serve handles what happens on the connections until done says so or the time has come.
func (c *client) serve(ctx context.Context, deadline time.Time, done func() bool) error {
	for !done() {
		left := time.Until(deadline)
		if left <= 0 || ctx.Err() != nil {
			return ctx.Err()
		}
		ready, err := c.poll.wait(min(left, 100*time.Millisecond))
		if err != nil {
			return err
		}
		for i := range ready {
			if conn := c.conns[ready[i].Fd]; conn != nil {
				if err := c.handle(conn, ready[i].Events); err != nil {
					c.drop(conn, err)
				}
			}
		}
	}
	return nil
}

func (c *client) handle(conn *clientConn, events uint32) error {
	if events&writable != 0 {
		if err := c.flush(conn); err != nil {
			return err
		}
	}
	if events&^writable == 0 {
		return nil
	}
	if conn.tls != nil {
		return c.handleTLS(conn)
	}
	n, err := receive(conn.fd, c.buf)
	if err != nil {
		if again(err) {
			return nil
		}
		return os.NewSyscallError("read", err)
	}
	if n == 0 {
		return errors.New("closed by the server")
	}
	return c.take(conn, c.buf[:n])
}

// handleTLS reads until the socket has no more bytes: epoll does not know of those that crypto/tls keeps.
func (c *client) handleTLS(conn *clientConn) error {
	for {
		n, err := conn.tls.Read(c.buf)
		if n > 0 {
			if err := c.take(conn, c.buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, errNoBytes):
			return nil
		case errors.Is(err, io.EOF):
			return errors.New("closed by the server")
		case err != nil:
			return fmt.Errorf("read: %w", err)
		}
	}
}

// take reads what a connection has brought. With TLS a read is one record.
func (c *client) take(conn *clientConn, b []byte) error {
	c.now = c.clock.now()
	c.segments.reads++
	c.segments.bytes += int64(len(b))
	if conn.h2 != nil {
		return c.readH2(conn, b)
	}
	return conn.read(b)
}

// write gives the connection what it takes of b, or all of it with TLS.
func (conn *clientConn) write(b []byte) (int, error) {
	if conn.tls != nil {
		n, err := conn.tls.Write(b)
		if err != nil {
			return n, fmt.Errorf("write: %w", err)
		}
		return n, nil
	}
	return send(conn.fd, b)
}

func (c *client) flush(conn *clientConn) error {
	n, err := conn.write(conn.out)
	if err != nil && !again(err) {
		return os.NewSyscallError("send", err)
	}
	if conn.out = conn.out[n:]; len(conn.out) == 0 {
		conn.out = nil
		return c.poll.modify(conn.fd, readable)
	}
	return nil
}

// read takes what an HTTP/1.1 connection has brought.
func (conn *clientConn) read(b []byte) error {
	if !conn.sub.headDone {
		done, rest, err := conn.head.feed(b, &conn.body)
		if err != nil || !done {
			return err
		}
		conn.sub.hasHead()
		b = rest
	}
	for len(b) > 0 {
		piece, rest, err := conn.body.next(b)
		if err != nil {
			return err
		}
		conn.sub.scanner.feed(piece, conn.sub)
		b = rest
	}
	if conn.body.state == bodyEnd {
		return errors.New("the response has ended")
	}
	return nil
}

// readH2 takes what an HTTP/2 connection has brought. With the server's settings its streams are opened.
func (c *client) readH2(conn *clientConn, b []byte) error {
	ready := conn.h2.ready
	conn.h2.out = conn.out
	if err := conn.h2.feed(b); err != nil {
		return err
	}
	if !ready && conn.h2.ready {
		if conn.h2.limit < conn.count {
			return fmt.Errorf("the server allows %d streams on a connection", conn.h2.limit)
		}
		for i := range conn.count {
			conn.h2.open(c.subs[conn.first+i], c.fields(conn.first+i))
		}
	}
	queued := len(conn.out) > 0
	if conn.out = conn.h2.out; len(conn.out) > 0 && !queued {
		return c.poll.modify(conn.fd, readable|writable)
	}
	return nil
}

func (c *client) drop(conn *clientConn, err error) {
	c.conns[conn.fd] = nil
	reset(conn.fd)
	for _, sub := range c.subs[conn.first : conn.first+conn.count] {
		sub.end(err)
	}
}

func (s *subscriber) hasHead() {
	s.headDone = true
	s.client.waiting--
	s.client.answered++
}

// end takes note that the stream has ended.
func (s *subscriber) end(err error) {
	if s.closed {
		return
	}
	s.closed = true
	switch {
	case !s.headDone:
		s.client.waiting--
		s.client.fail(1, err)
	case !s.track.ended:
		s.client.sequence.ended++
		s.client.segments.faults++
	}
}

func (s *subscriber) deliver(e event, ok bool) {
	c := s.client
	// Before the run has begun there are no steps: an event then is somebody else's.
	if !ok || e.step >= len(c.segments.latency) || e.size != c.order.size-len(dataPrefix)-len("\n\n") {
		c.sequence.corrupt++
		c.segments.faults++
		return
	}
	if e.last {
		if !s.track.ended {
			s.track.ended = true
			c.sequence.marked++
		}
		return
	}
	switch s.track.arrive(e.seq) {
	case inOrder:
	case afterGap:
		c.segments.faults++
	case late:
		c.sequence.reordered++
	case duplicate:
		c.sequence.duplicate++
		c.segments.faults++
		return
	}
	latency := time.Duration(c.now - e.time)
	c.segments.deliver(e.step, latency)
	if latency > c.saturated {
		c.sequence.saturated = true
	}
}

func (s *subscriber) foreign() { s.client.sequence.foreign++ }

// answered, read and ended make a subscriber an h2Stream.
func (s *subscriber) answered(code string) {
	if s.headDone || s.closed {
		return
	}
	if code != "200" {
		s.end(fmt.Errorf("answer %s", code))
		return
	}
	s.hasHead()
}

func (s *subscriber) read(b []byte) { s.scanner.feed(b, s) }

func (s *subscriber) ended() { s.end(errors.New("the stream has ended")) }
