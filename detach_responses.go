package caddysse

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// Detached answers of OpenAI's Responses API, for clients that resume in its own way.
//
// The SDKs know no Last-Event-ID. They ask for the rest of an answer with GET
// /v1/responses/{id}?stream=true&starting_after=N. For an answer that is in a buffer
// that comes from there, also where the provider could not give it. The client has to
// be the same one, as with an ID of the gateway: an answer's own ID is worth nothing
// by itself.

// restOfResponse reports whether a request asks in the way of the Responses API for the
// rest of an answer that is in a buffer. It returns an ID of the gateway with which the
// request would ask for the same, and the key's parts of the request that was answered.
func (h *Handler) restOfResponse(r *http.Request) (lastEventID string, parts []stream.Part) {
	if r.Method != http.MethodGet {
		return "", nil
	}
	query := r.URL.Query()
	number := int64(-1)
	if after := query.Get("starting_after"); after != "" {
		var err error
		if number, err = strconv.ParseInt(after, 10, 64); err != nil || number < 0 {
			return "", nil
		}
	}
	path, id, ok := cutResponseID(r.URL.Path)
	if !ok || query.Get("stream") != "true" {
		return "", nil
	}
	first := *r
	first.URL = withoutResponse(r.URL, path)
	if orig, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok && orig.URL != nil {
		path, _, ok := cutResponseID(orig.URL.Path)
		if !ok {
			return "", nil
		}
		orig.URL = withoutResponse(orig.URL, path)
		first = *first.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, orig))
	}
	parts = h.detachedParts(&first)
	req := &stream.Request{Key: stream.Process.Key(parts), Instance: h.instance}
	return stream.Process.FindResponse(req, id, number), parts
}

// cutResponseID cuts the ID of an answer off a path.
func cutResponseID(path string) (rest, id string, ok bool) {
	path = strings.TrimSuffix(path, "/")
	i := strings.LastIndexByte(path, '/')
	if i < 0 || !strings.HasSuffix(path[:i], "/responses") || !responseID.MatchString(path[i+1:]) {
		return "", "", false
	}
	return path[:i], path[i+1:], true
}

// withoutResponse is the URL that was asked when the answer began.
func withoutResponse(u *url.URL, path string) *url.URL {
	var query []string
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		if name, _, _ := strings.Cut(pair, "="); pair != "" && name != "stream" && name != "starting_after" {
			query = append(query, pair)
		}
	}
	return &url.URL{Path: path, RawQuery: strings.Join(query, "&")}
}
