package caddysse

import (
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// responsesDialect is that of OpenAI's Responses API, which vLLM has too: the events
// of an answer are numbered, and the rest of one that was made in the background comes
// to GET /v1/responses/{id}?stream=true&starting_after=N.
type responsesDialect struct {
	id         string
	background bool
	last       int64 // the number of the newest event; negative: there was none
	data       []byte
}

// responseID is what an answer's ID looks like. It becomes part of a path.
var responseID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,256}$`)

func (d *responsesDialect) parse(b eventstream.Block) stream.ResponsesEvent {
	d.data = b.AppendData(d.data[:0])
	return stream.ParseResponsesEvent(d.data)
}

func (d *responsesDialect) sent(b eventstream.Block) {
	if !b.Dispatches() {
		return
	}
	e := d.parse(b)
	if e.Sequence != nil {
		d.last = *e.Sequence
	}
	if e.Response != nil && d.id == "" && responseID.MatchString(e.Response.ID) {
		d.id, d.background = e.Response.ID, e.Response.Background
	}
}

func (d *responsesDialect) ask(r *http.Request) bool {
	if d.id == "" || !d.background || d.last < 0 {
		return false
	}
	path := strings.TrimSuffix(r.URL.Path, "/")
	if !strings.HasSuffix(path, "/"+d.id) { // else the client asked for the rest itself
		path += "/" + d.id
	}
	query := r.URL.Query()
	query.Set("stream", "true")
	query.Set("starting_after", strconv.FormatInt(d.last, 10))
	r.URL = &url.URL{Scheme: r.URL.Scheme, Host: r.URL.Host, Path: path, RawQuery: query.Encode()}
	return true
}

func (d *responsesDialect) takes(b eventstream.Block) resumeVerdict {
	if !b.Dispatches() {
		return resumeRepeat // it says nothing
	}
	e := d.parse(b)
	switch {
	case e.Sequence == nil: // an error, or the end
		return resumeNext
	case *e.Sequence <= d.last:
		return resumeRepeat
	case *e.Sequence > d.last+1:
		return resumeOther
	}
	return resumeNext
}
