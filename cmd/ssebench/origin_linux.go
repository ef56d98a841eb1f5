package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxPending = 8 << 20                // bytes kept for a subscriber that does not read; then it loses events
	startDelay = 200 * time.Millisecond // from the order to the first event: the client goes back to its sockets
	onTime     = time.Millisecond       // an event that is later than this carries the time when it was due
	maxRequest = 32 << 10
)

// origin is an event stream's source, and used without a gateway the floor: one thread sends each event to all
// subscribers, one system call each, and does nothing else.
type origin struct {
	poll   *poller
	listen int
	clock  clock
	hello  bool // a comment right after the head
	conns  []*originConn
	subs   []*originConn
	buf    []byte
	status status

	order    order
	schedule schedule
	begun    int64 // CLOCK_MONOTONIC
	due      int64 // of the next event
	step     int
	more     bool // there is a next event
	running  bool
	block    []byte
	chunk    []byte
}

type originConn struct {
	fd      int
	request []byte
	pending []byte
	at      int // in subs; -1 for others
}

func newOrigin(address string, hello bool) (*origin, int, error) {
	fd, port, err := listen(address)
	if err != nil {
		return nil, 0, err
	}
	poll, err := newPoller()
	if err != nil {
		return nil, 0, err
	}
	return &origin{poll: poll, listen: fd, clock: newClock(), hello: hello, buf: make([]byte, 64<<10)}, port, poll.add(fd, readable)
}

// run serves until the context ends.
func (o *origin) run(ctx context.Context) error {
	defer o.close()
	for ctx.Err() == nil {
		wait := 100 * time.Millisecond
		if o.running {
			wait = min(wait, time.Duration(o.due-o.clock.now()))
		}
		ready, err := o.poll.wait(wait)
		if err != nil {
			return err
		}
		for i := range ready {
			o.handle(int(ready[i].Fd), ready[i].Events)
		}
		if o.running && o.clock.now() >= o.due {
			o.publish() // one at a time: orders are heard when it is behind, too
		}
	}
	return nil
}

func (o *origin) close() {
	for _, c := range o.conns {
		if c != nil {
			reset(c.fd)
		}
	}
	_ = unix.Close(o.listen)
	o.poll.close()
}

func (o *origin) handle(fd int, events uint32) {
	if fd == o.listen {
		o.accept()
		return
	}
	c := o.conns[fd]
	if c == nil {
		return // closed by an earlier event of this round
	}
	if events&writable != 0 {
		o.flush(c)
	}
	if events&^writable != 0 && o.conns[fd] == c {
		o.read(c)
	}
}

func (o *origin) accept() {
	for range 64 {
		fd, _, err := unix.Accept4(o.listen, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // else events wait for each other
		for len(o.conns) <= fd {
			o.conns = append(o.conns, nil)
		}
		o.conns[fd] = &originConn{fd: fd, at: -1}
		if o.poll.add(fd, readable) != nil {
			o.drop(o.conns[fd])
		}
	}
}

func (o *origin) drop(c *originConn) {
	if c.at >= 0 {
		last := o.subs[len(o.subs)-1]
		o.subs[c.at], last.at = last, c.at
		o.subs = o.subs[:len(o.subs)-1]
	}
	o.conns[c.fd] = nil
	_ = unix.Close(c.fd)
}

func (o *origin) read(c *originConn) {
	n, err := receive(c.fd, o.buf)
	switch {
	case err != nil && again(err):
		return
	case err != nil || n == 0:
		o.drop(c)
		return
	case c.at >= 0:
		return // a subscriber has nothing more to say
	}
	c.request = append(c.request, o.buf[:n]...)
	if !bytes.Contains(c.request, []byte("\r\n\r\n")) {
		if len(c.request) > maxRequest {
			o.drop(c)
		}
		return
	}
	line, _, _ := strings.Cut(string(c.request), "\r\n")
	c.request = nil
	_, target, _ := strings.Cut(line, " ")
	target, _, _ = strings.Cut(target, " ")
	if command, ok := strings.CutPrefix(target, controlPath); ok {
		o.write(c, o.control(command))
		return
	}
	o.subscribe(c)
}

func (o *origin) subscribe(c *originConn) {
	c.at = len(o.subs)
	o.subs = append(o.subs, c)
	o.status.Accepted++
	o.status.Peak = max(o.status.Peak, len(o.subs))
	answer := "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
	if o.hello {
		answer += "7\r\n: ok!\n\n\r\n"
	}
	o.write(c, []byte(answer))
}

func (o *origin) control(command string) []byte {
	command, query, _ := strings.Cut(command, "?")
	code, text := "200 OK", ""
	switch command {
	case "start":
		if ord, err := parseOrder(query); err != nil {
			code, text = "400 Bad Request", err.Error()
		} else {
			o.start(ord)
		}
	case "stop":
		if o.running {
			o.more, o.due = false, o.clock.now()
		}
	case "cut":
		for _, c := range slices.Backward(o.subs) {
			o.drop(c)
		}
	case "status":
	default:
		code, text = "404 Not Found", "no such command"
	}
	if text == "" {
		o.status.Current, o.status.Running = len(o.subs), o.running
		encoded, err := json.Marshal(o.status)
		if err != nil {
			panic(err) // numbers always encode
		}
		text = string(encoded)
	}
	return fmt.Appendf(nil, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", code, len(text), text)
}

func (o *origin) start(ord order) {
	o.order, o.schedule = ord, schedule{plan: ord.plan}
	o.status.Published = 0
	o.begun = o.clock.now() + int64(startDelay)
	o.running = true
	o.advance()
}

// advance sets when the next event is due, or the end mark.
func (o *origin) advance() {
	at, step, ok := o.schedule.next()
	o.due, o.step, o.more = o.begun+int64(at), step, ok
}

// publish sends the event that is due, with those of its burst. With coalesce, all that are due go out together.
func (o *origin) publish() {
	now := o.clock.now()
	o.block = o.block[:0]
	first := o.status.Published + 1
	for n := 0; ; n++ {
		if n > 0 && n >= o.order.burst && (!o.order.coalesce || o.due > now || len(o.block) > 256<<10) {
			break
		}
		o.status.Published++
		e := event{seq: o.status.Published, time: o.due, step: o.step, last: !o.more}
		if n > 0 && n < o.order.burst || now-o.due < int64(onTime) {
			e.time = now
		}
		o.block = appendEvent(o.block, e, o.order.size, o.order.ids)
		if !o.more {
			o.status.Published-- // the end mark is none
			o.running = false
			break
		}
		o.advance()
	}
	o.chunk = fmt.Appendf(o.chunk[:0], "%x\r\n%s\r\n", len(o.block), o.block)
	o.broadcast(first)
}

func (o *origin) broadcast(first uint32) {
	drop, repeat := o.order.drop > 0 && first%uint32(o.order.drop) == 0, o.order.repeat > 0 && first%uint32(o.order.repeat) == 0
	for i, c := range slices.Backward(o.subs) { // a write may take its subscriber off: the last one gets its place
		if drop && o.running && i%2 == 1 {
			continue
		}
		o.write(c, o.chunk)
		if repeat && o.running {
			o.write(c, o.chunk)
		}
	}
}

// write sends at once what the socket takes; the rest waits for it.
func (o *origin) write(c *originConn, b []byte) {
	if len(c.pending) > 0 {
		if len(c.pending)+len(b) > maxPending {
			o.status.Dropped++
			return
		}
		c.pending = append(c.pending, b...)
		return
	}
	n, err := send(c.fd, b)
	if err != nil && !again(err) {
		o.drop(c)
		return
	}
	if n < len(b) {
		c.pending = append(c.pending, b[n:]...)
		_ = o.poll.modify(c.fd, readable|writable)
	}
}

func (o *origin) flush(c *originConn) {
	n, err := send(c.fd, c.pending)
	if err != nil && !again(err) {
		o.drop(c)
		return
	}
	c.pending = c.pending[:copy(c.pending, c.pending[n:])]
	if len(c.pending) == 0 {
		c.pending = nil
		_ = o.poll.modify(c.fd, readable)
	}
}
