package caddysse

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/hints"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// answers starts an application that answers by a function, and keeps event streams open with one event.
func answers(t *testing.T, answer func(w http.ResponseWriter, r *http.Request) (status int)) (address string) {
	t.Helper()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status := answer(w, r); status != http.StatusOK {
			w.WriteHeader(status)
			return
		}
		w.Header().Set("Content-Type", eventStreamType)
		_, _ = fmt.Fprint(w, "data: 1\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(func() {
		app.CloseClientConnections()
		app.Close()
	})
	return app.Listener.Addr().String()
}

// Ordinary set-ups that do not do what is meant: each has a hint, and a line in the log. What the hint says to write makes
// both go away, and the set-up right.
func TestSetUpsThatAreNotRight(t *testing.T) {
	fine := func(http.ResponseWriter, *http.Request) int { return http.StatusOK }
	for name, test := range map[string]struct {
		answer       func(http.ResponseWriter, *http.Request) int
		before       string // of sse
		options      string
		clients      int
		target       func(i int) string
		fields       func(i int) []string
		kind         hints.Kind
		text, remedy string
		after        string // options: the remedy, followed
		shared       bool   // all clients share then
	}{
		"Laravel: a cookie with each answer": {
			answer: func(w http.ResponseWriter, _ *http.Request) int {
				w.Header().Set("Set-Cookie", "laravel_session=secret")
				return http.StatusOK
			},
			options: "share cookies user", clients: 2, fields: func(int) []string { return []string{"Cookie: user=1"} },
			kind: hints.NotShared, text: "sets a cookie, which is one client's: laravel_session", remedy: "set_cookie strip",
			after: "share cookies user\nset_cookie strip", shared: true,
		},
		"forward_auth with share cookies": {
			answer: func(_ http.ResponseWriter, r *http.Request) int {
				if r.URL.Path != "/auth" && r.Header.Get("Remote-User") == "" {
					return http.StatusUnauthorized
				}
				return http.StatusOK
			},
			before: "request_header Remote-User ann", options: "share cookies session", clients: 2,
			fields: func(int) []string { return []string{"Cookie: session=1"} },
			kind:   hints.Withheld, text: "withheld was {http.request.header.Remote-User}", remedy: "key_add {http.request.header.Remote-User}",
			after: "share cookies session\nkey_add {http.request.header.Remote-User}", shared: true,
		},
		"a key without the query": {
			answer: fine, options: "key {header.Authorization}", clients: 2,
			target: func(i int) string { return fmt.Sprint("/events?room=", i) },
			fields: func(int) []string { return []string{"Authorization: a"} },
			kind:   hints.Query, text: "not sent to the application (room)", remedy: "key {http.request.header.Authorization}{query}",
			after: "key {http.request.header.Authorization}{query}",
		},
		"a key without a query that does not matter": {
			answer: fine, options: "key {header.Authorization}", clients: 2,
			target: func(i int) string { return fmt.Sprint("/events?_=", i) },
			fields: func(int) []string { return []string{"Authorization: a"} },
			kind:   hints.Query, text: "not sent to the application (_)", remedy: "key_ignore query _",
			after: "key {header.Authorization}\nkey_ignore query _", shared: true,
		},
		"40 visitors with analytics cookies": {
			answer: fine, clients: 40, fields: func(i int) []string { return []string{fmt.Sprint("Cookie: _ga=", i, "; theme=dark")} },
			kind: hints.FewShare, text: "kept apart by cookie _ga; another value in each", remedy: "share public, if",
			after: "share public", shared: true,
		},
		"share public with many queries": {
			answer: fine, options: "share public", clients: 40, target: func(i int) string { return fmt.Sprint("/events?_=", i) },
			kind: hints.FewShare, text: "kept apart by query _;", remedy: "key_ignore query _, if", after: "share public\nkey_ignore query _", shared: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			address := answers(t, test.answer)
			l := logged{startGateway(t, ""), filepath.Join(t.TempDir(), "log")}
			ask := func() (clients []*testClient) {
				for i := range test.clients {
					target, fields := "/events", []string(nil)
					if test.target != nil {
						target = test.target(i)
					}
					if test.fields != nil {
						fields = test.fields(i)
					}
					c := l.subscribe(target, fields...)
					c.expect("1")
					clients = append(clients, c)
				}
				return clients
			}
			site := func(options string) string {
				return site(test.before + "\nsse {\njoin replay\nlinger 10s\n" + options + "\n}\nreverse_proxy " + address)
			}
			l.reloadWith("", site(test.options))
			first := ask()
			found := hints.Process.List()
			if len(found) != 1 || found[0].Kind != test.kind {
				t.Fatalf("hints %+v, expected one: %s", found, test.kind)
			}
			if h := found[0]; !strings.HasSuffix(h.Place, "/events") || !strings.Contains(h.Text, test.text) || !strings.Contains(h.Remedy, test.remedy) {
				t.Errorf("hint %+v", h)
			}
			l.expectLine("hint", test.remedy)
			for _, c := range first {
				c.close()
			}
			l.reloadWith("", site(test.after))
			ask()
			if found := hints.Process.List(); len(found) != 0 {
				t.Errorf("%+v is left when the remedy was followed", found)
			}
			streams := 0
			for _, s := range stream.Process.Samples(time.Now()) {
				if s.Subscribers > 0 {
					streams++
				}
			}
			if test.shared != (streams == 1) {
				t.Errorf("%d streams with clients", streams)
			}
		})
	}
}
