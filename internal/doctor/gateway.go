package doctor

import (
	"slices"
	"strings"
)

// outcomes are how the gateway says, in the heads of the application's stream, what has become of each connection.
func (e *examination) outcomes() (all []string) {
	visits := []*visit{e.app, e.second}
	if e.resumed != nil {
		visits = append(visits, e.resumed.visit)
	}
	for _, v := range visits {
		if told := v.outcome(); told != "" {
			all = append(all, told)
		}
	}
	return all
}

// gateway tells whether the answer comes through an sse.
func (e *examination) gateway() Finding {
	switch all := e.outcomes(); {
	case len(all) > 0:
		return ok(Gateway, "the answer comes through an sse: SSE-Resume: %s", strings.Join(all, ", "))
	case e.flow.probed(ProbeFlow):
		return ok(Gateway, "an sse answered the probe")
	}
	return unknown(Gateway, "if there should be a gateway: see that the request comes to an sse (the live page lists what each has seen), and that nothing takes out SSE-Resume",
		"no field SSE-Resume, and no answer to the probe")
}

// outcome is how the gateway says what has become of the connection; "": it does not.
func (v *visit) outcome() string {
	if !v.answered() || v.refused() {
		return ""
	}
	told, _, _ := strings.Cut(clip(v.head.Header.Get("SSE-Resume")), ";")
	return told
}

// whyPrivate is the reason that the gateway says for a private stream.
func (v *visit) whyPrivate() string {
	_, reason, _ := strings.Cut(v.head.Header.Get("SSE-Resume"), "; reason=")
	return clip(reason)
}

// privateRemedies are what to do about a private stream, by the gateway's reason.
// Where there is nothing to do it is as it should be.
var privateRemedies = map[string]string{
	"share_off":      "",
	"mcp":            "",
	"endpoint":       "",
	"method":         "ask with GET, if clients may share",
	"request":        "ask without a body, if clients may share",
	"no_stream":      "nothing: an earlier answer was no event stream; that is forgotten after a minute",
	"accept":         "have clients send Accept: text/event-stream, or write request_header Accept text/event-stream before sse",
	"set_cookie":     "set_cookie strip, if clients do not need the cookie of this answer; or have the application set none on this path",
	"vary":           "have the application leave out of Vary what separates no clients, or key_add it; or share public, if the path is the same for everybody",
	"cache_control":  "have the application leave Cache-Control: private out; or share cookies or share headers with what tells users apart",
	"coding":         "have the application send event streams uncompressed, or with gzip, deflate or zstd",
	"withheld":       "key_add what the application asks for: the gateway's hint names it; it is sent then, and separates clients",
	"per_connection": "join live, if clients can do without what the application greets them with; share public, if the path is the same for everybody",
	"not_merged":     "join live, if clients can do without what the application greets them with; share off, if it tells each its own",
}

// PrivateReasons are those that the doctor has something to say to.
func PrivateReasons() (all []string) {
	for reason := range privateRemedies {
		all = append(all, reason)
	}
	slices.Sort(all)
	return all
}

// shared tells whether two connections at the same time had one upstream connection together.
func (e *examination) shared() Finding {
	first, second := e.app.outcome(), e.second.outcome()
	for _, v := range []*visit{e.app, e.second} {
		if v.outcome() == "private" {
			return private(v.whyPrivate())
		}
	}
	switch {
	case first == "" && second == "":
		return unknown(Shared, "", "no field SSE-Resume")
	case second == "":
		return unknown(Shared, "ask again", "the second connection had no answer through an sse")
	}
	switch one, other := epoch(e.app.lastEventID), epoch(e.second.lastEventID); {
	case one != "" && one == other:
		return ok(Shared, "yes: two connections have IDs of the gateway for the same stream")
	case one != "" && other != "":
		return found(Shared, Advice, "each has an upstream connection of its own",
			"see on the live page what keeps the two streams apart", "no: two connections have IDs of the gateway for two streams")
	case second == "spliced":
		return unknown(Shared, "watch for longer (--timeout); join live, if clients can do without what the application greets them with",
			"not when the second connection began: it is served by one of its own until both are seen to bring the same (SSE-Resume: spliced)")
	case first == "spliced":
		return unknown(Shared, "watch for longer (--timeout)", "the first connection came to a stream that others have: SSE-Resume: spliced; the second: %s", second)
	}
	return ok(Shared, "yes: the second of two connections has joined the stream: SSE-Resume: %s", second)
}

// private is the finding of a private stream.
func private(reason string) Finding {
	remedy, known := privateRemedies[reason]
	switch {
	case known && remedy == "":
		return ok(Shared, "no, as it has to be: SSE-Resume: private; reason=%s", reason)
	case !known:
		reason, remedy = "not told", "if it should be shared: the live page and private in the access log say why it is not, and what to write"
	}
	return found(Shared, Advice, "each client has an upstream connection of its own: the application carries them all", remedy,
		"no: SSE-Resume: private; the reason is %s", reason)
}

// epoch is what names a stream in an ID that a gateway gave: all but the number; "": it is none.
func epoch(id string) string {
	if !strings.HasPrefix(id, "sse1.") {
		return ""
	}
	return id[:strings.LastIndexByte(id, '.')]
}

// hints tells what the gateway has noticed of its configuration.
func (e *examination) hints() Finding {
	for _, v := range []*visit{e.again, e.flow} {
		if v == nil || !v.finished() {
			continue
		}
		kinds := v.probes[len(v.probes)-1].Hints
		if len(kinds) == 0 {
			return ok(Hints, "none")
		}
		return found(Hints, Advice, "something in the gateway's configuration is without effect, or probably not as it is meant",
			"see the hints on the live page, or in the log: each says what to write", "%s", clip(strings.Join(kinds, ", ")))
	}
	return unknown(Hints, "turn on the option probe of sse while you look", "the probe did not say")
}
