package main

import (
	"fmt"
	"go/types"
	"io"
	"maps"
	"slices"
	"strings"
)

// maxFields is how many fields a struct has at most, a group of them counted as one. Options of the module are as many
// as there are: a struct with JSON tags is what a user writes.
const maxFields = 30

// largeStructs returns the structs of a package that have more, with how many.
func largeStructs(p *checked) (all []string) {
	for _, name := range p.pkg.Scope().Names() {
		s := structOf(p.pkg, p.pkg.Scope().Lookup(name))
		if s != nil && s.NumFields() > maxFields && !strings.Contains(s.Tag(0)+s.Tag(s.NumFields()-1), "json:") {
			all = append(all, fmt.Sprintf("%s has %d", name, s.NumFields()))
		}
	}
	return all
}

// structOf returns the struct that obj names; nil: it names none of the package.
func structOf(pkg *types.Package, obj types.Object) *types.Struct {
	name, ok := obj.(*types.TypeName)
	if !ok || name.Pkg() != pkg {
		return nil
	}
	s, _ := name.Type().Underlying().(*types.Struct)
	return s
}

// showFields prints the fields of a struct, and of those that it is made of: how many files name each, and which.
func showFields(w io.Writer, dir, of string) error {
	found := false
	err := each(dir, func(p *checked) {
		pkg, name, _ := strings.Cut(of, ".")
		obj := p.pkg.Scope().Lookup(name)
		if p.pkg.Name() != pkg || obj == nil || structOf(p.pkg, obj) == nil {
			return
		}
		found = true
		files := make(map[types.Object]map[string]bool)
		for id, used := range p.uses {
			if files[used] == nil {
				files[used] = make(map[string]bool)
			}
			files[used][base(p.fset, id.Pos())] = true
		}
		printFields(w, p, obj, files, make(map[types.Object]bool))
	})
	if err == nil && !found {
		err = fmt.Errorf("there is no struct %s", of)
	}
	return err
}

func printFields(w io.Writer, p *checked, of types.Object, files map[types.Object]map[string]bool, seen map[types.Object]bool) {
	if seen[of] {
		return
	}
	seen[of] = true
	s, own := structOf(p.pkg, of), base(p.fset, of.Pos())
	var groups []types.Object
	for field := range s.Fields() {
		if named, ok := field.Type().(*types.Named); ok && structOf(p.pkg, named.Obj()) != nil {
			groups = append(groups, named.Obj())
		}
		if field.Embedded() {
			continue // who names what is in it does not name it
		}
		others := slices.DeleteFunc(slices.Sorted(maps.Keys(files[field])), func(file string) bool { return file == own })
		_, _ = fmt.Fprintf(w, "%2d  %-30s %s\n", len(others), of.Name()+"."+field.Name(), strings.Join(others, " "))
	}
	for _, group := range groups {
		printFields(w, p, group, files, seen)
	}
}
