package caddysse

import (
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("sse", parseCaddyfile)
	httpcaddyfile.RegisterDirectiveOrder("sse", httpcaddyfile.Before, "reverse_proxy")
}

// parseCaddyfile makes a handler of the directive sse.
func parseCaddyfile(helper httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h := new(Handler)
	if err := h.UnmarshalCaddyfile(helper.Dispenser); err != nil {
		return nil, err
	}
	return h, nil
}

// subdirectives are the options of the directive. Each parses its arguments,
// which the dispenser is before.
var subdirectives = map[string]func(h *Handler, d *caddyfile.Dispenser) error{
	"name":                parseText(func(h *Handler) *string { return &h.Name }, "a name"),
	"share":               parseShare,
	"set_cookie":          parseText(func(h *Handler) *string { return &h.SetCookie }, "strip or private"),
	"key":                 parseText(func(h *Handler) *string { return &h.Key }, "a template, such as {http.request.uri}"),
	"key_add":             parseKeyAdd,
	"key_ignore":          parseKeyIgnore,
	"buffer":              parseBuffer,
	"heartbeat":           parseHeartbeat,
	"heartbeat_padding":   parseHeartbeatPadding,
	"retry":               parseRetry,
	"memory":              parseSize(func(h *Handler) *int64 { return &h.Memory }, "512MiB"),
	"linger":              parseDuration(func(h *Handler) **caddy.Duration { return &h.Linger }),
	"join":                parseJoin,
	"splice_limit":        parseCount(func(h *Handler) *int { return &h.SpliceLimit }),
	"splice_timeout":      parseSpliceTimeout,
	"ids":                 parseText(func(h *Handler) *string { return &h.IDs }, "auto, upstream or gateway"),
	"gap_event":           parseText(func(h *Handler) *string { return &h.GapEvent }, "an event type"),
	"prime":               parsePrime,
	"empty_blocks":        parseEmptyBlocks,
	"lag":                 parseText(func(h *Handler) *string { return &h.Lag }, "disconnect or skip"),
	"delivery":            parseText(func(h *Handler) *string { return &h.Delivery }, "connection or handler"),
	"write_timeout":       parseDuration(func(h *Handler) **caddy.Duration { return &h.WriteTimeout }),
	"max_event_size":      parseSize(func(h *Handler) *int64 { return &h.MaxEventSize }, "4MiB"),
	"max_streams":         parseCount(func(h *Handler) *int { return &h.MaxStreams }),
	"max_subscribers":     parseCount(func(h *Handler) *int { return &h.MaxSubscribers }),
	"max_per_client":      parseMaxPerClient,
	"max_age":             parseMaxAge,
	"reauthorize":         parseReauthorize,
	"revoke_by":           parseText(func(h *Handler) *string { return &h.RevokeBy }, "a placeholder, such as {http.auth.user.id}"),
	"reconnect":           parseText(func(h *Handler) *string { return &h.Reconnect }, "broken, always, resumable or never"),
	"upstream_timeout":    parseUpstreamTimeout,
	"give_up":             parseGiveUp,
	"drain":               parseDuration(func(h *Handler) **caddy.Duration { return &h.Drain }),
	"last_event_id_query": parseLastEventIDQuery,
	"detach":              parseDetach,
	"detach_headers":      parseDetachHeaders,
	"max_request_body":    parseSize(func(h *Handler) *int64 { return &h.MaxRequestBody }, "1MiB"),
	"probe":               parseProbe,
	"resume_upstream":     parseText(func(h *Handler) *string { return &h.ResumeUpstream }, "last_event_id or openai_responses"),
	"early":               parseEarly,
	"early_error":         parseText(func(h *Handler) *string { return &h.EarlyError }, "openai, anthropic or sse"),
}

// UnmarshalCaddyfile implements caddyfile.Unmarshaler. Syntax:
//
//	sse [<matcher>] {
//		name       <name>
//		share      public|off|cookies <names...>|headers <names...>
//		set_cookie strip|private
//		key        <template>
//		key_add    <placeholders...>
//		key_ignore query|header <names...>
//
//		buffer     <events> [<size>] [<age>]
//		memory     <size>
//		linger     <duration>
//		join       auto|live|replay [<events>]|greeting
//		splice_limit   <count>
//		splice_timeout <duration>
//		ids        auto|upstream|gateway
//		prime      on|off
//		empty_blocks   on|off
//		gap_event  <type>
//		lag        disconnect|skip
//		last_event_id_query <names...>|off
//
//		detach           <duration>
//		detach_headers   <names...>
//		max_request_body <size>
//
//		resume_upstream last_event_id|openai_responses
//
//		early       <duration>
//		early_error openai|anthropic|sse
//
//		heartbeat         <interval> [event <type> [<data>]]
//		heartbeat         off
//		heartbeat_padding <bytes>
//		retry             <min> [<max>]
//		delivery          connection|handler
//		write_timeout     <duration>
//		max_age           <duration>
//		max_event_size    <size>
//		max_streams       <count>
//		max_subscribers   <count>
//		max_per_client    <count> [<template>]
//		reauthorize       <interval> [upstream]
//		revoke_by         <template>
//
//		reconnect         broken|always|resumable|never
//		upstream_timeout  <duration>
//		give_up           <duration>
//		drain             <duration>
//
//		probe             on|off
//	}
//
// Each option may be given once; key_ignore once for each kind.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.Errf("expected a block of options, not the argument %q", d.Val())
	}
	seen := make(map[string]bool)
	for d.NextBlock(0) {
		option := d.Val()
		parse, ok := subdirectives[option]
		if !ok {
			return d.Errf("unknown option %q of sse", option)
		}
		if seen[option] && option != "key_ignore" {
			return d.Errf("%s: given twice", option)
		}
		seen[option] = true
		if err := parse(h, d); err != nil {
			return err
		}
		if d.NextArg() {
			return d.Errf("%s: unexpected argument %q", option, d.Val())
		}
		if d.NextBlock(1) {
			return d.Errf("%s: unexpected block", option)
		}
		// Here, so that the error names the line.
		if err := h.soFar().Validate(); err != nil {
			return d.WrapErr(err)
		}
	}
	if err := h.Validate(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

// soFar is the handler without what an option that follows may complete.
func (h *Handler) soFar() *Handler {
	probe := *h
	if probe.Lag == "skip" && probe.GapEvent == "" {
		probe.Lag = ""
	}
	return &probe
}

func parseText(field func(*Handler) *string, expected string) func(*Handler, *caddyfile.Dispenser) error {
	return func(h *Handler, d *caddyfile.Dispenser) error {
		option := d.Val()
		text, err := arg(d, expected)
		if err != nil {
			return err
		}
		if text == "" {
			return d.Errf("%s: expected %s, not an empty text", option, expected)
		}
		*field(h) = text
		return nil
	}
}

func parseDuration(field func(*Handler) **caddy.Duration) func(*Handler, *caddyfile.Dispenser) error {
	return func(h *Handler, d *caddyfile.Dispenser) error {
		duration, err := durationArg(d)
		if err != nil {
			return err
		}
		*field(h) = &duration
		return nil
	}
}

func parseCount(field func(*Handler) *int) func(*Handler, *caddyfile.Dispenser) error {
	return func(h *Handler, d *caddyfile.Dispenser) error {
		option := d.Val()
		text, err := arg(d, "a number")
		if err != nil {
			return err
		}
		n, err := countValue(d, option, text)
		*field(h) = n
		return err
	}
}

func parseSize(field func(*Handler) *int64, example string) func(*Handler, *caddyfile.Dispenser) error {
	return func(h *Handler, d *caddyfile.Dispenser) error {
		option := d.Val()
		text, err := arg(d, "a size, such as "+example)
		if err != nil {
			return err
		}
		*field(h), err = sizeValue(d, option, text)
		return err
	}
}

func parseShare(h *Handler, d *caddyfile.Dispenser) error {
	const expected = "public, off, or cookies or headers with their names"
	value, err := arg(d, expected)
	if err != nil {
		return err
	}
	switch value {
	case sharePublic, shareOff:
	case shareCookies:
		if h.ShareCookies = d.RemainingArgs(); len(h.ShareCookies) == 0 {
			return d.Err("share cookies: expected the name of at least one cookie")
		}
	case shareHeaders:
		if h.ShareHeaders = d.RemainingArgs(); len(h.ShareHeaders) == 0 {
			return d.Err("share headers: expected the name of at least one header field")
		}
	default:
		return d.Errf("share: expected %s, not %q", expected, value)
	}
	h.Share = value
	return nil
}

func parseKeyAdd(h *Handler, d *caddyfile.Dispenser) error {
	if h.KeyAdd = d.RemainingArgs(); len(h.KeyAdd) == 0 {
		return d.Err("key_add: expected at least one placeholder, such as {vars.tenant}")
	}
	return nil
}

func parseReauthorize(h *Handler, d *caddyfile.Dispenser) error {
	interval, err := durationArg(d)
	if err != nil {
		return err
	}
	h.Reauthorize = &Reauthorize{Interval: interval}
	if d.NextArg() {
		if d.Val() != "upstream" {
			return d.Errf("reauthorize: expected upstream or nothing after the interval, not %q", d.Val())
		}
		h.Reauthorize.Upstream = true
	}
	return nil
}

func parseMaxPerClient(h *Handler, d *caddyfile.Dispenser) error {
	text, err := arg(d, "a number")
	if err != nil {
		return err
	}
	h.MaxPerClient = new(MaxPerClient)
	if h.MaxPerClient.Responses, err = countValue(d, "max_per_client", text); err != nil {
		return err
	}
	if d.NextArg() {
		h.MaxPerClient.By = d.Val()
	}
	return nil
}

func parseKeyIgnore(h *Handler, d *caddyfile.Dispenser) error {
	kind, err := arg(d, "query or header")
	if err != nil {
		return err
	}
	if h.KeyIgnore == nil {
		h.KeyIgnore = new(KeyIgnore)
	}
	var names *[]string
	switch kind {
	case "query":
		names = &h.KeyIgnore.Query
	case "header":
		names = &h.KeyIgnore.Headers
	default:
		return d.Errf("key_ignore: expected query or header, not %q", kind)
	}
	if *names != nil {
		return d.Errf("key_ignore %s: given twice", kind)
	}
	if *names = d.RemainingArgs(); len(*names) == 0 {
		return d.Errf("key_ignore %s: expected at least one name", kind)
	}
	return nil
}

func parseBuffer(h *Handler, d *caddyfile.Dispenser) error {
	h.Buffer = new(Buffer)
	return h.Buffer.parse(d)
}

func parseHeartbeat(h *Handler, d *caddyfile.Dispenser) error {
	const expected = "<interval> [event <type> [<data>]], or off"
	args := d.RemainingArgs()
	if len(args) == 0 || len(args) > 4 {
		return d.Errf("heartbeat: expected %s", expected)
	}
	beat := heartbeatOf(h)
	interval := caddy.Duration(0)
	beat.Interval = &interval
	if args[0] == "off" {
		if len(args) > 1 {
			return d.Errf("heartbeat: unexpected argument %q after off", args[1])
		}
		return nil
	}
	var err error
	if interval, err = durationValue(d, "heartbeat", args[0]); err != nil {
		return err
	}
	if interval < caddy.Duration(time.Millisecond) {
		return d.Errf("heartbeat: expected an interval of 1ms or more, or off, not %q", args[0])
	}
	if len(args) == 1 {
		return nil
	}
	if args[1] != "event" || len(args) == 2 || args[2] == "" {
		return d.Errf("heartbeat: expected %s, not %q", expected, strings.Join(args, " "))
	}
	beat.Event = args[2]
	if len(args) == 4 {
		beat.Data = args[3]
	}
	return nil
}

func parseHeartbeatPadding(h *Handler, d *caddyfile.Dispenser) error {
	text, err := arg(d, "a number of bytes")
	if err != nil {
		return err
	}
	size, err := sizeValue(d, "heartbeat_padding", text)
	heartbeatOf(h).Padding = int(min(size, maxHeartbeatPadding+1))
	return err
}

// heartbeatOf returns the handler's heartbeat settings to be filled in.
func heartbeatOf(h *Handler) *Heartbeat {
	if h.Heartbeat == nil {
		h.Heartbeat = new(Heartbeat)
	}
	return h.Heartbeat
}

func parseRetry(h *Handler, d *caddyfile.Dispenser) (err error) {
	args := d.RemainingArgs()
	if len(args) == 0 || len(args) > 2 {
		return d.Err("retry: expected <min> [<max>], such as 2s 10s")
	}
	h.Retry = new(Retry)
	if h.Retry.Min, err = durationValue(d, "retry", args[0]); err != nil || len(args) == 1 {
		return err
	}
	h.Retry.Max, err = durationValue(d, "retry", args[1])
	return err
}

func parseJoin(h *Handler, d *caddyfile.Dispenser) error {
	const expected = "auto, live, replay [<events>] or greeting"
	mode, err := arg(d, expected)
	if err != nil {
		return err
	}
	switch mode {
	case "auto", "live", "greeting":
	case "replay":
		if d.NextArg() {
			if h.JoinReplay, err = countValue(d, "join replay", d.Val()); err != nil {
				return err
			}
		}
	default:
		return d.Errf("join: expected %s, not %q", expected, mode)
	}
	h.Join = mode
	return nil
}

func parsePrime(h *Handler, d *caddyfile.Dispenser) error {
	on, err := parseSwitch(d)
	h.Prime = &on
	return err
}

func parseEmptyBlocks(h *Handler, d *caddyfile.Dispenser) error {
	on, err := parseSwitch(d)
	h.EmptyBlocks = &on
	return err
}

func parseProbe(h *Handler, d *caddyfile.Dispenser) (err error) {
	h.Probe, err = parseSwitch(d)
	return err
}

func parseMaxAge(h *Handler, d *caddyfile.Dispenser) (err error) {
	h.MaxAge, err = durationArg(d)
	return err
}

func parseUpstreamTimeout(h *Handler, d *caddyfile.Dispenser) (err error) {
	h.UpstreamTimeout, err = durationArg(d)
	return err
}

func parseGiveUp(h *Handler, d *caddyfile.Dispenser) (err error) {
	if h.GiveUp, err = durationArg(d); err == nil && h.GiveUp == 0 {
		return d.Err("give_up: expected a duration above 0")
	}
	return err
}

func parseSpliceTimeout(h *Handler, d *caddyfile.Dispenser) (err error) {
	if h.SpliceTimeout, err = durationArg(d); err == nil && h.SpliceTimeout == 0 {
		return d.Err("splice_timeout: expected a duration above 0")
	}
	return err
}

func parseLastEventIDQuery(h *Handler, d *caddyfile.Dispenser) error {
	names := d.RemainingArgs()
	if len(names) == 0 {
		return d.Err("last_event_id_query: expected the names of query parameters, or off")
	}
	if len(names) == 1 && names[0] == "off" {
		names = []string{}
	}
	h.LastEventIDQuery = names
	return nil
}

func parseDetach(h *Handler, d *caddyfile.Dispenser) (err error) {
	if h.Detach, err = durationArg(d); err == nil && h.Detach == 0 {
		return d.Err("detach: expected a duration above 0")
	}
	return err
}

func parseDetachHeaders(h *Handler, d *caddyfile.Dispenser) error {
	if h.DetachHeaders = d.RemainingArgs(); len(h.DetachHeaders) == 0 {
		return d.Err("detach_headers: expected the names of header fields")
	}
	return nil
}

func parseEarly(h *Handler, d *caddyfile.Dispenser) (err error) {
	if h.Early, err = durationArg(d); err == nil && h.Early == 0 {
		return d.Err("early: expected a duration above 0")
	}
	return err
}

// Interface guards.
var _ caddyfile.Unmarshaler = (*Handler)(nil)
