package main

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTrack(t *testing.T) {
	var tr track
	for _, step := range []struct {
		seq  uint32
		want verdict
	}{
		{1, inOrder}, {2, inOrder}, {2, duplicate}, {1, duplicate},
		{10, afterGap}, {5, late}, {5, duplicate}, {3, late}, {9, late}, {4, late}, {10, duplicate},
		{11, inOrder},
	} {
		if got := tr.arrive(step.seq); got != step.want {
			t.Fatalf("event %d: verdict %d, want %d", step.seq, got, step.want)
		}
	}
	if got := tr.missing(12); got != 4 { // 6, 7, 8 and 12
		t.Errorf("%d missing, want 4", got)
	}
}

// TestTrackModel compares with a set, on random arrivals.
func TestTrackModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		var tr track
		came := map[uint32]bool{}
		newest := uint32(0)
		for range 100 {
			seq := uint32(rnd.IntN(60)) + 1
			want := afterGap
			switch {
			case came[seq]:
				want = duplicate
			case seq < newest:
				want = late
			case seq == newest+1:
				want = inOrder
			}
			if got := tr.arrive(seq); got != want {
				t.Fatalf("event %d after %d: verdict %d, want %d", seq, newest, got, want)
			}
			came[seq] = true
			newest = max(newest, seq)
		}
		if got := tr.missing(60); got != int64(60-len(came)) {
			t.Fatalf("%d missing, want %d", got, 60-len(came))
		}
	}
}

// TestHist compares quantiles with those of a sorted list.
func TestHist(t *testing.T) {
	var h hist
	var all []time.Duration
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		d := time.Duration(rnd.Int64N(1 << rnd.IntN(40)))
		all = append(all, d)
		h.add(d)
	}
	slices.Sort(all)
	for _, q := range []float64{0.001, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[max(int(q*float64(len(all)))-1, 0)]
		if got := h.quantile(q); got < want || got > want+want/histSub+1 {
			t.Errorf("quantile %v is %v, want %v and not more than 1/64 over it", q, got, want)
		}
	}
	if h.max != all[len(all)-1] || h.n != int64(len(all)) {
		t.Errorf("max %v of %d, want %v of %d", h.max, h.n, all[len(all)-1], len(all))
	}
	if got := new(hist).quantile(0.5); got != 0 {
		t.Errorf("the median of nothing is %v", got)
	}
}

func TestHistIndexContinuous(t *testing.T) {
	last := -1
	for v := range uint64(1 << 14) {
		i := histIndex(v)
		if i != last && i != last+1 || uint64(histUpper(i)) < v {
			t.Fatalf("%d is in bucket %d, which ends at %d; the one before is %d", v, i, histUpper(i), last)
		}
		last = i
	}
}

func TestPlan(t *testing.T) {
	p, err := parsePlan("10:5,0.5:4")
	if err != nil || p.String() != "10:5,0.5:4" || p.duration() != 9*time.Second {
		t.Fatalf("%v, %v", p, err)
	}
	var due []time.Duration
	var steps []int
	for s := (schedule{plan: p}); ; {
		at, step, ok := s.next()
		if !ok {
			if at != 9*time.Second {
				t.Errorf("the plan ends at %v", at)
			}
			break
		}
		due, steps = append(due, at), append(steps, step)
	}
	if len(due) != 52 || due[1] != 100*time.Millisecond || due[50] != 5*time.Second || due[51] != 7*time.Second || steps[49] != 0 || steps[50] != 1 {
		t.Errorf("due at %v, steps %v", due, steps)
	}
	for _, bad := range []string{"", "10", "10:", "x:1", "0:1", "1:0", "-1:1", "NaN:1", "1:1,", "2000000:1"} {
		if p, err := parsePlan(bad); err == nil {
			t.Errorf("%q is taken for %v", bad, p)
		}
	}
}

func TestOrderRoundTrip(t *testing.T) {
	p, err := parsePlan("10:5")
	if err != nil {
		t.Fatal(err)
	}
	want := order{plan: p, size: 300, burst: 4, ids: true, coalesce: true, drop: 7, repeat: 9}
	got, err := parseOrder(want.query())
	if err != nil || got.query() != want.query() {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
}

func TestParseStat(t *testing.T) {
	const text = "123 (a) b (c)) S 1 123 123 0 -1 4194560 100 0 0 0 250 150 7 8 20 0 1 0 100 1000 50\n"
	if got := parseStat([]byte(text)); got != 4 {
		t.Errorf("%v CPU seconds, want 4", got)
	}
	for _, text := range []string{"", "1 (x", "1 (x) S 1 2"} {
		if got := parseStat([]byte(text)); got != 0 {
			t.Errorf("%q has %v CPU seconds", text, got)
		}
	}
}

func TestParseBusy(t *testing.T) {
	const text = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 100 100 100 5000 700 50 50 100 0 0\ncpu1 0 0 200 5000 0 0 0 0 0 0\nintr 5\n"
	if got := parseBusy([]byte(text)); len(got) != 2 || got[0] != 5 || got[1] != 2 {
		t.Errorf("busy seconds %v, want 5 and 2", got)
	}
}

func TestReport(t *testing.T) {
	dir := t.TempDir()
	var lines bytes.Buffer
	for i, us := range []float64{3, 1, 2, 5, 4} {
		for _, label := range []string{"floor", "ours"} {
			r := &result{Label: label, Scenario: "cpu-10", N: 10, Proto: "http/1.1", Load: "0.5 1 1", Steps: []stepResult{{PerUS: us, P99: 7}}}
			if label == "ours" {
				r.Steps[0].PerUS *= 2
				r.Missing = int64(i)
			}
			if err := json.NewEncoder(&lines).Encode(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	file := filepath.Join(dir, "results.jsonl")
	if err := os.WriteFile(file, lines.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := runReport([]string{file}, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"### cpu-10", "| floor | 5 | 3.00 (1.00–5.00) | 1.00 |", "| ours | 5 | 6.00 (2.00–10.00) | 2.00 |", "| 10, 0, 0 |"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// TestBest does not count steps that were too slow, nor runs that lost something.
func TestBest(t *testing.T) {
	r := &result{Steps: []stepResult{{PerS: 10, P99: 5}, {PerS: 30, P99: 900}, {PerS: 50, P99: 1500}}}
	if got := r.best().PerS; got != 30 {
		t.Errorf("best is %v, want 30", got)
	}
	r.Missing = 1
	r.Steps[1].Faults = 1
	if got := r.best().PerS; got != 10 {
		t.Errorf("best before the fault is %v, want 10", got)
	}
	r.Steps[1].Faults = 0
	if got := r.best().PerS; got != 0 {
		t.Errorf("a run with a loss has a best of %v", got)
	}
}
