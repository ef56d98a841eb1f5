package caddysse

import (
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// valuesOf tells of a histogram how many values there were and their sum.
func valuesOf(t *testing.T, before, now map[string]histogramValue, name string) histogramValue {
	t.Helper()
	return histogramValue{now[name].count - before[name].count, now[name].sum - before[name].sum}
}

type histogramValue struct {
	count uint64
	sum   float64
}

func answerFigures() map[string]histogramValue {
	figures := make(map[string]histogramValue)
	for name, h := range map[string]histogram{
		"head": {of: stream.Answers.Head}, "first": {of: stream.Answers.First}, "between": {of: stream.Answers.Between},
	} {
		count, sum, _ := h.of.Snapshot()
		figures[name] = histogramValue{count, sum}
	}
	return figures
}

// The times of an answer are those from its request, also where a head was sent early,
// and how it ended is counted once.
func TestAnswerFigures(t *testing.T) {
	for name, test := range map[string]struct {
		detach time.Duration
		early  time.Duration
	}{"private": {}, "detached": {detach: time.Minute}, "early": {early: time.Second}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				next := thinking(seconds(10), func(w http.ResponseWriter, _ *http.Request) error {
					w.Header().Set("Content-Type", "text/event-stream")
					w.WriteHeader(http.StatusOK)
					time.Sleep(seconds(5))
					_, _ = io.WriteString(w, "data: 1\n\n: a comment\n\n")
					time.Sleep(seconds(2))
					_, _ = io.WriteString(w, "data: 2\n\ndata: 3\n\n")
					return nil
				})
				before := answerFigures()
				ended := gather(t)
				s := serveInBubble(t, &Handler{Detach: caddy.Duration(test.detach), Early: caddy.Duration(test.early)}, next)
				s.post(chat, time.Minute, asks)
				synctest.Wait()
				now := answerFigures()
				for figure, want := range map[string]histogramValue{"head": {1, 10}, "first": {1, 15}, "between": {2, 2}} {
					if got := valuesOf(t, before, now, figure); got.count != want.count || got.sum < want.sum-.001 || got.sum > want.sum+.001 {
						t.Errorf("%s: %v, expected %v", figure, got, want)
					}
				}
				if n := gather(t).since(ended)["answers_ended_total result=clean"]; n != 1 {
					t.Errorf("ended %v times", n)
				}
			})
		})
	}
}
