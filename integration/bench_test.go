package integration

import (
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// maxFirstToken is how much later the first token may come through the gateway (issue 5).
const maxFirstToken = 5 * time.Millisecond

// BenchmarkFirstToken asks a model for its first token, in turn directly and through the gateway.
func BenchmarkFirstToken(b *testing.B) {
	path := filepath.Join(b.TempDir(), "caddy") // not with the race detector
	if err := build("..", "./cmd/caddy", path); err != nil {
		b.Fatal(err)
	}
	model := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: token\n\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done() // there is more to come
	}))
	defer model.Close()
	address := model.Listener.Addr().String()
	g := startGatewayOf(b, path, "sse\nreverse_proxy "+address)

	var direct, through []time.Duration
	firstToken(b, g.url("/")) // it has started
	for b.Loop() {
		direct = append(direct, firstToken(b, model.URL))
		through = append(through, firstToken(b, g.url("/")))
	}
	more := median(through) - median(direct)
	b.ReportMetric(float64(median(direct).Microseconds()), "µs-direct")
	b.ReportMetric(float64(median(through).Microseconds()), "µs-through")
	if more > maxFirstToken {
		b.Errorf("the first token comes %v later, expected %v at most", more, maxFirstToken)
	}
}

// firstToken returns the time from the request to the first token. Each client comes with a new connection.
func firstToken(b *testing.B, url string) time.Duration {
	b.Helper()
	transport := newTransport()
	defer transport.CloseIdleConnections()
	begun := time.Now()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, url, strings.NewReader(`{"stream": true}`))
	if err != nil {
		b.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	token := make([]byte, len("data: token\n\n"))
	if _, err := io.ReadFull(resp.Body, token); err != nil {
		b.Fatal(err)
	}
	return time.Since(begun)
}

func median(all []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(all))[len(all)/2]
}
