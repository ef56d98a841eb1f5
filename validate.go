package caddysse

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/key"
)

// Validate implements caddy.Validator.
func (h *Handler) Validate() error {
	return errors.Join(h.validateKey(), h.validateStream(), h.validateDetach(), h.validateEarly(), h.validateDelivery())
}

func (h *Handler) validateKey() error {
	switch h.Share {
	case "", sharePublic, shareOff:
	case shareCookies:
		if len(h.ShareCookies) == 0 {
			return errors.New("share cookies: expected the name of at least one cookie")
		}
	case shareHeaders:
		if len(h.ShareHeaders) == 0 || slices.Contains(h.ShareHeaders, "") {
			return errors.New("share headers: expected the name of at least one header field")
		}
	default:
		return fmt.Errorf("share: expected public, cookies, headers or off, not %q", h.Share)
	}
	if len(h.ShareCookies) > 0 && h.Share != shareCookies {
		return fmt.Errorf("share_cookies: only with share cookies, not %q", h.Share)
	}
	if len(h.ShareHeaders) > 0 && h.Share != shareHeaders {
		return fmt.Errorf("share_headers: only with share headers, not %q", h.Share)
	}
	if err := oneOf("set_cookie", h.SetCookie, setCookieStrip, setCookiePrivate); err != nil {
		return err
	}
	if h.Key != "" && h.Share != "" {
		return fmt.Errorf("key: not with share %s: each says what makes two requests the same", h.Share)
	}
	if h.Key != "" && len(key.Placeholders(h.Key)) == 0 {
		return fmt.Errorf("key: expected a template with at least one placeholder, such as {http.request.uri}, not %q", h.Key)
	}
	for _, add := range h.KeyAdd {
		if len(key.Placeholders(add)) == 0 {
			return fmt.Errorf("key_add: expected a placeholder, such as {http.vars.tenant}, not %q", add)
		}
	}
	return nil
}

func (h *Handler) validateStream() error {
	if err := h.validateBuffer(); err != nil {
		return err
	}
	if r := h.Retry; r != nil {
		if r.Min < caddy.Duration(time.Millisecond) || (r.Max != 0 && r.Max < r.Min) || r.Max > caddy.Duration(eventstream.MaxRetry) {
			return fmt.Errorf("retry: expected a range of reconnection times from 1ms, not %v to %v", time.Duration(r.Min), time.Duration(r.Max))
		}
	}
	if h.Linger != nil && *h.Linger < 0 {
		return fmt.Errorf("linger: expected 0 or more, not %v", time.Duration(*h.Linger))
	}
	if err := oneOf("join", h.Join, "auto", "live", "replay", "greeting"); err != nil {
		return err
	}
	if h.JoinReplay < 0 || (h.JoinReplay > 0 && h.Join != "replay") {
		return fmt.Errorf("join_replay: expected a number above 0, with join replay, not %d with join %s", h.JoinReplay, h.Join)
	}
	if h.SpliceLimit < 0 {
		return fmt.Errorf("splice_limit: expected a number above 0, not %d", h.SpliceLimit)
	}
	if h.SpliceTimeout < 0 {
		return fmt.Errorf("splice_timeout: expected a duration above 0, not %v", time.Duration(h.SpliceTimeout))
	}
	if err := oneOf("ids", h.IDs, "auto", "upstream", "gateway"); err != nil {
		return err
	}
	if err := oneOf("reconnect", h.Reconnect, "broken", "always", "resumable", "never"); err != nil {
		return err
	}
	if h.UpstreamTimeout < 0 {
		return fmt.Errorf("upstream_timeout: expected 0 (no limit) or more, not %v", time.Duration(h.UpstreamTimeout))
	}
	if h.GiveUp < 0 {
		return fmt.Errorf("give_up: expected a duration above 0, not %v", time.Duration(h.GiveUp))
	}
	if h.Drain != nil && *h.Drain < 0 {
		return fmt.Errorf("drain: expected 0 or more, not %v", time.Duration(*h.Drain))
	}
	if h.MaxEventSize < 0 || h.MaxEventSize > math.MaxInt32 {
		return fmt.Errorf("max_event_size: expected 1 to %d bytes, not %d", math.MaxInt32, h.MaxEventSize)
	}
	if r := h.Reauthorize; r != nil && time.Duration(r.Interval) < minReauthorize {
		return fmt.Errorf("reauthorize: expected an interval of at least %v, not %v", minReauthorize, time.Duration(r.Interval))
	}
	if h.RevokeBy != "" && len(key.Placeholders(h.RevokeBy)) == 0 {
		return fmt.Errorf("revoke_by: expected a placeholder, such as {http.auth.user.id}, not %q", h.RevokeBy)
	}
	if h.MaxStreams < 0 {
		return fmt.Errorf("max_streams: expected 0 (no limit) or more, not %d", h.MaxStreams)
	}
	if h.MaxSubscribers < 0 {
		return fmt.Errorf("max_subscribers: expected 0 (no limit) or more, not %d", h.MaxSubscribers)
	}
	if m := h.MaxPerClient; m != nil && m.Responses <= 0 {
		return fmt.Errorf("max_per_client: expected a number above 0, not %d", m.Responses)
	}
	if m := h.MaxPerClient; m != nil && m.By != "" && len(key.Placeholders(m.By)) == 0 {
		return fmt.Errorf("max_per_client: expected a placeholder, such as {http.vars.client_ip}, not %q", m.By)
	}
	return nil
}

func (h *Handler) validateBuffer() error {
	if err := h.Buffer.validate(); err != nil {
		return err
	}
	if h.Memory < 0 {
		return fmt.Errorf("memory: expected a number of bytes above 0, not %d", h.Memory)
	}
	return nil
}

func (h *Handler) validateDetach() error {
	if h.Detach < 0 {
		return fmt.Errorf("detach: expected a duration above 0, not %v", time.Duration(h.Detach))
	}
	if h.Detach > 0 && h.IDs == "upstream" {
		return errors.New("detach: not with ids upstream: the ids of detached streams are the gateway's")
	}
	if slices.Contains(h.DetachHeaders, "") {
		return errors.New("detach_headers: expected the names of header fields, not an empty text")
	}
	if h.MaxRequestBody < 0 || h.MaxRequestBody > math.MaxInt32 {
		return fmt.Errorf("max_request_body: expected 1 to %d bytes, not %d", math.MaxInt32, h.MaxRequestBody)
	}
	return nil
}

func (h *Handler) validateEarly() error {
	if err := oneOf("resume_upstream", h.ResumeUpstream, slices.Sorted(maps.Keys(resumeDialects))...); err != nil {
		return err
	}
	if h.Early < 0 {
		return fmt.Errorf("early: expected a duration above 0, not %v", time.Duration(h.Early))
	}
	return oneOf("early_error", h.EarlyError, earlyErrorOpenAI, earlyErrorAnthropic, earlyErrorSSE)
}

func (h *Handler) validateDelivery() error {
	if b := h.Heartbeat; b != nil {
		if b.Interval != nil && *b.Interval < 0 {
			return fmt.Errorf("heartbeat: expected an interval above 0, or off, not %v", time.Duration(*b.Interval))
		}
		if strings.ContainsAny(b.Event, "\r\n\x00") {
			return fmt.Errorf("heartbeat: expected an event type without line ends, not %q", b.Event)
		}
		if b.Data != "" && b.Event == "" {
			return errors.New("heartbeat: data needs an event type")
		}
		if b.Padding < 0 || b.Padding > maxHeartbeatPadding {
			return fmt.Errorf("heartbeat_padding: expected 0 to %d bytes, not %d", maxHeartbeatPadding, b.Padding)
		}
	}
	if strings.ContainsAny(h.GapEvent, "\r\n\x00") {
		return fmt.Errorf("gap_event: expected an event type without line ends, not %q", h.GapEvent)
	}
	if err := oneOf("lag", h.Lag, "disconnect", "skip"); err != nil {
		return err
	}
	if h.Lag == "skip" && h.GapEvent == "" {
		return errors.New("lag skip: needs gap_event: nothing else would tell the client that it missed events")
	}
	if err := oneOf("delivery", h.Delivery, "connection", delivery.ByHandler); err != nil {
		return err
	}
	if h.WriteTimeout != nil && *h.WriteTimeout < 0 {
		return fmt.Errorf("write_timeout: expected 0 (no limit) or more, not %v", time.Duration(*h.WriteTimeout))
	}
	if h.MaxAge < 0 {
		return fmt.Errorf("max_age: expected 0 (no limit) or more, not %v", time.Duration(h.MaxAge))
	}
	return nil
}

// oneOf checks the value of an option that may also be left out.
func oneOf(option, value string, values ...string) error {
	if value == "" || slices.Contains(values, value) {
		return nil
	}
	return fmt.Errorf("%s: expected %s, not %q", option, strings.Join(values, ", "), value)
}
