package main

import (
	"os"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
)

// TestExampleAdapts keeps Caddyfile.example in step with the directives. ci/example.sh provisions it, too.
func TestExampleAdapts(t *testing.T) {
	input, err := os.ReadFile("../../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	_, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt(input, map[string]any{"filename": "Caddyfile.example"})
	if err != nil {
		t.Fatal(err)
	}
	for _, warning := range warnings {
		t.Error(warning)
	}
}
