// Package deliverytest tells tests which of the ways to write to clients they are run
// for: the two, and over HTTP/2 the one of them that takes streams over.
//
// A test that asks has to hold for both, and is run for both; one that does not ask
// is run once, and so is one that says so because it asks and is about something else.
// Nobody lists them: who asks takes note of the test (ci/test.sh).
package deliverytest

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
)

// Environment variables: the way to write to clients that is tested, and the file in
// which the tests are noted that ask for it.
const (
	env     = "CADDY_SSE_DELIVERY"
	noteEnv = "CADDY_SSE_DELIVERY_NOTE"
)

// dir is the folder of the package that is tested; a test may leave it.
var dir, _ = os.Getwd()

var (
	mu    sync.Mutex
	noted = make(map[string]bool)
)

// Of returns the way to write to clients that a test is run for: a value of the
// option delivery, or "" for the default.
func Of(t testing.TB) string {
	t.Helper()
	takeNote(t, "")
	return os.Getenv(env)
}

// OverHTTP2 reports whether the clients of tests are to share connections of HTTP/2,
// which is neither way of the two: who asks for this only need not run again.
func OverHTTP2() bool { return os.Getenv(env) == "http2" }

// NotOverHTTP2 takes note that a test is not about clients that share connections of
// HTTP/2, or is whichever way it is run.
func NotOverHTTP2(t testing.TB) {
	t.Helper()
	takeNote(t, "\tnot over HTTP/2")
}

// Once takes note that a test is about something else than how clients are written to,
// and takes long: it is not run again for the other ways.
func Once(t testing.TB) {
	t.Helper()
	takeNote(t, "\tonce")
}

// takeNote takes note of a test if that is wanted.
func takeNote(t testing.TB, what string) {
	t.Helper()
	if file := os.Getenv(noteEnv); file != "" {
		if err := note(file, t.Name(), what); err != nil {
			t.Errorf("taking note of what the test has to do with the delivery: %v", err)
		}
	}
}

// note adds a line with a test's package and name to a file. Tests of several
// packages do at the same time.
func note(file, test, what string) error {
	test, _, _ = strings.Cut(test, "/") // subtests are not run by themselves
	mu.Lock()
	defer mu.Unlock()
	if noted[test+what] {
		return nil
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600) //nolint:gosec // G304: who runs the tests names it
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(f, "%s\t%s%s\n", dir, test, what); err != nil {
		_ = f.Close()
		return err
	}
	noted[test+what] = true
	return f.Close()
}
