package admin

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// Site serves the page and the API below /sse/ on a site of the operator's choice. Who may is for that site to say. Caddy
// does not guard it as it does its admin endpoint: that no page of another site uses it with what the browser has of its
// user is seen to here. Views end when end is closed: only servers of HTTP/1.1 and HTTP/2 can be asked when they shut down.
func Site(end <-chan struct{}) http.Handler {
	theHistory.begin()
	mux := http.NewServeMux()
	for _, at := range Routes() {
		mux.HandleFunc(at.Pattern, func(w http.ResponseWriter, r *http.Request) {
			err := fromSite(r)
			if err == nil {
				err = at.Handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), endCtxKey{}, end)))
			}
			if err != nil {
				writeError(w, err)
			}
		})
	}
	return mux
}

// endCtxKey is of what is closed when the server of a site shuts down.
type endCtxKey struct{}

// fromSite turns requests away that a page of another site has made. A link to the page may be followed from anywhere.
func fromSite(r *http.Request) error {
	if err := fromHost(r); err != nil {
		return err
	}
	for _, origin := range r.Header["Origin"] {
		if u, err := url.Parse(origin); err != nil || !strings.EqualFold(u.Host, r.Host) {
			return errOtherSite
		}
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return nil
	}
	if r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Mode") == "navigate" && strings.HasSuffix(r.URL.Path, "/sse/") {
		return nil
	}
	return errOtherSite
}

var errOtherSite = apiError(http.StatusForbidden, "expected a request of a page of this site")

// writeError answers as Caddy's admin endpoint does.
func writeError(w http.ResponseWriter, err error) {
	told, ok := errors.AsType[caddy.APIError](err)
	if !ok {
		told.HTTPStatus = http.StatusInternalServerError
	}
	w.Header().Set("Cache-Control", "no-store")
	_ = writeJSON(w, told.HTTPStatus, struct { // it has no value that cannot be encoded
		Error string `json:"error"`
	}{told.Message})
}
