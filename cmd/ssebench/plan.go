package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// step is a part of a run: so many events per second for so long.
type step struct {
	rate     float64
	duration time.Duration
}

// events returns how many events the step has.
func (s step) events() int { return max(int(s.rate*s.duration.Seconds()+0.5), 1) }

// plan is the steps of a run, in the form 10:5,50:3 (10 events/s for 5 s, then 50 for 3 s).
type plan []step

const maxSteps = 200 // two hexadecimal digits in an event

var errPlan = errors.New("steps are rate:seconds, separated by commas")

func parsePlan(s string) (plan, error) {
	var p plan
	for part := range strings.SplitSeq(s, ",") {
		rate, seconds, ok := strings.Cut(part, ":")
		r, err1 := strconv.ParseFloat(rate, 64)
		d, err2 := strconv.ParseFloat(seconds, 64)
		if !ok || err1 != nil || err2 != nil || !(r > 0 && r <= 1e6) || !(d > 0 && d <= 86400) || len(p) == maxSteps {
			return nil, fmt.Errorf("%q: %w", s, errPlan)
		}
		p = append(p, step{r, time.Duration(d * float64(time.Second))})
	}
	return p, nil
}

func (p plan) String() string {
	parts := make([]string, len(p))
	for i, s := range p {
		parts[i] = strconv.FormatFloat(s.rate, 'g', -1, 64) + ":" + strconv.FormatFloat(s.duration.Seconds(), 'g', -1, 64)
	}
	return strings.Join(parts, ",")
}

func (p plan) duration() (d time.Duration) {
	for _, s := range p {
		d += s.duration
	}
	return d
}

// schedule walks through a plan: it says which event is due when, counted from the start.
type schedule struct {
	plan  plan
	step  int
	n     int           // events of the step so far
	begun time.Duration // when the step began
}

// next returns when the next event is due and its step; false after the last one.
func (s *schedule) next() (at time.Duration, step int, ok bool) {
	for s.step < len(s.plan) {
		p := s.plan[s.step]
		if s.n < p.events() {
			at = s.begun + time.Duration(float64(s.n)/p.rate*float64(time.Second))
			s.n++
			return at, s.step, true
		}
		s.begun += p.duration
		s.step++
		s.n = 0
	}
	return s.begun, 0, false
}
