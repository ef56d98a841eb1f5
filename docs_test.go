package caddysse

import (
	"go/ast"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap/zapcore"
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
}

// tableColumn returns the names in a column of the table of docs/sse.md whose
// first cell is title: those in backquotes.
func tableColumn(t *testing.T, title string, column int) (names []string) {
	t.Helper()
	text, err := os.ReadFile("docs/sse.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "\n| "+title+" |")
	if !ok {
		t.Fatalf("no table %q", title)
	}
	table, _, _ = strings.Cut(table, "\n\n")
	for row := range strings.Lines(table) {
		if cells := strings.Split(row, "|"); strings.HasPrefix(row, "| `") && len(cells) > column && strings.Trim(cells[column], " `") != "" {
			names = append(names, strings.Trim(cells[column], " `"))
		}
	}
	slices.Sort(names)
	return names
}

// Each end reason is described, and no other.
func TestEndReasonsAreDocumented(t *testing.T) {
	reasons := slices.Sorted(maps.Values(constantsOf(t, "endReason")))
	if len(reasons) < 13 {
		t.Errorf("%d reasons in the code", len(reasons))
	}
	if known := slices.Sorted(slices.Values(endReasons)); !slices.Equal(known, reasons) {
		t.Errorf("the metric has\n%q, expected\n%q", known, reasons)
	}
	if documented := tableColumn(t, "end reason", 1); !slices.Equal(documented, reasons) {
		t.Errorf("documented are\n%q, expected\n%q", documented, reasons)
	}
}

// constantsOf are the values of the text constants of a type, by name.
func constantsOf(t *testing.T, typ string) map[string]string {
	t.Helper()
	values := make(map[string]string)
	eachNode(t, func(n ast.Node) {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || spec.Type == nil || !isIdent(spec.Type, typ) {
			return
		}
		for i, name := range spec.Names {
			if i < len(spec.Values) {
				values[name.Name] = constantText(spec.Values[i])
			}
		}
	})
	return values
}

// eachNode calls look for each node of the package's code.
func eachNode(t *testing.T, look func(n ast.Node)) {
	t.Helper()
	for _, file := range codeFiles(t) {
		ast.Inspect(file, func(n ast.Node) bool {
			if n != nil {
				look(n)
			}
			return true
		})
	}
}

// The access-log fields and the placeholders are those of the docs, and no
// others.
func TestAccessFieldsAreDocumented(t *testing.T) {
	var placeholders []string
	eachNode(t, func(n ast.Node) {
		if call, ok := n.(*ast.CallExpr); ok && len(call.Args) == 2 {
			if name := constantText(call.Args[0]); strings.HasPrefix(name, "http.sse.") {
				placeholders = append(placeholders, "{"+name+"}")
			}
		}
	})
	slices.Sort(placeholders)
	placeholders = slices.Compact(placeholders)
	if documented := tableColumn(t, "in `sse`", 2); len(placeholders) == 0 || !slices.Equal(documented, placeholders) {
		t.Errorf("documented are the placeholders\n%q, expected\n%q", documented, placeholders)
	}
	enc := zapcore.NewMapObjectEncoder()
	if err := enc.AddObject("sse", accessFields{}); err != nil {
		t.Fatal(err)
	}
	fields := slices.Sorted(maps.Keys(enc.Fields["sse"].(map[string]any)))
	if documented := tableColumn(t, "in `sse`", 1); !slices.Equal(documented, fields) {
		t.Errorf("documented are the fields\n%q, expected\n%q", documented, fields)
	}
}
