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
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	if ip, ok := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string); ok && ip != host {
		c.IP = ip
	}
	return c
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
