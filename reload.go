package caddysse

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/key"
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

func init() {
	stream.Process.Serves = serves
}

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
	return renew(s, u.received, u.idParam, q, u.handler.logger)
}

// renew runs a client's request again through a server, for the stream that it is of.
func renew(s *caddyhttp.Server, received *http.Request, idParam string, q *stream.Renewal, logger *zap.Logger) bool {
	again := &renewedRequest{q, received, idParam}
	ctx, cancel := context.WithTimeout(context.WithValue(received.Context(), renewalCtxKey{}, again), renewalTimeout)
	defer cancel()
	err := runNext(caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		return through(s, w, r)
	}), &discardWriter{header: make(http.Header), cancel: cancel}, received.Clone(ctx))
	if _, panicked := delivery.PanicOf(err); panicked {
		sayPanic(logger, err)
		logger.Error("request that was run again after a reload failed", zap.NamedError("reason", err))
		return false
	}
	return q.Source != nil
}

// through runs a request through a server's handlers as the server does, less the
// access log, the metrics of requests and the answer to an error: nobody has made this
// request.
func through(s *caddyhttp.Server, w http.ResponseWriter, r *http.Request) error {
	dropAliases(s, r.Header)
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
	return uncounted(s.Routes, nothing).ServeHTTP(w, r)
}

// uncounted compiles a server's routes as Caddy does, less the metrics of requests,
// which Caddy puts around each route.
func uncounted(routes caddyhttp.RouteList, next caddyhttp.Handler) caddyhttp.Handler {
	for _, route := range slices.Backward(routes) {
		next = uncountedRoute(&route, next)
	}
	return next
}

func uncountedRoute(route *caddyhttp.Route, next caddyhttp.Handler) caddyhttp.Handler {
	return caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		groups, _ := r.Context().Value(key.RouteGroupCtxKey).(map[string]struct{})
		if _, entered := groups[route.Group]; entered && route.Group != "" {
			return next.ServeHTTP(w, r)
		}
		matches, err := route.MatcherSets.AnyMatchWithError(r)
		if err != nil {
			return err
		}
		if !matches {
			return next.ServeHTTP(w, r)
		}
		if route.Group != "" && groups != nil {
			groups[route.Group] = struct{}{}
		}
		handler := next
		if route.Terminal {
			handler = caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })
		}
		for _, mid := range slices.Backward(route.Handlers) {
			inner := handler
			handler = caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
				return mid.ServeHTTP(w, r, inner)
			})
		}
		return handler.ServeHTTP(w, r)
	})
}

// dropAliases drops header fields that handlers could take for others, as the server
// does, if it is not said that they are expected. Of repeated ones, and of those that
// they could be taken for, the configuration that the request came through has.
func dropAliases(s *caddyhttp.Server, header http.Header) {
	maps.DeleteFunc(header, func(name string, _ []string) bool {
		return strings.ContainsAny(name, "_.") &&
			!isExpected(name, s.ExpectedUnderscoreHeaders) && !isExpected(name, s.ExpectedDotHeaders)
	})
}

// isExpected reports whether a header field is in a list, in which a name may end with
// an asterisk.
func isExpected(name string, list []string) bool {
	return slices.ContainsFunc(list, func(entry string) bool {
		if prefix, ok := strings.CutSuffix(entry, "*"); ok {
			return len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix)
		}
		return strings.EqualFold(name, entry)
	})
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
