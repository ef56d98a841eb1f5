package caddysse

import (
	"encoding/json"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-sse/caddy-sse/internal/hints"
)

// TestExamples: each example is formatted, adapts without a warning, can be
// provisioned, and is explained.
func TestExamples(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	var docs strings.Builder
	for _, name := range docPages(t) {
		docs.WriteString(readPage(t, name))
	}
	examples := os.DirFS("examples")
	names, err := fs.Glob(examples, "*.Caddyfile")
	if err != nil || len(names) < 5 {
		t.Fatalf("examples %q, %v", names, err)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			text, err := fs.ReadFile(examples, name)
			if err != nil {
				t.Fatal(err)
			}
			if string(caddyfile.Format(text)) != string(text) {
				t.Error("not formatted: caddy fmt --overwrite")
			}
			adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(text, map[string]any{"filename": name})
			if err != nil || len(warnings) > 0 {
				t.Fatalf("adapting: %v, %v", err, warnings)
			}
			if !strings.Contains(string(adapted), `"handler":"sse"`) {
				t.Error("no sse handler")
			}
			var config caddy.Config
			if err := json.Unmarshal(adapted, &config); err != nil {
				t.Fatal(err)
			}
			told := hints.Process.Told()
			if err := caddy.Validate(&config); err != nil {
				t.Error(err)
			}
			if hints.Process.Told() != told {
				t.Error("something in it is doubtful: caddy validate says what")
			}
			if !strings.Contains(docs.String(), "../examples/"+name) {
				t.Error("no page of the docs links to it")
			}
		})
	}
}

// TestExampleFolders: each folder has a Caddyfile that can be provisioned, and a page that says what to run and what to look
// at. The tests of integration/ do so.
func TestExampleFolders(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	list, err := os.ReadFile("examples/README.md")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("examples")
	if err != nil {
		t.Fatal(err)
	}
	folders := 0
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		folders++
		t.Run(entry.Name(), func(t *testing.T) {
			folder := os.DirFS("examples/" + entry.Name())
			page, err := fs.ReadFile(folder, "README.md")
			if err != nil || !strings.Contains(string(page), "\n## Run it\n") || !strings.Contains(string(page), "\n## What to look at\n") {
				t.Errorf("the page does not say what to run and what to look at: %v", err)
			}
			if !strings.Contains(string(list), "]("+entry.Name()+"/README.md)") {
				t.Error("examples/README.md does not list it")
			}
			if entry.Name() == "cluster" {
				return // its Caddyfiles need another module: see cluster/nats
			}
			text, err := fs.ReadFile(folder, "Caddyfile")
			if err != nil {
				t.Fatal(err)
			}
			if string(caddyfile.Format(text)) != string(text) {
				t.Error("not formatted: caddy fmt --overwrite")
			}
			adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(text, map[string]any{"filename": "Caddyfile"})
			if err != nil || len(warnings) > 0 {
				t.Fatalf("adapting: %v, %v", err, warnings)
			}
			var config caddy.Config
			if err := json.Unmarshal(adapted, &config); err != nil {
				t.Fatal(err)
			}
			told := hints.Process.Told()
			if err := caddy.Validate(&config); err != nil {
				t.Error(err)
			}
			if hints.Process.Told() != told {
				t.Error("something in it is doubtful: caddy validate says what")
			}
		})
	}
	if folders < 8 {
		t.Errorf("%d folders, want 8 at least", folders)
	}
}
