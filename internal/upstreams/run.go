package upstreams

import (
	"context"
	"time"
)

// HandlersTime is how long a stream that was lost after a reload waits for the handlers of the new configuration.
const HandlersTime = time.Minute

// Run opens upstream connections for a receiver, reads each at the upstream's own speed, and opens the next when it has
// ended and there is to be another one. It returns when there is not, or ctx is done.
func Run(ctx context.Context, to Receiver, src Source, lastEventID string) {
	for {
		next, delay, again := connect(ctx, to, src, lastEventID)
		if !again {
			return
		}
		to = next
		if !pause(ctx, to.Hurried(), delay) {
			return
		}
		src, lastEventID = to.Next()
		if src.Retired() { // those of the new configuration are being looked for
			if !pause(ctx, to.Hurried(), HandlersTime) {
				return
			}
			if src, lastEventID = to.Next(); src.Retired() {
				to.Lapsed()
				return
			}
		}
	}
}

// connect runs one upstream connection to its end, and returns what follows.
func connect(ctx context.Context, to Receiver, src Source, lastEventID string) (next Receiver, delay time.Duration, again bool) {
	connCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conn := &Conn{Cancel: cancel}
	conn.Intake, conn.Terms = to.Receive(src, lastEventID, cancel)
	conn.take = conn.Take
	conn.decoder.MaxBlockSize = conn.MaxBlockSize
	end := conn.run(connCtx, src)
	Counts.Connections.With(ResultOf(ctx, end)).Inc()
	if end.Events && end.Clean {
		end.Tail = conn.decoder.Rest()
	}
	return conn.Ended(ctx, end)
}

// pause waits before the next attempt to connect, unless that is to be made at
// once. It returns false if nobody wants it any more.
func pause(ctx context.Context, hurried <-chan struct{}, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	select {
	case <-ctx.Done():
		return false
	case <-hurried:
	case <-time.After(d):
	}
	return true
}
