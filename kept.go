package caddysse

import (
	"context"
	"crypto/tls"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unique"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/number"
)

// keptRequest is a client's request as it came, to be run again. There is one for each
// client that is there: what browsers send alike is kept once.
type keptRequest struct {
	method, proto, host unique.Handle[string]
	uri, remote         string
	major, minor        int8
	local               net.Addr // nil: not known
	tls                 *tls.ConnectionState
	fields              []unique.Handle[string] // "Name: value"
}

// maxKept bounds what is kept of a request, in bytes: servers before Caddy take no more
// of header fields than half of it. Who sends more is let go where it would be run again.
const maxKept = 16 << 10

// keep keeps a request as it came; tooLong tells that there is too much of it. What
// handlers before sse have made of its header fields stays: Caddy keeps no others.
func (h *Handler) keep(r *http.Request) (kept *keptRequest, tooLong bool) {
	orig, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if !ok || orig.URL == nil {
		return nil, false
	}
	// All of the query but the last event ID: handlers before sse may ask for what is
	// not in the key.
	uri := (&url.URL{Path: orig.URL.Path, RawPath: orig.URL.RawPath, RawQuery: h.policy.WithoutID(orig.URL.RawQuery)}).RequestURI()
	size := len(uri) + len(r.Host)
	for name, values := range r.Header {
		for _, value := range values {
			size += len(name) + len(value)
		}
	}
	if size > maxKept {
		return nil, true
	}
	k := &keptRequest{
		method: unique.Make(orig.Method), proto: unique.Make(r.Proto), host: unique.Make(r.Host),
		uri: strings.Clone(uri), remote: strings.Clone(orig.RemoteAddr),
		major: number.As[int8](r.ProtoMajor), minor: number.As[int8](r.ProtoMinor), // one digit each
		tls: r.TLS,
	}
	k.local, _ = r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	k.fields = make([]unique.Handle[string], 0, len(r.Header))
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		if name == "Last-Event-Id" {
			continue
		}
		for _, value := range r.Header[name] {
			k.fields = append(k.fields, unique.Make(name+": "+value))
		}
	}
	return k, false
}

// context is the context of the request, with nothing of the configuration that it
// came through.
func (k *keptRequest) context() context.Context {
	ctx := context.Background()
	if k.local != nil {
		ctx = context.WithValue(ctx, http.LocalAddrContextKey, k.local)
	}
	return ctx
}

// build makes the request anew.
func (k *keptRequest) build(ctx context.Context) *http.Request {
	u, err := url.ParseRequestURI(k.uri)
	if err != nil {
		u = &url.URL{Path: "/"} // never: it was made of a URL
	}
	header := make(http.Header, len(k.fields))
	for _, field := range k.fields {
		name, value, _ := strings.Cut(field.Value(), ": ")
		header[name] = append(header[name], value)
	}
	return (&http.Request{
		Method:     k.method.Value(),
		URL:        u,
		RequestURI: k.uri,
		RemoteAddr: k.remote,
		Proto:      k.proto.Value(),
		ProtoMajor: int(k.major),
		ProtoMinor: int(k.minor),
		Header:     header,
		Body:       http.NoBody,
		Host:       k.host.Value(),
		TLS:        k.tls,
	}).WithContext(ctx)
}

// randomUpTo is a random time up to d.
func randomUpTo(d time.Duration) time.Duration { return time.Duration(rand.Float64() * float64(d)) }
