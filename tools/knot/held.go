package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

const module = "github.com/caddy-sse/caddy-sse"

// held are the packages whose files stay in layers, each with the knots that it has. One that is loosened is taken out
// here; one is put in with its reason. Packages that are not here are not looked at.
var held = map[string][]string{
	module:                         nil,
	module + "/eventstream":        nil,
	module + "/internal/delivery":  nil,
	module + "/internal/evidence":  nil,
	module + "/internal/replay":    nil,
	module + "/internal/upstreams": nil,
	module + "/internal/stream": {
		"stream.go subscriber.go", // types that hold each other
		"merge.go trial.go",       // a comparison opens connections that are compared
		"receive.go successor.go", // a block may let a successor take over, which brings the blocks that it holds
	},
}

// checkAll prints the knots that are not to be, with the arrows that make them, and what is known and is none.
func checkAll(w io.Writer, dir string) error {
	failed := false
	say := func(format string, args ...any) {
		failed = true
		_, _ = fmt.Fprintf(w, format+"\n", args...)
	}
	seen := 0
	err := each(dir, func(p *checked) {
		path := p.pkg.Path()
		known, ok := held[path]
		if !ok {
			return
		}
		seen++
		to := uses(p)
		var found []string
		for _, knot := range knots(to) {
			if len(knot) == 1 {
				continue
			}
			name := strings.Join(knot, " ")
			found = append(found, name)
			if !slices.Contains(known, name) {
				say("%s: a knot of %d files: %s", path, len(knot), within(to, knot))
			}
		}
		for _, name := range known {
			if !slices.Contains(found, name) {
				say("%s: %s is no knot any more: take it out of held.go", path, name)
			}
		}
	})
	if err == nil && seen != len(held) {
		say("%d of the packages in held.go are not there", len(held)-seen)
	}
	if err == nil && failed {
		err = errors.New("knots: a file names only what files below it declare (docs/adr/0010-layers-of-the-core.md)")
	}
	return err
}

// within writes the arrows between the files of a knot.
func within(to arrows, knot []string) string {
	var all []string
	for _, from := range knot {
		for _, file := range knot {
			if to[from][file] {
				all = append(all, from+" -> "+file)
			}
		}
	}
	return strings.Join(all, ", ")
}
