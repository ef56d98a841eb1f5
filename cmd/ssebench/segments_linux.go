package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// segments cuts a run where the first event of each step arrives, and samples the server there.
type segments struct {
	pid        int
	step       int
	bytes      int64
	reads      int64
	deliveries int64
	faults     int64 // gaps, repetitions, corrupt events, streams that ended
	latency    []hist
	samples    []sample // the last one is the end
	steps      []int    // of the samples
}

type sample struct {
	at         time.Time
	server     usage
	client     float64
	busy       []float64
	bytes      int64
	reads      int64
	deliveries int64
	faults     int64
}

func (s *segments) begin(pid, steps int) {
	*s = segments{pid: pid, step: -1, latency: make([]hist, steps)}
}

func (s *segments) deliver(step int, latency time.Duration) {
	if step > s.step {
		s.step = step
		s.take(step)
	}
	s.deliveries++
	s.latency[step].add(latency)
}

func (s *segments) end() { s.take(len(s.latency)) }

func (s *segments) take(step int) {
	s.steps = append(s.steps, step)
	s.samples = append(s.samples, sample{
		at: time.Now(), server: treeUsage(s.pid), client: ownCPU(), busy: machineBusy(),
		bytes: s.bytes, reads: s.reads, deliveries: s.deliveries, faults: s.faults,
	})
}

func (s *segments) report(r *result, o order) {
	for i := range len(s.samples) - 1 {
		a, b := s.samples[i], s.samples[i+1]
		seconds := b.at.Sub(a.at).Seconds()
		n := b.deliveries - a.deliveries
		out := stepResult{
			Rate: o.plan[s.steps[i]].rate, Seconds: seconds, Deliveries: n, PerS: float64(n) / seconds,
			MBPerS: float64(b.bytes-a.bytes) / 1e6 / seconds,
			CPU:    b.server.cpu - a.server.cpu, Client: (b.client - a.client) / seconds,
		}
		out.Faults = b.faults - a.faults
		out.Cores = out.CPU / seconds
		out.PerUS = out.CPU * 1e6 / float64(max(n, 1))
		out.PerRead = float64(n) / float64(max(b.reads-a.reads, 1))
		for core := range min(len(a.busy), len(b.busy)) {
			out.Busy = append(out.Busy, (b.busy[core]-a.busy[core])/seconds)
		}
		r.Steps = append(r.Steps, out)
		r.setLatency(i, &s.latency[s.steps[i]])
	}
}

func ownCPU() float64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}
