package integration

import (
	"strings"
	"testing"
)

// earlyModels are models that think before they answer, with what the result of an SDK contains: behind a proxy that
// cuts what is quiet for 5 s, with early 2s and without. The first ones do not think.
var earlyModels = map[string]struct {
	with    map[string]string // by SDK; "": any of them
	without map[string]string
}{
	"unauthorized": {
		map[string]string{"": `"status":401`, "openai": `"kind":"AuthenticationError"`, "anthropic": `"kind":"AuthenticationError"`, "ai": `"kind":"APICallError"`},
		map[string]string{"": `"status":401`},
	},
	"limited": {
		map[string]string{"": `"status":429`, "openai": `"retry_after":"7"`, "anthropic": `"kind":"RateLimitError"`, "ai": `"retry_after":"7"`},
		map[string]string{"": `"status":429`},
	},
	"text": {map[string]string{"": "Grüße aus 東京"}, map[string]string{"": "Grüße aus 東京"}},
	"4s unauthorized": {
		map[string]string{"": "who are you?", "openai": `"kind":"APIError"`, "anthropic": `"kind":"APIError"`}, nil,
	},
	"4s limited": {
		map[string]string{"": "later", "openai": `"retry-after":"7"`, "anthropic": `"retry-after":"7"`}, nil,
	},
	"4s whole": {map[string]string{"": "is no event stream"}, nil},
	"40s text": {
		map[string]string{"": "Grüße aus 東京"},
		map[string]string{"openai": `"status":504`, "anthropic": `"status":504`, "ai": `"status":504`},
	},
	"40s limited": {map[string]string{"": "later"}, map[string]string{"": `"status":504`}},
}

// Issue 20: a model that thinks for longer than a proxy on the way waits is no trouble for the SDKs; what it refuses late
// is an error of theirs, and neither a hang nor an empty answer.
func TestEarlyAnswers(t *testing.T) {
	t.Parallel()
	model := startUpstream(t, "model", command(nodePath, "upstreams/model.mjs"))
	args := make([]string, 0, len(earlyModels)+1)
	for name := range earlyModels {
		args = append(args, name)
	}
	clients := make(map[bool]*process)
	for _, early := range []bool{false, true} {
		options := ""
		if early {
			options = " {\nearly 2s\nheartbeat 2s\n}"
		}
		g := startGateway(t, unlogged+"sse"+options+"\nreverse_proxy "+model.address)
		front := startNginx(t, g.address, "proxy_read_timeout 5s;")
		clients[early] = startNode(t, "clients/early.mjs", append([]string{"http://" + front}, args...)...)
	}
	for early, client := range clients {
		client.awaitEvent("done", 1)
		for name, expected := range earlyModels {
			parts := expected.without
			if early {
				parts = expected.with
			}
			for _, sdk := range []string{"openai", "anthropic", "ai"} {
				got := client.awaitEvent(sdk+": "+name, 1).Data
				for _, part := range []string{parts[""], parts[sdk]} {
					if !strings.Contains(got, part) {
						t.Errorf("early %v, %s, %s: %s\nexpected %s", early, sdk, name, got, part)
					}
				}
			}
		}
	}
}
