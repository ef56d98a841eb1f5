package deliverytest

import (
	"bytes"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// Who asks for the delivery is noted once, by the test's own name.
func TestWhoAsksIsNoted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "note")
	t.Setenv(noteEnv, file)
	t.Setenv(env, "handler")
	for _, name := range []string{"a", "b"} {
		t.Run(name, func(t *testing.T) {
			if got := Of(t); got != "handler" || OverHTTP2() {
				t.Errorf("the tests are run for %q", got)
			}
		})
	}
	text, err := os.ReadFile(file) //nolint:gosec // G304: the test's own file
	if want := dir + "\tTestWhoAsksIsNoted\n"; err != nil || string(text) != want {
		t.Errorf("noted is %q, %v, expected %q", text, err, want)
	}
}

// So is, beside it, who is not to run over HTTP/2.
func TestWhoIsNotOverHTTP2IsNoted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "note")
	t.Setenv(noteEnv, file)
	for range 2 {
		NotOverHTTP2(t)
	}
	text, err := os.ReadFile(file) //nolint:gosec // G304: the test's own file
	if want := dir + "\tTestWhoIsNotOverHTTP2IsNoted\tnot over HTTP/2\n"; err != nil || string(text) != want {
		t.Errorf("noted is %q, %v, expected %q", text, err, want)
	}
}

// So is who runs once.
func TestWhoRunsOnceIsNoted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "note")
	t.Setenv(noteEnv, file)
	Of(t)
	Once(t)
	text, err := os.ReadFile(file) //nolint:gosec // G304: the test's own file
	name := dir + "\tTestWhoRunsOnceIsNoted"
	if want := name + "\n" + name + "\tonce\n"; err != nil || string(text) != want {
		t.Errorf("noted is %q, %v, expected %q", text, err, want)
	}
}

// Where nobody takes notes, tests run all the same.
func TestNothingIsNotedWithoutAFile(t *testing.T) {
	t.Setenv(noteEnv, "")
	t.Setenv(env, "")
	if got := Of(t); got != "" {
		t.Errorf("the tests are run for %q", got)
	}
}

// A test that read the variable by itself would not be noted, and not be run for the
// other way.
func TestDeliveryIsAskedForHereOnly(t *testing.T) {
	seen := 0
	err := fs.WalkDir(os.DirFS("../.."), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.Name() == "node_modules" || d.Name() == "_artifacts":
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go"):
			return nil
		}
		text, err := os.ReadFile(path.Join("../..", name)) //nolint:gosec // G304: a file of the repository
		if err != nil {
			return err
		}
		if bytes.Contains(text, []byte(env)) {
			seen++
			if path.Dir(name) != "internal/deliverytest" {
				t.Errorf("%s has %s, and not by way of this package", name, env)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen != 1 {
		t.Errorf("%d files have %s, expected this package's", seen, env)
	}
}
