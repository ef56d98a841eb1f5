package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// column is a figure of a run, for the report.
type column struct {
	name   string
	value  func(r *result) float64
	digits int
	ratio  bool // one more column: how many times the floor
}

// lastStep returns the run's last step, or an empty one.
func (r *result) lastStep() stepResult {
	if len(r.Steps) == 0 {
		return stepResult{}
	}
	return r.Steps[len(r.Steps)-1]
}

// peak returns how many connections the origin had at once.
func (r *result) peak() int {
	if r.Origin == nil {
		return 0
	}
	return r.Origin.Peak
}

func (r *result) missed() int64 {
	if r.Resume == nil {
		return 0
	}
	return r.Resume.Missed
}

func (r *result) kept() int {
	if r.Resume == nil {
		return 0
	}
	return btoi(r.Resume.Kept)
}

// others returns the cores that were used by neither the server nor the client.
func (s stepResult) others() float64 {
	sum := -s.Cores - s.Client
	for _, busy := range s.Busy {
		sum += busy
	}
	return sum
}

const tolerable = 1000 // ms: the p99 up to which a server is not saturated

// best returns the step with the most deliveries among those that were delivered in time, before the first fault. A
// run with a fault that shows in no step has none.
func (r *result) best() stepResult {
	var best stepResult
	faulty := func(s stepResult) bool { return s.Faults > 0 }
	if !r.clean() && !slices.ContainsFunc(r.Steps, faulty) {
		return best
	}
	for _, s := range r.Steps {
		if faulty(s) {
			break
		}
		if s.P99 < tolerable && s.PerS > best.PerS {
			best = s
		}
	}
	return best
}

var (
	colP50US = column{"p50 µs", func(r *result) float64 { return r.lastStep().P50 * 1000 }, 0, false}
	colP99US = column{"p99 µs", func(r *result) float64 { return r.lastStep().P99 * 1000 }, 0, false}
	colCPU   = column{"CPU µs per delivery", func(r *result) float64 { return r.lastStep().PerUS }, 2, true}
	colP50   = column{"p50 ms", func(r *result) float64 { return r.lastStep().P50 }, 2, false}
	colP99   = column{"p99 ms", func(r *result) float64 { return r.lastStep().P99 }, 2, false}
	colRate  = column{"deliveries/s", func(r *result) float64 { return r.best().PerS }, 0, true}
	colMB    = column{"MB/s", func(r *result) float64 { return r.best().MBPerS }, 0, true}
	colRSS   = column{"KiB RSS per subscriber", func(r *result) float64 { return r.Idle.PerSubscriber / 1024 }, 1, false}
	colTotal = column{"MiB RSS in all", func(r *result) float64 { return float64(r.Idle.RSS1) / (1 << 20) }, 0, false}
	colBatch = column{"deliveries per read", func(r *result) float64 { return r.lastStep().PerRead }, 2, false}
	colUp    = column{"connections to the origin", func(r *result) float64 { return float64(r.peak()) }, 0, false}
	colMiss  = column{"events missed after coming back", func(r *result) float64 { return float64(r.missed()) }, 0, false}
	colKept  = column{"subscribers stay when the upstream is cut (1: yes)", func(r *result) float64 { return float64(r.kept()) }, 0, false}
	colConn  = column{"connected/s", func(r *result) float64 { return r.Connect.PerS }, 0, false}
	colCore  = column{"connected per core second", func(r *result) float64 { return r.Connect.PerCore }, 0, false}
)

// columnsOf returns what is reported of a scenario, by the first word of its name.
func columnsOf(scenario string) []column {
	first, _, _ := strings.Cut(scenario, "-")
	switch first {
	case "saturation", "pileup":
		return []column{colRate}
	case "big":
		return []column{colMB, colRate}
	case "idle":
		return []column{colRSS, colTotal}
	case "storm":
		return []column{colConn, colCore}
	case "resume":
		return []column{colMiss, colKept, colUp}
	case "crowd":
		return []column{colRSS, colTotal, colConn, colP50, colP99, colCPU}
	case "single":
		return []column{colP50US, colP99US, colCPU}
	case "latency", "stuck":
		return []column{colP50, colP99, colCPU}
	default:
		return []column{colCPU, colBatch, colP50, colP99, colUp}
	}
}

func runReport(args []string, w io.Writer) error {
	f := flag.NewFlagSet("ssebench report", flag.ContinueOnError)
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() == 0 {
		return errors.New("usage: ssebench report results.jsonl")
	}
	var results []*result
	for _, name := range f.Args() {
		text, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("reading results: %w", err)
		}
		for line := range bytes.Lines(text) {
			r := new(result)
			if err := json.Unmarshal(line, r); err != nil {
				return fmt.Errorf("reading %s: %w", name, err)
			}
			results = append(results, r)
		}
	}
	_, err := io.WriteString(w, report(results))
	if err != nil {
		return fmt.Errorf("printing the report: %w", err)
	}
	return nil
}

// report returns a Markdown table for each scenario: medians, and the least and the greatest value.
func report(results []*result) string {
	var b strings.Builder
	for _, scenario := range namesOf(results, func(r *result) string { return r.Scenario }) {
		runs := pick(results, func(r *result) bool { return r.Scenario == scenario })
		columns := columnsOf(scenario)
		fmt.Fprintf(&b, "### %s\n\n| system | runs |", scenario)
		for _, c := range columns {
			fmt.Fprintf(&b, " %s |", c.name)
			if c.ratio {
				b.WriteString(" to the floor |")
			}
		}
		b.WriteString(" lost, repeated, out of order |\n| --- | --- |")
		for _, c := range columns {
			b.WriteString(strings.Repeat(" --- |", 1+btoi(c.ratio)))
		}
		b.WriteString(" --- |\n")
		floor := pick(runs, func(r *result) bool { return r.Label == "floor" })
		for _, label := range namesOf(runs, func(r *result) string { return r.Label }) {
			own := pick(runs, func(r *result) bool { return r.Label == label })
			reportRow(&b, label, own, floor, columns)
		}
		fmt.Fprintf(&b, "\n%s\n\n", conditions(runs))
	}
	return b.String()
}

func reportRow(b *strings.Builder, label string, own, floor []*result, columns []column) {
	fmt.Fprintf(b, "| %s | %d |", label, len(own))
	for _, c := range columns {
		mid, least, most := spread(own, c.value)
		fmt.Fprintf(b, " %.*f (%.*f–%.*f) |", c.digits, mid, c.digits, least, c.digits, most)
		if !c.ratio {
			continue
		}
		if base, _, _ := spread(floor, c.value); base > 0 {
			fmt.Fprintf(b, " %.2f |", mid/base)
		} else {
			b.WriteString(" |")
		}
	}
	var missing, duplicate, reordered, corrupt, ended, failed int64
	for _, r := range own {
		missing += r.Missing
		duplicate += r.Duplicate
		reordered += r.Reordered
		corrupt += r.Corrupt
		ended += int64(r.Ended)
		failed += int64(r.Connect.Failed)
	}
	fmt.Fprintf(b, " %d, %d, %d", missing, duplicate, reordered)
	for _, also := range []struct {
		n    int64
		what string
	}{{corrupt, "corrupt"}, {ended, "streams ended early"}, {failed, "not connected"}} {
		if also.n > 0 {
			fmt.Fprintf(b, "; %d %s", also.n, also.what)
		}
	}
	b.WriteString(" |\n")
}

// conditions tells under what load the runs were made.
func conditions(runs []*result) string {
	_, least, most := spread(runs, func(r *result) float64 {
		one, _, _ := strings.Cut(r.Load, " ")
		load, _ := strconv.ParseFloat(one, 64) // unknown is 0
		return load
	})
	r := runs[0]
	text := fmt.Sprintf("%d subscribers, %s, %d streams, events of %d bytes; load average before the runs %.1f to %.1f",
		r.N, r.Proto, r.Streams, r.Size, least, most)
	if len(r.Steps) > 0 {
		mid, least, most := spread(runs, func(r *result) float64 { return r.lastStep().others() })
		text += fmt.Sprintf("; cores used by neither server nor client (the origin and the rest of the machine) %.2f (%.2f–%.2f)", mid, least, most)
	}
	return text + "."
}

// spread returns the median, the least and the greatest of a figure.
func spread(runs []*result, value func(r *result) float64) (mid, least, most float64) {
	if len(runs) == 0 {
		return 0, 0, 0
	}
	values := make([]float64, len(runs))
	for i, r := range runs {
		values[i] = value(r)
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2, values[0], values[n-1]
}

// namesOf returns the different names, in the order in which they come.
func namesOf(results []*result, name func(r *result) string) []string {
	var names []string
	for _, r := range results {
		if n := name(r); !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

func pick(results []*result, want func(r *result) bool) []*result {
	var picked []*result
	for _, r := range results {
		if want(r) {
			picked = append(picked, r)
		}
	}
	return picked
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
