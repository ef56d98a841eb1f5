package caddysse

import (
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/stream"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// capture is the ResponseWriter that the handlers behind sse write a stream's
// upstream connection to.
type capture struct {
	request *upstreamRequest
	opener  *opener // who is to be given this connection's answer if it is not a stream; nil: nobody
	conn    *upstreams.Conn
	private stream.Private          // why its answer is not shared
	wanted  context.Context         // over when the stream does not want the connection any more
	end     context.CancelCauseFunc // of the upstream request

	opened atomic.Bool // the stream has the head
	header http.Header
	status int          // 0: no final one yet
	events bool         // the stream gets the body, through body
	body   bodyWriter   // decodes the content coding
	passed *passThrough // the opener gets the answer
	err    error        // sticky: the body cannot be taken
	holds  int64        // bytes that body keeps
	spilt  int          // how much came of a body that nobody wants any more

	silence *time.Timer // ends the connection after upstream_timeout; nil: none is set
	stalled atomic.Bool // it did
}

func newCapture(ctx context.Context, u *upstreamRequest, conn *upstreams.Conn, end context.CancelCauseFunc) *capture {
	c := &capture{
		request: u,
		opener:  u.opener.Swap(nil),
		conn:    conn,
		wanted:  ctx,
		end:     end,
		header:  u.before.Clone(),
	}
	if conn.Timeout > 0 {
		c.silence = time.AfterFunc(conn.Timeout, func() {
			c.stalled.Store(true)
			c.cancel(upstreams.ErrStalled)
		})
		if !conn.Reconnects() {
			c.silence.Stop() // the client sees how long the first answer takes
		}
	}
	return c
}

// stopped reports whether the stream does not want the connection any more.
func (c *capture) stopped() bool { return c.wanted.Err() != nil }

// cancel gives the upstream connection up, because of what it has brought or not.
func (c *capture) cancel(cause error) {
	if errors.Is(cause, stream.ErrStreamOver) {
		c.release()
	}
	c.end(nil)
	c.conn.Cancel(cause)
}

// release ends the upstream request when the stream has no use for the connection
// any more: it was merged, or nobody came back. To reverse_proxy that is the end of
// the body. It would log an error of its own for each otherwise, though nothing has
// gone wrong: the transport of HTTP/1 ends the body with the context's cause.
func (c *capture) release() {
	if c.opened.Load() {
		c.end(io.EOF)
	}
	c.end(nil)
}

// maxSpilt is how many bytes of a body that nobody wants any more are dropped: what
// had come when it was given up. Handlers that go on writing are told.
const maxSpilt = 64 << 10

// spill drops what comes after the stream has ended the connection.
func (c *capture) spill(p []byte) (int, error) {
	if c.spilt += len(p); c.spilt > maxSpilt || c.conn.IsDeserted() {
		return 0, c.err
	}
	return len(p), nil
}

// listen begins to wait for the upstream's next bytes; hush ends that.
func (c *capture) listen() {
	if c.silence != nil && !c.stalled.Load() {
		c.silence.Reset(c.conn.Timeout)
	}
}

func (c *capture) hush() {
	if c.silence != nil {
		c.silence.Stop()
	}
}

func (c *capture) Header() http.Header { return c.header }

// WriteHeader decides where the answer goes. Informational answers to a request
// whose answer may be shared are dropped: they were for one client.
func (c *capture) WriteHeader(status int) {
	if c.status != 0 {
		return
	}
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		c.inform(status)
		return
	}
	c.status = status
	c.hush()
	if c.conn.IsDeserted() {
		c.fail(stream.ErrStreamOver)
		return
	}
	c.request.handler.takeRevocations(c.header, c.request.sent.Template.Host)
	own, added := c.ownHeader()
	if isEventStream(status, own) {
		checked := own
		if c.conn.Reconnects() {
			checked = own.Clone()
			checked.Del("Set-Cookie") // it is dropped
		}
		if !c.request.detached {
			c.private = c.request.policy.WhyPrivate(checked, c.request.sent.Template)
		}
		if c.private.Reason == "" || !c.conn.Opening() {
			if body, known := newBodyWriter(own.Get("Content-Encoding"), c.conn); known {
				if err := c.conn.Keep(); err != nil {
					_ = body.Close(false)
					c.turnAway(err)
					return
				}
				c.open(own, added, body)
				return
			}
			c.private = stream.Private{Reason: stream.PrivateCoding, Detail: own.Get("Content-Encoding")}
		}
	}
	if !c.conn.Opening() || c.stopped() || c.conn.Awaits(status) {
		c.fail(errNotOurStream)
		return
	}
	if c.isForNobody(status, own) {
		c.askAgain()
		return
	}
	c.pass()
}

// isForNobody reports whether the answer may be another one when the client asks
// by itself, with all that a shared request withholds: the application refuses
// what it does not know the address of, say, or tells that its answer depends
// on something of the kind. An application that has no room, or no time, is not
// asked again.
func (c *capture) isForNobody(status int, own http.Header) bool {
	if c.request.detached {
		return false // it was asked with the client's own request
	}
	switch status {
	case http.StatusRequestTimeout, http.StatusConflict, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return (status >= 300 && status < 500) || c.request.policy.Varies(own)
}

// askAgain lets the client ask by itself, as those who waited with it do.
func (c *capture) askAgain() {
	if c.private.Reason == "" {
		c.private = stream.Private{Reason: stream.PrivateWithheld, Detail: "status " + strconv.Itoa(c.status)}
	}
	c.conn.Refused(upstreams.Ending{Status: c.status}.Retriable(), c.private.Err())
	c.fail(errAskAgain)
	o := c.opener
	c.opener = nil
	if o != nil && o.claim() {
		o.again, o.why = true, c.private
		o.finish(nil)
	}
}

// errAskAgain ends an upstream connection whose answer was for nobody.
var errAskAgain = errors.New("the answer may depend on what a shared request withholds")

// open gives the head to the stream.
func (c *capture) open(own http.Header, added map[string]bool, body bodyWriter) {
	c.events, c.body = true, body
	c.opened.Store(true)
	c.opener = nil
	defer c.listen()
	header := streamHeader(own)
	if !c.conn.Opening() || c.conn.Reopens() || !c.request.policy.GivesCookies() {
		// On a later connection the cookie is one client's, who knows whose;
		// on a public stream it would be everybody's.
		header.Del("Set-Cookie")
	}
	c.conn.Opened(&upstreams.Head{Header: header, Added: added}, c.private.Err())
}

// pass gives the answer to the client that caused it, and lets those who
// waited with it go upstream on their own.
func (c *capture) pass() {
	failed := upstreams.Ending{Status: c.status}.Retriable()
	c.conn.Refused(failed || (c.conn.Asked() && c.status != http.StatusOK), c.private.Err())
	o := c.opener
	if o == nil || !o.claim() {
		c.fail(errNobodyWaits)
		return
	}
	c.passed = newPassThrough(o.handler, o.w, o.r, false)
	c.passed.why = c.private
	c.passed.cancel = func() { c.cancel(errNobodyWaits) }
	c.passed.release = func() {
		c.end(io.EOF)
		c.passed.cancel()
	}
	context.AfterFunc(o.r.Context(), c.passed.cancel)
	c.passed.cameWith(o.lastEventID, o.withheld)
	c.syncHeader(o.w.Header())
	c.passed.WriteHeader(c.status)
}

// turnAway tells the client that its stream cannot be.
func (c *capture) turnAway(why error) {
	c.conn.Refused(true, c.private.Err())
	c.fail(why)
	o := c.opener
	c.opener = nil
	if o != nil && o.claim() {
		o.finishBy(func() error { return o.handler.turnAway(o.w, o.r, o.key, why) })
	}
}

// inform passes an informational answer on, if the request is one client's.
func (c *capture) inform(status int) {
	o := c.opener
	if o == nil || !c.request.detached {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.left {
		return
	}
	header := o.w.Header()
	before := header.Clone()
	c.syncHeader(header)
	o.w.WriteHeader(status)
	clear(header)
	maps.Copy(header, before)
}

// fail ends the connection, also when the handlers do not look at the errors of
// their writes.
func (c *capture) fail(err error) {
	c.err = err
	c.cancel(err)
}

// ownHeader returns the fields that the handlers behind sse have set, which is
// not those that the handlers before it had set for the opening client. To the
// fields in added they have added values: the ones before are the client's own.
func (c *capture) ownHeader() (own http.Header, added map[string]bool) {
	own = make(http.Header, len(c.header))
	added = make(map[string]bool)
	for name, values := range c.header {
		before := c.request.before[name]
		n := len(before)
		switch {
		case slices.Equal(values, before):
		case n > 0 && n < len(values) && slices.Equal(values[:n], before):
			own[name], added[name] = values[n:], true
		default:
			own[name] = values
		}
	}
	return own, added
}

// syncHeader makes a client's response header what the handlers behind sse
// would have made it.
func (c *capture) syncHeader(dst http.Header) {
	for name := range c.request.before {
		if _, ok := c.header[name]; !ok {
			delete(dst, name)
		}
	}
	own, _ := c.ownHeader()
	for name := range own {
		dst[name] = slices.Clone(c.header[name])
	}
}

func (c *capture) Write(p []byte) (int, error) {
	if c.status == 0 {
		c.WriteHeader(http.StatusOK)
	}
	switch {
	case errors.Is(c.err, stream.ErrStreamOver):
		return c.spill(p)
	case c.err != nil:
		return 0, c.err
	case c.passed != nil:
		return c.passed.Write(p)
	}
	c.hush() // a splice may have to wait for its clients
	n, err := c.body.Write(p)
	if holds := c.body.Holds(); holds != c.holds {
		c.holds = holds
		c.conn.Coding(holds)
	}
	if err != nil {
		c.fail(err)
	}
	if errors.Is(err, stream.ErrStreamOver) {
		return c.spill(p)
	}
	c.listen()
	return n, err
}

// FlushError does nothing for a stream: blocks go out when they are whole.
func (c *capture) FlushError() error {
	if c.status == 0 {
		c.WriteHeader(http.StatusOK)
	}
	if c.passed != nil {
		return c.passed.FlushError()
	}
	return c.err
}

// Flush implements http.Flusher.
func (c *capture) Flush() { _ = c.FlushError() }

// finish tells how the connection ended, after the handlers have returned err.
func (c *capture) finish(err error) upstreams.Ending {
	c.hush()
	end := upstreams.Ending{Status: c.status, Answered: c.status != 0, Events: c.events, Err: err}
	if err == nil && c.err == nil && c.stopped() {
		c.err = stream.ErrStreamOver // see release
	}
	if c.stalled.Load() {
		c.err = upstreams.ErrStalled
		if !c.events {
			end.Status, end.Answered = 0, false // it is not the upstream's
		}
	}
	if c.events {
		if bodyErr := c.body.Close(err == nil && c.err == nil); bodyErr != nil && c.err == nil {
			c.err = bodyErr
		}
	}
	if c.err != nil {
		end.Err = c.err
	}
	end.Err = causeOf(end.Err)
	end.Clean = end.Err == nil
	if end.Status == 0 && !c.stalled.Load() {
		if handlerErr, ok := errors.AsType[caddyhttp.HandlerError](err); ok {
			end.Status = handlerErr.StatusCode
		}
	}
	if wait := retryAfter(c.header, time.Now()); !c.events {
		end.RetryAfter = wait
	}
	c.settle(err, end.Status)
	return end
}

// settle lets the opener go on, if it has the answer or there is none; status is
// what is said in place of one.
func (c *capture) settle(err error, status int) {
	o := c.opener
	c.opener = nil
	if o == nil {
		return
	}
	if _, panicked := delivery.PanicOf(err); panicked {
		err = http.ErrAbortHandler // as without sse: the connection is cut
	}
	if c.passed != nil {
		c.syncHeader(o.w.Header()) // trailers
		o.finishBy(func() error { return c.passed.finish(err) })
		return
	}
	if c.status == 0 && c.conn.Opening() && !c.stopped() && !c.conn.Awaits(status) {
		c.conn.Refused(true, c.private.Err())
		if o.claim() {
			c.syncHeader(o.w.Header())
			o.finishBy(func() error { return o.handler.settleFiles(o.w, o.r, o.key, err) })
		}
	}
}

// Open runs one upstream connection to its end.
func (u *upstreamRequest) Open(ctx context.Context, lastEventID string, conn *upstreams.Conn) (end upstreams.Ending) {
	requestCtx, cancel := context.WithCancelCause(u.sent.Template.Context())
	defer cancel(nil)
	c := newCapture(ctx, u, conn, cancel)
	defer context.AfterFunc(ctx, c.release)()
	idParam := cmp.Or(conn.IDParam, u.idParam)
	err := u.handler.runWithFiles(ctx, func() bool { return c.status != 0 }, func() error {
		c.header = u.before.Clone()
		return delivery.Contained(func() error { return u.next.ServeHTTP(c, u.instantiate(requestCtx, c, lastEventID, idParam)) })
	})
	if p, ok := delivery.PanicOf(err); ok {
		conn.Log().Error("panic in a handler behind sse",
			zap.Any("panic", p.Value), zap.ByteString("stack", p.Stack))
	}
	return c.finish(err)
}

// Interface guards.
var (
	_ http.ResponseWriter = (*capture)(nil)
	_ http.Flusher        = (*capture)(nil)
	_ stream.Source       = (*upstreamRequest)(nil)
)
