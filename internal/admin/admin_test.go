package admin

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// testTimeout is only ever waited for in full by a test that fails.
const testTimeout = 30 * time.Second

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(testTimeout); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
		time.Sleep(time.Millisecond) // polls; nothing depends on how long
	}
}

// get asks for something.
func get(t *testing.T, url string) *http.Response {
	t.Helper()
	return do(t, http.MethodGet, url)
}

func do(t *testing.T, method, url string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// startAPI serves the admin API as Caddy's admin endpoint does.
func startAPI(t *testing.T) string {
	t.Helper()
	mux := http.NewServeMux()
	for _, at := range Routes() {
		mux.HandleFunc(at.Pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := at.Handler.ServeHTTP(w, r); err != nil {
				w.WriteHeader(err.(caddy.APIError).HTTPStatus)         //nolint:errorlint,forcetypeassert // as Caddy does
				_, _ = io.WriteString(w, err.(caddy.APIError).Message) //nolint:errorlint,forcetypeassert // the same
			}
		})
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

// A page whose origin has no host is none of ours, also where Caddy lets it in,
// because an empty origin is configured.
func TestPagesWithoutAHostAreRefused(t *testing.T) {
	status := func(at route, method, origin string) int {
		r := httptest.NewRequest(method, "/", http.NoBody)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Origin", origin)
		w := httptest.NewRecorder()
		if err, ok := errors.AsType[caddy.APIError](at.serve(w, r)); ok {
			return err.HTTPStatus
		}
		return w.Code
	}
	for _, at := range routes {
		for method := range at.methods {
			for _, origin := range []string{"file://", "capacitor:", "x", "://"} {
				if got := status(at, method, origin); got != http.StatusForbidden {
					t.Errorf("%s %s of %q: %d", method, at.pattern, origin, got)
				}
			}
		}
	}
	if got := status(routes[0], http.MethodGet, "http://localhost:2019"); got != http.StatusOK {
		t.Errorf("of the page itself: %d", got)
	}
}

// Whatever it is asked, the API answers, with JSON or the page, or says with a status of
// a client's mistake what it expected.
func FuzzAPI(f *testing.F) {
	f.Add(byte(0), "GET", "sort=age&order=desc&limit=1", "", "", "")
	f.Add(byte(3), "POST", "", `{"value": "bob", "window": "1ms"}`, "application/json", "https://a.test")
	f.Add(byte(4), "GET", "limit=-1&offset=99999999999999999999", "", "", "file://")
	f.Add(byte(5), "DELETE", "%zz", "", "application/json; charset=x", "")
	f.Add(byte(7), "GET", "last=0&last=1", "", "", "")
	f.Fuzz(func(t *testing.T, which byte, method, query, body, contentType, origin string) {
		at := routes[int(which)%len(routes)]
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // feeds do not last
		r := (&http.Request{
			Method: method, URL: &url.URL{Path: at.pattern, RawQuery: query}, Host: "localhost", ContentLength: int64(len(body)),
			Header: http.Header{"Content-Type": {contentType}, "Origin": {origin}}, Body: io.NopCloser(strings.NewReader(body)),
		}).WithContext(ctx)
		if origin == "" {
			r.Header.Del("Origin")
		}
		r.SetPathValue("id", query)
		w := httptest.NewRecorder()
		err := at.serve(w, r)
		if err == nil {
			if kind := w.Header().Get("Content-Type"); w.Body.Len() > 0 && kind == "" {
				t.Errorf("%s %s?%s: %q without a content type", method, at.pattern, query, w.Body)
			}
			return
		}
		refusal, ok := errors.AsType[caddy.APIError](err)
		if !ok {
			t.Fatalf("%s %s?%s: %v, which has no status", method, at.pattern, query, err)
		}
		if refusal.HTTPStatus < 400 || refusal.HTTPStatus >= 500 || refusal.Message == "" && refusal.Err == nil {
			t.Errorf("%s %s?%s %q: status %d, %q", method, at.pattern, query, body, refusal.HTTPStatus, refusal.Error())
		}
	})
}
