package caddysse

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// accessEntries are the entries of an access log in a file.
func accessEntries(t *testing.T, path string) (entries []map[string]any) {
	t.Helper()
	text, err := os.ReadFile(path) //nolint:gosec // G304: the test's own
	if err != nil {
		return nil // there is none yet
	}
	for line := range bytes.Lines(text) {
		var entry map[string]any
		if err := json.Unmarshal(line, &entry); err != nil {
			return nil // is being written
		}
		entries = append(entries, entry)
	}
	return entries
}

// TestAccessLog compares the entry of a response whose connection was taken
// over with the one that Caddy writes of the same response.
func TestAccessLog(t *testing.T) {
	entries := make(map[string]map[string]any)
	for _, delivery := range []string{deliveryHandler, deliveryConnection} {
		path := filepath.Join(t.TempDir(), "access.log")
		u := startUpstream(t, nil)
		g := startGateway(t, site("log own {\noutput file "+path+"\n}\nlog_append tenant {http.request.header.X-Tenant}\nlog_append number 7\n"+
			"sse {\njoin live\ndelivery "+delivery+"\n}\nreverse_proxy "+u.address))
		first := g.subscribe("/path?q=1", "X-Tenant: a", "Authorization: Bearer secret")
		up := u.accept()
		up.numbered("1")
		first.expect("1")
		late := g.subscribe("/path?q=1", "X-Tenant: a", "Authorization: Bearer secret", "Last-Event-ID: 1")
		up.numbered("2", "3")
		late.expect("2", "3")
		first.expect("2", "3")
		first.close()
		eventually(t, "the entry of who left first", func() bool { return len(accessEntries(t, path)) == 1 })
		up.numbered("4")
		up.end()
		late.expect("4")
		late.expectEnd()
		eventually(t, "the other entry", func() bool { return len(accessEntries(t, path)) == 2 })
		g.load(site("respond 204")) // after which nothing more is written
		all := accessEntries(t, path)
		if len(all) != 2 {
			t.Fatalf("%d entries: %v", len(all), all)
		}
		for i, want := range []map[string]any{
			{"resume": "live", "events": 3.0, "end_reason": "client"},
			{"resume": "replayed; events=0", "events": 3.0, "end_reason": "upstream"},
		} {
			sse := all[i]["sse"].(map[string]any)
			if stream := sse["stream"].(string); len(stream) != 16 {
				t.Errorf("stream %q", stream)
			}
			delete(sse, "stream")
			if !maps.Equal(sse, want) {
				t.Errorf("%s: %v, expected %v", delivery, sse, want)
			}
		}
		entries[delivery] = all[1]
	}
	connection, handler := entries[deliveryConnection], entries[deliveryHandler]
	if got, want := slices.Sorted(maps.Keys(connection)), slices.Sorted(maps.Keys(handler)); !slices.Equal(got, want) {
		t.Errorf("fields %v, expected %v", got, want)
	}
	for _, field := range []string{"level", "logger", "msg", "status", "size", "bytes_read", "user_id", "tenant", "number"} {
		if connection[field] != handler[field] {
			t.Errorf("%s: %v, expected %v", field, connection[field], handler[field])
		}
	}
	if connection["tenant"] != "a" || connection["number"] != "7" {
		t.Errorf("what log_append added: %v, %v", connection["tenant"], connection["number"])
	}
	got, want := connection["request"].(map[string]any), handler["request"].(map[string]any)
	if !slices.Equal(slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want))) {
		t.Errorf("request fields %v, expected %v", got, want)
	}
	for _, field := range []string{"proto", "method", "host", "uri", "remote_ip", "client_ip"} {
		if got[field] != want[field] {
			t.Errorf("request: %s: %v, expected %v", field, got[field], want[field])
		}
	}
	headers, expected := got["headers"].(map[string]any), want["headers"].(map[string]any)
	for name := range expected {
		if a, _ := json.Marshal(headers[name]); name != "Last-Event-ID" {
			if b, _ := json.Marshal(expected[name]); !bytes.Equal(a, b) {
				t.Errorf("request header %s: %s, expected %s", name, a, b)
			}
		}
	}
}

func TestAccessLogOfPrivateStreams(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	u := startUpstream(t, nil)
	g := startGateway(t, site("log own {\noutput file "+path+"\n}\nsse {\nshare off\n}\nreverse_proxy "+u.address))
	for i, test := range []struct {
		do  func(c *testClient, up *upstreamClient)
		end string
	}{
		{func(_ *testClient, up *upstreamClient) { up.end() }, "upstream"},
		{func(c *testClient, _ *upstreamClient) { c.close() }, "client"},
		{func(_ *testClient, up *upstreamClient) { up.breakOff() }, "broken"},
	} {
		c := g.subscribe("/")
		up := u.accept()
		up.numbered("1", "2")
		c.expect("1", "2")
		test.do(c, up)
		eventually(t, "the entry", func() bool { return len(accessEntries(t, path)) == i+1 })
		want := map[string]any{"resume": "private", "events": 2.0, "end_reason": test.end}
		if sse, _ := accessEntries(t, path)[i]["sse"].(map[string]any); !maps.Equal(sse, want) {
			t.Errorf("%v, expected %v", sse, want)
		}
	}
}
