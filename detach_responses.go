package caddysse

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/replay"
)

// Detached answers of OpenAI's Responses API, for clients that resume in its own way.
//
// The SDKs know no Last-Event-ID. They ask for the rest of an answer with GET
// /v1/responses/{id}?stream=true&starting_after=N. For an answer that is in a buffer
// that comes from there, also where the provider could not give it. The client has to
// be the same one, as with an ID of the gateway: an answer's own ID is worth nothing
// by itself.

// responsesLog is what is known of the events of a detached answer of that API. The
// stream's lock guards it; that of another stream is nil.
type responsesLog struct {
	id      string
	entries []responsesEntry // ascending
	data    []byte
}

// responsesEntry says where an event is in the buffer.
type responsesEntry struct {
	number   int64
	position uint64
}

// newResponsesLog returns one for a stream of which the key's parts are given; nil if
// its path is not that of the API.
func newResponsesLog(parts []keyPart) *responsesLog {
	for _, part := range parts {
		if part.name == "path" && strings.HasSuffix(strings.TrimSuffix(part.value, "/"), "/responses") {
			return new(responsesLog)
		}
	}
	return nil
}

// add takes note of an event that has come into a buffer, which is its newest block.
func (l *responsesLog) add(b eventstream.Block, buffer *replay.Buffer) {
	if l == nil || !b.Dispatches() {
		return
	}
	l.data = b.AppendData(l.data[:0])
	e := parseResponsesEvent(l.data)
	if e.Response != nil && l.id == "" {
		l.id = e.Response.ID
	}
	if e.Sequence == nil || (len(l.entries) > 0 && *e.Sequence <= l.entries[len(l.entries)-1].number) {
		return
	}
	if len(l.entries) > 0 && len(l.entries) == cap(l.entries) { // of those that are not kept nothing is to be known
		gone, _ := slices.BinarySearchFunc(l.entries, buffer.Lost, func(e responsesEntry, lost uint64) int {
			return cmp.Compare(e.position, lost)
		})
		l.entries = slices.Delete(l.entries, 0, gone)
	}
	l.entries = append(l.entries, responsesEntry{*e.Sequence, buffer.Newest})
}

// after returns the position of the event with a number; negative: that before the
// first. false: what comes after it is not kept, or it has not come.
func (l *responsesLog) after(id string, number int64, buffer *replay.Buffer) (position uint64, ok bool) {
	if l == nil || l.id != id {
		return 0, false
	}
	if number >= 0 {
		i, found := slices.BinarySearchFunc(l.entries, number, func(e responsesEntry, number int64) int {
			return cmp.Compare(e.number, number)
		})
		if !found {
			return 0, false
		}
		position = l.entries[i].position
	}
	return position, position >= buffer.Lost
}

// restOfResponse reports whether a request asks in the way of the Responses API for the
// rest of an answer that is in a buffer. It returns an ID of the gateway with which the
// request would ask for the same, and the key's parts of the request that was answered.
func (h *Handler) restOfResponse(r *http.Request) (lastEventID string, parts []keyPart) {
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
	req := &joinRequest{key: theHub.keyHash(parts), instance: h.instance}
	return theHub.findResponse(req, id, number), parts
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

// findResponse looks for an answer among the detached streams that a request is
// entitled to, and returns the ID of the event with a number in it.
func (h *hub) findResponse(req *joinRequest, id string, number int64) (lastEventID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for epoch := range h.detached {
		s := h.findDetachedLocked(epoch, req)
		if s == nil {
			continue
		}
		s.mu.Lock()
		position, ok := s.responses.after(id, number, &s.buffer)
		s.mu.Unlock()
		if ok {
			return string(replay.AppendID(nil, epoch, position))
		}
	}
	return ""
}
