package integration

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// modelToken returns the token in an event of the model's.
func modelToken(t *testing.T, data string) string {
	t.Helper()
	var chunk struct {
		Choices []struct {
			Delta struct{ Content string }
		}
	}
	if err := json.Unmarshal([]byte(data), &chunk); err != nil {
		t.Fatalf("%q: %v", data, err)
	}
	if len(chunk.Choices) == 0 {
		return ""
	}
	return chunk.Choices[0].Delta.Content
}

// isDone reports whether a client has had the whole answer of the model.
func isDone(rs []report) bool {
	messages := only(rs, "message")
	return len(messages) > 0 && messages[len(messages)-1].Data == "[DONE]"
}

// Issue 5, acceptance 3: a client whose connection is cut 5 times, if it has not had the whole answer before, gets each
// of 2,000 tokens once, of one request.
func TestDetachedAnswer(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"post-fetch-event-source", "post-fetch"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			model := startUpstream(t, "model", command(nodePath, "upstreams/model.mjs"))
			g := startGateway(t, unlogged+"sse {\nshare off\ndetach 1m\nbuffer 4096\nretry 50ms\n}\nreverse_proxy "+model.address)
			g.expectHint("detach", "all requests of the site are for answers of the model")
			through := startForwarder(t, g.address)
			c := startNode(t, "clients/"+name+".mjs", through.url("/v1/chat/completions"))
			for cut := range 5 {
				c.awaitEvent("message", 300*(cut+1))
				before := through.connections()
				through.cut()
				c.await("it has come back", func(rs []report) bool { return through.connections() > before || isDone(rs) })
			}
			all := c.await("the end", isDone)
			next := 0
			for _, message := range only(all, "message") {
				if message.Data == "[DONE]" {
					continue
				}
				token := modelToken(t, message.Data)
				if token == "" {
					continue // the reason to stop, and what it cost
				}
				if token != strconv.Itoa(next) {
					t.Fatalf("token %s, expected %d", token, next)
				}
				next++
			}
			if next != 2000 {
				t.Errorf("%d tokens", next)
			}
			if n := through.connections(); n < 3 {
				t.Errorf("%d connections: the client was not cut", n)
			}
			if n := len(model.all("open")); n != 1 {
				t.Errorf("the model was asked %d times", n)
			}
		})
	}
}

// Issue 5, acceptances 3 and 4: who is gone for good lets the model stop after the time of detach, and DELETE does at
// once. A stranger cannot.
func TestDetachedAnswerAbandoned(t *testing.T) {
	t.Parallel()
	const detach = 2 * time.Second
	model := startUpstream(t, "model", command(nodePath, "upstreams/model.mjs"))
	g := startGateway(t, unlogged+"sse {\nshare off\ndetach "+detach.String()+"\n}\nreverse_proxy "+model.address)
	g.expectHint("detach", "all requests of the site are for answers of the model")
	// ask begins an answer that has no end, leaves in the middle, and returns the last event ID, and since when it leaves.
	ask := func() (id string, left time.Time) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.url("/v1/chat/completions"), strings.NewReader(`{"model": "endless"}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer mine")
		resp, err := newTransport().RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		f := &follower{t: t, name: "client", resp: resp, leave: func() {}, done: make(chan struct{}), changed: make(chan struct{})}
		go func() {
			defer close(f.done)
			f.read("")
		}()
		if err := f.until("five chunks", func() bool { return len(f.events()) >= 5 }); err != nil {
			t.Fatal(err)
		}
		left = time.Now()
		f.close()
		return f.lastEventID(), left
	}

	_, left := ask()
	closed := time.Unix(0, model.awaitEvent("close", 1).At)
	if after := closed.Sub(left); after < detach {
		t.Errorf("the model was let go after %v, expected %v", after, detach)
	}

	id, _ := ask()
	cancel := func(credential string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, g.url("/v1/chat/completions"), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", credential)
		req.Header.Set("Last-Event-ID", id)
		resp, err := newTransport().RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	if status := cancel("Bearer another"); status != http.StatusNotFound {
		t.Errorf("a stranger's DELETE: status %d", status)
	}
	if status := cancel("Bearer mine"); status != http.StatusAccepted {
		t.Errorf("DELETE: status %d", status)
	}
	model.await("the answer is cancelled", func(rs []report) bool {
		for _, r := range only(rs, "close") {
			if r.Connection == 2 {
				return true
			}
		}
		return false
	})
	if n := len(model.all("open")); n != 2 {
		t.Errorf("the model was asked %d times, expected 2: a DELETE with an ID of the gateway never goes to it", n)
	}
}
