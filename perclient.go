package caddysse

import (
	"net/http"
	"net/netip"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// defaultClientBy is what a client is known by: its address, as trusted_proxies says.
const defaultClientBy = "{http.vars.client_ip}"

// admit counts a request for an event stream, or tells that its client has too many.
func (h *Handler) admit(r *http.Request) error {
	limit := h.MaxPerClient
	if limit == nil || !acceptsEventStream(r.Header) || r.Method == http.MethodDelete {
		return nil
	}
	client := h.clientKey(r)
	if !theClients.take(client, limit.Responses) {
		return errTooManyOfClient
	}
	place := &clientPlace{client: client}
	place.hold()
	if inside, ok := caddyhttp.GetVar(r.Context(), insideVar).(*passage); ok {
		inside.place = place
	}
	return nil
}

// clientKey names the client of a request, with the place in which it is counted.
func (h *Handler) clientKey(r *http.Request) stream.Key {
	by := h.MaxPerClient.By
	if by == "" {
		by = defaultClientBy
	}
	value := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).ReplaceAll(by, "")
	if ip, err := netip.ParseAddr(value); err == nil && ip.Is6() && !ip.Is4In6() {
		if network, err := ip.WithZone("").Prefix(64); err == nil { // what one subscriber has
			value = network.String()
		}
	}
	return stream.Process.Key([]stream.Part{{Name: "place", Value: h.instance.Place}, {Name: by, Value: value}})
}
