package caddysse

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-sse/caddy-sse/internal/stream"
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

// TestAccessLogTellsOfStreams checks what an entry tells of a stream.
func TestAccessLogTellsOfStreams(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	u := startUpstream(t, nil)
	g := startGateway(t, site("log own {\noutput file "+path+"\n}\nsse {\njoin live\n}\nreverse_proxy "+u.address))
	first := g.subscribe("/")
	up := u.accept()
	up.numbered("1")
	first.expect("1")
	late := g.subscribe("/", "Last-Event-ID: 1")
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
		if first, _ := sse["first_event"].(float64); first <= 0 || first > sse["duration"].(float64) {
			t.Errorf("first_event %v of %v", sse["first_event"], sse["duration"])
		}
		delete(sse, "first_event")
		delete(sse, "stream")
		delete(sse, "duration")
		if !maps.Equal(sse, want) {
			t.Errorf("%v, expected %v", sse, want)
		}
	}
}

// Also those with which a request is answered that could have shared one.
func TestAccessLogOfPrivateStreams(t *testing.T) {
	for name, options := range map[string]string{"share_off": "share off", "set_cookie": ""} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "access.log")
			u := startUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", eventStreamType)
				w.Header().Set("Set-Cookie", "a=b")
			})
			g := startGateway(t, site("log own {\noutput file "+path+"\n}\nsse {\n"+options+"\n}\nreverse_proxy "+u.address))
			for i, test := range []struct {
				do  func(c *testClient, up *upstreamClient)
				end string
			}{
				{func(_ *testClient, up *upstreamClient) { up.end() }, "upstream"},
				{func(c *testClient, _ *upstreamClient) { c.close() }, "client"},
				{func(_ *testClient, up *upstreamClient) { up.breakOff() }, "broken"},
			} {
				c := g.subscribe("/" + test.end) // whose key is not known to be unshareable
				up := u.accept()
				up.numbered("1", "2")
				c.expect("1", "2")
				test.do(c, up)
				eventually(t, "the entry", func() bool { return len(accessEntries(t, path)) == i+1 })
				want := map[string]any{"resume": "private", "events": 2.0, "end_reason": test.end, "private": name}
				sse, _ := accessEntries(t, path)[i]["sse"].(map[string]any)
				if id, _ := sse["stream"].(string); !strings.HasPrefix(id, stream.KindPrivate+"-") {
					t.Errorf("stream %q", id)
				}
				if took, _ := sse["duration"].(float64); took <= 0 {
					t.Errorf("duration %v", sse["duration"])
				}
				if first, _ := sse["first_event"].(float64); first <= 0 {
					t.Errorf("first_event %v", sse["first_event"])
				}
				delete(sse, "first_event")
				delete(sse, "stream") // another one each time
				delete(sse, "duration")
				if !maps.Equal(sse, want) {
					t.Errorf("%v, expected %v", sse, want)
				}
			}
		})
	}
}

// blockingCore is a log that cannot be written to until it is released.
type blockingCore struct {
	zapcore.Core
	entered  chan struct{}
	released chan struct{}
}

func (blockingCore) Enabled(zapcore.Level) bool { return true }

func (c blockingCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return ce.AddCore(e, c)
}

func (c blockingCore) Write(zapcore.Entry, []zapcore.Field) error {
	close(c.entered)
	<-c.released
	return nil
}

// When the process exits it waits for what is logged of the responses that end
// with it: for a connection until its record is done.
func TestExitWaitsForAccessLog(t *testing.T) {
	core := blockingCore{zapcore.NewNopCore(), make(chan struct{}), make(chan struct{})}
	record := &accessRecord{loggers: []*zap.Logger{zap.New(core)}, complete: true}
	done := make(chan struct{})
	record.Ended(new(stream.Subscriber), stream.EndStopping, 0, func() { close(done) })
	<-core.entered
	if !open(done) {
		t.Error("the record is done before the access-log entry was written")
	}
	close(core.released)
	eventually(t, "the record is done", func() bool { return !open(done) })
}

// The access-log entry of a client that left before there was an answer says so.
func TestAccessLogOfWhoLeftEarly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	u := startUpstream(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	g := startGateway(t, site("log own {\noutput file "+path+"\n}\nsse {\nlinger 0s\n}\nreverse_proxy "+u.address))
	ctx, leave := context.WithCancel(t.Context())
	r := g.request(http.MethodGet, "/").WithContext(ctx)
	r.Header.Set("Accept", "text/event-stream")
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := g.client.Do(r); err == nil {
			_ = resp.Body.Close()
		}
	}()
	eventually(t, "the upstream is asked", func() bool { _, all := u.counts(); return all == 1 })
	leave()
	<-done
	eventually(t, "there is an entry", func() bool { return len(accessEntries(t, path)) == 1 })
	if sse, _ := accessEntries(t, path)[0]["sse"].(map[string]any); sse["end_reason"] != "client" || sse["events"] != 0.0 {
		t.Errorf("%v", sse)
	}
}
