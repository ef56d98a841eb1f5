package doctor

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Result is what a finding comes to.
type Result string

// Results.
const (
	OK      Result = "ok"
	Advice  Result = "advice"  // could be better; the stream works
	Problem Result = "problem" // holds events back, cuts the stream, or loses events
	Unknown Result = "unknown" // could not be told
)

// Finding is what was looked at and what was seen.
type Finding struct {
	Name   string `json:"name"`
	Result Result `json:"result"`
	Seen   string `json:"seen"`
	Why    string `json:"why,omitempty"`    // it matters
	Change string `json:"change,omitempty"` // what to
}

// Names of findings, in the order of reports.
const (
	Status         = "status"
	ContentType    = "content-type"
	CacheControl   = "cache-control"
	Compression    = "compression"
	AccelBuffering = "x-accel-buffering"
	HTTPVersion    = "http-version"
	FirstByte      = "first-byte"
	Probe          = "probe"
	Buffering      = "buffering"
	Heartbeats     = "heartbeats"
	IdleCut        = "idle-cut"
	End            = "end"
	IDs            = "ids"
	Resume         = "resume"
	Gateway        = "gateway"
	Shared         = "shared"
	Hints          = "hints"
)

// Names are the names of all findings.
var Names = []string{
	Status, ContentType, CacheControl, Compression, AccelBuffering, HTTPVersion, FirstByte, Probe, Buffering,
	Heartbeats, IdleCut, End, IDs, Resume, Gateway, Shared, Hints,
}

const (
	// longQuiet is a silence that shows there are no heartbeats: the shortest
	// idle timeout that is common in proxies.
	longQuiet = 30 * time.Second

	// cutQuiet is the shortest silence that a cut is put down to.
	cutQuiet = time.Second

	// maxSeen bounds what is quoted of the server's answer.
	maxSeen = 100
)

func ok(name, seen string, args ...any) Finding { return found(name, OK, "", "", seen, args...) }

func unknown(name, change, seen string, args ...any) Finding {
	return found(name, Unknown, "", change, seen, args...)
}

func found(name string, result Result, why, change, seen string, args ...any) Finding {
	return Finding{Name: name, Result: result, Seen: fmt.Sprintf(seen, args...), Why: why, Change: change}
}

// findings judges what was seen.
func (e *examination) findings() []Finding {
	head := e.head()
	if head == nil {
		return []Finding{found(FirstByte, Problem,
			"clients wait for the head, and proxies on the way give up: EventSource never opens",
			"send the head before the first event, and flush it; turn off buffering in proxies (proxy_buffering off)",
			"there was a connection, but no answer within %v", short(e.app.ended))}
	}
	all := []Finding{status(head)}
	if all[0].Result == Problem {
		return all
	}
	all = append(all, contentType(head))
	if all[1].Result == Problem {
		return all
	}
	return append(all, cacheControl(head), e.compression(head), accelBuffering(head), httpVersion(head), e.firstByte(),
		e.probeFinding(), e.buffering(), e.heartbeats(), e.idleCut(), e.endFinding(), e.idsFinding(), e.resumeFinding(), e.gateway(), e.shared(), e.hints())
}

// head is an answer to judge by: the application's, or that of a probe at the
// same place; nil: there is none.
func (e *examination) head() *http.Response {
	for _, v := range []*visit{e.app, e.flow} {
		if v != nil && v.answered() {
			return v.head
		}
	}
	return nil
}

func status(head *http.Response) Finding {
	switch code := head.StatusCode; code {
	case http.StatusOK:
		return ok(Status, "200")
	case http.StatusNoContent:
		return found(Status, Problem, "EventSource stops for good after a 204",
			"answer 200, also when there is nothing to say yet", "204")
	case http.StatusUnauthorized, http.StatusForbidden:
		return found(Status, Problem, "EventSource gives up at any status but 200",
			"ask as a client that may have it: -H 'Cookie: ...', -H 'Authorization: ...'", "%d", code)
	default:
		return found(Status, Problem, "EventSource gives up at any status but 200; most clients do not read such an answer",
			"look at what answers here: the address, authentication (-H), the application's log", "%d", code)
	}
}

func contentType(head *http.Response) Finding {
	value := quote(head, "Content-Type")
	if !isEventStream(head.Header) {
		return found(ContentType, Problem, "EventSource gives up at any type but text/event-stream",
			"send Content-Type: text/event-stream; look at what answers here if it is a page", "%s", value)
	}
	if charset, ok := strings.CutPrefix(strings.ToLower(strings.ReplaceAll(head.Header.Get("Content-Type"), " ", "")),
		"text/event-stream;charset="); ok && strings.Trim(charset, `";`) != "utf-8" {
		return found(ContentType, Advice, "event streams are UTF-8 whatever the type says: other text comes out wrong",
			"send UTF-8, and no other charset", "%s", value)
	}
	return ok(ContentType, "%s", value)
}

func cacheControl(head *http.Response) Finding {
	var names []string
	for _, line := range head.Header.Values("Cache-Control") {
		for element := range strings.SplitSeq(line, ",") {
			name, _, _ := strings.Cut(element, "=")
			names = append(names, strings.ToLower(strings.TrimSpace(name)))
		}
	}
	value := quote(head, "Cache-Control")
	switch {
	case !slices.Contains(names, "no-cache") && !slices.Contains(names, "no-store"):
		return found(CacheControl, Advice, "a cache on the way may keep the stream, and wait for its end to do so",
			"send Cache-Control: no-cache, no-transform", "%s", value)
	case !slices.Contains(names, "no-transform"):
		return found(CacheControl, Advice, "whatever compresses on the way may take the stream too, and hold events back to fill its window",
			"send Cache-Control: no-cache, no-transform", "%s", value)
	}
	return ok(CacheControl, "%s", value)
}

func (e *examination) compression(head *http.Response) Finding {
	coding := e.coding
	if coding == "" {
		coding = clip(head.Header.Get("Content-Encoding"))
	}
	if coding == "" || coding == identity {
		return ok(Compression, "none, though it was offered")
	}
	return found(Compression, Problem,
		"what compresses holds events back unless it flushes after each, and keeps up to megabytes of memory for each client",
		"leave text/event-stream out of compression: gzip_types in nginx, a matcher for encode in Caddy",
		"Content-Encoding: %s", coding)
}

func accelBuffering(head *http.Response) Finding {
	switch value := head.Header.Get("X-Accel-Buffering"); strings.ToLower(value) {
	case "no":
		return ok(AccelBuffering, "no")
	case "":
		return unknown(AccelBuffering, "", "not there: it is not sent, or nginx has taken it out")
	default:
		return found(AccelBuffering, Problem, "it tells nginx to collect events until its buffer is full",
			"send X-Accel-Buffering: no", "%s", quote(head, "X-Accel-Buffering"))
	}
}

func httpVersion(head *http.Response) Finding {
	switch {
	case head.ProtoMajor == 1 && head.ProtoMinor == 0:
		return found(HTTPVersion, Advice, "an HTTP/1.0 answer ends with its connection: a client cannot tell an end from a cut",
			"have the server, or the proxy before it, speak HTTP/1.1 (proxy_http_version 1.1)", "%s", head.Proto)
	case head.ProtoMajor == 1 && head.Request.URL.Scheme == "https":
		return found(HTTPVersion, Advice, "browsers open six connections to a host: the seventh tab with a stream hangs",
			"turn on HTTP/2", "%s", head.Proto)
	}
	return ok(HTTPVersion, "%s", head.Proto)
}

func (e *examination) firstByte() Finding {
	const flush = "flush the head before the first event; turn off buffering in proxies"
	switch v := e.app; {
	case v.head == nil && v.ended < headPatience:
		return unknown(FirstByte, "a longer --timeout", "no head within %v, too short to tell", short(v.ended))
	case v.head == nil:
		return found(FirstByte, Problem, "the client's stream is not open until the head comes", flush,
			"no head within %v, though the gateway's probe was answered", short(v.ended))
	case v.headAt > max(e.options.Late, time.Second):
		return found(FirstByte, Advice, "the client's stream is not open until the head comes", flush,
			"the head came after %v", short(v.headAt))
	case v.firstByte == 0:
		return ok(FirstByte, "the head came after %v, and nothing then", short(v.headAt))
	default:
		return ok(FirstByte, "the head came after %v, the first byte after %v", short(v.headAt), short(v.firstByte))
	}
}

func (e *examination) probeFinding() Finding {
	const turnOn = "write `probe on` in the sse block while you look"
	switch {
	case e.flow.probed(ProbeFlow):
		return ok(Probe, "answered")
	case e.flow.answered() && e.flow.head.StatusCode == http.StatusServiceUnavailable:
		return unknown(Probe, "try again", "503: others are being answered")
	}
	return unknown(Probe, turnOn, "not answered: no gateway, or without the option probe")
}

// Why and what to change where something holds events back.
const (
	whyBuffered = "clients see events late, in bursts, or not at all until a buffer is full"
	unbuffer    = "turn off buffering where it is: proxy_buffering off in nginx (and no proxy_ignore_headers X-Accel-Buffering), " +
		"flush_interval -1 in a Caddy before; if it cannot be, heartbeat_padding above the size of the buffer"
)

func (e *examination) buffering() Finding {
	v := e.app
	if !e.flow.probed(ProbeFlow) {
		switch {
		case v.torn > 1:
			return found(Buffering, Problem, whyBuffered, unbuffer,
				"%d of %d pieces ended within an event whose rest came later: a buffer was full", v.torn, v.arrivals)
		case v.events == 0:
			return unknown(Buffering, "", "no event came")
		}
		return unknown(Buffering, "", "%d events in %s: when they were sent is not known", v.events, pieces(v.arrivals))
	}
	flow := e.flow
	if e.again.probed(ProbeFlow) && e.again.lateness() < flow.lateness() {
		flow = e.again
	}
	late := flow.lateness()
	switch {
	case len(flow.probes) == 0 && late > e.options.Late:
		return found(Buffering, Problem, whyBuffered, unbuffer, "no event of the probe came within %v", short(late))
	case late > e.options.Late:
		return found(Buffering, Problem, whyBuffered, unbuffer,
			"an event of the probe was held for %v; %d came in %s", short(late), len(flow.probes), pieces(flow.arrivals))
	case !flow.finished():
		return unknown(Buffering, "", "the probe was cut after %d events", len(flow.probes))
	}
	return ok(Buffering, "%d events of the probe in %s, at most %v late", len(flow.probes), pieces(flow.arrivals), short(late))
}

func (e *examination) heartbeats() Finding {
	n, quiet := e.app.heartbeats, e.app.longestSilence()
	if e.idle != nil {
		n += e.idle.heartbeats
		quiet = max(quiet, e.idle.longestSilence())
		if due := e.idle.heartbeatInterval(); due > 0 && e.idle.heartbeats == 0 && e.idle.longestSilence() > due+e.options.Late {
			return found(Heartbeats, Problem, "heartbeats that are held back keep no connection alive", unbuffer,
				"one is due each %v, and none came in %v", short(due), short(e.idle.longestSilence()))
		}
	}
	switch {
	case n > 0:
		return ok(Heartbeats, "%d; the longest silence was %v", n, short(quiet))
	case quiet >= longQuiet:
		return found(Heartbeats, Problem, "proxies cut what is silent for 30 or 60 s, and a client whose network is gone never notices",
			"turn on the gateway's (heartbeat 15s), or have the application send a comment when it is quiet",
			"none, in a silence of %v", short(quiet))
	}
	return unknown(Heartbeats, "", "none; the longest silence was %v, too short to tell", short(quiet))
}

func (e *examination) idleCut() Finding {
	outlived, cut := e.outlived(), time.Duration(0)
	for _, v := range []*visit{e.app, e.idle} {
		if v != nil && e.cutIdle(v) && (cut == 0 || v.quiet() < cut) {
			cut = v.quiet()
		}
	}
	if cut > 0 {
		return found(IdleCut, Problem, "quiet streams are cut again and again: clients reconnect all the time, and may lose events",
			"set heartbeat below that time, or raise the timeout of what cuts (proxy_read_timeout in nginx, timeout server in HAProxy)",
			"cut after %v without a byte", short(cut))
	}
	if outlived < cutQuiet {
		return unknown(IdleCut, "", "the stream was never quiet: the longest silence was %v", short(outlived))
	}
	return ok(IdleCut, "none; the longest silence was %v", short(outlived))
}

// outlived is the longest silence that did not cut a connection.
func (e *examination) outlived() time.Duration {
	if e.idle == nil {
		return e.app.longestSilence()
	}
	return max(e.app.longestSilence(), e.idle.longestSilence())
}

// cutIdle reports whether a connection was cut because it was idle: after a
// longer silence than any that it outlived, or clearly another one did.
func (e *examination) cutIdle(v *visit) bool {
	return v.cut() && v.quiet() >= cutQuiet && v.quiet() > v.silence && v.quiet() > e.outlived()-e.options.Late
}

// cut reports whether something on the way ended the stream. An end as HTTP says
// is a cut only where the one who could send it did not.
func (v *visit) cut() bool {
	if v.left() || v.head == nil {
		return false
	}
	return v.request.probe != "" || !v.endedWell()
}

func (e *examination) endFinding() Finding {
	v := e.app
	switch {
	case v.overwhelmed():
		return unknown(End, "", "the doctor left after %v, at an event of more than %d MiB", short(v.ended), maxBlock>>20)
	case v.left():
		return ok(End, "none within %v", short(v.ended))
	case e.cutIdle(v):
		return ok(End, "cut, see %s", IdleCut)
	case v.cut():
		return found(End, Problem, "a cut stream has lost what was on its way: clients have to come back and resume",
			"look for restarts, for limits on the length of a response, and for errors in the logs of what is in between",
			"cut after %v, %v after the last byte", short(v.ended), short(v.quiet()))
	}
	return found(End, Advice, "clients come back after an end, and ask again: right for a feed, wrong for an answer that is finished",
		"nothing if the application means it; else look for a limit on the length of a response (max_age)",
		"ended in order after %v", short(v.ended))
}

func (e *examination) idsFinding() Finding {
	v := e.app
	switch {
	case v.events > 0 && v.ids == v.events:
		return ok(IDs, "each of %d events", v.events)
	case v.events > 0:
		return found(IDs, Advice, "a client that was cut cannot say where it was: it loses what is sent until it is back",
			"let the gateway give them (share a stream, or detach), or have the application",
			"%d of %d events had none", v.events-v.ids, v.events)
	case v.lastEventID != "":
		return ok(IDs, "one to resume from; no event came")
	}
	return unknown(IDs, "", "no event came")
}

func (e *examination) resumeFinding() Finding {
	const why = "a client that was cut, as every phone is, does not get what it missed"
	r := e.resumed
	switch {
	case r == nil && e.app.ids == 0:
		return unknown(Resume, "", "there was no ID to come back with")
	case r == nil:
		return unknown(Resume, "", "no ID told one event from the others")
	}
	told := ""
	if r.visit.answered() && r.visit.head.Header.Get("SSE-Resume") != "" {
		told = "; SSE-Resume: " + quote(r.visit.head, "SSE-Resume")
	}
	switch r.outcome() {
	case resumeWorks:
		if len(r.missed) == 0 {
			return ok(Resume, "the ID is known, and nothing was missed%s", told)
		}
		return ok(Resume, "the %d events after the ID came, and nothing before them%s", len(r.missed), told)
	case resumeDoubled:
		return found(Resume, Problem, "clients are given events twice: counters are wrong, lists have doubles",
			"begin after the event with the Last-Event-ID, not with it", "an event came again%s", told)
	case resumeGap:
		return found(Resume, Problem, why, "keep more: buffer in the sse block, above what comes while a client is away",
			"the newest events are lost%s", told)
	case resumeRefused:
		return found(Resume, Problem, why, "answer a request with Last-Event-ID as one without", "%s", r.refusal())
	case resumeOver:
		if len(r.missed) == 0 {
			return ok(Resume, "204 after the newest ID: the stream is over, and clients stop")
		}
		return found(Resume, Advice, "clients that have all stop, as they should; one that was cut before the end never gets the rest",
			"send what came after Last-Event-ID first, and 204 when there is nothing left", "204, though %d events came after the ID", len(r.missed))
	case resumeLimited:
		return unknown(Resume, "let the doctor ask more often: six times within a minute", "429: it asked too often")
	case resumeComing:
		return unknown(Resume, "", "what came after the ID was still coming after %v", short(r.visit.ended))
	case resumeWaited:
		return unknown(Resume, "", "no answer came within %v", short(r.visit.ended))
	case resumeUnchecked:
		return unknown(Resume, "", "nothing was missed that could have come%s", told)
	}
	return found(Resume, Problem, why, "share the stream through the gateway, or have the application send what came after Last-Event-ID",
		"of the %d events after the ID, %s%s", len(r.missed), r.instead(), told)
}

func (r *resumption) refusal() string {
	if !r.visit.answered() {
		return "no answer came"
	}
	return fmt.Sprintf("the answer was %d, %s", r.visit.head.StatusCode, quote(r.visit.head, "Content-Type"))
}

func (r *resumption) instead() string {
	if len(r.visit.kept) == 0 {
		return fmt.Sprintf("none came within %v", short(r.visit.ended))
	}
	return "others came first, or some did not come"
}

// pieces counts the reads that brought bytes.
func pieces(n int) string {
	if n == 1 {
		return "one piece"
	}
	return fmt.Sprintf("%d pieces", n)
}

// quote returns a field of an answer, to be shown.
func quote(head *http.Response, name string) string {
	values := head.Header.Values(name)
	if len(values) == 0 {
		return "none"
	}
	return clip(strings.Join(values, ", "))
}

// clip bounds a text and leaves out what a terminal might obey.
func clip(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) || r == '\uFFFD' {
			return '?'
		}
		return r
	}, text)
	if len(text) > maxSeen {
		return strings.ToValidUTF8(text[:maxSeen], "") + "…"
	}
	return text
}

// short is a duration to be read.
func short(d time.Duration) time.Duration {
	switch {
	case d >= 10*time.Second:
		return d.Round(100 * time.Millisecond)
	case d >= time.Second:
		return d.Round(10 * time.Millisecond)
	case d >= time.Millisecond:
		return d.Round(time.Millisecond / 10)
	}
	return d.Round(10 * time.Microsecond)
}
