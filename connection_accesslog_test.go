package caddysse

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-sse/caddy-sse/internal/delivery"
)

// The access log has one entry for each response, and it tells the same
// whichever way a client is written to.
func TestAccessLogOfBothDeliveries(t *testing.T) {
	entries := make(map[string]map[string]any)
	for _, way := range []string{delivery.ByHandler, delivery.ByConnection} {
		dir := t.TempDir()
		u := startUpstream(t, nil)
		g := startGateway(t, site(`log {
			output file `+filepath.Join(dir, "log")+`
		}
		header Set-Cookie secret
		log_append text {http.request.uuid}
		log_append constant {http.sse.resume}
		log_append since {http.request.duration}
		log_append ms {http.request.duration_ms}
		log_append now {time.now}
		vars flag true
		log_append flag flag
		sse {
			join live
			ids upstream
			prime off
			delivery `+way+`
		}
		reverse_proxy `+u.address))
		c := g.subscribe("/path?x=1", "Cookie: secret", "Authorization: secret", "X-Other: seen")
		up := u.accept()
		up.event("1")
		c.expect("1")
		if way == delivery.ByConnection {
			eventually(t, "the connection is taken over", func() bool { return delivery.Live() == 1 })
		}
		up.event("2")
		c.expect("2")
		up.end()
		c.expectEnd()
		eventually(t, "there is an entry", func() bool {
			text, _ := fs.ReadFile(os.DirFS(dir), "log")
			return bytes.Contains(text, []byte("\n"))
		})
		assertHubEmpty(t)
		text, err := fs.ReadFile(os.DirFS(dir), "log")
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(text, []byte("\n")); n != 1 || bytes.Contains(text, []byte("secret")) {
			t.Errorf("%s: %d entries: %s", way, n, text)
		}
		entry := make(map[string]any)
		if err := json.Unmarshal(text[:bytes.IndexByte(text, '\n')], &entry); err != nil {
			t.Fatal(err)
		}
		entries[way] = entry
	}
	want, got := entries[delivery.ByHandler], entries[delivery.ByConnection]
	// What is different each time, or by design: of what is equally long, the
	// kind has to be the same.
	for _, name := range []string{"ts", "uuid", "duration", "text", "since", "ms", "now"} {
		if reflect.TypeOf(got[name]) != reflect.TypeOf(want[name]) || strings.HasPrefix(asText(got[name]), "<") {
			t.Errorf("%s: %v, by the handler %v", name, got[name], want[name])
		}
		delete(want, name)
		delete(got, name)
	}
	for _, entry := range entries {
		delete(entry["resp_headers"].(map[string]any), "Connection")
		delete(entry["resp_headers"].(map[string]any), "Date")
		delete(entry["sse"].(map[string]any), "stream") // each gateway has a key of its own
		if took, _ := entry["sse"].(map[string]any)["duration"].(float64); took <= 0 {
			t.Errorf("duration %v", entry["sse"])
		}
		delete(entry["sse"].(map[string]any), "duration")
		if first, _ := entry["sse"].(map[string]any)["first_event"].(float64); first <= 0 {
			t.Errorf("first_event %v", entry["sse"])
		}
		delete(entry["sse"].(map[string]any), "first_event")
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if !reflect.DeepEqual(want[name], got[name]) {
			t.Errorf("%s: %v, by the handler %v", name, got[name], want[name])
		}
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("also: %v", got)
	}
}

func asText(value any) string {
	text, _ := value.(string)
	return text
}
