package admin

import (
	"net/http"
	"strings"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// maxSearch bounds the text that streams are searched for, in bytes.
const maxSearch = 256

// Words for kinds and states of streams.
var (
	kinds  = []string{stream.KindShared, stream.KindSplice, stream.KindPrivate, stream.KindDetached}
	states = []string{stream.StateOpening, stream.StateOpen, stream.StateWaiting, stream.StateEnded}
)

// filtering are the parameters that say which streams are meant.
var filtering = []string{"search", "kind", "state", "key", "listen", "handler", "path"}

// filter says which streams are meant: those that are all of what is asked for.
type filter struct {
	search string // in lower case; a part of the path, the host, the handler's name or the ID
	exact  []func(s *stream.Sample) bool
}

// filterOf reads the parameters of filtering.
func filterOf(q params) (f filter, err error) {
	if f.search = strings.ToLower(q["search"]); len(f.search) > maxSearch {
		return f, apiError(http.StatusBadRequest, "search: expected at most %d bytes", maxSearch)
	}
	kind, err := q.oneOf("kind", "", kinds)
	if err != nil {
		return f, err
	}
	state, err := q.oneOf("state", "", states)
	if err != nil {
		return f, err
	}
	for name, is := range map[string]func(s *stream.Sample, text string) bool{
		"key":    func(s *stream.Sample, text string) bool { return !s.Private && s.Key.String() == text },
		"listen": func(s *stream.Sample, text string) bool { listen, _ := stream.PlaceOf(s.Place); return listen == text },
		"handler": func(s *stream.Sample, text string) bool {
			_, handler := stream.PlaceOf(s.Place)
			return handler == text
		},
		"path": func(s *stream.Sample, text string) bool { return s.Path == text },
	} {
		if text, given := q[name]; given {
			f.exact = append(f.exact, func(s *stream.Sample) bool { return is(s, text) })
		}
	}
	if kind != "" {
		f.exact = append(f.exact, func(s *stream.Sample) bool { return s.Kind == kind })
	}
	if state != "" {
		f.exact = append(f.exact, func(s *stream.Sample) bool { return s.State == state })
	}
	return f, nil
}

// of returns the samples that are meant.
func (f filter) of(all []stream.Sample) []stream.Sample {
	if f.search == "" && len(f.exact) == 0 {
		return all
	}
	meant := make([]stream.Sample, 0, len(all))
	for i := range all {
		if f.means(&all[i]) {
			meant = append(meant, all[i])
		}
	}
	return meant
}

func (f filter) means(s *stream.Sample) bool {
	for _, is := range f.exact {
		if !is(s) {
			return false
		}
	}
	if f.search == "" {
		return true
	}
	_, handler := stream.PlaceOf(s.Place)
	for _, text := range []string{s.Path, s.Host, handler, s.Of.ID()} {
		if strings.Contains(strings.ToLower(text), f.search) {
			return true
		}
	}
	return false
}
