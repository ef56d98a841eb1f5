package caddysse

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"
	"unique"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/access"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// Access that ends.
//
// Handlers before sse let a request in, and its response may last for days. So each
// client's request is kept as it came, and run again up to sse: after a reload, and at
// the interval of the option reauthorize. Who is refused is let go, and meets the
// refusal when it comes back. What is no verdict, because the authentication service
// is away, say, changes nothing: see docs/adr/0007-access-ends.md.

// welcome makes a client known whose response is about to last. holder is what it is
// known by.
func (h *Handler) welcome(g *guest, r *http.Request, holder stream.Holder) *guest {
	g.Subject = g
	g.handler.Store(h)
	if holder != (stream.Holder{}) {
		g.host = unique.Make(strings.ToLower(r.Host))
	}
	if r.Method == http.MethodGet { // else it could be repeated, where it does not lead to sse any more
		g.request, g.tooLong = h.keep(r)
	}
	access.Process.Add(&g.Guest, h.instance, h.reauthorizeInterval())
	if h.instance.Retired.Load() {
		access.Process.StaleOne(&g.Guest)
	}
	return g
}

// beRevocable makes it possible to take a guest's access back, and does that if it was
// while the request was on its way. It must be able to be dismissed.
func (g *guest) beRevocable(holder stream.Holder, came access.Clock) {
	if holder == (stream.Holder{}) {
		return
	}
	if access.Process.Key(&g.Guest, access.Key(holder), came) {
		g.Dismiss(0)
		stream.Process.EndHeld(holder, g.handler.Load().scopeOf(g.askedHost()).holds, 0)
	}
}

// welcomeSubscriber is welcome for a subscriber of a stream of the hub.
func (h *Handler) welcomeSubscriber(sub *stream.Subscriber, holder stream.Holder, r *http.Request) *guest {
	g := h.welcome(&guest{sub: sub}, r, holder)
	g.place = placeOf(r)
	g.place.hold()
	sub.LetIn(g)
	g.beRevocable(holder, cameAt(r))
	return g
}

// welcomePrivate is welcome for the client of a private stream.
func (h *Handler) welcomePrivate(p *passThrough) *guest {
	holder := h.holderOf(p.request)
	g := h.welcome(&guest{private: p}, p.request, holder)
	g.beRevocable(holder, cameAt(p.request))
	return g
}

// Left implements stream.Pass.
func (g *guest) Left() {
	access.Process.Remove(&g.Guest)
	g.place.release()
}

// Dismiss implements access.Subject.
func (g *guest) Dismiss(within time.Duration) {
	if g.private != nil {
		g.private.LeaveAfter(randomUpTo(within), stream.EndRevoked)
		return
	}
	if within > 0 {
		time.AfterFunc(randomUpTo(within), func() { g.Dismiss(0) })
		return
	}
	g.sub.EndAt(time.Now(), stream.EndRevoked)
	g.notice.Give()
}

// recheck is in the context of a guest's request that is run again.
type recheck struct {
	guest   *guest
	handler *Handler // the sse handler that it reached; nil: none
	holder  stream.Holder

	application *applicationAnswer // nil: it was not asked
}

// recheckCtxKey is the context key of a *recheck.
type recheckCtxKey struct{}

// Ask implements access.Subject.
func (g *guest) Ask() access.Verdict {
	verdict, status, err := g.ask()
	h := g.handler.Load()
	switch verdict {
	case access.Stays:
		theReauthorized.With(reauthorizedPassed).Inc()
	case access.Refused:
		theReauthorized.With(reauthorizedRefused).Inc()
		h.lines.Revoked.Log(func(suppressed int) {
			h.logger.Info("client let go: its request is refused now", zap.Int("status", status), zap.Int("suppressed", suppressed))
		})
	case access.Unknown:
		if errors.Is(err, errNoServer) {
			break
		}
		theReauthorized.With(reauthorizedFailed).Inc()
		h.lines.Unanswered.Log(func(suppressed int) {
			sayPanic(h.logger, err)
			h.logger.Warn("client stays: it was not found out whether its request is refused now",
				zap.Int("status", status), zap.NamedError("reason", err), zap.Int("suppressed", suppressed))
		})
	case access.Unasked:
	}
	return verdict
}

// ask runs the request again through the newest configuration.
func (g *guest) ask() (verdict access.Verdict, status int, err error) {
	if g.tooLong {
		return access.Refused, http.StatusRequestHeaderFieldsTooLarge, nil
	}
	if g.request.isZero() {
		return access.Unasked, 0, nil
	}
	h := g.handler.Load()
	server, _ := stream.Process.NewestServer(g.mayBeAt(h.instance.Place)).(*caddyhttp.Server)
	if server == nil {
		return access.Unknown, 0, errNoServer // its stream ends by that, if it is shared
	}
	q, began := &recheck{guest: g}, access.Process.Now()
	ctx, cancel := context.WithTimeout(context.WithValue(g.request.context(), recheckCtxKey{}, q), renewalTimeout)
	defer cancel()
	w := &verdictWriter{header: make(http.Header), cancel: cancel}
	err = runNext(caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		return through(server, w, r)
	}), w, g.request.build(ctx))
	if q.handler == nil && w.status == 0 && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return access.Unknown, 0, ctx.Err()
	}
	if q.handler == nil {
		verdict, status = judge(w.status, err)
		return verdict, status, err
	}
	if q.application != nil && q.application.verdict() != access.Stays {
		return q.application.verdict(), q.application.status, q.application.err
	}
	if q.handler != h {
		g.handler.Store(q.handler)
		access.Process.Move(&g.Guest, q.handler.instance, q.handler.reauthorizeInterval())
		g.beRevocable(q.holder, began)
	}
	return access.Stays, http.StatusOK, nil
}

// errNoServer: there is no configuration to ask, during a reload, say.
var errNoServer = errors.New("no server has an sse handler at this address")

// mayBeAt tells at which places a handler of the new configuration may be the
// guest's: that of a shared stream has the same name.
func (g *guest) mayBeAt(place string) func(string) bool {
	if g.private == nil {
		return func(p string) bool { return p == place }
	}
	listen, _, _ := strings.Cut(place, "\x00")
	return func(p string) bool { return strings.HasPrefix(p, listen+"\x00") }
}

// takeRecheck takes note that a request that is run again has reached the handler,
// where it leads to the guest's stream.
func (h *Handler) takeRecheck(r *http.Request, next caddyhttp.Handler, q *recheck) {
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	if !h.leadsTo(q.guest, r) {
		return // it would be given another stream
	}
	q.handler, q.holder = h, h.holderOf(r)
	if h.Reauthorize != nil && h.Reauthorize.Upstream {
		q.application = askApplication(r, next)
	}
}

// leadsTo reports whether a request is for the guest's stream.
func (h *Handler) leadsTo(g *guest, r *http.Request) bool {
	switch {
	case g.private != nil:
		return true
	case !g.sub.Origin.IsDetached():
		return h.mayJoin(r) && stream.Process.Key(h.policy.Parts(r, h.instance.Place)) == g.sub.Key()
	}
	return h.detached == nil || stream.Process.Key(h.detachedParts(r)) == g.sub.Key()
}

// Renew implements stream.Pass.
func (g *guest) Renew(server any, q *stream.Renewal) bool {
	s, ok := server.(*caddyhttp.Server)
	if !ok || g.request.isZero() {
		return false
	}
	h := g.handler.Load()
	return renew(s, g.request.build(g.request.context()), "", q, h.logger)
}

// verdictWriter is the ResponseWriter of a guest's request that is run again. A
// refusal is short, and let come to its end: whoever sends it would log that it was
// cut.
type verdictWriter struct {
	header http.Header
	cancel context.CancelFunc
	status int // 0: none yet
	left   int // bytes that are taken yet
}

// maxRefusal is how many bytes of a refusal are taken.
const maxRefusal = 64 << 10

func (v *verdictWriter) Header() http.Header { return v.header }

func (v *verdictWriter) WriteHeader(status int) {
	if status < http.StatusOK || v.status != 0 {
		return
	}
	v.status, v.left = status, maxRefusal
	if isEventStream(status, v.header) {
		v.cancel() // it comes to no end
	}
}

func (v *verdictWriter) Write(p []byte) (int, error) {
	v.WriteHeader(http.StatusOK)
	if v.left -= len(p); v.left < 0 {
		v.cancel()
		return 0, stream.ErrStreamOver
	}
	return len(p), nil
}
