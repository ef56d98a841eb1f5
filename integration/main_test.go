package integration

import (
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// testTimeout bounds every wait for something that has to happen. It is generous: only a test that fails waits for all
// of it.
const testTimeout = 2 * time.Minute

// Programs that the tests run; see setup.
var (
	gatewayPath  string
	plainPath    string // the gateway without the race detector
	tickerPath   string
	readerPath   string
	nodePath     string
	chromiumPath string
	nginxPath    string
	phpPath      string

	pocketBasePath string
	h2specPath     string
)

// workDir is removed when all tests have run.
var workDir string

// programsEnv is the environment variable with the folder of the programs that are built, so that several runs of the
// tests build them once. Without it they are in workDir. Who has made the folder may put a file "built" there once they
// are, if nothing is going to change: even to look takes seconds.
const programsEnv = "CADDY_SSE_PROGRAMS"

func TestMain(m *testing.M) {
	var err error
	if workDir, err = os.MkdirTemp("", "sse-integration"); err != nil {
		log.Fatal(err)
	}
	code := 1
	if err := setup(); err != nil {
		fmt.Fprintln(os.Stderr, "setting up:", err)
	} else {
		code = m.Run()
	}
	if err := os.RemoveAll(workDir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// setup builds the programs that are written in Go, and finds the others.
func setup() error {
	if err := buildPrograms(); err != nil {
		return err
	}
	arch := strings.Replace(runtime.GOARCH, "amd64", "x64", 1)
	var err error
	if nodePath, err = filepath.Abs("node_modules/node-linux-" + arch + "/bin/node"); err != nil {
		return err
	}
	if _, err := os.Stat(nodePath); err != nil {
		return fmt.Errorf("node (run integration/setup.sh): %w", err)
	}
	if nginxPath, err = exec.LookPath("nginx"); err != nil {
		nginxPath = "/usr/sbin/nginx" // where Debian has it, and not all users look
	}
	if _, err := os.Stat(nginxPath); err != nil {
		return fmt.Errorf("nginx (run integration/setup.sh): %w", err)
	}
	if phpPath, err = findPHP(); err != nil {
		return err
	}
	if chromiumPath = os.Getenv("CHROMIUM"); chromiumPath != "" {
		return nil
	}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if chromiumPath, err = exec.LookPath(name); err == nil {
			return nil
		}
	}
	return errors.New("no Chromium (run integration/setup.sh)")
}

// findPHP finds PHP-FPM, whose name has a version in it on Debian.
func findPHP() (string, error) {
	if path, err := exec.LookPath("php-fpm"); err == nil {
		return path, nil
	}
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin") {
		if found, err := filepath.Glob(filepath.Join(dir, "php-fpm[0-9]*")); err == nil && len(found) > 0 {
			return found[len(found)-1], nil
		}
	}
	return "", errors.New("no PHP-FPM (run integration/setup.sh)")
}

// buildPrograms builds the programs, those that are not there as they would be built. Of several runs one does at a time.
func buildPrograms() error {
	dir := workDir
	if shared := os.Getenv(programsEnv); shared != "" {
		dir = shared
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // G304: who runs the tests names it
	if err != nil {
		return err
	}
	defer lock.Close() // which unlocks it
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	_, err = os.Stat(filepath.Join(dir, "built"))
	built := err == nil
	for _, program := range []struct {
		path           *string
		name, dir, pkg string
		flags          []string
	}{
		{&gatewayPath, "caddy", "..", "./cmd/caddy", []string{"-race"}},
		{&plainPath, "caddy-plain", "..", "./cmd/caddy", nil},
		{&tickerPath, "ticker", ".", "./upstreams/ticker", nil},
		{&readerPath, "reader", ".", "./clients/reader", nil},
		{&pocketBasePath, "pocketbase", ".", "./upstreams/pocketbase", nil},
		{&h2specPath, "h2spec", ".", "github.com/summerwind/h2spec/cmd/h2spec", nil},
	} {
		*program.path = filepath.Join(dir, program.name)
		if built {
			continue
		}
		if err := build(program.dir, program.pkg, *program.path, program.flags...); err != nil {
			return err
		}
	}
	return nil
}

func build(dir, pkg, out string, flags ...string) error {
	args := append([]string{"build", "-o", out}, flags...)
	cmd := command("go", append(args, pkg)...)
	cmd.Dir = dir
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", pkg, err, text)
	}
	return nil
}
