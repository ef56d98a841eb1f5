package caddysse

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// streamOptions are the settings that streams follow, defaults filled in.
func (h *Handler) streamOptions() *streamOptions {
	o := defaultOptions()
	o.buffer = h.Buffer.limits()
	o.gapEvent = h.GapEvent
	o.prime = (h.Prime == nil || *h.Prime) && h.sendsEmptyBlocks()
	o.emptyBlocks = h.sendsEmptyBlocks()
	o.lagSkip = h.Lag == "skip"
	o.maxStreams = h.MaxStreams
	o.maxSubscribers = h.MaxSubscribers
	o.maxAge = time.Duration(h.MaxAge)
	o.timeout = time.Duration(h.UpstreamTimeout)
	o.giveUp = cmp.Or(time.Duration(h.GiveUp), o.giveUp)
	o.vouched = h.vouches()
	o.insignificant = insignificant
	switch h.Reconnect {
	case "always":
		o.reconnect = reconnectAlways
	case "resumable":
		o.reconnect = reconnectResumable
	case "never":
		o.reconnect = reconnectNever
	}
	if h.Drain != nil {
		o.drain = time.Duration(*h.Drain)
	}
	if h.SpliceLimit > 0 {
		o.spliceLimit = h.SpliceLimit
	}
	if h.SpliceTimeout > 0 {
		o.spliceTimeout = time.Duration(h.SpliceTimeout)
	}
	if h.Linger != nil {
		o.linger = time.Duration(*h.Linger)
	}
	if h.MaxEventSize > 0 {
		o.maxEventSize = int(h.MaxEventSize)
	}
	switch h.Join {
	case "live":
		o.join = joinLive
	case "replay":
		o.join = joinReplay
	case "greeting":
		o.join = joinGreeting
	}
	if h.JoinReplay > 0 {
		o.joinReplay = h.JoinReplay
	}
	switch h.IDs {
	case "upstream":
		o.ids = idsUpstream
	case "gateway":
		o.ids = idsGateway
	}
	if r := h.Retry; r != nil {
		o.retryMin = time.Duration(r.Min)
		o.retryMax = time.Duration(max(r.Min, r.Max))
	}
	return o
}

// vouches reports whether the configuration says that the upstream tells all
// who share a key the same: with a key of the operator's own, or with a way to
// join that gives newcomers what other connections were told.
func (h *Handler) vouches() bool {
	return h.Share == sharePublic || h.Share == shareCookies || h.Key != "" || (h.Join != "" && h.Join != "auto")
}

// deliverySettings are the settings for writing to clients, defaults filled
// in.
func (h *Handler) deliverySettings() (*deliverySettings, error) {
	s := &deliverySettings{heartbeat: defaultHeartbeat, writeTimeout: defaultWriteTimeout}
	if h.WriteTimeout != nil {
		s.writeTimeout = time.Duration(*h.WriteTimeout)
	}
	b := h.Heartbeat
	if b == nil {
		b = new(Heartbeat)
	}
	if b.Interval != nil {
		s.heartbeat = time.Duration(*b.Interval)
	}
	bytes, err := heartbeatBytes(b, h.sendsEmptyBlocks())
	s.heartbeatBytes, s.heartbeatChunk = bytes, replay.AppendChunk(nil, bytes)
	return s, err
}

// emptyComment is the shortest heartbeat. Its blank line keeps comments from
// piling up in clients that look for blank lines only, and from hiding how the
// next event begins.
const emptyComment = ":\n\n"

// sendsEmptyBlocks tells whether the gateway may send blocks that are no events.
func (h *Handler) sendsEmptyBlocks() bool { return h.EmptyBlocks == nil || *h.EmptyBlocks }

// heartbeatBytes are what a heartbeat sends: padding is a comment before it.
func heartbeatBytes(b *Heartbeat, emptyBlocks bool) ([]byte, error) {
	beat := []byte(emptyComment)
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
