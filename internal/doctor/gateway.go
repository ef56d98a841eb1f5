package doctor

import (
	"regexp"
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

// signs are how a gateway shows in the answer; "": it does not.
func (e *examination) signs() string {
	switch all := e.outcomes(); {
	case len(all) > 0:
		return "SSE-Resume: " + strings.Join(all, ", ")
	case e.flow.probed(ProbeFlow):
		return "it answered the probe"
	case epoch(e.app.lastEventID) != "":
		return "the IDs are a gateway's, though something on the way takes SSE-Resume out"
	}
	return ""
}

// What to do where the answer shows no gateway.
const (
	noSign   = "no field SSE-Resume, no ID of a gateway, no answer to the probe"
	whyPast  = "past an sse there are no heartbeats, nothing is shared, and clients that come back have missed what came meanwhile"
	writeSSE = "write sse inside the handle, handle_path or route that answers this path, before reverse_proxy: beside such a block no request comes to it; " +
		"see that its matcher has this host and path"
)

// gateway tells whether the answer comes through an sse.
func (e *examination) gateway() Finding {
	if signs := e.signs(); signs != "" {
		return ok(Gateway, "the answer comes through an sse: %s", signs)
	}
	switch w := &e.witness; {
	case w.untouched():
		change := writeSSE
		if own := w.remedies(); len(own) > 0 {
			change = "the gateway itself says: " + clip(strings.Join(own, "; "))
		}
		return found(Gateway, Problem, whyPast, change,
			"the answer did not come through an sse: %s, and by the admin API none of the gateway's %d sse was asked meanwhile", noSign, len(w.after.Handlers))
	case w.err != nil:
		return unknown(Gateway, "see that --admin leads to the admin endpoint, or to the site of sse_admin",
			"%s; and the admin API did not say: %s", noSign, clip(w.err.Error()))
	case w.asked:
		return unknown(Gateway, "see which of them have requests on the live page, look once more when nobody else asks, and let nothing take SSE-Resume out",
			"%s; and by the admin API requests have come to an sse meanwhile: others', or the doctor's and something on the way takes the signs out", noSign)
	}
	if by := e.byCaddy(); by != "" {
		return found(Gateway, Advice, whyPast, writeSSE+"; if it is there, let nothing take SSE-Resume out; --admin asks the gateway itself",
			"a Caddy has answered (%s), and not through an sse: %s", by, noSign)
	}
	return unknown(Gateway, "if there should be a gateway: "+writeSSE+"; let nothing take SSE-Resume out; --admin asks the gateway itself",
		"no sign of a gateway: %s. The answer did not come through an sse, or a proxy in front took the signs away", noSign)
}

// byCaddy is where the answer says that it comes straight from a Caddy; "": nowhere, or something else has had it too.
func (e *examination) byCaddy() string {
	head := e.head()
	if head == nil {
		return ""
	}
	via := head.Header.Values("Via")
	if len(via) == 1 && viaCaddy.MatchString(via[0]) {
		return "Via: " + clip(via[0])
	}
	if len(via) == 0 && head.Header.Get("Server") == "Caddy" {
		return "Server: Caddy"
	}
	return ""
}

// viaCaddy is the field that reverse_proxy of Caddy adds, where no other proxy has added to it.
var viaCaddy = regexp.MustCompile(`^\S+ Caddy$`)

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
	doubtful := func(kinds []string) Finding {
		return found(Hints, Advice, "something in the gateway's configuration is without effect, or probably not as it is meant",
			"see the hints on the live page, or in the log: each says what to write", "%s", clip(strings.Join(kinds, ", ")))
	}
	ofNodes := e.witness.ofNodes()
	for _, v := range []*visit{e.again, e.flow} {
		if v == nil || !v.finished() {
			continue
		}
		kinds := slices.Clone(v.probes[len(v.probes)-1].Hints)
		for _, kind := range ofNodes {
			if !slices.Contains(kinds, kind) {
				kinds = append(kinds, kind)
			}
		}
		if len(kinds) == 0 {
			return ok(Hints, "none")
		}
		return doubtful(kinds)
	}
	if len(ofNodes) > 0 {
		return doubtful(ofNodes)
	}
	return unknown(Hints, "turn on the option probe of sse while you look", "the probe did not say")
}
