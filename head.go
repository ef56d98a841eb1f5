package caddysse

import (
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/key"
)

// eventStreamType is the media type of event streams (HTML 9.2.1).
const eventStreamType = "text/event-stream"

// isEventStream reports whether an answer is an event stream: HTML 9.2.3 asks
// for status 200 and the media type. Parameters and an empty one, as some
// applications send it, do not count.
func isEventStream(status int, header http.Header) bool {
	if status != http.StatusOK {
		return false
	}
	value, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(value), eventStreamType)
}

// acceptsEventStream reports whether a request's Accept names the media type,
// with a weight that is not zero (RFC 9110, 12.5.1).
func acceptsEventStream(header http.Header) bool {
	for _, line := range header["Accept"] {
		for element := range strings.SplitSeq(line, ",") {
			mediaType, params, err := mime.ParseMediaType(element)
			if mediaType != eventStreamType {
				continue
			}
			if q := strings.Trim(params["q"], "0"); err == nil && params["q"] != "" && (q == "" || q == ".") {
				continue
			}
			return true
		}
	}
	return false
}

// Header fields of a response that are not for subscribers: they are about the
// upstream connection, or about a body that is written anew.
var connectionHeaders = []string{
	"Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "Upgrade",
	"Content-Length", "Content-Encoding", "Accept-Ranges", "Date",
}

// streamHeader makes the header of a stream's responses from the upstream's.
func streamHeader(upstream http.Header) http.Header {
	header := upstream.Clone()
	for _, name := range connectionHeaders {
		header.Del(name)
	}
	setStreamHeaders(header)
	return header
}

// setStreamHeaders adds what keeps caches, compressors and buffering proxies
// on the way from holding events back.
func setStreamHeaders(header http.Header) {
	control := header.Values("Cache-Control")
	if len(control) == 0 {
		control = []string{"no-cache"}
	}
	if !key.HasDirective(control, "no-transform") {
		control = append(slices.Clone(control), "no-transform")
	}
	header.Set("Cache-Control", strings.Join(control, ", "))
	header.Set("X-Accel-Buffering", "no")
	header.Set("Incremental", "?1") // RFC 10036
}

// retryAfter reads when an upstream wants to be asked again (RFC 9110,
// 10.2.3); 0 if it does not say.
func retryAfter(header http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(header.Get("Retry-After"))
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
