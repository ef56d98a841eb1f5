package caddysse

import (
	"errors"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// defaultClientBy is what a client is known by: its address, as trusted_proxies says.
const defaultClientBy = "{http.vars.client_ip}"

// errTooManyOfClient: max_per_client is reached.
var errTooManyOfClient = errors.New("max_per_client of the client reached")

// clientCounts are how many responses clients have, of all configurations: a client
// that stays over a reload counts.
type clientCounts struct {
	mu     sync.Mutex
	counts map[stream.Key]int
}

var theClients = clientCounts{counts: make(map[stream.Key]int)}

// take counts one more, unless there are as many as may be.
func (c *clientCounts) take(client stream.Key, limit int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts[client] >= limit {
		return false
	}
	c.counts[client]++
	return true
}

func (c *clientCounts) leave(client stream.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts[client]--; c.counts[client] <= 0 {
		delete(c.counts, client)
	}
}

// clientPlace is one of the responses that a client may have. It is free when its
// request was served and its subscriber, whose connection may have been taken over, has
// left. nil: nothing is counted.
type clientPlace struct {
	client stream.Key
	held   atomic.Int32
}

func (p *clientPlace) hold() {
	if p != nil {
		p.held.Add(1)
	}
}

func (p *clientPlace) release() {
	if p != nil && p.held.Add(-1) == 0 {
		theClients.leave(p.client)
	}
}

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

// placeOf is the place that a request has taken.
func placeOf(r *http.Request) *clientPlace {
	if inside, ok := caddyhttp.GetVar(r.Context(), insideVar).(*passage); ok {
		return inside.place
	}
	return nil
}
