// Package doctor looks at an event stream from where its clients are, and says
// what would hold it back, cut it, or lose events.
//
// It knows nothing but what a client can see. It guesses at nothing: what cannot
// be told from there is unknown. Times are compared as intervals, so that the
// clocks of two machines do not matter. Nothing that the caller gave to identify
// itself, no event and no ID is part of a report.
package doctor

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// Options say what to look at.
type Options struct {
	// URL of the stream: http or https.
	URL string

	// Header has further fields of the requests. Host, in it, is the host that
	// is asked for.
	Header http.Header

	// Admin is the URL of the gateway's admin endpoint, or of the site of
	// sse_admin. "": what the gateway itself has seen is not known.
	Admin string

	// Insecure takes any certificate.
	Insecure bool

	// Timeout is how long the stream is watched. Default: DefaultTimeout.
	Timeout time.Duration

	// Late is how much later than others an event may come until it counts as
	// held back. Default: DefaultLate.
	Late time.Duration

	// Progress is told, about once a second, for how long the stream was watched. nil: nobody is.
	Progress func(watched time.Duration)

	// Dial opens connections. nil: the network does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

const (
	// DefaultTimeout sees two heartbeats of the gateway's default interval, and
	// cuts after the 30 s that many proxies are set to.
	DefaultTimeout = 40 * time.Second

	// DefaultLate is more than a lost packet costs.
	DefaultLate = 500 * time.Millisecond
)

const (
	// headPatience is how long the head of the stream may take until the probe
	// is asked for without it.
	headPatience = 3 * time.Second

	// flowPatience is how long a flow probe may take in all.
	flowPatience = (ProbeEvents-1)*ProbeInterval + 10*time.Second

	// reconnectDelay is how long EventSource waits, about, before it comes back.
	// Who restarts the application needs it, too.
	reconnectDelay = 3 * time.Second

	// resumePatience is how long what was missed may take.
	resumePatience = 5 * time.Second
)

// examination is what was seen.
type examination struct {
	options Options
	app     *visit // of the application's own stream
	coding  string // that the stream came in at first, if it cannot be read
	second  *visit // of the same, at the same time; nil: not asked for
	flow    *visit // nil: not asked for
	again   *visit // the flow probe, once more, when the first was late
	idle    *visit // nil: not asked for, or not answered
	resumed *resumption
	witness witness
}

// Run looks at a stream for about the timeout. The error says why there was no
// answer at all.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Late <= 0 {
		o.Late = DefaultLate
	}
	c, err := newClient(o)
	if err != nil {
		return nil, err
	}
	defer c.close()
	e := &examination{options: o}
	if o.Progress != nil {
		defer tellProgress(o.Progress)()
	}
	asked := e.askWitness(ctx, c)
	if err := e.watch(ctx, c); err != nil {
		return nil, err
	}
	asked()
	return e.report(), nil
}

// watch looks at the stream, and meanwhile at the gateway's probe streams. It
// comes back to the stream when that is over, not when the probes are: nobody
// keeps for long what a client missed.
func (e *examination) watch(ctx context.Context, c *client) error {
	watching, cancel := context.WithTimeout(ctx, e.options.Timeout)
	defer cancel()
	e.app = c.visit(watching, request{coding: browserCodings})
	select {
	case <-e.app.headed:
	case <-time.After(headPatience):
	}
	if coding := e.app.unreadable(); coding != "" {
		e.coding = coding
		e.app.leave()
		e.app = c.visit(watching, request{coding: identity})
		<-e.app.headed
	}
	if err := e.app.failure(); err != nil {
		return err
	}
	var probing sync.WaitGroup
	if !e.app.refused() {
		probing.Go(func() { e.probe(watching, c) })
		e.second = c.visit(watching, request{coding: identity})
	}
	<-e.app.done
	if e.second != nil {
		e.second.leave()
	}
	err := e.app.failure()
	if err == nil {
		e.resume(ctx, c)
	}
	probing.Wait()
	return err
}

// probe asks for the gateway's probe streams. What holds events back does so
// every time: a first probe that is late may have met with a moment's trouble.
func (e *examination) probe(ctx context.Context, c *client) {
	ask := func() *visit {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flowPatience)
		defer cancel()
		v := c.visit(ctx, request{coding: identity, probe: ProbeFlow})
		<-v.headed
		if !v.probed(ProbeFlow) {
			v.leave()
		}
		<-v.done
		return v
	}
	e.flow = ask()
	if !e.flow.probed(ProbeFlow) {
		return
	}
	e.idle = c.visit(ctx, request{coding: identity, probe: ProbeIdle})
	if e.flow.lateness() > e.options.Late {
		e.again = ask()
	}
	<-e.idle.done
	if !e.idle.probed(ProbeIdle) {
		e.idle = nil
	}
}

// tellProgress tells for how long it has been going on, until it is stopped.
func tellProgress(tell func(time.Duration)) (stop func()) {
	began, over := time.Now(), make(chan struct{})
	var told sync.WaitGroup
	told.Go(func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				tell(time.Since(began))
			case <-over:
				return
			}
		}
	})
	return func() { close(over); told.Wait() }
}
