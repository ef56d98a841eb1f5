package delivery

import (
	"sync/atomic"

	"github.com/caddy-sse/caddy-sse/internal/meter"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// connection is a client's connection that was taken over from the server: its
// response head went through all handlers, what follows is written by a writer.
type connection struct {
	// Fixed after construction.
	settings *Settings
	inbox    *inbox // of its writer
	socket   socket
	log      Record // nil: not logged
	counted  *meter.Gauge

	signals atomic.Uint32 // signal: what the writer has not seen yet

	entry stream.Slot // guarded by the lock of sub

	// For the writer only.
	sub     *stream.Subscriber
	held    *held            // waits for room in the socket; nil: nothing does
	lookAt  moment           // to look whether the client takes what is sent; 0: it has taken all
	taken   int64            // what it had at the last look
	takenAt moment           // of the newest progress; 0: there was no look
	last    moment           // something was sent
	leaveAt moment           // to ask sub then at the latest; 0: never
	due     moment           // in the writer's heap
	index   int              // there; -1: it is not in it
	bytes   int              // of the body, without transfer coding
	end     stream.EndReason // as soon as it is decided
	began   bool             // something was sent
	ended   bool             // the last chunk was
	closed  bool
	bare    bool // what is sent needs no transfer coding, and socket.finish ends it
}

// held is what did not fit into a socket.
type held struct {
	rest   []byte
	partly writtenBatch // what that is the end of
}

// blocked reports whether something waits for room in the socket.
func (c *connection) blocked() bool { return c.held != nil }

// Slot and Waker implement stream.Waiter.
func (c *connection) Slot() *stream.Slot  { return &c.entry }
func (c *connection) Waker() stream.Waker { return c.inbox }

// signal is news for a connection's writer.
type signal uint32

const (
	signalNew      signal = 1 << iota // it is the writer's from now on
	signalWritable                    // the socket takes more
	signalHungUp                      // the client has closed the connection
	signalReadable                    // it has sent something
	signalLeave                       // its response is to end now
)

// signal hands the connection to its writer to be looked at. It is safe for
// concurrent use.
func (c *connection) signal(s signal) {
	if c.signals.Or(uint32(s)) == 0 {
		c.inbox.lookAtOne(c)
	}
}

// lookIn is when to look in a part of write_timeout; 0: never.
func (c *connection) lookIn(now moment, part int) moment {
	if c.settings.WriteTimeout == 0 {
		return 0
	}
	return now + moment(c.settings.WriteTimeout)/moment(part)
}

// leaves reports whether the subscriber has to be asked now.
func (c *connection) leaves(now moment) bool { return c.leaveAt != 0 && now >= c.leaveAt }

// nextDue is when something is to be done; 0: never.
func (c *connection) nextDue() (at moment) {
	at = c.lookAt
	if c.blocked() {
		return at
	}
	if c.settings.Heartbeat > 0 {
		at = sooner(at, c.last+moment(c.settings.Heartbeat))
	}
	return sooner(at, c.leaveAt)
}

// socket is a connection's transport, for its writer.
type socket interface {
	// watch begins to signal that the client hangs up, where that is known.
	watch(c *connection)

	// write writes what goes out without waiting. The bytes stay as they are.
	write(p []byte) (n int, err error)

	// await signals when more of rest, which write or resume left, can be
	// written: by resume.
	await(c *connection, rest []byte)
	resume(rest []byte) (n int, err error)

	// readable looks into what the client has sent, and signals if it is that it
	// hangs up.
	readable(c *connection)

	// acks tells what the client has taken; false: it is not known, and a write
	// that waits ends itself.
	acks() (acks, bool)

	// fault is why the system has ended the connection; nil: the client did, or
	// that is not known.
	fault() error

	// finish ends the response as complete, where the bytes do not say so.
	finish()

	// close closes the connection.
	close()
}
