package admin

import (
	"slices"
	"sync"
	"time"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// The last minute, so that graphs begin with it. It is glanced at whether somebody
// looks or not: a glance costs what there are of streams, not of clients.

const (
	// glanceInterval is how often the streams are glanced at.
	glanceInterval = 5 * time.Second

	// maxGlances is how many glances are kept: those of a minute, and the one before.
	maxGlances = int(time.Minute/glanceInterval) + 1

	// maxGlanced is of how many streams at most each is kept; of more, only the sums.
	maxGlanced = 2000
)

// Point is what there was between two glances.
type Point struct {
	Streams      int     `json:"streams"`
	Subscribers  int     `json:"subscribers"`
	ReceivedRate float64 `json:"received_rate"`
	SentRate     float64 `json:"sent_rate"`
}

// glances are what was seen at a moment.
type glances struct {
	at  time.Time
	sum stream.Glance
	n   int
	of  map[uint64]stream.Glance // by number of the stream; nil: there were too many
}

// history is the last glances at the streams of a hub.
type history struct {
	hub   *stream.Hub
	start sync.Once

	mu   sync.Mutex
	last []glances
}

// theHistory is that of the process.
var theHistory = &history{hub: stream.Process}

// run glances from now on, for the whole process.
func (h *history) run() {
	for range time.Tick(glanceInterval) {
		h.glance(time.Now())
	}
}

// begin starts the glancing, if it is not.
func (h *history) begin() { h.start.Do(func() { go h.run() }) }

// glance takes a look.
func (h *history) glance(now time.Time) {
	every := h.hub.Glances()
	g := glances{at: now, n: len(every)}
	if len(every) <= maxGlanced {
		g.of = make(map[uint64]stream.Glance, len(every))
	}
	for _, one := range every {
		g.sum.Subscribers += one.Subscribers
		g.sum.Received += one.Received
		g.sum.Sent += one.Sent
		if g.of != nil {
			g.of[one.Number] = one
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = append(h.last, g)
	if len(h.last) > maxGlances {
		h.last = h.last[len(h.last)-maxGlances:]
	}
}

// recall returns what is remembered now.
func (h *history) recall() *remembered {
	h.mu.Lock()
	defer h.mu.Unlock()
	return &remembered{slices.Clip(h.last)}
}

// remembered is a history at a moment. A nil one has no points.
type remembered struct{ last []glances }

// all returns the points of all streams together.
func (r *remembered) all() []Point {
	return r.points(func(before, g *glances) (p Point, begun bool) {
		p = Point{Streams: g.n, Subscribers: g.sum.Subscribers}
		p.ReceivedRate, p.SentRate = grown(before.sum, g.sum)
		if before.of == nil || g.of == nil {
			return p, true
		}
		// Sums fall when streams end: what each has had is counted.
		p.ReceivedRate, p.SentRate = 0, 0
		for number, now := range g.of {
			received, sent := grown(before.of[number], now)
			p.ReceivedRate += received
			p.SentRate += sent
		}
		return p, true
	})
}

// of returns the points of some streams together, from when there was one of them.
func (r *remembered) of(numbers []uint64) []Point {
	begun := false
	return r.points(func(before, g *glances) (p Point, ok bool) {
		for _, number := range numbers {
			now, there := g.of[number]
			if !there {
				continue
			}
			begun = true
			received, sent := grown(before.of[number], now)
			p.Streams++
			p.Subscribers += now.Subscribers
			p.ReceivedRate += received
			p.SentRate += sent
		}
		return p, begun
	})
}

// points returns what there was between each two glances, as rates a second.
func (r *remembered) points(between func(before, g *glances) (p Point, ok bool)) []Point {
	all := []Point{}
	if r == nil {
		return all
	}
	for i := 1; i < len(r.last); i++ {
		before, g := &r.last[i-1], &r.last[i]
		seconds := g.at.Sub(before.at).Seconds()
		p, ok := between(before, g)
		if !ok || seconds <= 0 {
			continue
		}
		p.ReceivedRate /= seconds
		p.SentRate /= seconds
		all = append(all, p)
	}
	return all
}

// grown is what came between two glances; of what fell, nothing.
func grown(before, now stream.Glance) (received, sent float64) {
	return float64(now.Received - min(before.Received, now.Received)), float64(now.Sent - min(before.Sent, now.Sent))
}
