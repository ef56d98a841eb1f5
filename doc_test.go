package caddysse

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strings"
	"testing"
)

// The package's documentation names packages that there are, all of them, and in
// the way of an event methods that there are.
func TestPackageDocNamesWhatThereIs(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "doc.go", nil, parser.ParseComments|parser.PackageClauseOnly)
	if err != nil {
		t.Fatal(err)
	}
	text := file.Doc.Text()
	_, drawing, _ := strings.Cut(text, "The packages, each of which")
	drawing, way, _ := strings.Cut(drawing, "The way of an event")
	inDrawing := regexp.MustCompile(`\w+`).FindAllString(drawing, -1)
	named := make(map[string]bool, len(inDrawing))
	for _, word := range inDrawing {
		named[word] = true
	}
	dirs, err := os.ReadDir("internal")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if name := dir.Name(); !named[name] && name != "doctor" && !strings.HasSuffix(name, "test") {
			t.Errorf("the drawing lacks %s", name)
		}
	}

	methods := make(map[string]bool)
	for _, f := range append(codeFiles(t), filesOf(t, "eventstream")...) {
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv != nil {
				recv := fn.Recv.List[0].Type
				if star, ok := recv.(*ast.StarExpr); ok {
					recv = star.X
				}
				if ident, ok := recv.(*ast.Ident); ok { // else it is of a generic type
					methods[ident.Name+"."+fn.Name.Name] = true
				}
			}
		}
	}
	steps := regexp.MustCompile(`\b(?:[a-z]+\.)?([A-Za-z]+\.[A-Za-z]+)\b`).FindAllStringSubmatch(way, -1)
	if len(steps) < 10 {
		t.Errorf("the way of an event has only %d methods", len(steps))
	}
	for _, step := range steps {
		if !methods[step[1]] {
			t.Errorf("there is no method %s", step[1])
		}
	}
}

// filesOf are the files of a folder's package, tests apart.
func filesOf(t *testing.T, dir string) (parsed []*ast.File) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if name := entry.Name(); strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") {
			file, err := parser.ParseFile(token.NewFileSet(), dir+"/"+name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			parsed = append(parsed, file)
		}
	}
	return parsed
}
