package integration

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// modelResults are what clients of language models tell, with something that has to be in each: equal results could
// be equally empty.
var modelResults = map[string]string{
	"text":         "no comment",
	"tool":         "weather",
	"unended":      "no comment",
	"overloaded":   "too much",
	"broken":       `"failure":{`,
	"unauthorized": "401",
	"limited":      `"retry_after":"7"`,
	"failing":      "500",
	"whole":        "Grüße aus 東京 👩‍💻!",
	"large":        " bytes, ",
}

// Issue 5: through the gateway, the SDKs of language models yield what they yield without it.
func TestModelClients(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"openai", "anthropic", "ai"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			model := startUpstream(t, "model", command(nodePath, "upstreams/model.mjs"))
			// There are heartbeats in between, which they do not see.
			g := startGateway(t, unlogged+"sse {\nheartbeat 5ms\n}\nreverse_proxy "+model.address)
			script := "clients/" + name + ".mjs"
			direct := startNode(t, script, "http://"+model.address)
			leaveModel(t, direct, model, 1)
			through := startNode(t, script, g.url(""))
			leaveModel(t, through, model, 2)
			for result, part := range modelResults {
				want, got := direct.awaitEvent(result, 1).Data, through.awaitEvent(result, 1).Data
				if !strings.Contains(want, part) {
					t.Errorf("%s: %s\nwithout the gateway, expected it to contain %s", result, want, part)
				}
				if got != want {
					t.Errorf("%s: %s\nwithout the gateway: %s", result, got, want)
				}
			}
		})
	}
}

// leaveModel lets the nth client leave, twice, and waits until the model has noticed.
func leaveModel(t *testing.T, c *process, model *upstream, n int) {
	t.Helper()
	c.awaitEvent("five chunks", 1)
	endless := 0 // connections are numbered from 1
	for _, r := range model.await("the endless answer", func(all []report) bool { return len(only(all, "endless")) == n }) {
		if r.Event == "open" {
			endless = r.Connection
		}
	}
	c.tell("leave")
	assertNoticed(t, model, endless, c.awaitEvent("left endless", 1))

	thinking := model.awaitEvent("open", endless+1).Connection
	c.tell("leave")
	assertNoticed(t, model, thinking, c.awaitEvent("left thinking", 1))
	c.awaitEvent("done", 1)
}

// assertNoticed checks that an upstream sees its connection closed when the client has left.
func assertNoticed(t *testing.T, u *upstream, connection int, left report) {
	t.Helper()
	var closed report
	u.await("the connection closed", func(all []report) bool {
		for _, closed = range only(all, "close") {
			if closed.Connection == connection {
				return true
			}
		}
		return false
	})
	if closed.Finished {
		t.Errorf("%s: the response to %s was finished", left.Event, closed.Path)
	}
	after := time.Duration(closed.At - left.At)
	if after > 5*time.Second {
		t.Errorf("%s: noticed after %v", left.Event, after)
	}
	t.Logf("%s: noticed after %v", left.Event, after)
}

// A large request body is not held back: the upstream has its beginning before the client has sent its end.
func TestLargeRequestIsStreamed(t *testing.T) {
	t.Parallel()
	const size = 20 << 20
	model := startUpstream(t, "model", command(nodePath, "upstreams/model.mjs"))
	g := startGateway(t, unlogged+"sse\nreverse_proxy "+model.address)
	body := `{"model": "large", "prompt": "` + strings.Repeat("prompt ", size/7) + `"}`
	sum := sha256.Sum256([]byte(body))
	for _, length := range []int64{-1, int64(len(body))} {
		before := len(model.all("body begins"))
		reader, writer := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.url("/v1/messages"), reader)
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = length
		answers := make(chan string, 1)
		go func() { answers <- answer(req) }()
		_, _ = io.WriteString(writer, body[:size/2])
		model.awaitEvent("body begins", before+1)
		_, _ = io.WriteString(writer, body[size/2:])
		writer.Close()
		if got := <-answers; !strings.Contains(got, hex.EncodeToString(sum[:])) {
			t.Errorf("content length %d: %s", length, got)
		}
	}
}

// An event stream passes as it is, also where its last event has no blank line.
func TestModelBytes(t *testing.T) {
	t.Parallel()
	model := startUpstream(t, "model", command(nodePath, "upstreams/model.mjs"))
	g := startGateway(t, unlogged+"sse\nreverse_proxy "+model.address)
	for _, name := range []string{"text", "tool", "unended", "overloaded"} {
		for _, path := range []string{"/v1/chat/completions", "/v1/messages"} {
			ask := func(url string) string {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+path, strings.NewReader(`{"model": "`+name+`"}`))
				if err != nil {
					t.Fatal(err)
				}
				return answer(req)
			}
			if got, want := ask(g.url("")), ask("http://"+model.address); got != want || !strings.Contains(want, "\ndata: ") {
				t.Errorf("%s %s: %q\nwithout the gateway: %q", name, path, got, want)
			}
		}
	}
}

// answer returns the body of a response, or what went wrong.
func answer(req *http.Request) string {
	resp, err := newTransport().RoundTrip(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}
