package caddysse

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sse/caddy-sse/eventstream"
)

// eagerEvents are the events that a client shows which takes each blank line for
// the end of an event, if it has seen an ID, a type, data or a reconnection time:
// so httpx-sse does and what goes back to it, the SDK of OpenAI for Python among
// others. An ID is kept for the next events, all else is not.
func eagerEvents(stream string) (shown []string) {
	id, data, other := "", []string(nil), false
	for line := range strings.Lines(stream) {
		line = strings.TrimSuffix(line, "\n")
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			if id != "" || data != nil || other {
				shown = append(shown, strings.Join(data, "\n"))
			}
			data, other = nil, false
		case name == "id":
			id = value
		case name == "data":
			data = append(data, value)
		case name == "event", name == "retry":
			other = true
		}
	}
	return shown
}

// Clients that take each blank line for the end of an event see with empty_blocks
// off what the application sends, and nothing of the gateway's: no heartbeat,
// reconnection time, comment or prime.
func TestNoEmptyBlocks(t *testing.T) {
	steps := []step{
		{seconds(20), ":thump\n"}, // no blank line, as Mastodon does
		{seconds(21), "data: 1\n\n"},
		{seconds(40), ": with a blank line\n\n"},
		{seconds(41), ":thump\ndata: 2\n\n"},
		{seconds(42), "event: forgotten\n\n"}, // has to end here: data that follows is not of that type
		{seconds(60), "data: 3\n\n"},
	}
	const theApplicationsOwn = "" // the block that has only a type
	want := []string{"1", "2", theApplicationsOwn, "3"}
	for _, kind := range []struct {
		name, accept string
		detach       time.Duration
	}{{"shared", eventStreamType, 0}, {"private", "*/*", 0}, {"detached", "*/*", time.Second}} {
		for _, empty := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s %v", kind.name, empty), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := &Handler{
						EmptyBlocks: &empty,
						Detach:      caddy.Duration(kind.detach),
						Retry:       &Retry{Min: caddy.Duration(2 * time.Second)},
						MaxAge:      caddy.Duration(79 * time.Second),
					}
					var all strings.Builder
					for _, a := range serveInBubble(t, h, script(steps...)).listen(kind.accept, seconds(80)) {
						all.WriteString(a.text)
					}
					text := all.String()
					if shown := eagerEvents(text); slices.Equal(shown, want) == empty {
						t.Errorf("shown %q of\n%q", shown, text)
					}
					if !strings.Contains(text, "\n:\n") {
						t.Errorf("no heartbeat in\n%q", text)
					}
					// By the standard it is the same either way.
					reader := eventstream.NewReader(strings.NewReader(text))
					var got []string
					for m, err := range reader.Messages() {
						if err != nil {
							t.Fatal(err)
						}
						got = append(got, m.Type+" "+m.Data)
					}
					if retry, _ := reader.Retry(); !slices.Equal(got, []string{"message 1", "message 2", "message 3"}) || retry != 2*time.Second {
						t.Errorf("a client by the standard gets %q, reconnects after %v, of\n%q", got, retry, text)
					}
				})
			})
		}
	}
}
