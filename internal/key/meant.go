package key

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// What operators are told of keys: what is out of it that may matter, and what is
// in it that is meant to be.

// Meant reports whether a part of a key is meant to keep clients apart: it says who
// the user is, or the operator has named it.
func (p *Policy) Meant(part string) bool {
	kind, name, _ := strings.Cut(part, " ")
	switch kind {
	case "placeholder", "user", "client":
		return true
	case "query":
		return p.dropQuery
	case "cookie":
		return p.only
	case "header":
		if p.only {
			return !slices.Contains(publicHeaders, name)
		}
		return name != "Cookie" && slices.Contains(p.credentials, name)
	}
	return false
}

// maxNamed bounds how many names are told.
const maxNamed = 5

// LeavesOut names parameters of a query that a key of the operator's leaves out,
// and about which nothing else is said.
func (p *Policy) LeavesOut(raw string) (names []string) {
	if !p.dropQuery {
		return nil
	}
	for pair := range strings.SplitSeq(raw, "&") {
		name, _, _ := strings.Cut(pair, "=")
		if unescaped, err := url.QueryUnescape(name); err == nil {
			name = unescaped
		}
		_, ignored := p.ignoredQuery[name]
		_, wanted := p.query[name]
		if name == "" || ignored || wanted || slices.Contains(p.idParameters, name) || slices.Contains(names, name) || len(names) == maxNamed {
			continue
		}
		names = append(names, name)
	}
	return names
}

// identities are header fields that authenticating handlers and proxies set, beside
// credentials.
var identities = []string{
	"Remote-User", "Remote-Groups", "Remote-Email", "Remote-Name",
	"X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups", "X-Forwarded-Preferred-Username",
	"X-Auth-Request-User", "X-Auth-Request-Email", "X-Auth-Request-Groups", "X-Auth-Request-Preferred-Username",
	"X-Webauth-User", "X-Authentik-Username", "X-Authentik-Groups", "X-Authentik-Email", "X-Token-User-Email",
	"Cf-Access-Jwt-Assertion", "Cf-Access-Authenticated-User-Email", "X-Amzn-Oidc-Identity", "X-Amzn-Oidc-Data",
	"X-Goog-Authenticated-User-Email", "X-Ms-Client-Principal",
}

// Withholds names, as placeholders, what says who the user of a request is, and is
// not sent upstream when it shares.
func (p *Policy) Withholds(r *http.Request) (placeholders []string) {
	for _, name := range slices.Concat(credentialHeaders, identities) {
		if name != "Cookie" && len(r.Header[http.CanonicalHeaderKey(name)]) > 0 && !p.headerInKey(http.CanonicalHeaderKey(name)) {
			placeholders = append(placeholders, "{"+headerPrefix+name+"}")
		}
	}
	if _, all := p.headers["Cookie"]; all || !p.only {
		return placeholders
	}
	for _, cookie := range r.Cookies() {
		if _, counts := p.cookies[cookie.Name]; !counts && len(placeholders) < maxNamed {
			placeholders = append(placeholders, "{"+cookiePrefix+cookie.Name+"}")
		}
	}
	return placeholders
}
