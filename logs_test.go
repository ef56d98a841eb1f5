package caddysse

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-sse/caddy-sse/internal/logs"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// logLine is a log line in the code or in the docs.
type logLine struct {
	level  string
	fields []string // sorted
}

// constantText is the value of an expression of text literals, "" if it is none.
func constantText(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		if err != nil {
			return ""
		}
		return text
	case *ast.BinaryExpr:
		return constantText(e.X) + constantText(e.Y)
	}
	return ""
}

// zapFields are the names of the zap fields among arguments.
func zapFields(args []ast.Expr) (names []string) {
	for _, arg := range args {
		call, ok := arg.(*ast.CallExpr)
		if !ok {
			continue
		}
		if f, ok := call.Fun.(*ast.SelectorExpr); ok && isIdent(f.X, "zap") && len(call.Args) > 0 {
			names = append(names, constantText(call.Args[0]))
		}
	}
	return names
}

func isIdent(e ast.Expr, name string) bool {
	ident, ok := e.(*ast.Ident)
	return ok && ident.Name == name
}

// isLogger reports whether an expression is a logger: log, logger, or a call or
// field of these names.
func isLogger(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return strings.EqualFold(e.Name, "log") || strings.EqualFold(e.Name, "logger")
	case *ast.SelectorExpr:
		return strings.EqualFold(e.Sel.Name, "log") || strings.EqualFold(e.Sel.Name, "logger")
	case *ast.CallExpr:
		return isLogger(e.Fun)
	}
	return false
}

// collectLines adds the log lines of a function. Fields given by With count for
// all lines of a variable log.
func collectLines(t *testing.T, fn *ast.FuncDecl, lines map[string]logLine) {
	t.Helper()
	var with []string
	var checked string // the message of the last Check
	ast.Inspect(fn, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		f, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		switch f.Sel.Name {
		case "With":
			if isLogger(f.X) && fn.Name.Name != "setLogger" {
				with = append(with, zapFields(call.Args)...)
			}
		case "Write":
			if line, ok := lines[checked]; ok && isIdent(f.X, "c") {
				line.fields = slices.Sorted(slices.Values(append(line.fields, zapFields(call.Args)...)))
				lines[checked] = line
			}
		case "Debug", "Info", "Warn", "Error", "Check":
			if !isLogger(f.X) {
				return true
			}
			level, args := strings.ToLower(f.Sel.Name), call.Args
			if f.Sel.Name == "Check" {
				name, ok := strings.CutSuffix(args[0].(*ast.SelectorExpr).Sel.Name, "Level")
				if !ok {
					return true // the access log's, in Caddy's words
				}
				level, args = strings.ToLower(name), args[1:]
			}
			message := constantText(args[0])
			if message == "" {
				t.Errorf("%s: a log line without a constant text", fn.Name.Name)
			}
			fields := zapFields(args)
			if isIdent(f.X, "log") {
				fields = append(fields, with...)
			}
			checked = message
			slices.Sort(fields)
			if other, ok := lines[message]; ok && (other.level != level || !slices.Equal(other.fields, fields)) {
				t.Errorf("%q has different levels or fields", message)
			}
			lines[message] = logLine{level, fields}
		}
		return true
	})
}

// codeFiles are the files of the gateway's code: the root package's and those of the
// packages below it, tests apart. The doctor is a command of its own.
func codeFiles(t *testing.T) (parsed []*ast.File) {
	t.Helper()
	files := token.NewFileSet()
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (name == "internal/doctor" || (name != "internal" && !strings.HasPrefix(name, "internal/"))):
			return fs.SkipDir
		case d.IsDir(), !strings.HasSuffix(name, ".go"), strings.HasSuffix(name, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(files, name, nil, 0)
		parsed = append(parsed, file)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// codeLines are the log lines in the package's code.
func codeLines(t *testing.T) map[string]logLine {
	t.Helper()
	lines := make(map[string]logLine)
	for _, file := range codeFiles(t) {
		for _, d := range file.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok {
				collectLines(t, fn, lines)
			}
		}
	}
	return lines
}

// docs/reference/log-lines.md has all log lines, with level and fields, and no others.
func TestLogLinesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("docs/reference/log-lines.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]logLine)
	for row := range strings.Lines(string(text)) {
		cells := strings.Split(row, "|")
		if !strings.HasPrefix(row, "| `") || len(cells) < 5 {
			continue
		}
		line := logLine{level: strings.TrimSpace(cells[2])}
		for field := range strings.SplitSeq(cells[3], ",") {
			if field = strings.Trim(field, "` "); field != "" {
				line.fields = append(line.fields, field)
			}
		}
		slices.Sort(line.fields)
		documented[strings.Trim(cells[1], "` ")] = line
	}
	lines := codeLines(t)
	if len(lines) < 20 {
		t.Errorf("%d lines found in the code", len(lines))
	}
	for message, line := range lines {
		d, ok := documented[message]
		if !ok {
			t.Errorf("%q is not in docs/reference/log-lines.md", message)
			continue
		}
		if d.level != line.level || !slices.Equal(d.fields, line.fields) {
			t.Errorf("%q: docs/reference/log-lines.md has %v, expected %v", message, d, line)
		}
		delete(documented, message)
	}
	for message := range documented {
		t.Errorf("docs/reference/log-lines.md has %q, which there is not", message)
	}
}

// Clients over a limit, and other lines of a handler.
func TestHandlerLinesAreThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Handler{Detach: 1, MaxRequestBody: 1}
		s := serveInBubble(t, h, noUpstream(t))
		served := 0
		next := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { served++; return nil })
		defer s.listener.Close()
		core, logs := observer.New(zap.InfoLevel)
		h.logger = zap.New(core)
		for range 20 {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			if h.turnAway(httptest.NewRecorder(), r, stream.Key{}, stream.ErrTooManySubscribers) == nil {
				t.Error("not turned away")
			}
			open := func() *passThrough {
				p := newPassThrough(h, httptest.NewRecorder(), r, false)
				p.why.Reason = stream.PrivateMethod
				p.Header().Set("Content-Type", eventStreamType)
				p.WriteHeader(http.StatusOK)
				return p
			}
			if open().finish(errBreak) == nil {
				t.Error("ended well")
			}
			large := open()
			large.decoder.MaxBlockSize = 1
			if _, err := large.Write([]byte("data: x")); err == nil || large.finish(nil) == nil {
				t.Error("taken")
			}
			post := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("large"))
			if _, err := h.serveDetached(httptest.NewRecorder(), post, next); err != nil {
				t.Error(err)
			}
		}
		expectThrottled(t, logs, "client turned away", 2, 20)
		expectThrottled(t, logs, "private stream broke off", 2, 20)
		expectThrottled(t, logs, "upstream event over max_event_size", 2, 20)
		expectThrottled(t, logs, "request body over max_request_body, or incomplete: served without detach", 2, 20)
		if served != 20 {
			t.Errorf("%d requests served", served)
		}
	})
}

// expectThrottled checks how often a line was written, and how often it was caused.
func expectThrottled(t *testing.T, observed *observer.ObservedLogs, message string, lines, all int) {
	t.Helper()
	time.Sleep(logs.Interval)
	synctest.Wait()
	entries := observed.FilterMessage(message).All()
	caused := 0
	for _, entry := range entries {
		caused += 1 + int(entry.ContextMap()["suppressed"].(int64))
	}
	if len(entries) != lines || caused != all {
		t.Errorf("%q: %d lines for %d, expected %d for %d", message, len(entries), caused, lines, all)
	}
}

// logOf makes a gateway's log go to a file, and returns its path.
func (g *gateway) logOf(caddyfile string) string {
	g.t.Helper()
	path := filepath.Join(g.t.TempDir(), "caddy.log")
	old := testGlobals
	testGlobals = strings.Replace(old, "output discard", "output file "+path, 1)
	defer func() { testGlobals = old }()
	g.load(caddyfile)
	return path
}

// countLines counts the lines of a log with a text, when all are written.
func countLines(t *testing.T, path, text string) int {
	t.Helper()
	logs.Flush()
	all, err := os.ReadFile(path) //nolint:gosec // G304: the test's own
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(all, []byte(text))
}

// Clients choose which stream they come to: what they cause is throttled over all
// streams of a handler.
func TestLinesOfClientsDoNotFlood(t *testing.T) {
	const clients = 50
	began := time.Now()
	u := startUpstream(t, nil)
	g := startGateway(t, "")
	path := g.logOf(proxied("linger 0s", u))
	for i := range clients {
		c := g.subscribe(fmt.Sprintf("/?x=%d", i), "Last-Event-ID: sse1.0123456789abcdef0123456789abcdef.7")
		c.close()
	}
	for i := range clients {
		c := g.subscribe("/", fmt.Sprintf("Authorization: Bearer user%d", i))
		up := u.accept()
		for up.request.Header.Get("Authorization") == "" { // those of the others
			up = u.accept()
		}
		up.write("event: endpoint\ndata: /x\n\n")
		c.next()
		c.close()
	}
	most := 2 + int(time.Since(began)/logs.Interval)
	for _, line := range []string{"client missed events", "a session for each connection"} {
		if n := countLines(t, path, line); n == 0 || n > most {
			t.Errorf("%q: %d lines, at most %d were due", line, n, most)
		}
	}
}

// It is logged that a private stream broke off, also behind reverse_proxy, which
// panics then.
func TestPrivateBreakIsLogged(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, "")
	path := g.logOf(proxied("", u))
	c := g.post("/")
	up := u.accept()
	up.event("1")
	c.expect("1")
	up.breakOff()
	for range c.messages {
	}
	eventually(t, "it is logged", func() bool { return countLines(t, path, "private stream broke off") == 1 })
	c = g.post("/")
	up = u.accept()
	c.close()
	up.expectGone()
	eventually(t, "it is gone", func() bool { return len(stream.Process.Observed()) == 0 })
	if n := countLines(t, path, "private stream broke off"); n != 1 {
		t.Errorf("%d lines, one of a client that left", n)
	}
}
