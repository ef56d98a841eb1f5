// Package logs is for lines of the log that must neither flood it nor hold anybody up.
package logs

import (
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Log lines are written by a goroutine of their own, in the order in which they
// came: where they come up, locks are held that clients wait for, and a log that
// is slow (a disk, a pipe that nobody reads) must not hold up event streams.

const (
	// maxQueuedLines bounds how many lines wait for a slow log. Further ones
	// are dropped, and counted.
	maxQueuedLines = 4096

	// flushTimeout bounds how long a handler's clean-up waits until its lines
	// are written.
	flushTimeout = time.Second
)

// queue is lines that are yet to be written. The zero value is ready to use.
type queue struct {
	mu      sync.Mutex
	lines   []queuedLine
	dropped int
	idle    chan struct{} // closed when the goroutine that writes has ended; nil: there is none
}

// queuedLine is a line for a core.
type queuedLine struct {
	core   zapcore.Core
	entry  zapcore.Entry
	fields []zapcore.Field
}

// process is the process's.
var process queue

// Flush waits until the lines that came until now are written, for a moment at
// most.
func Flush() { process.flush() }

// add adds a line.
func (q *queue) add(line queuedLine) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.lines) >= maxQueuedLines {
		q.dropped++
		return
	}
	q.lines = append(q.lines, line)
	if q.idle == nil {
		q.idle = make(chan struct{})
		go q.run()
	}
}

// run writes lines until there is none.
func (q *queue) run() {
	for {
		lines, dropped := q.take()
		if lines == nil {
			return
		}
		for _, line := range lines {
			if checked := line.core.Check(line.entry, nil); checked != nil {
				checked.Write(line.fields...)
			}
		}
		if dropped > 0 {
			log := zap.New(lines[len(lines)-1].core)
			log.Warn("log lines were dropped: they are written too slowly", zap.Int("dropped", dropped))
		}
	}
}

// take takes all lines; nil: there is none, and the goroutine ends.
func (q *queue) take() (lines []queuedLine, dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	lines, dropped = q.lines, q.dropped
	q.lines, q.dropped = nil, 0
	if lines == nil {
		close(q.idle)
		q.idle = nil
	}
	return lines, dropped
}

// flush waits until there is no line, for flushTimeout at most.
func (q *queue) flush() {
	q.mu.Lock()
	idle := q.idle
	q.mu.Unlock()
	if idle == nil {
		return
	}
	timer := time.NewTimer(flushTimeout)
	defer timer.Stop()
	select {
	case <-idle:
	case <-timer.C:
	}
}

// Queued returns a logger whose lines go through the queue.
func Queued(logger *zap.Logger) *zap.Logger {
	return logger.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core { return queuedCore{core} }))
}

// queuedCore queues what is for a core. What else is in the fields must not
// change any more.
type queuedCore struct{ zapcore.Core }

// With implements zapcore.Core.
func (c queuedCore) With(fields []zapcore.Field) zapcore.Core { return queuedCore{c.Core.With(fields)} }

// Check implements zapcore.Core.
func (c queuedCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}

// Write implements zapcore.Core.
func (c queuedCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	process.add(queuedLine{c.Core, entry, fields})
	return nil
}
