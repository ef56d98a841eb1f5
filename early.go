package caddysse

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// Response heads before the upstream's.
//
// A language model may think for minutes before its server sends a head, and
// proxies on the way cut a connection that is quiet for so long. With the option
// early a client that has asked for an event stream is sent the head of one, and
// heartbeats, when the upstream has said nothing for a while. What this gives up
// is the status: an error that comes afterwards can only be told in the stream;
// see early_error.go.
//
// All ways in which a request is served write to one ResponseWriter. So this is
// one, and they know nothing of it.

// earlyWriter is the ResponseWriter of a request whose client may be sent a head
// before there is an answer. Until then it passes on what it is given.
type earlyWriter struct {
	*caddyhttp.ResponseWriterWrapper

	// Fixed after construction.
	handler    *Handler
	original   *http.Request
	request    *http.Request // a copy: handlers may write to the original
	host, path string
	cancel     context.CancelFunc // of the request's context

	header http.Header // of the answer. The client's own is written under mu only.

	mu       sync.Mutex // guards what follows, and writing until there is an answer
	timer    *time.Timer
	begun    bool               // the client was sent a head before there was an answer
	answered bool               // the upstream's head has come, or none will
	out      *delivery.Response // with begun; until there is an answer
	late     *lateAnswer        // with begun: an answer that is no event stream
	err      error              // the client cannot be written to
}

// newEarlyWriter returns the writer for a request, which is served with it by
// serve; nil if the client is to have no head before the upstream's.
func (h *Handler) newEarlyWriter(w http.ResponseWriter, r *http.Request) *earlyWriter {
	if h.Early == 0 || isMCP(r) || len(offers(r.Header)) > 0 {
		return nil
	}
	accepts := acceptsEventStream(r.Header)
	hasBody := r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0 // perhaps an empty one, of HTTP/3
	if !accepts && (!hasBody || !isJSON(r.Header)) {
		return nil
	}
	ctx, cancel := context.WithCancel(r.Context())
	*r = *r.WithContext(ctx) // in place: the placeholders know the request by its address
	e := &earlyWriter{
		ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		handler:               h,
		original:              r,
		request:               r.WithContext(ctx),
		host:                  r.Host,
		path:                  r.URL.EscapedPath(),
		cancel:                cancel, // only by fail: handlers before sse may go on with the request
		header:                w.Header().Clone(),
	}
	if e.header == nil {
		e.header = make(http.Header)
	}
	limitCodings(r.Header)
	if hasBody {
		r.Body = newAskingBody(r, accepts, e.await)
	} else {
		e.await()
	}
	return e
}

// limitCodings removes from a request's Accept-Encoding what the gateway cannot
// decode: when the client has a head, nothing can be said of a coding any more.
func limitCodings(header http.Header) {
	lines, ok := header["Accept-Encoding"]
	if !ok {
		return
	}
	var kept []string
	for element := range strings.SplitSeq(strings.Join(lines, ","), ",") {
		coding, _, _ := strings.Cut(element, ";")
		body, known := newBodyWriter(coding, io.Discard)
		if !known || strings.TrimSpace(coding) == "" {
			continue
		}
		_ = body.Close(false)
		kept = append(kept, strings.TrimSpace(element))
	}
	if len(kept) == 0 {
		kept = []string{"identity"}
	}
	header["Accept-Encoding"] = []string{strings.Join(kept, ", ")}
}

// await begins to wait for the answer: the upstream has the whole request. Before
// that no head can be sent: the server would read the rest of the body itself.
func (e *earlyWriter) await() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.answered && e.timer == nil {
		e.timer = time.AfterFunc(time.Duration(e.handler.Early), e.begin)
	}
}

// begin sends the client a head and a heartbeat, and others from then on.
func (e *earlyWriter) begin() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.answered || e.request.Context().Err() != nil {
		return
	}
	e.begun = true
	header := e.ResponseWriter.Header()
	header.Set("Content-Type", eventStreamType)
	setStreamHeaders(header)
	e.ResponseWriter.WriteHeader(http.StatusOK)
	e.out = delivery.NewResponse(e.ResponseWriter, e.request, e.handler.settings, false)
	delivery.Counts.Heartbeats.Add(1)
	if err := e.out.Send(e.handler.settings.Beat); err != nil {
		e.fail(err)
		return
	}
	e.out.StartHeartbeats(&e.mu, e.fail)
}

// fail gives the request up: its client cannot be written to. The lock is held.
func (e *earlyWriter) fail(err error) {
	e.err = err
	e.cancel()
}

// HasBegun implements delivery.Early.
func (e *earlyWriter) HasBegun() (last time.Time, begun bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.begun {
		return time.Time{}, false
	}
	return e.out.Last(), true
}

// serve serves the request.
func (e *earlyWriter) serve(next caddyhttp.Handler) (err error) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if !e.stop() || !isAbort(v) {
			panic(v)
		}
		err = e.finish(http.ErrAbortHandler)
	}()
	d, err := e.handler.serve(e, e.original, next)
	if d != nil {
		err = d.run()
	}
	e.stop()
	return e.finish(err)
}

// stop ends the waiting for an answer. It reports whether the client was sent a
// head that is not followed by the upstream's event stream.
func (e *earlyWriter) stop() (owes bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.timer != nil {
		e.timer.Stop()
	}
	owes = e.begun && (!e.answered || e.late != nil)
	e.answered = true
	if owes && e.late == nil {
		e.late = newLateAnswer(0, e.header)
	}
	return owes
}

// Header implements http.ResponseWriter.
func (e *earlyWriter) Header() http.Header { return e.header }

// WriteHeader takes the upstream's head.
func (e *earlyWriter) WriteHeader(status int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.answered:
	case status >= 100 && status < 200 && status != http.StatusSwitchingProtocols:
		e.inform(status)
	case !e.begun:
		e.answered = true
		e.setHeader(e.header)
		e.ResponseWriter.WriteHeader(status)
	case isEventStream(status, e.header) && e.header.Get("Content-Encoding") == "":
		e.answered = true
		e.out.Close() // its writer has another
	default:
		e.answered = true
		e.late = newLateAnswer(status, e.header)
	}
}

// setHeader makes the client's header another one.
func (e *earlyWriter) setHeader(header http.Header) {
	own := e.ResponseWriter.Header()
	clear(own)
	maps.Copy(own, header)
}

// inform passes an informational answer on. The lock is held.
func (e *earlyWriter) inform(status int) {
	if e.begun {
		return
	}
	before := maps.Clone(e.ResponseWriter.Header())
	e.setHeader(e.header)
	e.ResponseWriter.WriteHeader(status)
	e.setHeader(before)
}

// answer returns where the body of the upstream's answer goes; nil: to the
// client.
func (e *earlyWriter) answer() *lateAnswer {
	e.mu.Lock()
	answered := e.answered
	e.mu.Unlock()
	if !answered {
		e.WriteHeader(http.StatusOK)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.late
}

func (e *earlyWriter) Write(b []byte) (int, error) {
	if late := e.answer(); late != nil {
		return late.Write(b)
	}
	return e.ResponseWriter.Write(b)
}

// ReadFrom implements io.ReaderFrom: what is passed on is copied by the server,
// by sendfile where it can.
func (e *earlyWriter) ReadFrom(r io.Reader) (int64, error) {
	if late := e.answer(); late != nil {
		return io.Copy(late, r)
	}
	return e.ResponseWriterWrapper.ReadFrom(r)
}

// FlushError flushes what is passed on.
func (e *earlyWriter) FlushError() error {
	if e.answer() != nil {
		return nil
	}
	return http.NewResponseController(e.ResponseWriter).Flush()
}

// Flush implements http.Flusher.
func (e *earlyWriter) Flush() { _ = e.FlushError() }

// finish ends the response after the handlers have returned err, and returns
// what is to be returned of it.
func (e *earlyWriter) finish(err error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.begun {
		e.setHeader(e.header) // trailers, or what goes with err
		return err
	}
	defer e.out.Close()
	if e.late == nil {
		return err
	}
	e.late.close()
	if handlerErr, ok := errors.AsType[caddyhttp.HandlerError](err); ok && e.late.status == 0 {
		e.late.status = handlerErr.StatusCode
	}
	if e.err != nil || e.request.Context().Err() != nil {
		end := stream.EndClient
		if e.err != nil {
			end = delivery.ClientEnd(e.original, e.err)
		}
		tellAccessLog(e.original, accessFields{resume: stream.ResumePrivate, end: end})
		return http.ErrAbortHandler
	}
	return e.tell()
}

// tell tells the client, in the stream, the log and the access log, what the
// upstream's answer was.
func (e *earlyWriter) tell() error {
	form := e.handler.EarlyError
	if form == "" {
		form = earlyErrorOf(e.path)
	}
	e.logLate()
	err := e.out.Send(e.late.event(form))
	end := stream.EndRefused
	if err != nil {
		end = delivery.ClientEnd(e.original, err)
	}
	tellAccessLog(e.original, accessFields{resume: stream.ResumePrivate, end: end})
	if err != nil || !earlyErrorEnds(form) {
		return http.ErrAbortHandler
	}
	return nil
}

// isJSON reports whether a request says that its body is JSON, or does not say
// what it is.
func isJSON(header http.Header) bool {
	if header.Get("Content-Encoding") != "" {
		return false
	}
	value, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	value = strings.ToLower(strings.TrimSpace(value))
	return value == "" || value == "application/json" || strings.HasSuffix(value, "+json")
}

// lateFields are the header fields of an answer that the client is told when it
// came too late, beside those with one of lateFieldPrefixes.
var lateFields = []string{"Retry-After", "Retry-After-Ms", "X-Should-Retry", "X-Request-Id", "Request-Id", "Apim-Request-Id", "Cf-Ray", "Ratelimit", "Ratelimit-Policy"}

var lateFieldPrefixes = []string{"X-Ratelimit-", "Ratelimit-", "Anthropic-Ratelimit-"}

// isLateField reports whether a header field, in canonical form, is one of them.
func isLateField(name string) bool {
	return slices.Contains(lateFields, name) ||
		slices.ContainsFunc(lateFieldPrefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// Interface guards.
var (
	_ http.ResponseWriter = (*earlyWriter)(nil)
	_ http.Flusher        = (*earlyWriter)(nil)
	_ io.ReaderFrom       = (*earlyWriter)(nil)
	_ delivery.Early      = (*earlyWriter)(nil)
)
