// Package upstreams brings upstream connections about, one after the other, and knows no stream: who wants them is a
// Receiver, and who takes what one of them brings is an Intake. The host opens them (Source) and writes their bodies to
// a Conn, which cuts them into blocks.
//
// A stream, a splice of one, and a successor are receivers. The blocks of a stream that follows another node's would not
// come from here: they come decided.
//
// Two goroutines call a receiver and its intakes:
//
//	Run's                one for each receiver at a time: Receive, then Ended of the intake that was returned, then
//	                     Next of the receiver that Ended named, and so on. It ends with its context, or when nothing
//	                     is to be tried again.
//	that of Source.Open  one for each connection: Opened or Refused once at most, Take only after Opened; and what
//	                     the host asks of an intake. It may go on after its connection was given up: see Deserted.
//
// They hold no lock that an intake could wait for. Coding alone is called by others, beside them.
package upstreams

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
)

// Head is what the subscribers of a stream get before the first block. It is
// immutable.
type Head struct {
	Header http.Header     // the upstream's, less what is not for subscribers
	Added  map[string]bool // fields that the upstream's values are added to, not put in place of
}

// WithoutCookies returns a head for those who come back: the cookies were for
// the first time, and may be older by now than what the client has.
func (h *Head) WithoutCookies() *Head {
	if len(h.Header["Set-Cookie"]) == 0 {
		return h
	}
	again := *h
	again.Header = h.Header.Clone()
	again.Header.Del("Set-Cookie")
	return &again
}

// Source opens upstream connections, with a request of a client that is entitled to what they bring and the handlers of
// one configuration.
type Source interface {
	// Open runs one upstream connection until its end: it feeds conn, and returns how it ended. It returns soon after
	// ctx is done; if it does not, it is left to itself.
	Open(ctx context.Context, lastEventID string, conn *Conn) Ending

	// Retired reports whether the configuration was cleaned up, so that no new connection may be opened with it.
	Retired() bool
}

// Receiver wants upstream connections, one after the other.
type Receiver interface {
	// Receive takes note of a connection that is about to be opened, and says who takes what it brings, and on what
	// terms it is opened. The receiver gives it up with giveUp, which may be called with any lock held, and at any time.
	Receive(src Source, lastEventID string, giveUp context.CancelCauseFunc) (Intake, Terms)

	// Next returns with what the next connection is to be opened. The source may be a retired one: then the handlers
	// of a new configuration are looked for, and Next is called again.
	Next() (src Source, lastEventID string)

	// Hurried is what the receiver sends to when the next attempt is to be made at once.
	Hurried() <-chan struct{}

	// Lapsed tells that no handlers of the new configuration were found. Nothing follows.
	Lapsed()
}

// Terms are those of one connection.
type Terms struct {
	LastEventID  string        // after which the upstream is asked to go on; empty: it is not
	IDParam      string        // the query parameter that is for it, if not the header field
	Timeout      time.Duration // ends it when nothing has come for so long; 0: nothing does
	MaxBlockSize int
}

// Intake takes what one upstream connection brings.
type Intake interface {
	// Opening reports whether the connection's head, or the answer in its place, is waited for by those who have none.
	Opening() bool

	// Reconnects reports whether there was a connection before this one.
	Reconnects() bool

	// Reopens reports whether the connection opens again what had ended.
	Reopens() bool

	// Keep makes what the connection brings known, if it was not before its head, or tells why it cannot be: then the
	// connection is refused.
	Keep() error

	// Opened gives the head: the connection is that of an event stream. private is why that may not be shared, if it
	// may not: those who have it stay, and nobody joins.
	Opened(h *Head, private error)

	// Refused tells that the first answer is not an event stream to share, and if it is known why. Who waited for it
	// goes upstream on its own, at once. failed tells that another attempt may have another answer.
	Refused(failed bool, private error)

	// Take takes a block. It may wait for who reads. An error ends the connection: nothing more is taken.
	Take(b eventstream.Block) error

	// Partial counts the bytes that are held of a block that has not come to its end, and Coding those that the
	// decoder of a content coding keeps.
	Partial(bytes int64)
	Coding(bytes int64)

	// Deserted is told that the handlers have not returned though their connection was given up: nothing that they
	// bring yet is taken. headed reports whether it had a head.
	Deserted() (headed bool)

	// Ended is told how the connection has ended, after all else but what deserted handlers may still bring. It says
	// whether another one is to be opened, when, and for whom: another receiver may have taken over. If not, nothing
	// follows: nobody wants one (then ctx, Run's, is done), the end or the answer is the clients', or the upstream was
	// away for too long. That the upstream was not reached, or broke off, is no reason to give up by itself.
	Ended(ctx context.Context, end Ending) (to Receiver, delay time.Duration, again bool)

	// Log is where what happens to the connection is told.
	Log() *zap.Logger
}

// Conn is one upstream connection, as the host sees it. What the host tells and asks of it is its
// intake's. The methods of both are for the goroutine that runs the connection.
type Conn struct {
	Intake
	Terms
	Cancel context.CancelCauseFunc // gives it up

	decoder  eventstream.Decoder
	take     func(eventstream.Block) error // Intake.Take
	deserted atomic.Bool
}
