package key

import (
	"cmp"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Where a client is, and how it is connected, is proved by the network: who
// asks an application for its internal page from outside cannot claim to be
// inside. A shared upstream request is made for many clients. If it carried the
// address of the first one, all others would have it. So it carries one that is
// nobody's, unless the key names the address.

// Nobody is the address that shared upstream requests come from, as far as
// handlers behind sse and the application are told.
//
// It must not be missing: applications that are told no address take that of
// the connection, which is this host's, and trust it. It must not be private,
// loopback or link-local, nor of the ranges for documentation, which libraries
// count among the private ones: applications trust those too. And it must be no
// client's, now or later. IANA's registry of special-purpose addresses has such
// a block: 192.31.196.0/24 is globally routed, and answers DNS queries for
// private addresses (AS112, RFC 7535). Nobody browses from there.
const Nobody = "192.31.196.1"

// Placeholders of a client's address.
const (
	remotePlaceholder     = "http.request.remote"
	remoteHostPlaceholder = "http.request.remote.host"
	remotePortPlaceholder = "http.request.remote.port"
	clientIPPlaceholder   = "http.vars." + caddyhttp.ClientIPVarKey
	localPlaceholder      = "http.request.local"
)

// names reports whether the key has a placeholder.
func (p *Policy) names(placeholder string) bool {
	_, ok := p.named[placeholder]
	return ok
}

// value returns what a placeholder in the key stands for, "" if the key does not
// have it. Caddy does not say where early data of TLS comes from.
func (p *Policy) value(r *http.Request, placeholder string) string {
	if !p.names(placeholder) {
		return ""
	}
	value, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).GetString(placeholder)
	return value
}

// address returns the address of the client that shared upstream requests tell
// in header fields.
func (p *Policy) address(r *http.Request) string {
	host := remoteHost(p.value(r, remotePlaceholder))
	return cmp.Or(p.value(r, clientIPPlaceholder), p.value(r, remoteHostPlaceholder), host, Nobody)
}

// remote returns the remote address of a shared upstream request: of the
// client's no more than the key names.
func (p *Policy) remote(r *http.Request) string {
	if whole := p.value(r, remotePlaceholder); whole != "" {
		return whole
	}
	host := cmp.Or(p.value(r, remoteHostPlaceholder), p.value(r, clientIPPlaceholder), p.remotePrefix(r))
	if _, err := netip.ParseAddr(host); err != nil {
		return host // of a unix socket
	}
	return net.JoinHostPort(host, cmp.Or(p.value(r, remotePortPlaceholder), "0"))
}

// remotePrefix returns the address to which {http.request.remote.host/<bits>}
// in the key cuts the client's.
func (p *Policy) remotePrefix(r *http.Request) string {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	longest, bits := Nobody, -1
	for name := range p.named {
		if !strings.HasPrefix(name, remoteHostPlaceholder+"/") {
			continue
		}
		value, _ := repl.GetString(name)
		if prefix, err := netip.ParsePrefix(value); err == nil && prefix.Bits() > bits {
			longest, bits = prefix.Addr().String(), prefix.Bits()
		}
	}
	return longest
}

// clientIP returns what the variable client_ip of a shared upstream request is.
func (p *Policy) clientIP(r *http.Request) string {
	host := remoteHost(p.remote(r))
	return cmp.Or(p.value(r, clientIPPlaceholder), host)
}

// remoteHost is the host of a remote address. That of a unix socket has no port.
func remoteHost(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}

// believed reports whether what a request says in X-Forwarded-Proto and the
// like is believed: Caddy's server trusts the proxy that it comes from, or the
// reverse_proxy behind sse does.
func (p *Policy) believed(r *http.Request) bool {
	if trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool); trusted {
		return true
	}
	host := remoteHost(r.RemoteAddr)
	host, _, _ = strings.Cut(host, "%")
	ip, err := netip.ParseAddr(host)
	return err == nil && slices.ContainsFunc(p.trusted, func(prefix netip.Prefix) bool { return prefix.Contains(ip.Unmap()) })
}

// connection makes a shared upstream request one that says no more of the
// client's connection than the key names.
func (p *Policy) connection(r *http.Request) {
	r.RemoteAddr = p.remote(r)
	if !p.names("http.request.proto") && !p.names("http.request.proto_name") {
		r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.1", 1, 1
	}
	if r.TLS != nil {
		r.TLS = p.tlsState(r.TLS)
	}
}

// tlsState copies of what is known of a TLS connection that which the key has.
func (p *Policy) tlsState(client *tls.ConnectionState) *tls.ConnectionState {
	state := &tls.ConnectionState{HandshakeComplete: client.HandshakeComplete, ServerName: client.ServerName}
	if p.certificate {
		state.PeerCertificates, state.VerifiedChains = client.PeerCertificates, client.VerifiedChains
	}
	for name := range p.named {
		switch name {
		case "http.request.tls.version":
			state.Version = client.Version
		case "http.request.tls.cipher_suite":
			state.CipherSuite = client.CipherSuite
		case "http.request.tls.resumed":
			state.DidResume = client.DidResume
		case "http.request.tls.proto":
			state.NegotiatedProtocol = client.NegotiatedProtocol
		case "http.request.tls.ech":
			state.ECHAccepted = client.ECHAccepted
		}
	}
	return state
}

// namesLocal reports whether the key has the address at which the server was
// reached.
func (p *Policy) namesLocal() bool {
	return p.names(localPlaceholder) || p.names(localPlaceholder+".host") || p.names(localPlaceholder+".port")
}

// localNobody is the address at which the server was reached, in a shared
// upstream request: clients may have come to any of its addresses.
var localNobody = &net.TCPAddr{IP: net.IPv4zero}
