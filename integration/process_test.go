package integration

import (
	"bufio"
	"encoding/json"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a program that the test has started. It tells what happens on its standard output, a JSON object a line.
type process struct {
	t     testing.TB
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	done  chan struct{} // closed when it has ended
	err   error         // how; set before done
	ended bool          // by the test: how is not asked when the test ends
	hints []string      // kinds that a gateway may have

	mu      sync.Mutex
	reports []report
	changed chan struct{} // closed and replaced with each report
	errors  strings.Builder
}

// report is a line of a process's standard output: of upstreams and clients what upstreams/ticker says, and of the
// gateway an entry of its access log.
type report struct {
	Event       string `json:"event"`
	Address     string `json:"address"`
	Connection  int    `json:"connection"`
	Protocol    string `json:"protocol"`
	Method      string `json:"method"`
	Path        string `json:"path"`
	Finished    bool   `json:"finished"` // the whole response was sent
	LastEventID string `json:"last_event_id"`
	Number      int    `json:"number"`
	At          int64  `json:"at"`

	Missing int `json:"missing"` // of clients/reader
	Doubled int `json:"doubled"`
	Gaps    int `json:"gaps"`
	Ended   int `json:"ended"`

	Data string `json:"data"`
	ID   string `json:"id"`

	Time float64 `json:"ts"` // Unix time in seconds
	SSE  struct {
		Duration  float64 `json:"duration"`
		EndReason string  `json:"end_reason"`
	} `json:"sse"`
	Request struct {
		URI      string              `json:"uri"`
		RemoteIP string              `json:"remote_ip"`
		Protocol string              `json:"proto"`
		Headers  map[string][]string `json:"headers"`
	} `json:"request"`
}

// command makes a command of a program that the tests have found or built.
func command(program string, args ...string) *exec.Cmd {
	return exec.Command(program, args...) //nolint:gosec // G204: it is the tests that say what is run
}

// start starts a process, which is ended when the test ends. It has to end well when its standard input does, or at the
// signal.
func start(t testing.TB, name string, cmd *exec.Cmd, end syscall.Signal) *process {
	t.Helper()
	p := &process{t: t, name: name, cmd: cmd, done: make(chan struct{}), changed: make(chan struct{})}
	// A group of its own, to end what it has started too. The kernel ends it with the test's process, should that be
	// killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = writerFunc(p.writeErrors)
	var err error
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		p.read(stdout)
		p.err = cmd.Wait()
	}()
	t.Cleanup(func() { p.end(end) })
	return p
}

type writerFunc func(b []byte)

func (f writerFunc) Write(b []byte) (int, error) { f(b); return len(b), nil }

// maxErrors bounds what is kept of a standard error.
const maxErrors = 1 << 20

func (p *process) writeErrors(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.errors.Write(b[:min(len(b), maxErrors-p.errors.Len())])
}

func (p *process) errorText() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.errors.String()
}

func (p *process) read(stdout io.Reader) {
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var r report
		if err := json.Unmarshal(line, &r); err != nil {
			p.writeErrors(line)
			continue
		}
		p.add(r)
	}
}

func (p *process) add(r report) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reports = append(p.reports, r)
	close(p.changed)
	p.changed = make(chan struct{})
}

// end ends the process and what it has started.
func (p *process) end(signal syscall.Signal) {
	_ = p.stdin.Close()
	if signal != 0 {
		_ = p.cmd.Process.Signal(signal)
	}
	select {
	case <-p.done:
		if p.err != nil && !p.ended {
			p.t.Errorf("%s: %v", p.name, p.err)
		}
	case <-time.After(testTimeout):
		p.t.Errorf("%s did not end", p.name)
	}
	p.kill()
	p.checkHints()
	if p.t.Failed() {
		text := p.errorText()
		p.t.Logf("standard error of %s:\n%s", p.name, text[max(0, len(text)-16<<10):])
	}
}

// checkHints checks that a gateway has told of nothing in its configuration that is without effect or not as it is meant:
// the tests' set-ups are sound, unless they say otherwise. What it has written beyond maxErrors is not seen.
func (p *process) checkHints() {
	p.t.Helper()
	for line := range strings.Lines(p.errorText()) {
		var l struct{ Msg, Kind, Place, Hint string }
		if json.Unmarshal([]byte(line), &l) != nil || (l.Msg != "hint" && l.Msg != "doubtful configuration") {
			continue
		}
		if !slices.Contains(p.hints, l.Kind) {
			p.t.Errorf("%s has a hint that the test does not expect: %s at %q: %s", p.name, l.Kind, l.Place, l.Hint)
		}
	}
}

// kill ends the process and its children at once.
func (p *process) kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // fails if none is left
	<-p.done
}

// crash ends the process with SIGKILL.
func (p *process) crash() {
	p.ended = true
	p.kill()
}

// stop ends the process with SIGTERM, which it has to obey well. It returns how long that took.
func (p *process) stop() time.Duration {
	p.t.Helper()
	began := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatalf("%s: %v", p.name, err)
	}
	p.awaitExit()
	return time.Since(began)
}

// awaitExit waits until the process has ended, well.
func (p *process) awaitExit() {
	p.t.Helper()
	select {
	case <-p.done:
		p.ended = true
		if p.err != nil {
			p.t.Errorf("%s: %v", p.name, p.err)
		}
	case <-time.After(testTimeout):
		p.t.Fatalf("%s did not end", p.name)
	}
}

// tell writes a line to the standard input.
func (p *process) tell(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.stdin, line+"\n"); err != nil {
		p.t.Fatalf("%s: %v", p.name, err)
	}
}

// await waits until what was reported meets a condition, and returns it.
func (p *process) await(what string, condition func([]report) bool) []report {
	p.t.Helper()
	timeout := time.After(testTimeout)
	for {
		p.mu.Lock()
		reports, changed := p.reports, p.changed
		p.mu.Unlock()
		if condition(reports) {
			return reports
		}
		select {
		case <-changed:
		case <-p.done:
			p.mu.Lock()
			reports = p.reports
			p.mu.Unlock()
			if !condition(reports) {
				p.t.Fatalf("%s ended (%v) before it: %s", p.name, p.err, what)
			}
		case <-timeout:
			p.t.Fatalf("%s: did not happen: %s", p.name, what)
		}
	}
}

// awaitEvent waits for the nth report of an event, and returns it.
func (p *process) awaitEvent(event string, n int) report {
	p.t.Helper()
	return only(p.await(event, func(rs []report) bool { return len(only(rs, event)) >= n }), event)[n-1]
}

// all returns all reports of an event so far.
func (p *process) all(event string) []report {
	p.mu.Lock()
	defer p.mu.Unlock()
	return only(p.reports, event)
}

func only(reports []report, event string) (some []report) {
	for _, r := range reports {
		if r.Event == event {
			some = append(some, r)
		}
	}
	return some
}
