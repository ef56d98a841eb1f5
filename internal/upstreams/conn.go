package upstreams

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// ReturnTime is how long the handlers behind sse may take to return when their
// upstream connection was given up.
const ReturnTime = time.Second

// Asked reports whether the upstream is asked to go on after an ID.
func (c *Conn) Asked() bool { return c.LastEventID != "" }

// Awaits reports whether a status is nothing to tell who opens a stream again:
// another attempt is made, and the client waits for it with the kept head.
func (c *Conn) Awaits(status int) bool {
	return c.Reopens() && Ending{Status: status}.Retriable()
}

// IsDeserted reports whether the stream went on without the connection's
// handlers having returned.
func (c *Conn) IsDeserted() bool { return c.deserted.Load() }

// Write takes bytes of the upstream's body.
func (c *Conn) Write(p []byte) (int, error) {
	Counts.Bytes.Add(len(p))
	err := c.decoder.Write(p, c.take)
	c.Partial(int64(cap(c.decoder.Rest())))
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// run runs the handlers behind sse to the connection's end. Not all return when
// they are told to: those of FastCGI wait for an application that says nothing.
// Such ones are left to themselves, and can bring the stream nothing any more.
func (c *Conn) run(ctx context.Context, src Source) (end Ending) {
	ended := make(chan Ending, 1)
	go func() { ended <- src.Open(ctx, c.LastEventID, c) }()
	select {
	case end = <-ended:
		return end
	case <-ctx.Done():
	}
	cause := context.Cause(ctx)
	select {
	case end = <-ended:
		if !end.Events && errors.Is(cause, ErrNoAnswer) {
			return Ending{Err: cause} // and not what the handlers say of it
		}
		return end
	case <-time.After(ReturnTime):
		return c.desert(cause)
	}
}

// desert goes on without the handlers' having returned.
func (c *Conn) desert(cause error) Ending {
	end := Ending{Events: c.Deserted(), Err: cause}
	c.deserted.Store(true)
	if end.Events {
		end.Status = http.StatusOK
	}
	return end
}
