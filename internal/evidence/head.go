package evidence

import (
	"hash/maphash"
	"net/http"
	"slices"
)

// responseFields are the header fields of responses that say nothing of what is
// told, and may differ from one to the next. Those that are of requests too are
// in insignificantHeaders.
var responseFields = fieldSet(
	"Age", "Alt-Svc", "Content-Security-Policy", "Content-Security-Policy-Report-Only", "Date", "ETag", "Expires",
	"Last-Modified", "NEL", "Ratelimit", "Ratelimit-Limit", "Ratelimit-Policy", "Ratelimit-Remaining", "Ratelimit-Reset",
	"Report-To", "Reporting-Endpoints", "Retry-After", "Server", "Server-Timing", "Set-Cookie", "X-Runtime",
	"X-Process-Time", "X-Response-Time", "X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset",
	"X-Rate-Limit-Limit", "X-Rate-Limit-Remaining", "X-Rate-Limit-Reset",
	"CF-Cache-Status", "X-Cache", "X-Cache-Hits", "X-Served-By", "X-Timer", "X-Varnish", "X-Amz-Cf-Id", "X-Amz-Cf-Pop",
	"X-Amz-Request-Id", "X-Amz-Id-2", "Apigw-Requestid", "X-Amz-Apigw-Id", "X-Amzn-Requestid", "X-Azure-Ref", "X-Msedge-Ref",
	"X-Ms-Request-Id", "X-Vercel-Id", "X-Envoy-Upstream-Service-Time", "X-Kong-Upstream-Latency", "X-Kong-Proxy-Latency",
	"X-Kong-Request-Id", "X-Debug-Token", "X-Debug-Token-Link", "X-Trace-Id", "X-Correlation-Id", "X-Transaction-Id",
	"Request-Id", "X-Fastly-Request-Id", "Fly-Request-Id",
)

// fieldSet is a set of header field names.
func fieldSet(names ...string) map[string]struct{} {
	set := make(map[string]struct{}, len(names))
	for _, name := range names {
		set[http.CanonicalHeaderKey(name)] = struct{}{}
	}
	return set
}

// DifferingField returns the name of a field in which two heads differ, unless it is
// known to be of one response; "" if there is none. What insignificant tells says
// nothing either; it may be nil.
func DifferingField(a, b http.Header, insignificant func(name string) bool) string {
	for _, pair := range [][2]http.Header{{a, b}, {b, a}} {
		for name, values := range pair[0] {
			if isSignificant(name, insignificant) && !slices.Equal(values, pair[1][name]) {
				return name
			}
		}
	}
	return ""
}

// isSignificant reports whether a field says something of what is told.
func isSignificant(name string, insignificant func(name string) bool) bool {
	_, known := responseFields[name]
	return !known && (insignificant == nil || !insignificant(name))
}

var headSeed = maphash.MakeSeed()

// HashHead returns what is the same for two heads that DifferingField finds no
// difference in.
func HashHead(head http.Header, insignificant func(name string) bool) (sum uint64) {
	for name, values := range head {
		if !isSignificant(name, insignificant) {
			continue
		}
		var field maphash.Hash
		field.SetSeed(headSeed)
		for _, text := range append([]string{name}, values...) {
			_, _ = field.WriteString(text)
			_ = field.WriteByte('\n') // no field has one
		}
		sum += field.Sum64() // in no certain order
	}
	return sum
}
