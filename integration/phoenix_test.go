package integration

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"
)

// phoenix is a ticker that can be restarted on its address. It goes on with the numbers of its events.
type phoenix struct {
	*upstream
	t     testing.TB
	since time.Time // of event 0
	every time.Duration
	args  []string
	lives []*upstream
}

// startPhoenix starts a ticker with an event at an interval.
func startPhoenix(t testing.TB, every time.Duration, args ...string) *phoenix {
	t.Helper()
	u := &phoenix{t: t, since: time.Now(), every: every, args: args}
	u.start("127.0.0.2:0") // clients that dial do not take its port meanwhile
	return u
}

// twin starts another one with the same events, at the same times.
func (u *phoenix) twin(args ...string) *phoenix {
	u.t.Helper()
	v := &phoenix{t: u.t, since: u.since, every: u.every, args: args}
	v.start("127.0.0.2:0")
	return v
}

func (u *phoenix) start(address string) {
	u.t.Helper()
	args := append([]string{
		"-address", address, "-history",
		"-interval", u.every.String(), "-since", fmt.Sprint(u.since.UnixNano()),
	}, u.args...)
	for i, arg := range args {
		if arg == "-line=life" {
			args[i] = fmt.Sprint("-line=life ", len(u.lives)+1)
		}
	}
	u.upstream = startTicker(u.t, args...)
	u.lives = append(u.lives, u.upstream)
}

// restart starts it again on its address.
func (u *phoenix) restart() {
	u.t.Helper()
	u.start(u.address)
}

// term ends it well: its responses first.
func (u *phoenix) term() {
	u.t.Helper()
	u.stop()
}

// due returns the number of the event whose time it is.
func (u *phoenix) due() int { return int(time.Since(u.since) / u.every) }

// connections returns how many connections of all lives there were, and the most at a time.
func (u *phoenix) connections() (all, most int) {
	for _, life := range u.lives {
		n, m := life.connections()
		all += n
		most = max(most, m)
	}
	return all, most
}

// connections returns how many connections there were, and the most at a time.
func (u *upstream) connections() (all, most int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	open := 0
	for _, r := range u.reports {
		switch r.Event {
		case "open":
			all++
			open++
			most = max(most, open)
		case "close":
			open--
		}
	}
	return all, most
}

// open returns how many connections there are.
func (u *upstream) open() int { return len(u.all("open")) - len(u.all("close")) }

// awaitOpen waits until there are so many connections.
func (u *upstream) awaitOpen(n int) {
	u.t.Helper()
	u.await(fmt.Sprint(n, " connections"), func(rs []report) bool { return len(only(rs, "open"))-len(only(rs, "close")) == n })
}

// listenAgain listens on an address that a process has listened on.
func listenAgain(t testing.TB, address string) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	for began := time.Now(); errors.Is(err, syscall.EADDRINUSE) && time.Since(began) < testTimeout; listener, err = net.Listen("tcp", address) {
		time.Sleep(10 * time.Millisecond) // a process that is just being started may have it yet
	}
	if err != nil {
		t.Fatal(err)
	}
	return listener
}
