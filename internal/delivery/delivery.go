package delivery

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// Delivery writes a stream to one client, in the goroutine of its request or
// after that.
type Delivery struct {
	// For the host to fill in.
	Writer     http.ResponseWriter
	Request    *http.Request
	Subscriber *stream.Subscriber
	Settings   *Settings
	By         *TakeOver // how the connection may be taken over; nil: it may not
	Notice     *Notice   // that the response is to end; nil: none comes

	to       *Response
	now      time.Time
	blocks   []*replay.Block
	leaveAt  time.Time // to look again then at the latest; zero: never
	headSent bool
}

// Run writes the stream until it is over, and tells why. If there is a way
// to take the connection over that is done as soon as it can be: then "" is
// returned, and the subscriber is a writer's.
func (d *Delivery) Run() stream.EndReason {
	d.to = NewResponse(d.Writer, d.Request, d.Settings, false)
	d.to.EndBy(d.Subscriber.Leaves)
	d.Subscriber.DeliveredBy(stream.ByHandler)
	defer d.to.Close()
	timer := time.NewTimer(noTimeout)
	defer timer.Stop()
	for {
		d.now = time.Now()
		wake, end := d.look()
		if err := d.send(wake != nil); err != nil {
			return ClientEnd(d.Request, err)
		}
		if end != "" {
			return end
		}
		if wake == nil {
			continue
		}
		wait, err := d.beforeWait()
		switch {
		case errors.Is(err, errTaken):
			return ""
		case err != nil:
			return ClientEnd(d.Request, err)
		}
		d.Subscriber.Writing.Stop()
		timer.Reset(wait)
		if d.await(wake, timer.C) {
			return stream.EndClient
		}
	}
}

// await waits until there may be something to do, and reports whether the client has left.
// It is no part of Run, which would have the room that it takes on the stack while it
// writes: each client over HTTP/2 would need 16 KB in place of 8.
func (d *Delivery) await(wake <-chan struct{}, until <-chan time.Time) (left bool) {
	select {
	case <-wake:
	case <-until:
	case <-d.Notice.given():
	case <-d.Request.Context().Done():
		return true
	}
	return false
}

// look finds what is to be sent now.
func (d *Delivery) look() (wake <-chan struct{}, end stream.EndReason) {
	d.blocks, wake, d.leaveAt, end = d.Subscriber.Next(d.blocks[:0], d.now)
	return wake, end
}

// send sends that, and the head, if nothing else is to come soon.
func (d *Delivery) send(waits bool) error {
	if len(d.blocks) == 0 {
		if !waits || d.headSent {
			return nil
		}
		d.headSent = true
		return d.to.Flush()
	}
	d.headSent = true
	if err := d.to.writeAll(d.blocks); err != nil {
		return err
	}
	d.count()
	return nil
}

// count tells the metrics what was sent.
func (d *Delivery) count() {
	Counts.Blocks.Add(d.Subscriber.Taken)
	if !d.Subscriber.TakenAt().IsZero() {
		Counts.Lag.Observe(d.to.last.Sub(d.Subscriber.TakenAt()).Seconds())
	}
}

// errTaken is returned when the connection was taken over.
var errTaken = errors.New("the connection was taken over")

// beforeWait does what is to be done when there is nothing to send, and returns
// for how long that is so at most.
func (d *Delivery) beforeWait() (wait time.Duration, err error) {
	if wait, err = d.to.tend(d.now); err != nil {
		return 0, err
	}
	if !d.leaveAt.IsZero() {
		wait = min(wait, d.leaveAt.Sub(d.now))
	}
	if d.By == nil {
		return wait, nil
	}
	settled, at := d.Subscriber.Settled(d.now)
	switch {
	case settled && d.takeOver():
		return 0, errTaken
	case settled:
		d.By = nil // it cannot be done
	case !at.IsZero():
		wait = min(wait, at.Sub(d.now))
	}
	return wait, nil
}

// takeOver gives the connection to a writer. It returns false if that cannot be
// done.
func (d *Delivery) takeOver() bool {
	header := d.Writer.Header()
	if header.Get("Content-Encoding") != "" || header.Get("Transfer-Encoding") != "" || header.Get("Content-Length") != "" || innermost(d.Writer, d.Request) == nil {
		return false // a handler before this one has made something else of it, or records it, which it has decided with the head
	}
	socket := d.By.take(d.Request.Context(), d.to)
	if socket == nil {
		return false
	}
	if d.By.Closes() && d.Request.Context().Err() != nil {
		socket.close() // the client hung up before; from now on the context tells that the handlers have returned
		return false
	}
	d.to.Close()
	c := d.By.connection(socket, d.Settings, d.Subscriber)
	c.began = d.to.began
	c.last = theWriters().moment(d.to.last)
	if d.Settings.Record != nil {
		c.log = d.Settings.Record(d.Writer, d.Request, d.to.sent, d.returned(socket))
	}
	d.Subscriber.Writing.Stop()
	c.counted.Inc()
	d.Notice.takenBy(c)
	d.Subscriber.DeliveredBy(stream.ByConnection)
	theWriters().take(c, d.By.home())
	return true
}

// returned tells when the request's handlers have. Over HTTP/1.1 it is the context that ends
// then, since nobody reads from the connection any more for the server. Over HTTP/2 it may
// end before, with the connection.
func (d *Delivery) returned(s socket) Returned {
	if shared, ok := s.(*streamSocket); ok {
		return shared.stream.Returned
	}
	return func(tell func(known bool)) { context.AfterFunc(d.Request.Context(), func() { tell(true) }) }
}
