package caddysse

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The packages of the module import each other in one direction only, and know no
// more of the world than they need: see doc.go. The compiler holds the direction,
// this table the rest.

// wall is what the code of a package may name.
type wall struct {
	imports []string // packages of the module
	zap     bool     // the log
	caddy   bool
	http    bool // requests and responses; header fields and status numbers all may name
}

// walls are those of each package, but for the root, which is above them all, and
// alone may know Prometheus.
var walls = map[string]wall{
	"eventstream":        {},
	"internal/logs":      {zap: true},
	"internal/hints":     {zap: true},
	"internal/number":    {},
	"internal/replay":    {imports: []string{"eventstream", "internal/number"}},
	"internal/meter":     {},
	"internal/access":    {imports: []string{"internal/meter"}},
	"internal/evidence":  {imports: []string{"eventstream", "internal/number", "internal/replay"}},
	"internal/stream":    {imports: []string{"eventstream", "internal/evidence", "internal/logs", "internal/meter", "internal/number", "internal/replay", "internal/upstreams"}, zap: true},
	"internal/upstreams": {imports: []string{"eventstream", "internal/meter"}, zap: true},
	"internal/cluster":   {imports: []string{"internal/logs", "internal/number", "internal/replay", "internal/stream", "internal/upstreams"}, zap: true},

	"internal/cluster/bustest": {imports: []string{"internal/cluster"}}, // of tests
	"internal/key":             {imports: []string{"internal/stream"}, caddy: true, http: true},
	"internal/h2":              {imports: []string{"internal/number"}, http: true},
	"internal/deliverytest":    {}, // of tests
	"internal/doctor":          {imports: []string{"eventstream"}, http: true},
	"internal/delivery": {
		imports: []string{"internal/h2", "internal/meter", "internal/number", "internal/replay", "internal/stream"},
		caddy:   true, http: true,
	},
	"internal/admin": {imports: []string{"eventstream", "internal/access", "internal/cluster", "internal/hints", "internal/replay", "internal/stream"}, caddy: true, http: true},
}

// checkWall returns what a file names that its package may not.
func checkWall(file *ast.File, may wall) (wrong []string) {
	for _, spec := range file.Imports {
		name, _ := strconv.Unquote(spec.Path.Value)
		own, isOwn := strings.CutPrefix(name, modulePath+"/")
		allowed := true
		switch {
		case name == modulePath, strings.HasPrefix(name, "github.com/prometheus/"):
			allowed = false
		case isOwn:
			allowed = slices.Contains(may.imports, own)
		case strings.HasPrefix(name, "github.com/caddyserver/"):
			allowed = may.caddy
		case strings.HasPrefix(name, "go.uber.org/zap"):
			allowed = may.zap
		}
		if !allowed {
			wrong = append(wrong, "import "+name)
		}
	}
	if may.http {
		return wrong
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok && isIdent(sel.X, "http") {
			switch sel.Sel.Name {
			case "Request", "ResponseWriter", "Handler", "Client", "Server":
				wrong = append(wrong, "http."+sel.Sel.Name)
			}
		}
		return true
	})
	return wrong
}

func TestWallsBetweenPackages(t *testing.T) {
	seen := make(map[string]bool)
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, d fs.DirEntry, err error) error {
		switch dir := path.Dir(name); {
		case err != nil:
			return err
		case d.IsDir(), !strings.HasSuffix(name, ".go"), strings.HasSuffix(name, "_test.go"):
		case dir == "eventstream", strings.HasPrefix(dir, "internal/"):
			may, ok := walls[dir]
			if !ok {
				t.Errorf("%s has no wall", dir)
			}
			seen[dir] = true
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			for _, wrong := range checkWall(file, may) {
				t.Errorf("%s: %s", name, wrong)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for dir := range walls {
		if !seen[dir] {
			t.Errorf("%s has a wall and no code", dir)
		}
	}
}

// One broken wall of each kind is seen.
func TestBrokenWalls(t *testing.T) {
	may := wall{imports: []string{"eventstream"}}
	for _, test := range []struct {
		code string
		want string
	}{
		{`import _ "github.com/caddy-sse/caddy-sse/eventstream"`, ""},
		{`import "net/http"; var _ http.Header; const _ = http.StatusOK`, ""},
		{`import _ "github.com/caddy-sse/caddy-sse"`, "import github.com/caddy-sse/caddy-sse"},
		{`import _ "github.com/caddy-sse/caddy-sse/internal/logs"`, "import github.com/caddy-sse/caddy-sse/internal/logs"},
		{`import _ "github.com/caddy-sse/caddy-sse/internal/key"`, "import github.com/caddy-sse/caddy-sse/internal/key"},
		{`import _ "github.com/caddyserver/caddy/v2"`, "import github.com/caddyserver/caddy/v2"},
		{`import _ "github.com/prometheus/client_golang/prometheus"`, "import github.com/prometheus/client_golang/prometheus"},
		{`import _ "go.uber.org/zap"`, "import go.uber.org/zap"},
		{`import "net/http"; var _ *http.Request`, "http.Request"},
		{`import "net/http"; func f(http.ResponseWriter) {}`, "http.ResponseWriter"},
	} {
		if got := brokenWalls(t, test.code, may); got != test.want {
			t.Errorf("%s: seen %q, expected %q", test.code, got, test.want)
		}
	}
}

// What a package may name that others may not is seen as such, and no more.
func TestBrokenWallsOfPackages(t *testing.T) {
	for _, test := range []struct {
		dir, code string
		want      string
	}{
		{"internal/admin", `import _ "github.com/caddyserver/caddy/v2"; import "net/http"; var _ *http.Request`, ""},
		{"internal/admin", `import _ "github.com/caddy-sse/caddy-sse/internal/logs"`, "import github.com/caddy-sse/caddy-sse/internal/logs"},
		{"internal/admin", `import _ "go.uber.org/zap"`, "import go.uber.org/zap"},
		{"internal/delivery", `import _ "github.com/caddyserver/caddy/v2"; import "net/http"; var _ http.ResponseWriter`, ""},
		{"internal/delivery", `import _ "github.com/caddy-sse/caddy-sse"`, "import github.com/caddy-sse/caddy-sse"},
		{"internal/delivery", `import _ "github.com/caddy-sse/caddy-sse/internal/admin"`, "import github.com/caddy-sse/caddy-sse/internal/admin"},
		{"internal/delivery", `import _ "go.uber.org/zap"`, "import go.uber.org/zap"},
		{"internal/stream", `import _ "github.com/caddy-sse/caddy-sse/internal/delivery"`, "import github.com/caddy-sse/caddy-sse/internal/delivery"},
	} {
		if got := brokenWalls(t, test.code, walls[test.dir]); got != test.want {
			t.Errorf("%s: %s: seen %q, expected %q", test.dir, test.code, got, test.want)
		}
	}
}

// brokenWalls returns what a package's code names that it may not.
func brokenWalls(t *testing.T, code string, may wall) string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "broken.go", "package broken; "+code, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(checkWall(file, may), " ")
}

// systemClock is what makes of a moment one that goes by the system's clock, which may be set while streams last.
var systemClock = []string{"Unix", "UnixNano", "UnixMicro", "UnixMilli", "UTC", "Local", "In", "AddDate", "Truncate", "Round", "Parse", "ParseTime", "ParseInLocation", "MarshalText", "MarshalBinary"}

// byTheSystemsClock are the files that name one of these, and what for.
var byTheSystemsClock = map[string]string{
	"served.go":                     "the field Date",
	"refusals.go":                   "a duration",
	"head.go":                       "Retry-After with a date; what comes of it is bounded where it is used",
	"internal/cluster/node.go":      "the first number of a node's beats, which are counted from there",
	"internal/cluster/wire.go":      "which of two owners has begun before: any clocks of theirs make it one of both",
	"internal/delivery/progress.go": "a moment that is over, for a deadline",
	"internal/h2/client.go":         "a moment that is over, for a deadline",
	"internal/stream/settings.go":   "a duration",
}

// Nothing that lasts is measured by the system's clock, which may be set forward and back at any time. What Go compares by
// its monotonic clock are moments of time.Now that were not changed.
func TestNothingIsMeasuredByTheSystemsClock(t *testing.T) {
	found := make(map[string][]string)
	eachFile(t, func(name string, file *ast.File) {
		ast.Inspect(file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if sel, ok := call.Fun.(*ast.SelectorExpr); ok && slices.Contains(systemClock, sel.Sel.Name) && !isIdent(sel.X, "url") {
					found[name] = append(found[name], sel.Sel.Name)
				}
			}
			return true
		})
	})
	for name, calls := range found {
		if byTheSystemsClock[name] == "" {
			t.Errorf("%s calls %v: is that by the system's clock?", name, calls)
		}
	}
	for name := range byTheSystemsClock {
		if found[name] == nil {
			t.Errorf("%s is listed, and calls nothing of that", name)
		}
	}
}

// eachFile calls a function with each file of the module that is the gateway's, tests not counted.
func eachFile(t *testing.T, see func(name string, file *ast.File)) {
	t.Helper()
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, d fs.DirEntry, err error) error {
		dir := path.Dir(name)
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") ||
			dir != "." && dir != "eventstream" && !strings.HasPrefix(dir, "internal/") || dir == "internal/doctor" {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		see(name, file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Who has no cluster is given nothing of what carries one: the module does not require it.
func TestClusterIsNotCompiledIn(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	listed := strings.Fields(string(out))
	if !slices.Contains(listed, modulePath) || !slices.Contains(listed, modulePath+"/internal/cluster") {
		t.Fatalf("of %d packages none is the module's", len(listed))
	}
	for _, name := range listed {
		if strings.Contains(name, "nats-io/") || strings.HasPrefix(name, modulePath+"/cluster/") {
			t.Errorf("%s is compiled in", name)
		}
	}
}
