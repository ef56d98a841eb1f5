package caddysse

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/key"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// How long streams wait in a burst for their clients. Tests have others.
var (
	burstPatience = stream.DefaultBurstPatience
	turnPatience  = stream.DefaultTurnPatience
)

// Options are the settings that streams follow, defaults filled in.
func (h *Handler) streamOptions() *stream.Options {
	o := stream.Defaults()
	o.Buffer = h.Buffer.limits()
	o.GapEvent = h.GapEvent
	o.Prime = (h.Prime == nil || *h.Prime) && h.sendsEmptyBlocks()
	o.EmptyBlocks = h.sendsEmptyBlocks()
	o.LagSkip = h.Lag == "skip"
	o.MaxStreams = h.MaxStreams
	o.MaxSubscribers = h.MaxSubscribers
	o.MaxAge = time.Duration(h.MaxAge)
	o.Timeout = time.Duration(h.UpstreamTimeout)
	o.GiveUp = cmp.Or(time.Duration(h.GiveUp), o.GiveUp)
	o.Vouched = h.vouches()
	o.Insignificant = key.Insignificant
	o.BurstPatience, o.TurnPatience = burstPatience, turnPatience
	switch h.Reconnect {
	case "always":
		o.Reconnect = stream.ReconnectAlways
	case "resumable":
		o.Reconnect = stream.ReconnectResumable
	case "never":
		o.Reconnect = stream.ReconnectNever
	}
	if h.Drain != nil {
		o.Drain = time.Duration(*h.Drain)
	}
	if h.SpliceLimit > 0 {
		o.SpliceLimit = h.SpliceLimit
	}
	if h.SpliceTimeout > 0 {
		o.SpliceTimeout = time.Duration(h.SpliceTimeout)
	}
	if h.Linger != nil {
		o.Linger = time.Duration(*h.Linger)
	}
	if h.MaxEventSize > 0 {
		o.MaxEventSize = int(h.MaxEventSize)
	}
	switch h.Join {
	case "live":
		o.Join = stream.JoinLive
	case "replay":
		o.Join = stream.JoinReplay
	case "greeting":
		o.Join = stream.JoinGreeting
	}
	if h.JoinReplay > 0 {
		o.JoinReplay = h.JoinReplay
	}
	switch h.IDs {
	case "upstream":
		o.IDs = stream.IDsUpstream
	case "gateway":
		o.IDs = stream.IDsGateway
	}
	if r := h.Retry; r != nil {
		o.RetryMin = time.Duration(r.Min)
		o.RetryMax = time.Duration(max(r.Min, r.Max))
	}
	return o
}

// keyConfig is what the options say about keys.
func (h *Handler) keyConfig() key.Config {
	c := key.Config{
		Template:     h.Key,
		Public:       h.Share == sharePublic,
		Cookies:      h.ShareCookies,
		Headers:      h.ShareHeaders,
		StripCookies: h.SetCookie == setCookieStrip,
		Add:          h.KeyAdd,
		IDParameters: h.idParameters(),
	}
	if h.KeyIgnore != nil {
		c.IgnoreHeaders, c.IgnoreQuery = h.KeyIgnore.Headers, h.KeyIgnore.Query
	}
	return c
}

// idParameters are the query parameters in which a client may tell its last event ID.
func (h *Handler) idParameters() []string {
	if h.LastEventIDQuery == nil {
		return defaultLastEventIDQuery
	}
	return h.LastEventIDQuery
}

// vouches reports whether the configuration says that the upstream tells all
// who share a key the same: with a key of the operator's own, or with a way to
// join that gives newcomers what other connections were told.
func (h *Handler) vouches() bool {
	return h.Share == sharePublic || h.Share == shareCookies || h.Share == shareHeaders || h.Key != "" || (h.Join != "" && h.Join != "auto")
}

// deliverySettings are the settings for writing to clients, defaults filled
// in.
func (h *Handler) deliverySettings() (*delivery.Settings, error) {
	interval, writeTimeout := defaultHeartbeat, defaultWriteTimeout
	if h.WriteTimeout != nil {
		writeTimeout = time.Duration(*h.WriteTimeout)
	}
	b := h.Heartbeat
	if b == nil {
		b = new(Heartbeat)
	}
	if b.Interval != nil {
		interval = time.Duration(*b.Interval)
	}
	beat, err := heartbeatBytes(b, h.sendsEmptyBlocks())
	return delivery.NewSettings(interval, beat, writeTimeout), err
}

// sendsEmptyBlocks tells whether the gateway may send blocks that are no events.
func (h *Handler) sendsEmptyBlocks() bool { return h.EmptyBlocks == nil || *h.EmptyBlocks }

// heartbeatBytes are what a heartbeat sends: padding is a comment before it.
func heartbeatBytes(b *Heartbeat, emptyBlocks bool) ([]byte, error) {
	beat := []byte(delivery.EmptyComment)
	if !emptyBlocks {
		beat = beat[:len(":\n")]
	}
	if b.Event != "" {
		var err error
		beat, err = eventstream.AppendEvent(nil, eventstream.Event{Type: b.Event, Data: b.Data})
		if err != nil {
			return nil, fmt.Errorf("heartbeat: %w", err)
		}
	}
	missing := b.Padding - len(beat)
	if missing <= 0 {
		return beat, nil
	}
	padding := ":" + strings.Repeat(" ", max(0, missing-2)) + "\n"
	return append([]byte(padding), beat...), nil
}
