package natsbus

import (
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// copyExample copies examples/cluster, and the application that it starts, to be run at an
// address of its own. It returns the folder and its page.
func copyExample(t *testing.T, address string) (dir, page string) {
	t.Helper()
	module, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	root, source := t.TempDir(), os.DirFS("../../examples")
	change := strings.NewReplacer(
		"localhost", address, "127.0.0.1", address, "http://:8080 {", "http://:8080 {\n\tbind "+address,
		`"$here/../../cluster/nats"`, `"`+module+`"`,
	)
	for _, folder := range []string{"cluster", "go"} {
		entries, err := fs.ReadDir(source, folder)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(root, folder), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			name := filepath.Join(folder, entry.Name())
			text, err := fs.ReadFile(source, name)
			if err != nil {
				t.Fatal(err)
			}
			changed := change.Replace(string(text))
			if err := os.WriteFile(filepath.Join(root, name), []byte(changed), 0o700); err != nil { //nolint:gosec // a script is among them
				t.Fatal(err)
			}
			if entry.Name() == "README.md" && folder == "cluster" {
				page = changed
			}
		}
	}
	return filepath.Join(root, "cluster"), page
}

// commands are those below a heading of a page.
func commands(page, heading string) string {
	_, part, _ := strings.Cut(page, "\n## "+heading+"\n")
	part, _, _ = strings.Cut(part, "\n## ")
	var all strings.Builder
	for _, fence := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```").FindAllStringSubmatch(part, -1) {
		all.WriteString(fence[1])
	}
	return all.String()
}

// The example starts with the command of its page, shows what the page says, and leaves
// nothing behind when it is stopped.
func TestExample(t *testing.T) {
	t.Parallel()
	address, _, err := net.SplitHostPort(ownAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := caddyBinary(); err != nil { // which the example builds, too: all but linking is done then
		t.Fatal(err)
	}
	dir, page := copyExample(t, address)
	leaves := t.TempDir()
	run := exec.Command("bash", "-c", commands(page, "Run it")) //nolint:gosec // G204: of our own page
	run.Dir, run.Env = dir, append(os.Environ(), "TMPDIR="+leaves)
	run.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	said, err := os.Create(filepath.Join(t.TempDir(), "said"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	run.Stdout, run.Stderr = said, said
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	defer func() {
		_ = syscall.Kill(-run.Process.Pid, syscall.SIGKILL)
		if !stopped {
			_ = run.Wait()
		}
		if t.Failed() {
			text, _ := os.ReadFile(said.Name())
			t.Logf("it said:\n%s", text)
		}
	}()
	for deadline := time.Now().Add(3 * patience); !answers(address + ":8080"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) { // it builds first
			t.Fatal("waited for the example")
		}
	}

	look := commands(page, "What to look at")
	shown := regexp.MustCompile(`(?is)connections to the application: 1\n.*\nsse-resume: replayed; events=[1-9]`)
	var out []byte
	for deadline := time.Now().Add(patience); !shown.Match(out); {
		if time.Now().After(deadline) {
			t.Fatalf("%s\nshowed:\n%s", look, out)
		}
		command := exec.Command("bash", "-c", look) //nolint:gosec // G204: of our own page
		command.Dir = dir
		out, _ = command.CombinedOutput() // what it shows counts
	}

	logs, err := filepath.Glob(leaves + "/tmp.*/[123]/log")
	if err != nil || len(logs) != 3 {
		t.Errorf("logs %q, %v", logs, err)
	}
	for _, name := range logs {
		text, err := os.ReadFile(name) //nolint:gosec // G304: below a folder of the test
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "not a directory") {
				t.Errorf("a node complains: %v, %s", err, line)
			}
		}
	}

	if err := run.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := run.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	stopped = true
	for _, port := range []string{"8080", "3000", "6221", "6222", "6223"} {
		if answers(address + ":" + port) {
			t.Errorf("something still listens on port %s", port)
		}
	}
	if left, err := filepath.Glob(leaves + "/tmp.*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// answers reports whether something listens at an address.
func answers(address string) bool {
	c, err := net.Dial("tcp", address)
	if err == nil {
		c.Close()
	}
	return err == nil
}
