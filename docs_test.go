package caddysse

import (
	"os"
	"strings"
	"testing"
)

func TestOptionsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("docs/sse.md")
	if err != nil {
		t.Fatal(err)
	}
	syntax, tables, _ := strings.Cut(string(text), "\n```\n\nEach option")
	for option := range subdirectives {
		if !strings.Contains(syntax, "\n\t"+option+" ") {
			t.Errorf("option %s is not in the syntax", option)
		}
		if !strings.Contains(tables, "`"+option+"`") {
			t.Errorf("option %s is not described", option)
		}
	}
	for _, reason := range []endReason{
		endClient, endWrite, endUpstream, endGaveUp, endRefused, endOversized, endReload,
		endStopping, endMaxAge, endLag, endBroken, endAdmin, endPerClient,
	} {
		if !strings.Contains(tables, "`"+string(reason)+"`") {
			t.Errorf("end reason %s is not described", reason)
		}
	}
}
