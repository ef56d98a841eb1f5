package integration

import (
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A gateway that may open 300 files lives when they are used up, says so, and serves
// again when there are some: streams that only linger take none from others.
func TestFilesRunShort(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = fmt.Fprint(w, "data: hello\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	defer app.CloseClientConnections()
	program := filepath.Join(t.TempDir(), "few-files")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nulimit -n 300\nexec "+plainPath+` "$@"`+"\n"), 0o700); err != nil { //nolint:gosec // G306: it is run
		t.Fatal(err)
	}
	g := startGatewayOf(t, program, "sse\nreverse_proxy "+app.Listener.Addr().String())
	g.expectHint("few_share", "each client asks for a stream of its own, by the query")
	// open asks for a stream, and returns the response if it is one that lasts.
	open := func(n int) *http.Response {
		req, err := http.NewRequest(http.MethodGet, g.url(fmt.Sprint("/events?", n)), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "text/event-stream")
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
		resp, err := client.Do(req)
		if err != nil {
			return nil // it was not accepted in time
		}
		if resp.StatusCode != http.StatusOK {
			t.Errorf("request %d: EventSource would give up: %d", n, resp.StatusCode)
		}
		if strings.HasPrefix(resp.Header.Get("SSE-Resume"), "refused") {
			_ = resp.Body.Close()
			return nil
		}
		var hello [len("data: hello")]byte
		_, _ = resp.Body.Read(hello[:])
		return resp
	}
	for n := range 400 { // each lingers
		if resp := open(n); resp == nil {
			t.Fatalf("client %d is not served: those before have left", n)
		} else {
			_ = resp.Body.Close()
		}
	}
	// As many as there are files for, and more.
	var stay []*http.Response
	for n := 1000; n < 1000+200; n++ {
		resp := open(n)
		if resp == nil {
			break
		}
		stay = append(stay, resp)
	}
	if len(stay) < 110 || len(stay) == 200 {
		t.Errorf("%d were served at once", len(stay))
	}
	if !strings.Contains(g.errorText(), "files are nearly used up") {
		t.Error("the log does not say that files are nearly used up")
	}
	for _, resp := range stay {
		_ = resp.Body.Close()
	}
	for deadline := time.Now().Add(testTimeout); ; time.Sleep(100 * time.Millisecond) {
		if resp := open(2000); resp != nil {
			_ = resp.Body.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody is served when all have left")
		}
	}
}

// When the disk for the logs is full the gateway lives, its clients have all, and standard error says so. With another place
// for them it writes them again.
func TestDiskForLogsIsFull(t *testing.T) {
	u := startPhoenix(t, 20*time.Millisecond, "-ids=all")
	between := startForwarder(t, u.address)
	directives := route("/events", "gap_event lost", "reverse_proxy "+between.listener.Addr().String())
	logs := func(file string) string {
		var globals strings.Builder
		for _, log := range []string{"default", "access {\ninclude http.log.access"} {
			name, include, _ := strings.Cut(log, " {")
			fmt.Fprintf(&globals, "log %s {%s\nlevel DEBUG\noutput file %s {\nroll_disabled\n}\n}\n", name, include, file)
		}
		return globals.String()
	}
	g := gatewaySetup{globals: logs("/dev/full"), directives: directives}.start(t)
	readers := startReaders(t, 20, false, g.url("/events"), "", "-count")
	for range 3 { // each is told in the log
		assertCount(t, readers, u.due()+1) // by the ID of which it can be asked to go on
		n := between.connections()
		between.cut()
		between.awaitConnections(t, n+1)
	}
	f := follow(t, "client that comes later", g.url("/events"), "")
	f.await(1)
	f.close() // which is an entry in the access log
	assertCount(t, readers, u.due())
	g.awaitLog("no space left on device", 2)

	dir := t.TempDir()
	g.setup.globals = logs(filepath.Join(dir, "log"))
	g.reload(directives)
	f = follow(t, "client of the new configuration", g.url("/events"), "")
	f.await(1)
	f.close()
	awaitThat(t, "the logs are written", func() bool {
		text, err := fs.ReadFile(os.DirFS(dir), "log")
		return err == nil && strings.Contains(string(text), "http.log.access") && strings.Contains(string(text), `"admin.api"`)
	})
	assertCount(t, readers, u.due())
}
