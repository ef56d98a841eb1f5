package key

import (
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// Credentials are the request header fields that identify the client of a detached
// stream, canonical and sorted: those that everybody uses, and more.
func Credentials(more []string) (names []string) {
	for _, name := range slices.Concat(credentialHeaders, more) {
		names = append(names, http.CanonicalHeaderKey(name))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// DetachedParts lists what a request has to have in common with the one that
// opened a detached stream. place is where the handler is.
func (p *Policy) DetachedParts(r *http.Request, place string, credentials []string) []stream.Part {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	orig, _ := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	parts := []stream.Part{
		{Name: "detached", Value: place},
		{Name: "host", Value: strings.ToLower(r.Host)},
		{Name: "path", Value: r.URL.EscapedPath()},
		{Name: "query", Value: p.WithoutID(r.URL.RawQuery)},
	}
	if orig.URL != nil {
		parts = append(parts,
			stream.Part{Name: "original path", Value: orig.URL.EscapedPath()},
			stream.Part{Name: "original query", Value: p.WithoutID(orig.URL.RawQuery)})
	}
	parts = appendCertificate(parts, r)
	if user, ok := repl.GetString("http.auth.user.id"); ok {
		parts = append(parts, stream.Part{Name: "user", Value: user})
	}
	for _, name := range credentials {
		for _, value := range r.Header[name] {
			parts = append(parts, stream.Part{Name: "header " + name, Value: value})
		}
	}
	return parts
}
