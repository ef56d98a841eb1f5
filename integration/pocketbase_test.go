package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"
)

// pocketBase is an application whose clients are told a connection id first, on which they then say who they are: a
// PocketBase, and users of it with its own SDK.
type pocketBase struct {
	t       *testing.T
	app     *upstream
	users   *process
	written map[int][]string // notes by user
}

// quietTime is for how long nothing happens now and then. Silence of two connections must not be taken for a sign that
// they are told the same.
const quietTime = 3 * time.Second

func startPocketBase(t *testing.T, users int) *pocketBase {
	t.Helper()
	app := startUpstream(t, "pocketbase", command(pocketBasePath, "-dir="+t.TempDir(), fmt.Sprint("-users=", users)))
	g := startGateway(t, "sse\nreverse_proxy "+app.address)
	return &pocketBase{
		t: t, app: app, users: startNode(t, "clients/pocketbase.mjs", g.url("")), written: make(map[int][]string),
	}
}

// joined is what a user says when it has subscribed.
type joined struct {
	User    int             `json:"user"`
	Failure json.RawMessage `json:"failure"`
}

// join lets users subscribe at once.
func (p *pocketBase) join(from, to int) {
	p.t.Helper()
	p.users.tell(fmt.Sprintf("join %d %d", from, to))
	p.users.awaitEvent("joined", to)
	for _, r := range p.users.all("joined")[from:] {
		var j joined
		if err := json.Unmarshal([]byte(r.Data), &j); err != nil {
			p.t.Fatal(err)
		}
		if j.Failure != nil {
			p.t.Errorf("a user could not subscribe: %s", j.Failure)
		}
	}
}

// note lets each of so many users write one.
func (p *pocketBase) note(users int) {
	p.t.Helper()
	for user := range users {
		text := fmt.Sprintf("%d-of-user-%d", len(p.written[user]), user)
		p.written[user] = append(p.written[user], text)
		p.users.tell(fmt.Sprintf("note %d %s", user, text))
	}
}

// check checks that each user is told of all his own notes and of no others.
func (p *pocketBase) check() {
	p.t.Helper()
	all := 0
	for _, texts := range p.written {
		all += len(texts)
	}
	p.users.awaitEvent("told", all)
	told := make(map[int][]string)
	for _, r := range p.users.all("told") {
		var of struct {
			User int    `json:"user"`
			Text string `json:"text"`
		}
		if err := json.Unmarshal([]byte(r.Data), &of); err != nil {
			p.t.Fatal(err)
		}
		told[of.User] = append(told[of.User], of.Text)
	}
	for _, user := range slices.Sorted(maps.Keys(p.written)) {
		if !slices.Equal(told[user], p.written[user]) {
			p.t.Errorf("user %d was told of %q, expected %q", user, told[user], p.written[user])
		}
	}
	for _, failed := range p.users.all("failed") {
		p.t.Errorf("a user's request failed: %s", failed.Data)
	}
}

// awaitQuiet lets the application be quiet: what comes after that is what counts.
func (p *pocketBase) awaitQuiet() { <-time.After(quietTime) }

// Issue 13, acceptance 3: with no option, each user of a PocketBase gets what only he may see, and nothing else.
func TestPocketBase(t *testing.T) {
	t.Parallel()
	p := startPocketBase(t, 3)
	for user := range 3 {
		p.join(user, user+1)
		p.awaitQuiet()
	}
	for range 2 {
		p.note(3)
		p.check()
		p.awaitQuiet()
	}
}

func TestPocketBaseWithManyAtOnce(t *testing.T) {
	t.Parallel()
	const users = 20
	p := startPocketBase(t, users)
	p.join(0, users)
	for range 3 {
		p.note(users)
		p.check()
		p.awaitQuiet()
	}
	if open := len(p.app.all("open")) - len(p.app.all("close")); open != users {
		t.Errorf("%d connections to the application, expected one for each of %d users", open, users)
	}
}
