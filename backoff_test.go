package caddysse

import (
	"math/rand/v2"
	"testing"
	"time"
)

// always is a random number that is always the same.
func always(x float64) func() float64 { return func() float64 { return x } }

func TestBackoffGrows(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, test := range []struct {
		name string
		base time.Duration
		want []time.Duration // the longest delays
	}{
		{"no retry", 0, []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second}},
		{"retry 100ms", 100 * time.Millisecond, []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond}},
		{"retry 20s", 20 * time.Second, []time.Duration{20 * time.Second, 30 * time.Second, 30 * time.Second}},
		{"retry 30s", 30 * time.Second, []time.Duration{30 * time.Second, 30 * time.Second}},
		{"huge retry", 1<<63 - 1, []time.Duration{30 * time.Second, 30 * time.Second, 30 * time.Second}},
		{"negative retry", -1, []time.Duration{time.Second, 2 * time.Second}},
	} {
		b := backoff{base: test.base}
		for i, want := range test.want {
			delay, again := b.next(now, time.Hour, 0, always(1))
			if delay != want || !again {
				t.Errorf("%s, attempt %d: %v, %v, expected %v", test.name, i+1, delay, again, want)
			}
		}
	}
}

// Many attempts neither overflow nor take time.
func TestBackoffManyAttempts(t *testing.T) {
	now := time.Unix(1e9, 0)
	b := backoff{base: 1}
	for range 100_000 {
		delay, again := b.next(now, time.Hour, 0, always(0.999))
		if delay < 0 || delay > maxReconnectDelay || !again {
			t.Fatalf("attempt %d: %v, %v", b.attempts, delay, again)
		}
	}
}

// The delay is anything between nothing and the limit: full jitter.
func TestBackoffJitter(t *testing.T) {
	now := time.Unix(1e9, 0)
	seed := rand.Uint64() //nolint:gosec // a test's chance
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // a test's chance
	const runs = 2000
	limit := time.Second
	for attempt := range 5 {
		var sum time.Duration
		low, high := limit, time.Duration(0)
		for range runs {
			b := backoff{attempts: attempt}
			delay, _ := b.next(now, time.Hour, 0, random.Float64)
			low, high, sum = min(low, delay), max(high, delay), sum+delay
		}
		mean := sum / runs
		if low < 0 || low > limit/20 || high > limit || high < limit-limit/20 ||
			mean < limit*2/5 || mean > limit*3/5 {
			t.Errorf("attempt %d: %v to %v, mean %v, expected 0 to %v", attempt+1, low, high, mean, limit)
		}
		limit *= 2
	}
}

func TestBackoffRetryAfter(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, test := range []struct{ asked, drawn, want time.Duration }{
		{0, 0, 0},
		{5 * time.Second, 0, 5 * time.Second},
		{5 * time.Second, time.Second, 5 * time.Second},
		{time.Second / 2, time.Second, time.Second},
		{time.Hour, 0, maxReconnectDelay},
	} {
		var b backoff
		delay, again := b.next(now, time.Hour, test.asked, always(test.drawn.Seconds()))
		if delay != test.want || !again {
			t.Errorf("%+v: %v, %v", test, delay, again)
		}
	}
}

func TestBackoffGivesUp(t *testing.T) {
	now := time.Unix(1e9, 0)
	var b backoff
	for _, test := range []struct {
		at    time.Duration
		again bool
	}{
		{0, true}, {30 * time.Second, true}, {time.Minute - 1, true}, {time.Minute, false}, {time.Hour, false},
	} {
		if _, again := b.next(now.Add(test.at), time.Minute, 0, always(0)); again != test.again {
			t.Errorf("after %v: %v", test.at, again)
		}
	}
	// However much the upstream asks for.
	if delay, again := b.next(now.Add(time.Hour), time.Minute, time.Second, always(1)); again || delay != 0 {
		t.Errorf("after an hour: %v, %v", delay, again)
	}
}

func TestBackoffReset(t *testing.T) {
	now := time.Unix(1e9, 0)
	b := backoff{base: 2 * time.Second}
	for range 5 {
		b.next(now, time.Minute, 0, always(1))
	}
	b.reset()
	delay, again := b.next(now.Add(time.Hour), time.Minute, 0, always(1))
	if delay != 2*time.Second || !again {
		t.Errorf("after an event: %v, %v, expected 2s: the upstream's retry stays, the attempts do not", delay, again)
	}
}
