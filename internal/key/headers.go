package key

import (
	"net/http"
	"slices"
	"strings"
)

// The request header fields that do not tell streams apart, and what the
// upstream is sent of them. Every other field does: an unknown one fails safe.

// fixedHeaders are the same in every request that opens a shared stream, set
// or removed: they are about one client's response or connection, not about
// the stream. No answer can depend on them.
var fixedHeaders = headerSet(
	// Hop-by-hop (RFC 9110, 7.6.1), and what comes with an offer to go over to
	// HTTP/2 (RFC 7540, 3.2.1).
	"Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "HTTP2-Settings",
	// Conditionals and ranges (RFC 9110, 13.1 and 14.2).
	"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "Range",
	// All who share have asked for an event stream; the coding is the gateway's
	// affair, and so is where a connection goes on.
	"Accept", "Accept-Encoding", "Last-Event-ID",
)

// insignificantHeaders say how a message travels, who is probably asking and
// from where, but not what for. They are withheld from shared upstream
// requests, because an answer may depend on them all the same.
//
// Where a line names no source, the field is one of HTTP, of a browser, or in
// the documentation named in the line before it.
var insignificantHeaders = headerSet(
	// The client's cache, its software and its wishes.
	"Cache-Control", "Pragma", "User-Agent", "Referer", "Sec-GPC", "DNT", "Priority",

	// Proxies on the way (RFC 9110, 7.6.3; RFC 8586; RFC 7239). Of Forwarded
	// host and proto count: see forwardedPlace.
	"Via", "CDN-Loop", "Forwarded", "X-Forwarded-Port",

	// Where the client is.
	"X-Forwarded-For", "X-Real-IP", "X-Client-IP", "X-Cluster-Client-IP", "True-Client-IP",
	"CF-Connecting-IP", "CF-Connecting-IPv6", "CF-Pseudo-IPv4", // developers.cloudflare.com: Cloudflare HTTP headers
	"Fastly-Client-IP",                     // fastly.com: header reference
	"Fly-Client-IP",                        // fly.io: request headers
	"X-Azure-ClientIP", "X-Azure-SocketIP", // learn.microsoft.com: HTTP headers of Azure Front Door
	"X-Envoy-External-Address",  // envoyproxy.io: HTTP header manipulation
	"CloudFront-Viewer-Address", // docs.aws.amazon.com: CloudFront request headers
	"X-Original-Forwarded-For",  // kubernetes.github.io: ingress-nginx

	// What names one request.
	"X-Request-Id", "X-Correlation-Id", "Correlation-Id",
	"Request-Id", "Correlation-Context", // learn.microsoft.com: correlation in Application Insights
	"X-Amz-Cf-Id",                         // docs.aws.amazon.com: CloudFront, behaviour for custom origins
	"X-Azure-Ref", "X-Azure-RequestChain", // learn.microsoft.com: HTTP headers of Azure Front Door
	"X-ARR-Log-Id", "X-AppGW-Trace-Id", // learn.microsoft.com: App Service; Application Gateway
	"CF-Ray", "CF-Request-Id", // developers.cloudflare.com: Cloudflare HTTP headers
	"Fly-Request-Id",                       // fly.io: request headers
	"X-Request-Start", "Heroku-Request-ID", // devcenter.heroku.com: HTTP routing; http-request-id
	"X-Queue-Start", // docs.newrelic.com: request queue server configuration
	"X-Vercel-Id",   // vercel.com: request headers
	"Fastly-FF",     // fastly.com: header reference
	"X-Varnish",     // varnish-cache.org: transaction ids

	// Tracing.
	"Traceparent", "Tracestate", "Baggage", // w3.org: Trace Context; Baggage
	"Sentry-Trace",                                        // docs.sentry.io: distributed tracing, with Baggage
	"B3",                                                  // github.com/openzipkin/b3-propagation, with X-B3-*
	"X-Amzn-Trace-Id",                                     // docs.aws.amazon.com: request tracing for Application Load Balancers
	"X-Cloud-Trace-Context",                               // cloud.google.com: trace context, of load balancers, Cloud Run and App Engine
	"Uber-Trace-Id",                                       // jaegertracing.io: client libraries, with Uberctx-*
	"X-Ot-Span-Context",                                   // envoyproxy.io: HTTP header manipulation
	"X-Client-Trace-Id",                                   // the same
	"Newrelic", "X-Newrelic-Id", "X-Newrelic-Transaction", // docs.newrelic.com: distributed tracing
	"Elastic-Apm-Traceparent",         // elastic.co: distributed tracing
	"X-Dynatrace",                     // docs.dynatrace.com: request tagging
	"Sw8", "Sw8-Correlation", "Sw8-X", // skywalking.apache.org: cross process propagation headers
)

// insignificantPrefixes stand for families of such fields.
var insignificantPrefixes = []string{
	"Sec-Fetch-", "Sec-Ch-Ua",
	"X-B3-",                                 // github.com/openzipkin/b3-propagation
	"X-Datadog-",                            // docs.datadoghq.com: trace context propagation
	"Uberctx-",                              // jaegertracing.io: client libraries
	"X-Instana-",                            // ibm.com: Instana, tracing headers
	"Eagleeye-",                             // alibabacloud.com: supported tracing protocols
	"Ot-Tracer-",                            // opentelemetry.io: the OT trace propagator
	"X-Envoy-Expected-", "X-Envoy-Attempt-", // envoyproxy.io: router filter
}

// publicHeaders tell streams apart under share public.
var publicHeaders = []string{"Origin", "X-Forwarded-Host", "X-Forwarded-Proto"}

// credentialHeaders identify a user. With one of them in the key,
// Cache-Control: private does not keep a stream from being shared: all who
// share it are that user.
var credentialHeaders = []string{"Authorization", "Cookie", "X-Api-Key", "Api-Key"}

// UserAgent is what a shared upstream request says of who is asking. It
// is many clients; some applications refuse a request that says nothing.
const UserAgent = "caddy-sse"

func headerSet(names ...string) map[string]struct{} {
	set := make(map[string]struct{}, len(names))
	for _, name := range names {
		set[http.CanonicalHeaderKey(name)] = struct{}{}
	}
	return set
}

// fixed reports whether the header field name, in canonical form, is the same
// in every shared upstream request.
func fixed(name string) bool {
	_, ok := fixedHeaders[name]
	return ok
}

// Insignificant reports whether the header field name, in canonical form, does
// not tell streams apart.
func Insignificant(name string) bool {
	if _, ok := insignificantHeaders[name]; ok || fixed(name) {
		return true
	}
	return slices.ContainsFunc(insignificantPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// forwardedPlace returns what counts of the lines of a Forwarded field (RFC
// 7239): host and proto of each element, as X-Forwarded-Host and
// X-Forwarded-Proto count. for and by say where a client is. It is empty if
// there is nothing of the kind; false if the lines cannot be read.
func forwardedPlace(lines []string) (place string, readable bool) {
	var elements []string
	for element := range splitQuoted(strings.Join(lines, ","), ',') {
		var kept []string
		for pair := range splitQuoted(element, ';') {
			name, value, ok := strings.Cut(strings.TrimSpace(pair), "=")
			switch name = strings.ToLower(name); {
			case !ok && name == "":
			case !ok || name == "" || strings.ContainsAny(name, " \t\"") || !isForwardedValue(value):
				return "", false
			case name == "host", name == "proto":
				kept = append(kept, name+"="+value)
			}
		}
		if len(kept) > 0 {
			elements = append(elements, strings.Join(kept, ";"))
		}
	}
	return strings.Join(elements, ", "), true
}

// isForwardedValue reports whether a value is a token, or a quoted string that
// ends where the value does.
func isForwardedValue(value string) bool {
	quoted, ok := strings.CutPrefix(value, `"`)
	if !ok {
		return !strings.ContainsAny(value, "\" \t")
	}
	for i := 0; i < len(quoted); i++ {
		switch quoted[i] {
		case '\\':
			i++
		case '"':
			return i == len(quoted)-1
		}
	}
	return false
}

// forwardedNode writes an address as Forwarded wants it (RFC 7239, 6).
func forwardedNode(address string) string {
	if strings.Contains(address, ":") {
		return `"[` + address + `]"`
	}
	return address
}

// splitQuoted splits a list at a separator that is not in a quoted string (RFC
// 9110, 5.6.4).
func splitQuoted(s string, separator byte) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		start, quoted := 0, false
		for i := 0; i < len(s); i++ {
			switch {
			case quoted && s[i] == '\\':
				i++
			case s[i] == '"':
				quoted = !quoted
			case s[i] == separator && !quoted:
				if !yield(s[start:i]) {
					return
				}
				start = i + 1
			}
		}
		yield(s[start:])
	}
}
