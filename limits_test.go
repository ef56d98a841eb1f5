package caddysse

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// The table of bounds says what the code does.
func TestLimitsAreThoseOfTheCode(t *testing.T) {
	text, err := os.ReadFile("docs/reference/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	o := new(Handler).streamOptions()
	mib := func(n int) string { return fmt.Sprint(n>>20, " MiB") }
	for row, value := range map[string]string{
		"joining connections of a stream": fmt.Sprint(o.SpliceLimit),
		"replay buffers, and what decoders hold: events that have not come to their end, windows of content codings": mib(stream.DefaultMemory) + ", at most half of `GOMEMLIMIT`",
		"one event":                      mib(o.MaxEventSize) + "; " + mib(stream.DefaultMaxPrivateEvent) + " in a private stream",
		"one event of the application":   mib(o.MaxEventSize) + "; " + mib(stream.DefaultMaxPrivateEvent) + " in a private stream",
		"a client that reads nothing":    fmt.Sprint(defaultWriteTimeout.Seconds(), " s"),
		"a stream without clients":       fmt.Sprint(o.Linger.Seconds(), " s"),
		"the window of a content coding": "32 KiB for gzip and deflate, " + mib(maxZstdWindow) + " for zstd",
		"a replay to one client at once": fmt.Sprint(stream.MaxWrite>>10, " KiB in a write"),
		"streams":                        "none: as many as there are clients, and those that linger",
		"event streams of one client, those that wait included": "none",
	} {
		found := regexp.MustCompile(`(?m)^\| ` + regexp.QuoteMeta(row) + ` \|.*$`).FindString(string(text))
		if !strings.Contains(found, "| "+value+" |") {
			t.Errorf("%q: expected %q in %q", row, value, found)
		}
	}
}
