package caddysse

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// guides tell contributors, and machines, what to run.
var guides = []string{"CONTRIBUTING.md", ".github/workflows/test.yml", ".github/workflows/release.yml"}

// TestContributorsCommandsAreTrue: what the guides say to run is there: targets of make, scripts, packages, and in them the
// tests and flags that a command names.
func TestContributorsCommandsAreTrue(t *testing.T) {
	makefile := readText(t, "Makefile")
	targets := regexp.MustCompile(`\bmake ([a-z]+)\b`)
	tests := regexp.MustCompile("\\bgo (?:-C (\\S+) )?(?:-C (\\S+) )?test [^`\n]*")
	scripts := regexp.MustCompile(`(?:^|[ ` + "`" + `])((?:bench|ci|integration)/[a-z]+\.sh)\b`)
	found := 0
	for _, guide := range guides {
		text := readText(t, guide)
		// Commands stand in blocks, in backquotes, and behind run:.
		commands := strings.Join(regexp.MustCompile("(?m)^ *(?:go|make|[A-Z_]+=\\S+ go|bench/).*$|`[^`\n]+`|run: .*$").FindAllString(text, -1), "\n")
		for _, match := range targets.FindAllStringSubmatch(commands, -1) {
			found++
			if !strings.Contains(makefile, "\n"+match[1]+":") {
				t.Errorf("%s: %q: there is no such target", guide, match[0])
			}
		}
		for _, match := range scripts.FindAllStringSubmatch(commands, -1) {
			found++
			if info, err := os.Stat(match[1]); err != nil || info.Mode()&0o100 == 0 {
				t.Errorf("%s: %s is not a script that can be run: %v", guide, match[1], err)
			}
		}
		for _, match := range tests.FindAllStringSubmatch(commands, -1) {
			found++
			assertTestCommand(t, guide, match[0], match[1])
		}
	}
	if found < 20 {
		t.Errorf("only %d commands were found", found)
	}
}

// assertTestCommand looks for what a command of go test names in the packages that it names.
func assertTestCommand(t *testing.T, guide, command, module string) {
	t.Helper()
	for _, folder := range regexp.MustCompile(` (\.\S*)`).FindAllStringSubmatch(command, -1) {
		if strings.HasSuffix(folder[1], "...") {
			continue
		}
		files, err := filepath.Glob(filepath.Join(module, folder[1], "*_test.go"))
		if err != nil || len(files) == 0 {
			t.Errorf("%s: %q: %s has no tests", guide, command, folder[1])
			continue
		}
		var source strings.Builder
		for _, file := range files {
			source.WriteString(readText(t, file))
		}
		for _, name := range regexp.MustCompile(`'\^?((?:Test|Fuzz|Benchmark)\w+)\$?'`).FindAllStringSubmatch(command, -1) {
			if !strings.Contains(source.String(), "\nfunc "+name[1]) {
				t.Errorf("%s: %q: there is no %s", guide, command, name[1])
			}
		}
		for _, name := range regexp.MustCompile(` -(\w+\.\w+) `).FindAllStringSubmatch(command, -1) {
			if !strings.Contains(source.String(), `"`+name[1]+`"`) {
				t.Errorf("%s: %q: there is no flag %s", guide, command, name[1])
			}
		}
	}
}

func readText(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name) //nolint:gosec // G304: a file of the repository
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
