package caddysse

import (
	"slices"
	"strings"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-sse/caddy-sse/internal/access"
	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/hints"
	"github.com/caddy-sse/caddy-sse/internal/key"
	"github.com/caddy-sse/caddy-sse/internal/logs"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// Provision implements caddy.Provisioner.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = logs.Queued(ctx.Logger())
	if h.Name != "" {
		h.logger = h.logger.With(zap.String("handler", h.Name))
	}
	h.accessLogger = ctx.Logger(new(caddyhttp.App)).Named("log.access") // as Caddy's own
	if err := h.Validate(); err != nil {
		return err // before anything is made of wrong values
	}
	h.policy = key.New(h.keyConfig())
	h.options = h.streamOptions()
	h.options.Keys = h.keyConfig().String()
	h.options.Crowded, h.options.Meant = h.hintCrowd, h.policy.Meant
	h.lines = h.options.Lines
	h.detached = h.detachSettings()
	settings, err := h.deliverySettings()
	if err != nil {
		return err
	}
	h.settings = settings
	h.settings.Record = h.newAccessRecord
	if h.Probe {
		h.probes = newProbes()
	}

	if err := theMetrics.register(ctx.GetMetricsRegistry()); err != nil {
		return err
	}

	var place string
	var server any = h
	s, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if ok {
		listen := slices.Sorted(slices.Values(s.Listen))
		place = strings.Join(listen, " ")
		server = s
		h.attach(ctx, s)
	}
	h.instance = stream.Process.Register(place+"\x00"+h.Name, server)
	h.hints = hints.Process.Source(place, h.Name, h.logger)
	h.http10 = new(atomic.Pointer[oldFront])
	global, err := globalOf(ctx)
	if err != nil {
		return err
	}
	stream.Process.LimitMemory(h.instance, least(h.Memory, global.Memory))
	stands := h.doubt(ctx, s, place, global.Memory)
	if ok {
		h.lookout = h.lookOut(s, stands)
	}
	h.scope = scopes.Add(1)
	h.withdraw = access.Process.Offer(h.RevokeBy)
	if h.Share != shareOff {
		meetingHandlers.Store(h, struct{}{})
	}
	return nil
}

// attach lets the handler know of its server's connections and of its end.
func (h *Handler) attach(ctx caddy.Context, s *caddyhttp.Server) {
	h.heedBehind(ctx, s)
	s.RegisterConnContext(delivery.ConnContext)
	s.RegisterOnShutdown(func() {
		if h.probes != nil {
			h.probes.end()
		}
		// Runs at a reload too: then the streams go on.
		if caddy.Exiting() {
			stream.Process.Stop()
		}
	})
}

// heedBehind makes the key take account of what stands behind the handler, and tells
// the operator what that changes.
func (h *Handler) heedBehind(ctx caddy.Context, server *caddyhttp.Server) {
	added, withheld := h.policy.Heed(ctx, server)
	if len(added) > 0 {
		h.logger.Warn("matcher behind sse uses something outside the key: it separates clients now (move the matcher before sse to let them share)",
			zap.Strings("key_add", added))
	}
	if len(withheld) > 0 {
		h.logger.Warn("handlers behind sse use something outside the key: it is withheld from shared requests (key_add passes it on and separates clients)",
			zap.Strings("withheld", withheld))
	}
}

// Cleanup implements caddy.CleanerUpper. The streams stay: the next
// configuration takes them over.
func (h *Handler) Cleanup() error {
	if h.instance != nil {
		stream.Process.Retire(h.instance)
		access.Process.Stale(h.instance)
		h.withdraw()
	}
	meetingHandlers.Delete(h)
	h.lookout.close()
	h.hints.Close()
	if caddy.Exiting() && h.options != nil {
		// The server knows nothing of connections that were taken over: it has
		// not waited for them.
		delivery.WaitEmpty(stream.Process.Stop().Add(h.options.Drain))
	}
	logs.Flush() // the log is closed soon
	return nil
}
