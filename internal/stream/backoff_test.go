package stream

import (
	"math/rand/v2"
	"testing"
	"time"
)

// always is a random number that is always the same.
func always(x float64) func() float64 { return func() float64 { return x } }

// The delays grow, and none is below the upstream's reconnection time, nor below
// what the gateway allows itself.
func TestBackoffGrows(t *testing.T) {
	const ms, second = time.Millisecond, time.Second
	now := time.Unix(1e9, 0)
	for _, test := range []struct {
		name  string
		base  time.Duration
		least time.Duration
		want  []time.Duration // the longest delays
	}{
		{"no retry", 0, 250 * ms, []time.Duration{second, 2 * second, 4 * second, 8 * second, 16 * second, 30 * second, 30 * second}},
		{"retry 1ms", ms, 250 * ms, []time.Duration{500 * ms, second, 2 * second}},
		{"retry 100ms", 100 * ms, 250 * ms, []time.Duration{500 * ms, second, 2 * second}},
		{"retry 3s", 3 * second, 3 * second, []time.Duration{6 * second, 12 * second, 24 * second, 30 * second, 30 * second}},
		{"retry 20s", 20 * second, 20 * second, []time.Duration{30 * second, 30 * second}},
		{"retry 30s", 30 * second, 30 * second, []time.Duration{30 * second, 30 * second}},
		{"retry 5m", 300 * second, 300 * second, []time.Duration{300 * second, 300 * second}},
		{"huge retry", 1<<63 - 1, 24 * time.Hour, []time.Duration{24 * time.Hour, 24 * time.Hour}},
		{"negative retry", -1, 250 * ms, []time.Duration{second, 2 * second}},
	} {
		longest, shortest := backoff{base: test.base}, backoff{base: test.base}
		for i, want := range test.want {
			delay, again := longest.next(now, time.Hour, 0, always(1))
			if delay != want || !again {
				t.Errorf("%s, attempt %d: %v, %v, expected %v", test.name, i+1, delay, again, want)
			}
			if delay, _ := shortest.next(now, time.Hour, 0, always(0)); delay != test.least {
				t.Errorf("%s, attempt %d: %v, expected %v at least", test.name, i+1, delay, test.least)
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
		if delay < minReconnectDelay || delay > maxReconnectDelay || !again {
			t.Fatalf("attempt %d: %v, %v", b.attempts, delay, again)
		}
	}
}

// The delay is anything between the least one and the limit.
func TestBackoffJitter(t *testing.T) {
	now := time.Unix(1e9, 0)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
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
		mean, span := sum/runs-minReconnectDelay, limit-minReconnectDelay
		if low < minReconnectDelay || low > minReconnectDelay+span/20 || high > limit || high < limit-span/20 ||
			mean < span*2/5 || mean > span*3/5 {
			t.Errorf("attempt %d: %v to %v, mean %v, expected %v to %v", attempt+1, low, high, sum/runs, minReconnectDelay, limit)
		}
		limit *= 2
	}
}

func TestBackoffRetryAfter(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, test := range []struct {
		asked time.Duration
		drawn float64
		want  time.Duration
	}{
		{0, 0, minReconnectDelay},
		{time.Millisecond, 0, minReconnectDelay},
		{5 * time.Second, 0, 5 * time.Second},
		{5 * time.Second, 1, 5 * time.Second},
		{time.Second / 2, 1, time.Second},
		{time.Hour, 0, maxReconnectDelay},
	} {
		var b backoff
		delay, again := b.next(now, time.Hour, test.asked, always(test.drawn))
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
	delay, again := b.next(now.Add(time.Hour), time.Minute, 0, always(0))
	if delay != 2*time.Second || !again {
		t.Errorf("after an event: %v, %v, expected 2s: the upstream's retry stays, the attempts do not", delay, again)
	}
}

// Answers alone do not end the time that counts against give_up; a block does.
// The time of a connection does not count.
func TestBackoffCountsTimeAway(t *testing.T) {
	now := time.Unix(1e9, 0)
	fails := func(b *backoff) bool {
		_, again := b.next(now, time.Minute, 0, always(0))
		return !again
	}
	var b backoff
	for range 3 {
		if fails(&b) {
			t.Fatal("given up too early")
		}
		now = now.Add(20 * time.Second)
		b.reached(now)
		now = now.Add(time.Hour)
	}
	if !fails(&b) {
		t.Error("not given up after three times 20 s")
	}
	b.reached(now)
	b.heard()
	if fails(&b) {
		t.Error("given up though a block came")
	}
	now = now.Add(15 * time.Second)
	if left := b.left(now, time.Minute); left != 45*time.Second {
		t.Errorf("%v left, expected 45 s", left)
	}
}

// The attempts are forgotten after a connection that outlived the delay before it.
func TestBackoffForgets(t *testing.T) {
	now := time.Unix(1e9, 0)
	var b backoff
	for range 4 {
		b.next(now, time.Hour, 0, always(1))
	}
	b.lasted(7 * time.Second) // of 8 s
	if delay, _ := b.next(now, time.Hour, 0, always(1)); delay != 16*time.Second {
		t.Errorf("%v after a short connection, expected 16 s", delay)
	}
	b.lasted(17 * time.Second)
	if delay, _ := b.next(now, time.Hour, 0, always(1)); delay != time.Second {
		t.Errorf("%v after a long connection, expected 1 s", delay)
	}
}
