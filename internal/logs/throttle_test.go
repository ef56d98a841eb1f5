package logs

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// written is a line of a throttle: which one, when, and how many it stands for.
type written struct {
	line       int
	at         time.Duration
	suppressed int
}

func TestThrottle(t *testing.T) {
	for _, test := range []struct {
		name string
		at   []time.Duration // when lines are to be written
		want []written
	}{
		{"seldom", []time.Duration{0, sec(1.1), sec(5)}, []written{{0, 0, 0}, {1, sec(1.1), 0}, {2, sec(5), 0}}},
		{"one too early", []time.Duration{0, sec(.3)}, []written{{0, 0, 0}, {1, sec(1), 0}}},
		{"many", []time.Duration{0, 0, sec(.1), sec(.5), sec(.9)}, []written{{0, 0, 0}, {4, sec(1), 3}}},
		{
			"on and on", []time.Duration{0, sec(.5), sec(1.2), sec(1.4), sec(3.5)},
			[]written{{0, 0, 0}, {1, sec(1), 0}, {3, sec(2), 1}, {4, sec(3.5), 0}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var lines Throttle
				var got []written
				began := time.Now()
				for i, at := range test.at {
					time.Sleep(at - time.Since(began))
					lines.Log(func(suppressed int) { got = append(got, written{i, time.Since(began), suppressed}) })
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if !slices.Equal(got, test.want) {
					t.Errorf("written %v, expected %v", got, test.want)
				}
			})
		})
	}
}

func sec(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }
