package caddysse

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/stream"
	"github.com/caddy-sse/caddy-sse/internal/upstreams"
)

// Answers that go on when their upstream connection breaks.
//
// An answer is one client's, and dear: nobody asks for it again. But some providers
// keep it, and give the rest to who asks for that. With the option resume_upstream
// the gateway does, in one of the ways of resumeDialects. A POST is never repeated.
//
// What serves a request sees one answer of the handlers behind sse: the joints are
// within a handler that stands before them.

// resumeDialects makes them, by value of Handler.ResumeUpstream.
var resumeDialects = map[string]func() resumeDialect{
	"last_event_id":    func() resumeDialect { return new(lastEventIDDialect) },
	"openai_responses": func() resumeDialect { return &responsesDialect{last: -1} },
}

// How long, and how often, an upstream is asked for the rest of an answer before the
// answer breaks off. An event makes both begin anew.
const (
	resumeTime  = 30 * time.Second
	resumeTries = 5

	// resumeDelay is before the second try. It doubles from one to the next.
	resumeDelay = 250 * time.Millisecond
)

// resumingHandler stands before the handlers behind sse.
type resumingHandler struct {
	handler *Handler
	next    caddyhttp.Handler
}

// resuming returns what the answer to a request, which is its client's alone, is to
// come from.
func (h *Handler) resuming(r *http.Request, next caddyhttp.Handler) caddyhttp.Handler {
	if h.ResumeUpstream == "" || isMCP(r) || len(offers(r.Header)) > 0 {
		return next
	}
	return &resumingHandler{h, next}
}

// ServeHTTP implements caddyhttp.Handler.
func (n *resumingHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	a := &resumableAnswer{
		ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		handler:               n.handler,
		request:               n.restRequest(w, r),
		dialect:               resumeDialects[n.handler.ResumeUpstream](),
	}
	err := runUntilBreak(n.next, a, r)
	if a.part == nil { // no event stream
		if errors.Is(err, http.ErrAbortHandler) {
			panic(http.ErrAbortHandler)
		}
		return err
	}
	a.end(err)
	for part := a.part; part != nil && a.err == nil; part = a.reopen(r.Context(), n.next) {
		if part.whole && part.joined {
			_, err := w.Write(part.decoder.Rest())
			return err
		}
	}
	panic(http.ErrAbortHandler) // as reverse_proxy does
}

// runUntilBreak runs handlers. That an answer broke off is an error, and no panic.
func runUntilBreak(next caddyhttp.Handler, w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		if v := recover(); isAbort(v) {
			err = http.ErrAbortHandler
		} else if v != nil {
			panic(v)
		}
	}()
	return next.ServeHTTP(w, r)
}

// restRequest makes a template of the requests for the rest of an answer.
func (n *resumingHandler) restRequest(w http.ResponseWriter, r *http.Request) *upstreamRequest {
	h := n.handler
	u := h.wholeRequest(w, r, n.next)
	rest := u.sent.Template
	rest.Method = http.MethodGet
	rest.Body, rest.ContentLength, rest.TransferEncoding, rest.Trailer = http.NoBody, 0, nil, nil
	for _, name := range []string{"Content-Type", "Content-Length", "Content-Encoding", "Transfer-Encoding", "Trailer", "Expect", "Last-Event-Id"} {
		rest.Header.Del(name)
	}
	rest.Header.Set("Accept", eventStreamType)
	limitCodings(rest.Header)
	rest.URL.RawQuery = h.policy.WithoutID(rest.URL.RawQuery)
	return u
}

// resumableAnswer is the ResponseWriter of the first upstream connection of an answer,
// and passes the later ones on as if they were it. An event stream goes out in whole
// blocks.
type resumableAnswer struct {
	*caddyhttp.ResponseWriterWrapper
	handler *Handler
	request *upstreamRequest
	dialect resumeDialect

	wroteHeader bool
	part        *answerPart // the newest; nil: the answer is no event stream
	batch       []byte
	err         error // nothing more can be given to the client

	broke    time.Time     // when the connection did; zero: events have come since
	tries    int           // since then
	wait     time.Duration // before the next one, as the upstream asks for
	status   int           // of the newest answer that was none
	finished bool          // it would be the same again
}

// answerPart is what comes over one upstream connection.
type answerPart struct {
	answer  *resumableAnswer
	decoder eventstream.Decoder
	body    bodyWriter
	joined  bool // it is known to go on with what was sent
	whole   bool // it has ended as HTTP says
}

// begin makes the newest part. false: the coding is not known.
func (a *resumableAnswer) begin(header http.Header, joined bool) bool {
	part := &answerPart{answer: a, joined: joined}
	part.decoder.MaxBlockSize = a.handler.options.MaxEventSize
	body, known := newBodyWriter(header.Get("Content-Encoding"), part)
	if known {
		part.body, a.part = body, part
	}
	return known
}

// end ends the newest part, after its handlers have returned err.
func (a *resumableAnswer) end(err error) {
	if bodyErr := a.part.body.Close(err == nil); err == nil {
		err = bodyErr
	}
	a.part.whole = err == nil
}

// WriteHeader implements http.ResponseWriter.
func (a *resumableAnswer) WriteHeader(status int) {
	header := a.Header()
	if !a.wroteHeader && isEventStream(status, header) && a.begin(header, true) {
		header.Del("Content-Encoding")
		header.Del("Content-Length")
	}
	a.wroteHeader = a.wroteHeader || status >= 200 || status == http.StatusSwitchingProtocols
	a.ResponseWriter.WriteHeader(status)
}

func (a *resumableAnswer) Write(b []byte) (int, error) {
	if !a.wroteHeader {
		a.WriteHeader(http.StatusOK)
	}
	if a.part == nil {
		return a.ResponseWriter.Write(b)
	}
	return a.part.body.Write(b)
}

// FlushError implements the interface of http.ResponseController.
func (a *resumableAnswer) FlushError() error {
	if !a.wroteHeader {
		a.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(a.ResponseWriter).Flush()
}

// Flush implements http.Flusher.
func (a *resumableAnswer) Flush() { _ = a.FlushError() }

// errOtherAnswer ends a later connection that does not go on with the answer.
var errOtherAnswer = errors.New("the upstream does not go on with the answer")

// Write takes what came over the connection, decoded.
func (p *answerPart) Write(b []byte) (int, error) {
	a := p.answer
	if a.err != nil {
		return 0, a.err
	}
	a.batch = a.batch[:0]
	err := p.decoder.Write(b, p.take)
	if len(a.batch) > 0 {
		_, a.err = a.ResponseWriter.Write(a.batch)
	}
	if errors.Is(err, eventstream.ErrBlockTooLarge) {
		a.err = err
	}
	if err = errors.Join(err, a.err); err != nil {
		return 0, err
	}
	return len(b), nil
}

// take takes a block.
func (p *answerPart) take(b eventstream.Block) error {
	a := p.answer
	if !p.joined && !b.CommentOnly() {
		switch a.dialect.takes(b) {
		case resumeRepeat:
			return nil
		case resumeOther:
			a.finished = true
			return errOtherAnswer
		case resumeNext:
		}
		p.joined = true
		a.resumed()
	}
	a.dialect.sent(b)
	a.batch = append(append(a.batch, b.Lines...), '\n')
	return nil
}

// reopen asks for the rest of the answer until something of it comes, and returns what
// came; nil: the answer breaks off.
func (a *resumableAnswer) reopen(ctx context.Context, next caddyhttp.Handler) *answerPart {
	if a.broke.IsZero() {
		a.broke = time.Now()
	}
	before := a.part
	for ctx.Err() == nil && a.pause(ctx) {
		a.tries++
		if !a.try(ctx, next) || a.err != nil {
			break
		}
		if a.part != before {
			return a.part
		}
	}
	if ctx.Err() == nil {
		a.lost()
	}
	return nil
}

// pause waits before the next try. false: there is none.
func (a *resumableAnswer) pause(ctx context.Context) bool {
	var delay time.Duration
	if a.tries > 0 {
		delay = resumeDelay << (a.tries - 1)
		delay = delay/2 + rand.N(delay/2)
	}
	delay, a.wait = max(delay, a.wait), 0
	if a.finished || a.tries >= resumeTries || time.Since(a.broke)+delay >= resumeTime {
		return false
	}
	select {
	case <-time.After(delay):
		return true
	case <-ctx.Done():
		return false
	}
}

// try runs one upstream connection to its end. It returns false if another would be
// no better.
func (a *resumableAnswer) try(ctx context.Context, next caddyhttp.Handler) (again bool) {
	requestCtx, cancel := context.WithCancel(a.request.sent.Template.Context())
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	rest := &restWriter{answer: a, header: make(http.Header)}
	rest.late = time.AfterFunc(resumeTime-time.Since(a.broke), cancel)
	defer rest.late.Stop()
	r := a.request.instantiate(requestCtx, rest, "", "")
	if !a.dialect.ask(r) {
		return false
	}
	r.RequestURI = r.URL.RequestURI()
	err := runUntilBreak(next, rest, r)
	if rest.isPart {
		a.end(err)
		// One that says nothing, and ends in order, does not know the answer.
		return !a.finished && (!a.part.whole || a.part.joined)
	}
	end := upstreams.Ending{Status: rest.status, Err: err}
	if handlerErr, ok := errors.AsType[caddyhttp.HandlerError](err); ok && end.Status == 0 {
		end.Status = handlerErr.StatusCode
	}
	a.status, a.wait = end.Status, retryAfter(rest.header, time.Now())
	return end.Retriable()
}

// restWriter is the ResponseWriter of a later connection.
type restWriter struct {
	answer *resumableAnswer
	header http.Header
	status int
	isPart bool
	late   *time.Timer // ends the connection, unless its head has come
}

// Header implements http.ResponseWriter.
func (w *restWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *restWriter) WriteHeader(status int) {
	if w.status != 0 || (status >= 100 && status < 200) {
		return
	}
	w.status = status
	w.late.Stop()
	w.isPart = isEventStream(status, w.header) && w.answer.begin(w.header, false)
}

func (w *restWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if !w.isPart {
		return 0, errOtherAnswer
	}
	return w.answer.part.body.Write(b)
}

// Flush implements http.Flusher: blocks go out when they are whole.
func (*restWriter) Flush() {}

// log is where what happens to the answer is told.
func (a *resumableAnswer) log() *zap.Logger {
	r := a.request.sent.Template
	return a.handler.logger.With(zap.String("host", stream.Clip(r.Host)), zap.String("path", stream.Clip(r.URL.EscapedPath())))
}

// resumed tells that the answer goes on, and that the next break is another one.
func (a *resumableAnswer) resumed() {
	theAnswerResumes.With(answerResumed).Inc()
	after, attempts := time.Since(a.broke), a.tries
	a.broke, a.tries = time.Time{}, 0
	a.handler.lines.Resumed.Log(func(suppressed int) {
		a.log().Info("answer goes on over another upstream connection",
			zap.Duration("after", after), zap.Int("attempts", attempts), zap.Int("suppressed", suppressed))
	})
}

// lost tells that the answer breaks off.
func (a *resumableAnswer) lost() {
	theAnswerResumes.With(answerLost).Inc()
	status, attempts := a.status, a.tries
	a.handler.lines.NotResumed.Log(func(suppressed int) {
		a.log().Warn("answer breaks off: the upstream does not go on with it",
			zap.Int("status", status), zap.Int("attempts", attempts), zap.Int("suppressed", suppressed))
	})
}

// Interface guards.
var (
	_ caddyhttp.Handler   = (*resumingHandler)(nil)
	_ http.ResponseWriter = (*resumableAnswer)(nil)
	_ http.Flusher        = (*resumableAnswer)(nil)
	_ http.Flusher        = (*restWriter)(nil)
	_ resumeDialect       = (*lastEventIDDialect)(nil)
	_ resumeDialect       = (*responsesDialect)(nil)
)
