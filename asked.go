package caddysse

import (
	"bytes"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
)

// What a client's request says, and asks for.

// neverStream reports whether the answer to a request is not a stream whatever
// it says.
func neverStream(r *http.Request) bool {
	switch r.Method {
	case http.MethodHead, http.MethodOptions, http.MethodConnect:
		return true
	}
	return slices.ContainsFunc(offers(r.Header), func(protocol string) bool { return strings.HasPrefix(protocol, "websocket") })
}

// offers lists the protocols in lower case that a client would go over to (RFC
// 9110, 7.8).
func offers(header http.Header) (protocols []string) {
	for _, line := range header["Upgrade"] {
		for protocol := range strings.SplitSeq(line, ",") {
			protocols = append(protocols, strings.ToLower(strings.TrimSpace(protocol)))
		}
	}
	return protocols
}

// declineHTTP2 takes back a client's offer to go over to HTTP/2 on this
// connection, which clients make with each request, as those of Java do. Caddy
// does not take it up, and the upstream is not to: its connection is another one.
// Other offers are for the upstream, unless the request shares a stream; they are
// upgrades only if the answer is 101.
func declineHTTP2(r *http.Request) {
	all := offers(r.Header)
	rest := slices.DeleteFunc(slices.Clone(all), func(protocol string) bool { return protocol == "h2c" })
	if len(rest) == len(all) {
		return
	}
	gone := []string{"http2-settings"}
	r.Header.Del("HTTP2-Settings")
	if len(rest) > 0 {
		r.Header.Set("Upgrade", strings.Join(rest, ", "))
	} else {
		r.Header.Del("Upgrade")
		gone = append(gone, "upgrade")
	}
	var options []string
	for _, line := range r.Header["Connection"] {
		for option := range strings.SplitSeq(line, ",") {
			if option = strings.TrimSpace(option); option != "" && !slices.Contains(gone, strings.ToLower(option)) {
				options = append(options, option)
			}
		}
	}
	r.Header.Del("Connection")
	if len(options) > 0 {
		r.Header.Set("Connection", strings.Join(options, ", "))
	}
}

// isMCP reports whether a request says that it is of the Model Context
// Protocol, with a session or without: its stream is one client's, and to close
// it is to cancel it.
func isMCP(r *http.Request) bool {
	return r.Header.Get("Mcp-Session-Id") != "" || r.Header.Get("Mcp-Protocol-Version") != ""
}

// bodyless reports whether a request has no body. That of a GET over HTTP/3
// without Content-Length is known only when its end is read.
func bodyless(r *http.Request) bool {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return true
	}
	if r.ProtoMajor < 3 || r.ContentLength > 0 {
		return false
	}
	var one [1]byte
	n, err := io.ReadFull(r.Body, one[:])
	if n == 0 && err == io.EOF {
		return true
	}
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(one[:n]), r.Body), r.Body}
	return false
}

// mayBeEventSource reports whether a request may be one of EventSource, or of a client
// that does as it does: it takes event streams and nothing else.
func mayBeEventSource(r *http.Request) bool {
	accept := r.Header["Accept"]
	if r.Method != http.MethodGet || len(accept) != 1 {
		return false
	}
	mediaType, _, err := mime.ParseMediaType(accept[0])
	return err == nil && mediaType == eventStreamType
}
