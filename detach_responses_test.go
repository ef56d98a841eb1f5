package caddysse

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-sse/caddy-sse/eventstream"
	"github.com/caddy-sse/caddy-sse/internal/replay"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// A client that is cut 50 times, and asks for the rest as the Responses API has it,
// gets each event once, though the provider knows nothing of that, and is asked once.
func TestDetachedResponses(t *testing.T) {
	wire := responsesAnswer(2000, false)
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("detach 1m\nbuffer 5000", u))
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	resp := g.ask(http.MethodPost, "/v1/responses", asks, "Authorization: Bearer me")
	up := u.accept()
	up.write(strings.Join(wire[:1000], ""))
	var got []string
	for cuts := 0; ; cuts++ {
		if cuts == 25 {
			up.write(strings.Join(wire[1000:], ""))
			up.end()
		}
		limit := len(wire)
		if cuts < 50 {
			limit = min(900+(cuts/25)*1000, len(got)+1+random.IntN(30))
		}
		lines := bufio.NewScanner(resp.Body)
		for len(got) < limit && lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				got = append(got, data)
			}
		}
		resp.Body.Close()
		if cuts == 50 {
			break
		}
		resp = g.ask(http.MethodGet, fmt.Sprintf("/v1/responses/resp_68a1?stream=true&starting_after=%d", len(got)-1), "", "Authorization: Bearer me")
		if outcome := resp.Header.Get("SSE-Resume"); !strings.HasPrefix(outcome, "replayed; events=") {
			t.Fatalf("after %d events: SSE-Resume %q", len(got), outcome)
		}
	}
	if want := strings.Join(datas(strings.Join(wire, "")), ""); "data: "+strings.Join(got, "\ndata: ")+"\n" != want {
		t.Errorf("%d events, expected %d", len(got), len(wire))
	}
	u.expectOne()
}

// An answer is found by its ID only by who may have it; all else goes to the
// application.
func TestDetachedResponsesOfOthers(t *testing.T) {
	const target = "/v1/responses/resp_68a1?stream=true&starting_after=1"
	wire := strings.Join(responsesAnswer(5, false), "")
	for name, test := range map[string]struct {
		method, target, fields string
		served                 bool
	}{
		"the client's own":       {"GET", target, "Authorization: Bearer me", true},
		"from the beginning":     {"GET", "/v1/responses/resp_68a1?stream=true", "Authorization: Bearer me", true},
		"a stranger":             {"GET", target, "Authorization: Bearer you", false},
		"nobody":                 {"GET", target, "X: y", false},
		"another host":           {"GET", target, "Authorization: Bearer me\nHost: other.test", false},
		"another answer":         {"GET", strings.ReplaceAll(target, "68a1", "68a2"), "Authorization: Bearer me", false},
		"another path":           {"GET", "/v2" + target, "Authorization: Bearer me", false},
		"another query":          {"GET", target + "&a=b", "Authorization: Bearer me", false},
		"no event stream":        {"GET", "/v1/responses/resp_68a1", "Authorization: Bearer me", false},
		"what is yet to come":    {"GET", strings.ReplaceAll(target, "after=1", "after=100"), "Authorization: Bearer me", false},
		"not a number":           {"GET", strings.ReplaceAll(target, "after=1", "after=-1"), "Authorization: Bearer me", false},
		"another method":         {"POST", target, "Authorization: Bearer me", false},
		"an answer to a stream":  {"GET", "/v1/responses/resp_68a1/input_items?stream=true", "Authorization: Bearer me", false},
		"DELETE is its provider": {"DELETE", target, "Authorization: Bearer me", false},
	} {
		t.Run(name, func(t *testing.T) {
			u := startUpstream(t, nil)
			g := startGateway(t, proxied("detach 1m", u))
			first := g.prompt(http.MethodPost, "/v1/responses", "Authorization: Bearer me")
			up := u.accept()
			up.write(wire)
			up.end()
			for range 8 {
				first.next()
			}
			first.expectEnd()
			go func() {
				if !test.served {
					u.accept().end()
				}
			}()
			resp := g.ask(test.method, test.target, "", strings.Split(test.fields, "\n")...)
			resp.Body.Close()
			if _, all := u.counts(); (all == 1) != test.served {
				t.Errorf("the application was asked %d times, SSE-Resume %q", all, resp.Header.Get("SSE-Resume"))
			}
		})
	}
}

// Of events that are not kept any more nothing is served: what comes after them is not
// whole.
func TestDetachedResponsesEvicted(t *testing.T) {
	wire := responsesAnswer(100, false)
	var l stream.ResponsesLog
	buffer := &replay.Buffer{}
	for i, event := range wire {
		var d eventstream.Decoder
		if err := d.Write([]byte(event), func(b eventstream.Block) error {
			buffer.Newest = uint64(2*i + 1) // with a comment before each
			buffer.Lost = uint64(max(0, i-20))
			l.Add(b, buffer)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for number := range int64(110) {
		position, ok := l.After("resp_68a1", number, buffer)
		want := uint64(2*number + 1)
		if expected := want >= buffer.Lost && number < int64(len(wire)); ok != expected || (ok && position != want) {
			t.Errorf("after %d: %d, %v, expected %d, %v", number, position, ok, want, expected)
		}
	}
	if _, ok := l.After("resp_68a1", -1, buffer); ok {
		t.Error("the beginning is not kept")
	}
	if _, ok := l.After("resp_other", 90, buffer); ok {
		t.Error("another answer")
	}
	if len(l.Entries) > 2*len(wire) {
		t.Errorf("%d entries", len(l.Entries))
	}
}
