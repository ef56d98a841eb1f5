package stream

import (
	"errors"
	"strings"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/meter"
)

// PrivateReason is why a stream is one client's, as a label.
type PrivateReason string

// Why a stream is private.
const (
	// Of the request: nothing was asked of the application yet.
	PrivateShareOff PrivateReason = "share_off"
	PrivateMethod   PrivateReason = "method"
	PrivateAccept   PrivateReason = "accept" // it does not name event streams
	PrivateMCP      PrivateReason = "mcp"
	PrivateRequest  PrivateReason = "request" // it has a body, or no path

	// Of the answer to a request that may share.
	PrivateSetCookie PrivateReason = "set_cookie"
	PrivateVary      PrivateReason = "vary"
	PrivateControl   PrivateReason = "cache_control"
	PrivateCoding    PrivateReason = "coding"
	PrivateWithheld  PrivateReason = "withheld"  // the shared request was refused, the client's own was not
	PrivateNoStream  PrivateReason = "no_stream" // an earlier answer was none

	// Of what the connections brought.
	PrivateEndpoint      PrivateReason = "endpoint"
	PrivatePerConnection PrivateReason = "per_connection"
	PrivateNotMerged     PrivateReason = "not_merged"
)

// privateTexts say it, and what to do about it. Every reason is here.
var privateTexts = map[PrivateReason]struct{ text, remedy string }{
	PrivateShareOff: {"share off: each client has an upstream connection of its own", "leave share off out, if clients may share"},
	PrivateMethod:   {"only GET requests share", "nothing, if it is an answer to one client; else ask with GET"},
	PrivateAccept: {"the request does not say that it asks for an event stream",
		"have the client send Accept: text/event-stream, as EventSource does; or request_header Accept text/event-stream before sse"},
	PrivateMCP:     {"a request of the Model Context Protocol: its stream is one client's", "nothing: that is as it has to be"},
	PrivateRequest: {"the request has a body, or no path", "nothing, if it is an answer to one client; else ask without a body"},
	PrivateSetCookie: {"the answer sets a cookie, which is one client's",
		"set_cookie strip, if clients do not need the cookie of this answer; or have the application set none on this path"},
	PrivateVary: {"the answer depends on something that separates no clients (Vary)",
		"have the application leave it out of Vary; or key_add {http.request.header.<name>}, which lets it separate clients; or share public, if the path is the same for everybody"},
	PrivateControl: {"the answer says that it is one user's (Cache-Control: private), and nothing in the key tells users apart",
		"have the application leave private out; or share cookies or share headers with what tells users apart"},
	PrivateCoding: {"the answer has a content coding that the gateway cannot read", "have the application send event streams uncompressed, or with gzip, deflate or zstd"},
	PrivateWithheld: {"the application refused the shared request, which lacks what separates no clients, and took the client's own",
		"key_add what it asks for: it is sent then, and separates clients"},
	PrivateNoStream: {"an earlier answer to this request was no event stream", "nothing: that is forgotten after a minute, or as soon as an answer may be shared"},
	PrivateEndpoint: {"the application opens a session for each connection (an event of type endpoint)", "nothing: that is as it has to be"},
	PrivatePerConnection: {"the application sends each connection something different",
		"join live, if clients can do without what it greets them with; share public, if the path is the same for everybody"},
	PrivateNotMerged: {"the client's connection was not seen to bring what the stream brings within splice_timeout",
		"join live, if clients can do without what the application greets them with; share off, if it tells each its own"},
}

// PrivateReasons are all of them.
var PrivateReasons = []PrivateReason{
	PrivateShareOff, PrivateMethod, PrivateAccept, PrivateMCP, PrivateRequest,
	PrivateSetCookie, PrivateVary, PrivateControl, PrivateCoding, PrivateWithheld, PrivateNoStream,
	PrivateEndpoint, PrivatePerConnection, PrivateNotMerged,
}

// privateCounts count private streams by reason.
func privateCounts() *meter.Labelled {
	labels := make([]string, 0, len(PrivateReasons))
	for _, reason := range PrivateReasons {
		labels = append(labels, string(reason))
	}
	return meter.NewLabelled(labels...)
}

// OfRequest reports whether the request says it: no answer would be shared.
func (r PrivateReason) OfRequest() bool {
	switch r {
	case PrivateShareOff, PrivateMethod, PrivateAccept, PrivateMCP, PrivateRequest:
		return true
	}
	return false
}

// Private is why a stream is private. The zero value is of one that is shared.
type Private struct {
	Reason PrivateReason
	Detail string    // what of the request or the answer it is: a name, never a value
	Until  time.Time // with a reason that was learnt of an earlier answer: how long it holds
}

// Text says it in words.
func (p Private) Text() string {
	text := privateTexts[p.Reason].text
	if p.Detail != "" {
		text += ": " + Clip(p.Detail)
	}
	return text
}

// Remedy is what to do about it.
func (p Private) Remedy() string {
	if p.Reason != PrivateVary {
		return privateTexts[p.Reason].remedy
	}
	if p.Detail == "*" {
		return "have the application leave it out of Vary: * says that no other request may have the same answer"
	}
	name, _, _ := strings.Cut(p.Detail, ",")
	return strings.ReplaceAll(privateTexts[p.Reason].remedy, "<name>", Clip(name))
}

// PrivateInfo is what operators are told of it.
type PrivateInfo struct {
	Reason PrivateReason `json:"reason"`
	Detail string        `json:"detail"`
	Text   string        `json:"text"`
	Remedy string        `json:"remedy"`
	Until  *time.Time    `json:"until"`
}

// Info is what operators are told; nil of a stream that is shared.
func (p Private) Info() *PrivateInfo {
	if p.Reason == "" {
		return nil
	}
	info := &PrivateInfo{Reason: p.Reason, Detail: Clip(p.Detail), Text: p.Text(), Remedy: p.Remedy()}
	if !p.Until.IsZero() {
		info.Until = &p.Until
	}
	return info
}

// unshareable is the error ErrUnshareable, with its reason.
type unshareable struct{ why Private }

func (unshareable) Error() string { return ErrUnshareable.Error() }
func (unshareable) Unwrap() error { return ErrUnshareable }
func (p Private) asError() error  { return unshareable{p} }

// Err is the reason as an error; nil: there is none.
func (p Private) Err() error {
	if p.Reason == "" {
		return nil
	}
	return p.asError()
}

// asPrivate is what Err was made of.
func asPrivate(err error) Private {
	e, _ := errors.AsType[unshareable](err)
	return e.why
}

func orElse(p, other Private) Private {
	if p.Reason == "" {
		return other
	}
	return p
}

// WhyPrivate returns the reason of an error that is ErrUnshareable.
func WhyPrivate(err error) Private {
	if e, ok := errors.AsType[unshareable](err); ok {
		return orElse(e.why, Private{Reason: PrivateNoStream})
	}
	return Private{Reason: PrivateNoStream}
}

const (
	// unshareableTime is how long a key is remembered whose request was not
	// answered with an event stream that may be shared.
	unshareableTime = time.Minute

	// unshareableForever stands for a fact about the application, not about
	// one answer: it gives each connection a session of its own.
	unshareableForever = 24 * time.Hour
)
