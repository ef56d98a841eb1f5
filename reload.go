package caddysse

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// Moving streams to a new configuration.
//
// A reload leaves streams and their subscribers as they are. But the handlers
// behind sse of the old configuration are to be let go, and those of the new
// one may lead to another upstream. They are only known to a request that
// passes through the new configuration. So the request that opened a stream is
// run through it again, up to the sse handler that it reaches.
//
// With these handlers a second upstream connection is opened, the successor.
// It is a splice without subscribers: when it is seen to be at the same point
// as the stream, or after a short time at the latest, the stream goes on with
// it, and the connection of the old configuration is closed.

const (
	// renewalTimeout bounds how long the handlers before sse may take with a
	// request that is run again.
	renewalTimeout = 10 * time.Second
)

// renewedRequest is in the context of a request that is run again.
type renewedRequest struct {
	*stream.Renewal

	received *http.Request
	idParam  string // the query parameter in which the upstream is given the last event ID
}

// renewalCtxKey is the context key of a *renewedRequest.
type renewalCtxKey struct{}

// serves reports whether a server is one of Caddy's running configuration: that
// of one that is being loaded has no handlers yet, and may never have them.
func serves(server any) bool {
	app, err := caddy.ActiveContext().AppIfConfigured("http")
	if err != nil {
		return false
	}
	for _, s := range app.(*caddyhttp.App).Servers {
		if s == server {
			return true
		}
	}
	return false
}

// Renew runs the request again through a server, up to the sse handler that it
// reaches. It reports whether one took it for the same stream.
func (u *upstreamRequest) Renew(server any, q *stream.Renewal) bool {
	s, ok := server.(*caddyhttp.Server)
	if !ok || u.received == nil {
		return false
	}
	again := &renewedRequest{q, u.received, u.idParam}
	ctx, cancel := context.WithTimeout(context.WithValue(u.received.Context(), renewalCtxKey{}, again), renewalTimeout)
	defer cancel()
	r := u.received.Clone(ctx)
	err := runNext(caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		return through(s, w, r)
	}), &discardWriter{header: make(http.Header), cancel: cancel}, r)
	if _, panicked := errors.AsType[panicError](err); panicked {
		u.handler.logger.Error("request that was run again after a reload failed", zap.NamedError("reason", err))
		return false
	}
	return q.Source != nil
}

// through runs a request through a server's handlers as the server does, less the
// access log and the answer to an error: nobody has made this request.
func through(s *caddyhttp.Server, w http.ResponseWriter, r *http.Request) error {
	if !plainNames(s, r.Header) {
		s.ServeHTTP(w, r)
		return nil
	}
	if s.StrictSNIHost != nil && *s.StrictSNIHost && r.TLS != nil {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if !strings.EqualFold(r.TLS.ServerName, host) {
			return caddyhttp.Error(http.StatusMisdirectedRequest, errors.New("the host is not the TLS server name"))
		}
	}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, s)
	nothing := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
	return s.Routes.Compile(nothing).ServeHTTP(w, r)
}

// plainNames reports whether there are no header fields that the server drops because
// handlers could take them for others: it has rules of its own for that.
func plainNames(s *caddyhttp.Server, header http.Header) bool {
	if len(s.ExpectedUnderscoreHeaders) > 0 || len(s.ExpectedDotHeaders) > 0 {
		return false
	}
	for name := range header {
		if strings.ContainsAny(name, "_.") {
			return false
		}
	}
	return true
}

// takeRenewal leaves what a request that is run again came for, if it leads to
// the same stream here.
func (h *Handler) takeRenewal(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, q *renewedRequest) {
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	if !h.mayJoin(r) || stream.Process.Key(h.policy.Parts(r, h.instance.Place)) != q.Key {
		return
	}
	u := h.newUpstreamRequest(w, r, next)
	u.received, u.idParam = q.received, q.idParam
	q.Instance, q.Options, q.Source, q.Logger = h.instance, h.options, u, h.logger
}

// discardWriter is the ResponseWriter of a request that is run again. Who answers it
// is not what was looked for.
type discardWriter struct {
	header http.Header
	cancel context.CancelFunc
}

func (d *discardWriter) Header() http.Header { return d.header }
func (d *discardWriter) WriteHeader(status int) {
	if status >= http.StatusOK { // early hints of a forward_auth are no answer
		d.cancel()
	}
}
func (d *discardWriter) Write([]byte) (int, error) {
	d.cancel()
	return 0, stream.ErrStreamOver
}
