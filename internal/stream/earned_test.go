package stream

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	earnedRuns = flag.Int("earned.runs", 20_000, "random scenarios of TestSharingIsEarned: half a minute of two cores with the race detector, five seconds without")
	earnedSeed = flag.Uint64("earned.seed", 1, "seed of TestSharingIsEarned; 0: a new one, as the weekly run has")
	earnedAll  = flag.Bool("earned.all", false, "TestSharingIsEarned goes on after a failure, and counts them by what was wrong")
	earnedRun  = flag.Int("earned.run", -1, "the one scenario of TestSharingIsEarned to run, and to tell of; negative: all")
)

// TestSharingIsEarned lets clients come to applications of every kind, in random
// ways, and judges by what each client is given, and by how many upstream
// connections there are, that
//   - no two clients are given what the application said to one connection alone;
//   - where the application tells all the same, nobody misses an event or is given
//     one twice, but where that is told, or would be so without the gateway;
//   - then there is one upstream connection in the end;
//   - every request is answered.
//
// Who opened a connection, and for whom, is the gateway's affair. It is wrong
// when two clients are given what belongs to one connection: an ID to ask with
// for what is one's own, say.
//
// -earned.all tells what goes wrong how often, and in which scenarios; -earned.run
// tells the whole story of one. The project's tests run 100,000: these with the race
// detector, and the rest without (ci/test.sh). -earned.runs 1000000 takes minutes
// without it, where nothing else runs.
func TestSharingIsEarned(t *testing.T) {
	seed := *earnedSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-earned.runs %d -earned.seed %d", *earnedRuns, seed)
	if n := *earnedRun; n >= 0 {
		sc := newScenario(seed, uint64(n))
		w := sc.run(t, true)
		t.Logf("%s\n%s", sc, strings.Join(w.log, "\n"))
		for _, wrong := range w.wrong {
			t.Error(wrong)
		}
		return
	}
	var next atomic.Uint64
	runs := uint64(max(*earnedRuns, 0))
	var found sync.Once
	var total earnedCounts
	failures, rare := make(earnedFailures), make(earnedFailures)
	var mu sync.Mutex
	t.Run("all", func(t *testing.T) {
		for range runtime.GOMAXPROCS(0) {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				var counts earnedCounts
				for n := next.Add(1) - 1; n < runs; n = next.Add(1) - 1 {
					sc := newScenario(seed, n)
					w := sc.run(t, false)
					counts.add(&w.counts)
					if len(w.rarely) > 0 {
						mu.Lock()
						rare.note(sc, w.rarely[0])
						mu.Unlock()
					}
					if len(w.wrong) == 0 {
						continue
					}
					if *earnedAll || !w.leaks() {
						mu.Lock()
						failures.note(sc, w.wrong[0])
						mu.Unlock()
						continue
					}
					next.Store(runs)
					found.Do(func() { sc.tell(t, w) })
				}
				mu.Lock()
				defer mu.Unlock()
				total.add(&counts)
			})
		}
	})
	t.Logf("%+v", total)
	if n := failures.count(); *earnedAll || n > max(1, int(runs/maxOddly)) {
		failures.tell(t)
	}
	if n := rare.count(); n > max(3, int(runs/maxRarely)) {
		rare.tell(t)
	} else {
		t.Logf("in %d of %d scenarios what may happen rarely", n, runs)
		if *earnedAll {
			rare.log(t.Logf)
		}
	}
}

// maxOddly: in one of so many scenarios may something be wrong that is no leak. It
// was in one of 1,000,000: a gap was told 1.7 s after the first event, when the
// upstream's ids had shown that they count (ADR 5).
const maxOddly = 100_000

// leaks reports whether somebody was given what is another's.
func (w *earnedWorld) leaks() bool {
	return slices.ContainsFunc(w.wrong, func(text string) bool { return strings.Contains(text, "LEAK") })
}

// maxRarely: in one of so many scenarios may that happen which gives nobody what is
// another's, and loses nothing where the application's ids mean something: more
// upstream connections than expected, when an application was quiet, broken or busy
// for as long as it was compared; an event for all that is missed beside events of
// its own, or by an ID that is counted for each connection; an event that a client
// had before, where the upstream repeats more than is kept. It does in one of a
// thousand.
const maxRarely = 300

func (f earnedFailures) count() (n int) {
	for _, scenarios := range f {
		n += len(scenarios)
	}
	return n
}

var earnedNumbers = regexp.MustCompile(`[0-9][0-9.µmhs]*`)

// earnedFailures counts scenarios by the kind of application and the first thing
// that was wrong.
type earnedFailures map[string][]uint64

func (f earnedFailures) note(sc *earnedScenario, text string) {
	_, what, _ := strings.Cut(text, ": ")
	what = sc.app.kind.String() + ": " + earnedNumbers.ReplaceAllString(what, "#")
	f[what] = append(f[what], sc.number)
}

func (f earnedFailures) tell(t *testing.T) {
	t.Helper()
	f.log(t.Errorf)
}

func (f earnedFailures) log(logf func(format string, args ...any)) {
	for _, what := range slices.Sorted(maps.Keys(f)) {
		logf("%d times %s: scenarios %v", len(f[what]), what, f[what][:min(len(f[what]), 5)])
	}
}

// earnedCounts shows that what is to be tested was tested.
type earnedCounts struct {
	Visits, Alone, Conns, Events, Private, Greetings, Replayed, Spliced, Gaps, Live, Breaks, Refusals, Hangs int
}

func (n *earnedCounts) add(m *earnedCounts) {
	for _, p := range []struct {
		to   *int
		from int
	}{
		{&n.Visits, m.Visits}, {&n.Alone, m.Alone}, {&n.Conns, m.Conns}, {&n.Events, m.Events}, {&n.Private, m.Private},
		{&n.Greetings, m.Greetings}, {&n.Replayed, m.Replayed}, {&n.Spliced, m.Spliced}, {&n.Gaps, m.Gaps}, {&n.Live, m.Live},
		{&n.Breaks, m.Breaks}, {&n.Refusals, m.Refusals}, {&n.Hangs, m.Hangs},
	} {
		*p.to += p.from
	}
}

// earnedScenario is one application, and what happens to it and to its clients. All of
// it is known before it is run, so that it can be told, and made smaller.
type earnedScenario struct {
	seed, number uint64
	app          appStyle
	options      func(o *Options)
	optionsText  string
	keys         int
	nat          bool // all clients come from one address
	deeds        []deed
	fates        []fate // of upstream connections, in the order of being opened, before calm
	calm         time.Duration
	calmEvents   []time.Duration // since calm
	anew         bool            // in the calm everybody comes without an ID
}

// A deed is something that happens.
type deed struct {
	at     time.Duration
	what   deedKind
	who    int           // client, or connection
	away   time.Duration // until the client comes back
	brings bringing      // of last event IDs, a new client
}

type bringing int

const (
	bringsNothing bringing = iota
	bringsKnown            // an ID that the application may have given to somebody
	bringsAny
)

type deedKind int

const (
	arrives   deedKind = iota // a new client
	drops                     // a client's response is cut; it comes back
	leaves                    // a client leaves for good
	publishes                 // the application has an event
	breaks                    // an upstream connection breaks
	ends                      // an upstream connection ends as HTTP says
	turns                     // from now on the application gives each connection a session
)

func (k deedKind) String() string {
	return [...]string{"arrives", "drops", "leaves", "publishes", "breaks", "ends", "turns"}[k]
}

// fate is what becomes of a request to the application.
type fate struct {
	status int           // 0: an event stream
	hangs  time.Duration // before that
}

func (sc *earnedScenario) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "-earned.seed %d -earned.run %d\n%s; %s; %d keys; one address %v; calm at %v, everybody anew: %v\n",
		sc.seed, sc.number, sc.app, sc.optionsText, sc.keys, sc.nat, sc.calm, sc.anew)
	for _, d := range sc.deeds {
		fmt.Fprintf(&text, "  %v: %v %d", d.at, d.what, d.who)
		if d.brings > 0 {
			fmt.Fprintf(&text, " with an ID (%d)", d.brings)
		}
		if d.what == drops {
			fmt.Fprintf(&text, " for %v", d.away)
		}
		text.WriteByte('\n')
	}
	for i, f := range sc.fates {
		if f != (fate{}) {
			fmt.Fprintf(&text, "  connection %d: status %d after %v\n", i, f.status, f.hangs)
		}
	}
	fmt.Fprintf(&text, "  in the calm, events after %v", sc.calmEvents)
	return text.String()
}

// upTo is a random time, evenly spread over the orders of magnitude below most.
func upTo(rnd *rand.Rand, most time.Duration) time.Duration {
	for most > time.Millisecond && rnd.IntN(2) == 0 {
		most /= 8
	}
	return time.Duration(rnd.Int64N(int64(most) + 1)).Truncate(100 * time.Microsecond)
}

func newScenario(seed, number uint64) *earnedScenario {
	rnd := rand.New(rand.NewPCG(seed, number))
	sc := &earnedScenario{seed: seed, number: number, app: newAppStyle(rnd), keys: 1, anew: rnd.IntN(2) == 0, nat: rnd.IntN(2) == 0}
	if rnd.IntN(4) == 0 {
		sc.keys = 2
	}
	limit := []int{1, 2, defaultSpliceLimit}[rnd.IntN(3)]
	prime := time.Duration(rnd.IntN(2)) * primeAfter
	sc.options = func(o *Options) {
		o.GapEvent = "gap"
		o.SpliceLimit = limit
		o.primeAfter = prime
	}
	sc.optionsText = fmt.Sprintf("splice_limit %d, prelude after %v", limit, prime)

	chaos := []time.Duration{200 * time.Millisecond, 5 * time.Second, 40 * time.Second}[rnd.IntN(3)]
	clients := 2 + rnd.IntN(1+rnd.IntN(6))
	burst := upTo(rnd, chaos/2)
	for i := range clients {
		at := upTo(rnd, chaos)
		if rnd.IntN(2) == 0 {
			at = burst + time.Duration(rnd.IntN(2)*rnd.IntN(1000))*time.Microsecond
		}
		brings := []bringing{0, 0, 0, 0, 0, 0, bringsKnown, bringsAny}[rnd.IntN(8)]
		sc.deeds = append(sc.deeds, deed{at: at, what: arrives, who: i, brings: brings})
		for rnd.IntN(3) == 0 {
			at += upTo(rnd, chaos)
			away := upTo(rnd, 5*time.Second)
			if rnd.IntN(8) == 0 {
				away = 25*time.Second + time.Duration(rnd.Int64N(int64(20*time.Second)))
			}
			sc.deeds = append(sc.deeds, deed{at: at, what: drops, who: i, away: away})
		}
		if rnd.IntN(4) == 0 {
			sc.deeds = append(sc.deeds, deed{at: at + upTo(rnd, chaos), what: leaves, who: i})
		}
	}
	if interval := sc.app.interval(rnd); interval > 0 {
		for at := time.Duration(rnd.Int64N(int64(interval) + 1)); at < chaos && len(sc.deeds) < 40; at += interval/2 + time.Duration(rnd.Int64N(int64(interval)+1)) {
			sc.deeds = append(sc.deeds, deed{at: at, what: publishes})
		}
	}
	quiet := time.Duration(0)
	if rnd.IntN(2) == 0 {
		for range rnd.IntN(3) {
			sc.deeds = append(sc.deeds, deed{at: upTo(rnd, chaos), what: breaks, who: rnd.IntN(4)})
		}
		if rnd.IntN(6) == 0 {
			sc.deeds = append(sc.deeds, deed{at: upTo(rnd, chaos), what: ends, who: rnd.IntN(4)})
		}
		sc.fates = make([]fate, 12)
		for i := range sc.fates {
			switch rnd.IntN(16) {
			case 0:
				sc.fates[i].status = []int{503, 503, 429, 409, 400, 204}[rnd.IntN(6)]
				quiet = unshareableTime + time.Second
			case 1:
				sc.fates[i].hangs = upTo(rnd, 45*time.Second)
			}
		}
	}
	if sc.app.kind == tellsAll && rnd.IntN(2) == 0 {
		sc.deeds = append(sc.deeds, deed{at: chaos/2 + upTo(rnd, chaos), what: turns})
	}
	slices.SortStableFunc(sc.deeds, func(a, b deed) int { return int(a.at - b.at) })
	sc.calm = sc.deeds[len(sc.deeds)-1].at + quiet + time.Millisecond
	events := sc.app.calmEvents(rnd)
	for at := 3 * time.Second; events > 0; events-- {
		at += time.Duration(rnd.Int64N(int64(6 * time.Second)))
		sc.calmEvents = append(sc.calmEvents, at)
	}
	return sc
}

// run runs the scenario in fake time.
func (sc *earnedScenario) run(t *testing.T, tells bool) (w *earnedWorld) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w = newEarnedWorld(t, sc, tells)
		w.play()
	})
	return w
}

// fails runs the scenario a few times, because what happens at the same moment
// happens in no certain order, until something is wrong.
func (sc *earnedScenario) fails(t *testing.T, tells bool) *earnedWorld {
	t.Helper()
	for range 5 {
		if w := sc.run(t, tells); len(w.wrong) > 0 {
			return w
		}
	}
	return nil
}

// tell tells of a scenario in which something is wrong, after making it smaller.
func (sc *earnedScenario) tell(t *testing.T, w *earnedWorld) {
	t.Helper()
	for _, wrong := range w.wrong {
		t.Error(wrong)
	}
	t.Logf("repeat with\n%s", sc)
	if sc.fails(t, false) == nil {
		t.Log("it does not happen again")
		return
	}
	small := *sc
	small.fates = slices.Clone(sc.fates)
	for again := true; again; {
		again = false
		try := func(change func(c *earnedScenario)) {
			c := small
			c.deeds, c.fates, c.calmEvents = slices.Clone(small.deeds), slices.Clone(small.fates), slices.Clone(small.calmEvents)
			change(&c)
			if c.fails(t, false) != nil {
				small, again = c, true
			}
		}
		for i := range slices.Backward(small.deeds) {
			try(func(c *earnedScenario) { c.deeds = slices.Delete(c.deeds, i, i+1) })
		}
		for i, f := range small.fates {
			if f != (fate{}) {
				try(func(c *earnedScenario) { c.fates[i] = fate{} })
			}
		}
	}
	if w = small.fails(t, true); w != nil {
		t.Logf("a smaller one:\n%s\n%s\n%s", &small, strings.Join(w.log, "\n"), strings.Join(w.wrong, "\n"))
	}
}
