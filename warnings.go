package caddysse

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/hints"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// What is allowed, and probably not as it is meant: told when the configuration
// is loaded, as hints.

const (
	// shortLinger is up to when EventSource comes back by itself.
	shortLinger = 5 * time.Second

	// rareHeartbeat is the idle time after which most proxies cut a connection:
	// that of nginx and of most load balancers.
	rareHeartbeat = 60 * time.Second
)

// doubt tells what is doubtful of the handler's configuration, and returns where
// the handler stands. server is that of Caddy; nil: there is none. global is
// memory of the global option.
func (h *Handler) doubt(ctx caddy.Context, server *caddyhttp.Server, listen string, global int64) (place string) {
	var s stand
	if server != nil {
		s = standOf(ctx, server)
	}
	place = s.place(listen)
	say := func(kind hints.Kind, remedy, format string, args ...any) {
		h.hints.Doubt(kind, place, fmt.Sprintf(format, args...), remedy)
	}
	h.doubtReach(&s, say)
	if server != nil {
		h.doubtWrapper(server, say)
	}
	if grace := gracePeriod(httpApp(ctx)); grace > 0 && grace < h.options.Drain {
		say(hints.GracePeriod, fmt.Sprintf("grace_period %v in the global options, or drain %v", h.options.Drain+10*time.Second, grace/2),
			"grace_period (%v) is shorter than drain (%v): when Caddy stops it cuts clients before they are let go in order", grace, h.options.Drain)
	}
	if h.Linger != nil && h.options.Linger < shortLinger && h.Share != shareOff {
		say(hints.Linger, "linger "+stream.DefaultLinger.String(),
			"linger (%v) is shorter than the time after which browsers come back (3 to 5 s): they find the stream gone, and may miss events", h.options.Linger)
	}
	if every := h.settings.Heartbeat; every > rareHeartbeat {
		say(hints.Heartbeat, "heartbeat "+defaultHeartbeat.String(),
			"heartbeat (%v) is rarer than most proxies wait (%v): they cut quiet connections", every, rareHeartbeat)
	}
	if h.Detach > 0 && s.known && !s.matched {
		say(hints.Detach, "sse /v1/* { … }, with the path of the requests that are meant",
			"detach without a matcher: the bodies of all requests are read before they go on, up to max_request_body")
	}
	if stream.Process.SharesPlace(h.instance) {
		name := "no name"
		if h.Name != "" {
			name = "the name " + h.Name
		}
		say(hints.Names, "name <a name of its own> in each",
			"several sse handlers of this server have %s: after a reload each stream is looked for by running its request again", name)
	}
	if limit, differs := stream.Process.MemoryDiffers(h.instance, httpApp(ctx)); differs || (h.Memory > 0 && global > 0 && global != h.Memory) {
		limit = min(limit, cmp.Or(global, limit))
		say(hints.Memory, "memory in the global option sse only: { sse { memory <size> } }",
			"memory is stated differently in several places: it is one limit for the process, and the smallest (%d bytes) counts", limit)
	}
	return place
}

// doubtWrapper tells if the listener wrapper of the server can do nothing.
func (h *Handler) doubtWrapper(server *caddyhttp.Server, say func(kind hints.Kind, remedy, format string, args ...any)) {
	_, h.wrapped = wrappedServers.Load(server)
	if h.wrapped && len(server.Protocols) > 0 && (!slices.Contains(server.Protocols, "h1") || !slices.Contains(server.Protocols, "h2")) {
		say(hints.Wrapper, "protocols h1 h2 h3, or no listener wrapper",
			"the listener wrapper sse is without effect: protocols of the server are %s, and it needs h1 and h2", strings.Join(server.Protocols, " "))
	}
}

// doubtReach tells if the handler is without effect.
func (h *Handler) doubtReach(s *stand, say func(kind hints.Kind, remedy, format string, args ...any)) {
	const inside = "write sse inside the handle or route block, above reverse_proxy: handle /events { sse  reverse_proxy localhost:3000 }"
	switch {
	case !s.known, s.answers && !s.taken:
	case s.blocks:
		say(hints.Unreached, inside, "sse is without effect: the handle, route and invoke beside it come before it, and take its requests")
	case s.taken:
		say(hints.Unreached, inside, "sse is without effect: what stands before it in the same block answers all its requests")
	default:
		say(hints.Unreached, "write the handler that leads to the application behind it, such as reverse_proxy, in the same block",
			"sse is without effect: no handler behind it answers")
	}
}

// httpApp is that of the configuration that is being loaded; nil: there is none.
func httpApp(ctx caddy.Context) *caddyhttp.App {
	for _, module := range ctx.Modules() {
		if app, ok := module.(*caddyhttp.App); ok {
			return app
		}
	}
	return nil
}

// gracePeriod is how long Caddy waits for clients when it stops; 0: for ever.
func gracePeriod(app *caddyhttp.App) time.Duration {
	if app == nil {
		return 0
	}
	return time.Duration(app.GracePeriod)
}
