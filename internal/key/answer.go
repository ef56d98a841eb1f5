package key

import (
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// WhyPrivate tells why the answer to a request may not be given to others with
// the same key; without a reason it may.
func (p *Policy) WhyPrivate(answer http.Header, r *http.Request) stream.Private {
	names, everything := varyNames(answer)
	if everything {
		return stream.Private{Reason: stream.PrivateVary, Detail: "*"}
	}
	if names = slices.DeleteFunc(names, p.mayVary); len(names) > 0 {
		return stream.Private{Reason: stream.PrivateVary, Detail: strings.Join(names, ", ")}
	}
	if cookies := answer["Set-Cookie"]; len(cookies) > 0 && !p.dropsCookies {
		return stream.Private{Reason: stream.PrivateSetCookie, Detail: cookieNames(cookies)}
	}
	if HasDirective(answer["Cache-Control"], "private") && !p.hasCredential(r) {
		return stream.Private{Reason: stream.PrivateControl}
	}
	return stream.Private{}
}

// cookieNames names the cookies that an answer sets. Their values are nobody's
// business.
func cookieNames(lines []string) string {
	names := make([]string, 0, len(lines))
	for _, line := range lines {
		if name, _, ok := strings.Cut(line, "="); ok {
			names = append(names, strings.TrimSpace(name))
		}
	}
	return strings.Join(names, ", ")
}

// GivesCookies reports whether the first answer of a stream may set cookies: on
// a public one they would be everybody's, and the operator may say that they are not needed.
func (p *Policy) GivesCookies() bool { return !p.dropsCookies }

// Varies reports whether an answer says, other than by *, that it depends on
// something of a request that differs between requests with the same key.
func (p *Policy) Varies(answer http.Header) bool {
	names, _ := varyNames(answer)
	return slices.ContainsFunc(names, func(name string) bool { return !p.mayVary(name) })
}

// mayVary reports whether an answer that depends on a request header field may
// be shared: the field is in the key, or the same in every request that opens a
// shared stream, or the operator has said that it does not matter. What is only
// withheld is not: the application wants to know it, and so do handlers that
// set it for each client.
func (p *Policy) mayVary(name string) bool {
	_, ignored := p.ignoredHeaders[name]
	return p.only || ignored || fixed(name) || p.headerInKey(name)
}

// hasCredential reports whether the key of a request has something that
// identifies a user.
func (p *Policy) hasCredential(r *http.Request) bool {
	for _, name := range p.credentials {
		if len(p.lines(name, r.Header[name], "")) > 0 {
			return true
		}
	}
	if p.certificate && r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		return true
	}
	if !p.user {
		return false
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	user, ok := repl.GetString("http.auth.user.id")
	return ok && user != ""
}

// varyNames returns the request header fields that an answer says it depends
// on (RFC 9111, 4.1), in canonical form and order; any tells that it depends on
// more than the request. An answer for one origin depends on Origin, also when
// it does not say so. Accept-Encoding does not count: bodies are written anew.
func varyNames(header http.Header) (names []string, everything bool) {
	for _, line := range header["Vary"] {
		for name := range strings.SplitSeq(line, ",") {
			name = http.CanonicalHeaderKey(strings.TrimSpace(name))
			switch name {
			case "", "Accept-Encoding":
			case "*":
				return nil, true
			default:
				names = append(names, name)
			}
		}
	}
	if origin := header.Get("Access-Control-Allow-Origin"); origin != "" && origin != "*" {
		names = append(names, "Origin")
	}
	slices.Sort(names)
	return slices.Compact(names), false
}

// HasDirective reports whether Cache-Control lines have a directive, with an argument
// or without (RFC 9111, 5.2).
func HasDirective(lines []string, directive string) bool {
	for element := range strings.SplitSeq(strings.Join(lines, ","), ",") {
		name, _, _ := strings.Cut(element, "=")
		if strings.EqualFold(strings.TrimSpace(name), directive) {
			return true
		}
	}
	return false
}
