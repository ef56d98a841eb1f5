package main

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// The exit codes are those of Caddy's command.
func TestExitCodesAreThoseOfTheCommand(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = w.Write([]byte("data: x\n\n"))
	}))
	defer server.Close()
	for _, test := range []struct {
		want int
		args []string
	}{
		{0, []string{server.URL}},
		{1, []string{server.URL + "/none"}},
		{2, []string{server.URL, "--timeout", "x"}},
		{2, nil},
	} {
		if got := run(test.args); got != test.want {
			t.Errorf("%q: exit code %d, expected %d", test.args, got, test.want)
		}
	}
}
