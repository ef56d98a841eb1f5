package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddy-sse/caddy-sse/eventstream"
)

const (
	// adminPath is where the live page and the admin API are, at either of their places.
	adminPath = "/sse/"

	// adminPatience is how long the admin API may take.
	adminPatience = 5 * time.Second

	// maxHandlers is how many handlers the feed of the live page tells of. Of others nothing is known.
	maxHandlers = 50
)

// adminView is what the live page is told first, as far as it matters here.
type adminView struct {
	Handlers []handlerSeen `json:"handlers"`
	Hints    []struct {
		Kind   string `json:"kind"`
		Remedy string `json:"remedy"`
	} `json:"hints"`
}

// handlerSeen is an sse of the gateway and what has come to it.
type handlerSeen struct {
	Listen   string `json:"listen"`
	Name     string `json:"handler"`
	Requests uint64 `json:"requests"`
	Streams  uint64 `json:"event_streams"`
}

// witness is what the admin API said before the doctor asked for the stream, and afterwards.
type witness struct {
	before, after adminView
	asked         bool
	err           error // why it is not known
}

// askWitness asks the admin API, if there is one to ask; again does so once more.
func (e *examination) askWitness(ctx context.Context, c *client) (again func()) {
	w := &e.witness
	if e.options.Admin == "" {
		return func() {}
	}
	w.asked = true
	w.before, w.err = c.askAdmin(ctx)
	return func() {
		if w.err == nil {
			w.after, w.err = c.askAdmin(ctx)
		}
	}
}

// errAdmin: what the caller gave is no such URL.
var errAdmin = errors.New("expected the URL of the admin endpoint, or of the site of sse_admin, such as http://localhost:2019")

// askAdmin asks the admin API what the gateway's handlers have seen by now.
func (c *client) askAdmin(ctx context.Context) (view adminView, err error) {
	base, err := adminURL(c.options.Admin)
	if err != nil {
		return view, err
	}
	ctx, cancel := context.WithTimeout(ctx, adminPatience)
	defer cancel()
	// Without the fields of the caller's: they are for the stream.
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"feed", nil)
	if err != nil {
		return view, errAdmin
	}
	client := &http.Client{Transport: c.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(r)
	if failed, ok := errors.AsType[*url.Error](err); ok {
		err = failed.Err // without the URL: there may be a password in it
	}
	if err != nil {
		return view, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK || !isEventStream(resp.Header) {
		return view, fmt.Errorf("the answer was %d, %s", resp.StatusCode, quote(resp, "Content-Type"))
	}
	events := eventstream.NewReader(resp.Body)
	events.MaxBlockSize = maxBlock
	for e, err := range events.Messages() {
		if err != nil {
			return view, err
		}
		if e.Type == "streams" {
			return view, json.Unmarshal([]byte(e.Data), &view)
		}
	}
	return view, errors.New("the answer ended")
}

// adminURL is that of what is below /sse/; the caller may have given it with or without that.
func adminURL(given string) (string, error) {
	u, err := url.Parse(given)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" {
		return "", errAdmin
	}
	u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), strings.TrimSuffix(adminPath, "/")) + adminPath
	return u.String(), nil
}

// untouched reports whether no request has come to any sse of the gateway while the doctor asked. Others' requests may come
// as well; that none came is certain.
func (w *witness) untouched() bool {
	return w.asked && w.err == nil && len(w.before.Handlers) < maxHandlers && slices.Equal(w.before.Handlers, w.after.Handlers)
}

// ofNodes are the kinds of hints that the gateway has of the other nodes of its cluster.
func (w *witness) ofNodes() (kinds []string) {
	for _, h := range w.after.Hints {
		if h.Kind == "no_node" || h.Kind == "apart" {
			kinds = append(kinds, h.Kind)
		}
	}
	return kinds
}

// remedies are what the gateway itself says to write so that requests come to an sse.
func (w *witness) remedies() (all []string) {
	for _, h := range w.after.Hints {
		if h.Kind == "unreached" || h.Kind == "unseen" {
			all = append(all, h.Remedy)
		}
	}
	return all
}
