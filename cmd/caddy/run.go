package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

func init() { caddy.RegisterModule(new(runs)) }

// runsID is the name of the app that keeps the demo application running.
const runsID = "sse_demo"

const (
	startTimeout = 20 * time.Second // how long the application may take to say that it is ready, and that it listens
	endTimeout   = 5 * time.Second  // and to end
)

// runs is a Caddy app that keeps the demo application running, in a process of its own, while the configuration is in
// use. A reload leaves the process alone: to the gateway it is then the application of somebody else that it plays.
type runs struct {
	address string
	logger  *zap.Logger
	runner  *runner
}

// runners holds the runner of each address, over reloads.
var runners = caddy.NewUsagePool()

// CaddyModule returns the Caddy module information.
func (*runs) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: runsID, New: func() caddy.Module { return new(runs) }}
}

// Provision takes the logger.
func (a *runs) Provision(ctx caddy.Context) error {
	a.logger = ctx.Logger()
	return nil
}

// Start starts the application, or takes a share in the running one.
func (a *runs) Start() error {
	val, _, err := runners.LoadOrNew(a.address, func() (caddy.Destructor, error) { return newRunner(a.address, a.logger) })
	if err != nil {
		return fmt.Errorf("starting the demo application: %w", err)
	}
	a.runner = val.(*runner)
	return nil
}

// Stop gives up the share; the last one ends the application.
func (a *runs) Stop() error {
	if a.runner == nil {
		return nil
	}
	_, err := runners.Delete(a.address)
	return err
}

func (a *runs) restart() error { return a.runner.restart() }

// end ends the application before its time.
func (a *runs) end() {
	if a.runner != nil {
		a.runner.end()
	}
}

// runner runs the application in one process after the other.
type runner struct {
	address string
	count   string // the file in which the application keeps its count, as others keep theirs in a database
	logger  *zap.Logger

	mu      sync.Mutex
	process *child
	ended   bool
}

func newRunner(address string, logger *zap.Logger) (*runner, error) {
	file, err := os.CreateTemp("", "sse-demo-count")
	if err != nil {
		return nil, err
	}
	r := &runner{address: address, count: file.Name(), logger: logger}
	if err := file.Close(); err != nil {
		return nil, err
	}
	if err := r.restart(); err != nil {
		return nil, errors.Join(err, r.Destruct())
	}
	return r, nil
}

// restart replaces the process. The new one is loaded before the old one ends, so that what a visitor sees is not how
// long a large binary takes to load.
func (r *runner) restart() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return errors.New("the application has ended")
	}
	next, err := startChild(r.address, r.count)
	if err != nil {
		return err
	}
	if r.process != nil {
		r.process.end()
	}
	r.process = next
	if err := next.await("listening"); err != nil {
		return err
	}
	r.logger.Info("the demo application has started", zap.String("address", r.address), zap.Int("pid", next.cmd.Process.Pid))
	return nil
}

func (r *runner) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	if r.process != nil {
		r.process.end()
		r.process = nil
	}
}

// Destruct ends the application for good.
func (r *runner) Destruct() error {
	r.end()
	return os.Remove(r.count)
}

// child is a process of the application. It ends with its standard input, so that none is left of a Caddy that was
// killed, on any system.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	said  chan string // the lines of its standard output; closed when it has ended
	done  chan struct{}
}

// startChild starts a process, and returns when it is ready to listen.
func startChild(address, count string) (*child, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{
		cmd:  exec.Command(program, appCommand, "--listen", address, "--count", count), //nolint:gosec // G204: it is this program
		said: make(chan string, 4), done: make(chan struct{}),
	}
	c.cmd.Stderr = os.Stderr
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(c.done)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			c.said <- lines.Text()
		}
		close(c.said)
		_ = c.cmd.Wait() // it is killed
	}()
	return c, c.await("ready")
}

// await waits for a line that the process says. A process that does not say it is killed.
func (c *child) await(line string) error {
	timeout := time.After(startTimeout)
	for {
		select {
		case said, ok := <-c.said:
			if said == line {
				return nil
			}
			if !ok {
				return fmt.Errorf("the process ended before it was %s", line)
			}
		case <-timeout:
			c.end()
			return fmt.Errorf("the process was not %s after %s", line, startTimeout)
		}
	}
}

// end tells the process to end. One that does not is killed.
func (c *child) end() {
	_ = c.stdin.Close()
	select {
	case <-c.done:
	case <-time.After(endTimeout):
		_ = c.cmd.Process.Kill() // fails when it has ended
		<-c.done
	}
}

// Interface guards.
var (
	_ caddy.App         = (*runs)(nil)
	_ caddy.Provisioner = (*runs)(nil)
	_ caddy.Destructor  = (*runner)(nil)
)
