package integration

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

// examplePorts are what the examples listen on, and Caddy's admin endpoint.
var examplePorts = []string{"8080", "8090", "3000", "2019"}

// runnableExamples are the folders of examples/, each with what its page lets one see: of what the commands below
// "What to look at" print, in any order.
var runnableExamples = map[string][]string{
	"go": {
		`connections to the application: 1\n`,
		`(?i)\nsse-resume: replayed; events=[1-9]`,
	},
	"express": {
		`hello alice\nhello bob\n`,
		`Alice's connections to the application: 1\n`,
		`alice-1:2\nalice-2:2\n(id: .*\n|retry: .*\n|\n)*data: mail for bob\n`,
		`nobody: 401\n`,
	},
	"python": {
		`data: 0\n(.*\n)*:.*\n(.*\n)*data: 50\n(.*\n)*:.*\n(.*\n)*data: 100\n`,
		`first:1\nsecond:1\n`,
		`data: \d{10}\n`,
	},
	"php": {
		`(^|\n) *10 process:\d+}\n$`,
	},
	"llm": {
		`(?i)(^|\n)sse-resume: replayed; events=[1-9]`,
		`\n40\n`,
		`the model was asked 1 time`,
		`a stranger: 405\n`,
	},
	"mcp": {
		`(?m)^:`,
		`"text":"thought about it"`,
	},
	"forward-auth": {
		`^stranger: 401\nalice\nbob\n$`,
	},
	"behind-nginx": {
		`(?i)\ncontent-type: text/event-stream`,
		`data: \d{10}\n`,
		`\nok +buffering .*\n`,
		`\nhealthy(;|\n)`,
	},
}

// Issue 21: each example does what its page says, with the commands of that page.
func TestExamples(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir("../examples")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !entry.IsDir() || entry.Name() == "cluster" { // which needs a Caddy of its own: see cluster/nats
			continue
		}
		t.Run(entry.Name(), func(t *testing.T) {
			t.Parallel()
			wants, ok := runnableExamples[entry.Name()]
			if !ok {
				t.Fatal("there is no check of this example")
			}
			e := copyExamples(t, entry.Name())
			for line := range strings.SplitSeq(strings.TrimSpace(e.blocks("Run it")), "\n") {
				e.run(line)
			}
			e.look(wants)
			if made := e.strangers(); len(made) > 0 {
				t.Errorf("examples/.gitignore does not know %q", made)
			}
		})
	}
}

// example is a copy of an example, on ports of its own.
type example struct {
	t    *testing.T
	dir  string
	page string
	port map[string]string
	env  []string
}

// copyExamples copies all examples, as some use others, with free ports in place of theirs.
func copyExamples(t *testing.T, name string) *example {
	t.Helper()
	e := &example{t: t, port: freePorts(t, examplePorts...)}
	root, home := t.TempDir(), t.TempDir()
	ports := regexp.MustCompile(`\b(` + strings.Join(examplePorts, "|") + `)\b`)
	source := os.DirFS("../examples")
	err := fs.WalkDir(source, ".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Name() == "node_modules" { // somebody has run it
			return fs.SkipDir
		}
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := fs.ReadFile(source, path)
		if err != nil {
			return err
		}
		target := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
			return err
		}
		replaced := ports.ReplaceAllStringFunc(string(text), func(port string) string { return e.port[port] })
		return os.WriteFile(target, []byte(replaced), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	e.dir = filepath.Join(root, name)
	text, err := os.ReadFile(filepath.Join(e.dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	e.page = string(text)
	// Under the name that the page calls it by.
	if err := os.Symlink(phpPath, filepath.Join(home, "php-fpm")); err != nil {
		t.Fatal(err)
	}
	path := strings.Join([]string{home, filepath.Dir(gatewayPath), filepath.Dir(nodePath), filepath.Dir(nginxPath), os.Getenv("PATH")}, ":")
	e.env = append(os.Environ(), "PATH="+path, "CADDY_ADMIN=localhost:"+e.port["2019"],
		"XDG_DATA_HOME="+home, "XDG_CONFIG_HOME="+home, "GORACE=atexit_sleep_ms=0")
	return e
}

// blocks returns the commands below a heading.
func (e *example) blocks(heading string) string {
	e.t.Helper()
	_, section, ok := strings.Cut(e.page, "\n## "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var commands strings.Builder
	for _, block := range strings.Split(section, "\n```sh\n")[1:] {
		text, _, closed := strings.Cut(block, "\n```\n")
		ok = ok && closed
		commands.WriteString(text + "\n")
	}
	if !ok || commands.Len() == 0 {
		e.t.Fatalf("no commands below %q", heading)
	}
	return commands.String()
}

// run does what a line below "Run it" says.
func (e *example) run(line string) {
	e.t.Helper()
	if line == "npm install" { // setup.sh has installed them, in the versions of the lock file
		modules, err := filepath.Abs("node_modules")
		if err != nil {
			e.t.Fatal(err)
		}
		if err := os.Symlink(modules, filepath.Join(e.dir, "node_modules")); err != nil {
			e.t.Fatal(err)
		}
		return
	}
	line, background := strings.CutSuffix(line, " &")
	if !background {
		e.t.Fatalf("%q is not left running", line)
	}
	cmd := e.command("exec " + line)
	p := start(e.t, line, cmd, syscall.SIGTERM)
	switch {
	case line == "caddy run":
		e.t.Cleanup(func() {
			p.end(syscall.SIGTERM)
			if strings.Contains(p.errorText(), "DATA RACE") {
				e.t.Errorf("the race detector found something in the gateway:\n%s", p.errorText())
			}
		})
		p.awaitLog("serving initial configuration", 1)
	case strings.HasPrefix(line, "nginx "):
		e.t.Cleanup(p.crash)
		e.awaitPort("8080")
	default:
		e.t.Cleanup(p.crash) // with what it has started
		e.awaitPort("3000")
	}
}

// strangers returns the files that the commands have made and Git would take for ours.
func (e *example) strangers() (made []string) {
	e.t.Helper()
	cmd := e.command("cd .. && git init -q && git status --porcelain --untracked-files=all")
	out, err := cmd.Output()
	if err != nil {
		e.t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		path := strings.TrimSpace(strings.TrimPrefix(line, "??"))
		if _, err := os.Stat(filepath.Join("../examples", path)); err != nil {
			made = append(made, path)
		}
	}
	return made
}

func (e *example) command(script string) *exec.Cmd {
	cmd := command("bash", "-u", "-c", script)
	cmd.Dir = e.dir
	cmd.Env = e.env
	return cmd
}

// awaitPort waits until something listens where the example says.
func (e *example) awaitPort(port string) {
	e.t.Helper()
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", "localhost:"+e.port[port])
		if err == nil {
			_ = conn.Close()
			return
		}
		if time.Since(began) > testTimeout {
			e.t.Fatal(err)
		}
	}
}

// look does what is below "What to look at" until it shows what it should. The times of the commands are a person's: a slow
// machine may not be ready in time.
func (e *example) look(wants []string) {
	e.t.Helper()
	script := e.blocks("What to look at")
	for began := time.Now(); ; {
		out, err := e.command(script).Output()
		var missing []string
		for _, want := range wants {
			if !regexp.MustCompile(want).Match(out) {
				missing = append(missing, want)
			}
		}
		if len(missing) == 0 {
			return
		}
		if time.Since(began) > testTimeout {
			e.t.Fatalf("%v; not shown:\n%s\nbut:\n%s", err, strings.Join(missing, "\n"), out)
		}
	}
}
