package caddysse

import (
	"context"
	"crypto/tls"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"
	"unique"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/number"
)

// keptRequest is a client's request as it came, to be run again. There is one for each
// client that is there: what browsers send alike is kept once. Of the zero value nothing
// was kept.
type keptRequest struct {
	line   unique.Handle[requestLine]
	remote string
	tls    *tls.ConnectionState
	fields []unique.Handle[field]
}

// requestLine is what all clients of a stream that come by one way have in common.
type requestLine struct {
	method, uri, proto, host string
	major, minor             int8
	local                    localAddr
}

// field is a header field.
type field struct{ name, value string }

// localAddr is the address that a request came to.
type localAddr struct {
	network string         // "": it is not known
	port    netip.AddrPort // of TCP and UDP
	name    string         // else
}

func localAddrOf(addr net.Addr) localAddr {
	switch a := addr.(type) {
	case nil:
		return localAddr{}
	case *net.TCPAddr:
		return localAddr{network: a.Network(), port: a.AddrPort()}
	case *net.UDPAddr:
		return localAddr{network: a.Network(), port: a.AddrPort()}
	}
	return localAddr{network: addr.Network(), name: addr.String()}
}

// addr is the address as net/http has it.
func (a localAddr) addr() net.Addr {
	switch a.network {
	case "tcp":
		return net.TCPAddrFromAddrPort(a.port)
	case "udp":
		return net.UDPAddrFromAddrPort(a.port)
	}
	return &net.UnixAddr{Net: a.network, Name: a.name}
}

// maxKept bounds what is kept of a request, in bytes: servers before Caddy take no more
// of header fields than half of it. Who sends more is let go where it would be run again.
const maxKept = 16 << 10

// keep keeps a request as it came; tooLong tells that there is too much of it. What
// handlers before sse have made of its header fields stays: Caddy keeps no others.
func (h *Handler) keep(r *http.Request) (kept keptRequest, tooLong bool) {
	line, remote, ok := h.lineOf(r)
	switch {
	case !ok:
		return keptRequest{}, false
	case len(line.uri)+len(line.host)+sizeOf(r.Header) > maxKept:
		return keptRequest{}, true
	}
	return keptRequest{line: unique.Make(line), remote: remote, tls: r.TLS, fields: keptFields(r.Header)}, false
}

// lineOf is what a request has in common with others of its stream, and its client's
// address, which net/http has made for the connection; false: it is not known how it came.
func (h *Handler) lineOf(r *http.Request) (_ requestLine, remote string, ok bool) {
	orig, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if !ok || orig.URL == nil {
		return requestLine{}, "", false
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return requestLine{
		method: orig.Method, uri: h.keptURI(orig.URL), proto: r.Proto, host: r.Host,
		major: number.As[int8](r.ProtoMajor), minor: number.As[int8](r.ProtoMinor), // one digit each
		local: localAddrOf(local),
	}, orig.RemoteAddr, true
}

// keptURI is the address with all of its query but the last event ID: handlers before sse
// may ask for what is not in the key.
func (h *Handler) keptURI(u *url.URL) string {
	return (&url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: h.policy.WithoutID(u.RawQuery)}).RequestURI()
}

// sizeOf is how many bytes the fields of a header have.
func sizeOf(header http.Header) (size int) {
	for name, values := range header {
		for _, value := range values {
			size += len(name) + len(value)
		}
	}
	return size
}

// keptFields keeps a header less the last event ID.
func keptFields(header http.Header) []unique.Handle[field] {
	kept := make([]unique.Handle[field], 0, len(header))
	for name, values := range header {
		if name == "Last-Event-Id" {
			continue
		}
		for _, value := range values {
			kept = append(kept, unique.Make(field{name, value}))
		}
	}
	return kept
}

// isZero reports whether nothing was kept.
func (k *keptRequest) isZero() bool { return k.line == (unique.Handle[requestLine]{}) }

// context is the context of the request, with nothing of the configuration that it
// came through.
func (k *keptRequest) context() context.Context {
	ctx := context.Background()
	if local := k.line.Value().local; local != (localAddr{}) {
		ctx = context.WithValue(ctx, http.LocalAddrContextKey, local.addr())
	}
	return ctx
}

// build makes the request anew.
func (k *keptRequest) build(ctx context.Context) *http.Request {
	line := k.line.Value()
	u, err := url.ParseRequestURI(line.uri)
	if err != nil {
		u = &url.URL{Path: "/"} // never: it was made of a URL
	}
	header := make(http.Header, len(k.fields))
	for _, kept := range k.fields {
		f := kept.Value()
		header[f.name] = append(header[f.name], f.value)
	}
	return (&http.Request{
		Method:     line.method,
		URL:        u,
		RequestURI: line.uri,
		RemoteAddr: k.remote,
		Proto:      line.proto,
		ProtoMajor: int(line.major),
		ProtoMinor: int(line.minor),
		Header:     header,
		Body:       http.NoBody,
		Host:       line.host,
		TLS:        k.tls,
	}).WithContext(ctx)
}

// randomUpTo is a random time up to d.
func randomUpTo(d time.Duration) time.Duration { return time.Duration(rand.Float64() * float64(d)) }
