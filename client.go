package caddysse

import (
	"net"
	"net/http"
	"strconv"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// clientOf tells which client a request is of.
func clientOf(r *http.Request) stream.Client {
	c := stream.Client{Remote: r.RemoteAddr, Protocol: protocolOf(r)}
	if ip, ok := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string); ok && ip != peerOf(r) {
		c.IP = ip
	}
	return c
}

// peerOf is the address that a request comes from, a proxy's say, without its port.
func peerOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr // of a unix socket
	}
	return host
}

// protocolOf is the protocol of a request, as a label.
func protocolOf(r *http.Request) string {
	switch {
	case r.ProtoMajor > 1:
		return strconv.Itoa(r.ProtoMajor)
	case r.ProtoMinor == 0:
		return "1.0"
	}
	return "1.1"
}
