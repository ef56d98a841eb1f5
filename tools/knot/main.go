// Knot prints how entangled the files of each package are.
//
//	go -C tools run ./knot ..
//
// A file points to another one if it names something that is declared there: a constant, a variable, a type, a
// function, a method or a field. A knot is a set of files each of which leads to each other one. The figure to watch
// is the size of the largest knot of a package: one file alone is 1, and nothing is entangled. It names the structs that
// have too many fields, too.
//
//	go -C tools run ./knot -check ..
//
// prints nothing, unless a package that is held in layers (held.go) has a knot that it is not to have: then it fails,
// and prints the arrows.
//
//	go -C tools run ./knot -fields stream.Stream ..
//
// prints the fields of a struct, and of the structs of its package that it is made of, each with the files that name it.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	log.SetFlags(0)
	check := flag.Bool("check", false, "fail if a package that is held in layers has a knot that it is not to have")
	fields := flag.String("fields", "", "a struct, as package.Name: print its fields, each with the files that name it")
	flag.Parse()
	dir := "."
	if flag.NArg() > 0 {
		dir = flag.Arg(0)
	}
	run := show
	switch {
	case *check:
		run = checkAll
	case *fields != "":
		run = func(w io.Writer, dir string) error { return showFields(w, dir, *fields) }
	}
	if err := run(os.Stdout, dir); err != nil {
		log.Fatal(err)
	}
}

// arrows are the files of a package, each with those that it points to.
type arrows map[string]map[string]bool

// show prints a line for each package.
func show(w io.Writer, dir string) error {
	return each(dir, func(p *checked) {
		to := uses(p)
		knot := largest(knots(to))
		n := 0
		for _, files := range to {
			n += len(files)
		}
		_, _ = fmt.Fprintf(w, "%-60s files %3d  arrows %4d  largest knot %3d", p.pkg.Path(), len(to), n, len(knot))
		if len(knot) > 1 {
			_, _ = fmt.Fprintf(w, "  %s", strings.Join(knot, " "))
		}
		for _, large := range largeStructs(p) {
			_, _ = fmt.Fprintf(w, "  %s fields", large)
		}
		_, _ = fmt.Fprintln(w)
	})
}

// listed is what go list tells of a package.
type listed struct {
	ImportPath, Dir, Export string
	GoFiles                 []string
	DepOnly                 bool
}

// checked is a package with its types.
type checked struct {
	fset  *token.FileSet
	pkg   *types.Package
	files []string // without their folder
	uses  map[*ast.Ident]types.Object
}

// each calls do for each package of the module in dir.
func each(dir string, do func(p *checked)) error {
	packages, err := list(dir)
	if err != nil {
		return err
	}
	exports := make(map[string]string)
	for _, p := range packages {
		exports[p.ImportPath] = p.Export
	}
	fset := token.NewFileSet()
	imports := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	for _, p := range packages {
		if p.DepOnly || len(p.GoFiles) == 0 {
			continue
		}
		c, err := typesOf(fset, imports, p)
		if err != nil {
			return err
		}
		do(c)
	}
	return nil
}

// list returns the packages of the module in dir, and what they depend on.
func list(dir string) ([]listed, error) {
	cmd := exec.Command("go", "list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles,DepOnly", "./...")
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("listing packages: %w", err)
	}
	var packages []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		switch err := dec.Decode(&p); {
		case errors.Is(err, io.EOF):
			return packages, nil
		case err != nil:
			return nil, fmt.Errorf("reading the list of packages: %w", err)
		}
		packages = append(packages, p)
	}
}

// typesOf checks a package.
func typesOf(fset *token.FileSet, imports types.Importer, p listed) (*checked, error) {
	files := make([]*ast.File, 0, len(p.GoFiles))
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, 0)
		if err != nil {
			return nil, fmt.Errorf("parsing: %w", err)
		}
		files = append(files, f)
	}
	info := &types.Info{Uses: make(map[*ast.Ident]types.Object)}
	pkg, err := (&types.Config{Importer: imports}).Check(p.ImportPath, fset, files, info)
	if err != nil {
		return nil, fmt.Errorf("checking types: %w", err)
	}
	return &checked{fset: fset, pkg: pkg, files: p.GoFiles, uses: info.Uses}, nil
}

// uses returns the files that each file of a package names something of.
func uses(p *checked) arrows {
	all := make(arrows)
	for _, name := range p.files {
		all[name] = make(map[string]bool)
	}
	for id, obj := range p.uses {
		if obj.Pkg() != p.pkg || !isShared(p.pkg, obj) {
			continue
		}
		from, to := base(p.fset, id.Pos()), base(p.fset, obj.Pos())
		if from != to {
			all[from][to] = true
		}
	}
	return all
}

// isShared reports whether files can name obj that do not declare it.
func isShared(pkg *types.Package, obj types.Object) bool {
	switch obj := obj.(type) {
	case *types.Var:
		return obj.IsField() || obj.Parent() == pkg.Scope()
	case *types.Func:
		return true
	}
	return obj.Parent() == pkg.Scope()
}

func base(fset *token.FileSet, pos token.Pos) string {
	return filepath.Base(fset.Position(pos).Filename)
}

// knots returns the strongly connected components (Tarjan).
func knots(to arrows) [][]string {
	var all [][]string
	var stack []string
	index, low := make(map[string]int), make(map[string]int)
	var visit func(v string)
	visit = func(v string) {
		index[v] = len(index) + 1
		low[v] = index[v]
		stack = append(stack, v)
		for next := range to[v] {
			if index[next] == 0 {
				visit(next)
				low[v] = min(low[v], low[next])
			} else if slices.Contains(stack, next) {
				low[v] = min(low[v], index[next])
			}
		}
		if low[v] == index[v] {
			i := slices.Index(stack, v)
			all = append(all, slices.Sorted(slices.Values(stack[i:])))
			stack = stack[:i]
		}
	}
	for v := range to {
		if index[v] == 0 {
			visit(v)
		}
	}
	return all
}

func largest(knots [][]string) (knot []string) {
	for _, k := range knots {
		if len(k) > len(knot) {
			knot = k
		}
	}
	return knot
}
