package caddysse

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-sse/caddy-sse/internal/delivery"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// The pages of the docs that tests compare with the code.
const (
	optionsPage = "docs/reference/directive.md"
	jsonPage    = "docs/reference/json.md"
	headersPage = "docs/reference/headers-placeholders.md"
)

// readPage returns the text of a page of the docs.
func readPage(t *testing.T, name string) string {
	t.Helper()
	text, err := fs.ReadFile(os.DirFS("."), name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// docPages are the names of all pages: the README's and those below docs.
func docPages(t *testing.T) []string {
	t.Helper()
	pages := []string{"README.md", "CHANGELOG.md"}
	err := fs.WalkDir(os.DirFS("."), "docs", func(name string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(name, ".md") {
			pages = append(pages, name)
		}
		return err
	})
	if err != nil || len(pages) < 20 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	return pages
}

// section is the text of a page below a heading, down to the next of its level
// or a higher one; "" if there is no such heading.
func section(page, heading string) string {
	level, _, _ := strings.Cut(heading, " ")
	_, text, ok := strings.Cut(page, "\n"+heading+"\n")
	if !ok {
		return ""
	}
	end := regexp.MustCompile(fmt.Sprintf(`(?m)^#{1,%d} `, len(level))).FindStringIndex(outsideFences(text))
	if end != nil {
		text = text[:end[0]]
	}
	return text
}

// fence is a block of code in a page.
type fence struct {
	language, text string
}

var fencePattern = regexp.MustCompile("(?ms)^```([^\n]*)\n(.*?)^```$")

func fences(page string) (found []fence) {
	for _, match := range fencePattern.FindAllStringSubmatch(page, -1) {
		found = append(found, fence{language: strings.Fields(match[1] + " text")[0], text: match[2]})
	}
	return found
}

// outsideFences is a page with the text of its fences blanked out.
func outsideFences(page string) string {
	return fencePattern.ReplaceAllStringFunc(page, func(text string) string {
		blank := []byte(text)
		for i, c := range blank {
			if c != '\n' {
				blank[i] = ' '
			}
		}
		return string(blank)
	})
}

// wholeCaddyfile makes a whole Caddyfile of a snippet: of options, of what
// stands in a site, or of a whole one.
func wholeCaddyfile(snippet string) string {
	first, _, _ := strings.Cut(strings.TrimSpace(withoutComments(snippet)), "\n")
	word, _, _ := strings.Cut(first, " ")
	indent := func(by string) string {
		return regexp.MustCompile(`(?m)^(.+)`).ReplaceAllString(strings.TrimSpace(snippet), by+"$1")
	}
	switch {
	case subdirectives[word] != nil:
		return "example.com {\n\tsse {\n" + indent("\t\t") + "\n\t}\n\treverse_proxy localhost:3000\n}\n"
	case siteAddress.MatchString(first):
		return snippet
	default:
		return "example.com {\n" + indent("\t") + "\n}\n"
	}
}

// siteAddress is how a whole Caddyfile begins: with global options, a snippet to
// be imported, or the address of a site.
var siteAddress = regexp.MustCompile(`^(\{|\(\w+\) \{|(https?://)?[a-z0-9.*-]*(\.|:|localhost)[a-z0-9.:/, *-]* \{)$`)

func withoutComments(text string) string {
	return regexp.MustCompile(`(?m)^\s*#.*\n`).ReplaceAllString(text, "")
}

// adaptSnippet adapts a Caddyfile, without any warning, and checks that it can be
// provisioned.
func adaptSnippet(t *testing.T, text string) []byte {
	t.Helper()
	adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil || len(warnings) > 0 {
		t.Fatalf("does not adapt: %v, %v\n%s", err, warnings, text)
	}
	provision(t, adapted)
	return adapted
}

// provision checks that a configuration in JSON can be provisioned.
func provision(t *testing.T, text []byte) {
	t.Helper()
	var config caddy.Config
	if err := caddy.StrictUnmarshalJSON(text, &config); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if config.Logging == nil {
		config.Logging = &caddy.Logging{Logs: map[string]*caddy.CustomLog{
			caddy.DefaultLoggerName: {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output":"discard"}`)}},
		}}
	}
	if err := caddy.Validate(&config); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
}

// handlersIn returns the sse handlers in a configuration.
func handlersIn(t *testing.T, config any) (found []*Handler) {
	t.Helper()
	switch c := config.(type) {
	case []any:
		for _, part := range c {
			found = append(found, handlersIn(t, part)...)
		}
	case map[string]any:
		if c["handler"] == "sse" {
			found = append(found, handlerOf(t, c))
		}
		for _, key := range slices.Sorted(maps.Keys(c)) {
			found = append(found, handlersIn(t, c[key])...)
		}
	}
	return found
}

// handlerOf reads a handler's JSON strictly: a field that there is not fails.
func handlerOf(t *testing.T, object map[string]any) *Handler {
	t.Helper()
	object = maps.Clone(object)
	delete(object, "handler")
	text, err := json.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	h := new(Handler)
	if err := caddy.StrictUnmarshalJSON(text, h); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if err := h.Validate(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return h
}

func parsedJSON(t *testing.T, text []byte) (value any) {
	t.Helper()
	if err := json.Unmarshal(text, &value); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return value
}

// Each option is in the syntax, and has a section with its syntax, its default,
// when it hurts, and the same in the Caddyfile and in JSON.
func TestOptionsAreDocumented(t *testing.T) {
	page := readPage(t, optionsPage)
	syntax := fences(page)[0].text
	for option := range subdirectives {
		t.Run(option, func(t *testing.T) {
			if !strings.Contains(syntax, "\n\t"+option+" ") {
				t.Errorf("not in the syntax at the top of %s", optionsPage)
			}
			text := section(page, "### `"+option+"`")
			for _, part := range []string{"| Syntax | `" + option + " ", "| Default | ", "**When it hurts.**"} {
				if !strings.Contains(text, part) {
					t.Errorf("%s: the section %q has no %q", optionsPage, "### `"+option+"`", part)
				}
			}
			var inCaddyfile, inJSON *Handler
			for _, f := range fences(text) {
				switch f.language {
				case "caddyfile":
					if !strings.Contains("\n"+f.text, "\n"+option+" ") {
						t.Errorf("the Caddyfile has no %s:\n%s", option, f.text)
					}
					inCaddyfile = handlersIn(t, parsedJSON(t, adaptSnippet(t, wholeCaddyfile(f.text))))[0]
				case "json":
					inJSON = handlersIn(t, parsedJSON(t, []byte(f.text)))[0]
				}
			}
			if inCaddyfile == nil || !reflect.DeepEqual(inCaddyfile, inJSON) {
				t.Errorf("the Caddyfile says %+v, JSON %+v", inCaddyfile, inJSON)
			}
		})
	}
	for _, heading := range regexp.MustCompile("(?m)^### `(.*)`$").FindAllStringSubmatch(page, -1) {
		if subdirectives[heading[1]] == nil {
			t.Errorf("%s describes the option %s, which there is not", optionsPage, heading[1])
		}
	}
}

// A default that is written as in a Caddyfile is what holds without it.
func TestDefaultsAreAsDocumented(t *testing.T) {
	page := readPage(t, optionsPage)
	byDefault := new(Handler)
	checked := 0
	for option := range subdirectives {
		_, value, _ := strings.Cut(section(page, "### `"+option+"`"), "| Default | ")
		line, ok := strings.CutPrefix(value, "`"+option+" ")
		if !ok {
			continue
		}
		line, _, _ = strings.Cut(line, "`")
		h := new(Handler)
		if err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser("sse {\n" + option + " " + line + "\n}")); err != nil {
			t.Errorf("%s %s: %v", option, line, err)
			continue
		}
		checked++
		if got, want := settingsOf(t, h), settingsOf(t, byDefault); !reflect.DeepEqual(got, want) {
			t.Errorf("%s %s is not the default:\n%+v, expected\n%+v", option, line, got, want)
		}
	}
	if checked < 15 {
		t.Errorf("%d defaults are written as in a Caddyfile", checked)
	}
}

// settingsOf are the settings that a handler's options come to.
func settingsOf(t *testing.T, h *Handler) (settings []any) {
	t.Helper()
	streams := h.streamOptions()
	streams.Lines, streams.Insignificant = nil, nil // have an identity, and are no settings
	writing, err := h.deliverySettings()
	if err != nil {
		t.Fatal(err)
	}
	probe, memory, body := h.Probe, h.Memory, h.MaxRequestBody
	if memory == 0 {
		memory = stream.DefaultMemory
	}
	if body == 0 {
		body = defaultMaxRequestBody
	}
	return []any{*streams, *writing, h.Delivery != delivery.ByHandler, probe, memory, body, h.idParameters()}
}

// Each field of the JSON is in the page about it, with what it is in the
// Caddyfile, and no other is.
func TestJSONFieldsAreDocumented(t *testing.T) {
	documented := tableColumn(t, jsonPage, "field", 1)
	var fields []string
	var collect func(prefix string, typ reflect.Type)
	collect = func(prefix string, typ reflect.Type) {
		for _, field := range reflect.VisibleFields(typ) {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			if name == "" || !field.IsExported() {
				continue
			}
			fields = append(fields, prefix+name)
			if inner := field.Type; inner.Kind() == reflect.Pointer && inner.Elem().Kind() == reflect.Struct {
				collect(prefix+name+".", inner.Elem())
			}
		}
	}
	collect("", reflect.TypeFor[Handler]())
	slices.Sort(fields)
	if !slices.Equal(documented, fields) {
		t.Errorf("documented are\n%q, expected\n%q", documented, fields)
	}
}

// Each Caddyfile in the docs is formatted, adapts without a warning, and can be
// provisioned; each JSON is valid, and loads if it is a configuration.
func TestSnippetsAdapt(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	caddyfiles := 0
	for _, name := range docPages(t) {
		t.Run(name, func(t *testing.T) {
			for _, f := range fences(readPage(t, name)) {
				switch f.language {
				case "caddyfile":
					if strings.HasPrefix(f.text, "sse [<matcher>]") {
						continue // a grammar
					}
					caddyfiles++
					whole := wholeCaddyfile(f.text)
					if formatted := string(caddyfile.Format([]byte(whole))); formatted != whole {
						t.Errorf("not formatted:\n%s\nexpected\n%s", whole, formatted)
					}
					adapted := adaptSnippet(t, whole)
					if !strings.Contains(string(adapted), `"handler":`) && !strings.HasPrefix(f.text, "{") {
						t.Errorf("neither a handler nor global options:\n%s", f.text)
					}
				case "json":
					value := parsedJSON(t, []byte(f.text))
					handlersIn(t, value)
					if object, ok := value.(map[string]any); ok && object["apps"] != nil {
						provision(t, []byte(f.text))
					}
				case "go":
					if _, err := parser.ParseFile(token.NewFileSet(), name, f.text, parser.SkipObjectResolution); err != nil {
						t.Errorf("%v\n%s", err, f.text)
					}
				}
			}
		})
	}
	if caddyfiles < 60 {
		t.Errorf("%d Caddyfiles in the docs", caddyfiles)
	}
}

// What the test above would not let pass.
func TestSnippetKinds(t *testing.T) {
	for snippet, want := range map[string]string{
		"share public\n":                                     "example.com {\n\tsse {\n\t\tshare public\n\t}\n\treverse_proxy localhost:3000\n}\n",
		"sse\nreverse_proxy localhost:3000\n":                "example.com {\n\tsse\n\treverse_proxy localhost:3000\n}\n",
		"reverse_prxy localhost:3000\n":                      "example.com {\n\treverse_prxy localhost:3000\n}\n",
		"# a site\nexample.com {\n\tsse\n}\n":                "# a site\nexample.com {\n\tsse\n}\n",
		"http://:8080 {\n\tsse\n}\n":                         "http://:8080 {\n\tsse\n}\n",
		"{\n\tgrace_period 10s\n}\n":                         "{\n\tgrace_period 10s\n}\n",
		"handle /events {\n\tsse\n}\n":                       "example.com {\n\thandle /events {\n\t\tsse\n\t}\n}\n",
		"@chat path /v1/chat\nsse @chat {\n\tshare off\n}\n": "example.com {\n\t@chat path /v1/chat\n\tsse @chat {\n\t\tshare off\n\t}\n}\n",
	} {
		if got := wholeCaddyfile(snippet); got != want {
			t.Errorf("of\n%s\nbecame\n%s\nexpected\n%s", snippet, got, want)
		}
	}
}

// knownCommands are what the commands of the docs begin with.
var knownCommands = []string{
	"cat", "curl", "caddy", "caddy-x", "cd", "do", "docker", "done", "for", "gcloud", "go", "id", "jq", "kubectl", "make", "mkdir",
	"node", "php", "sleep", "ssh", "sudo", "xcaddy", "bench/run.sh",
}

// caddyCommand finds the commands of the docs that are Caddy's, with their
// subcommand.
var caddyCommand = regexp.MustCompile(`(?m)(?:^|[|;&(]\s*)(?:\./|sudo )?caddy(?:-x)?[ ]+([a-z][a-z-]*)`)

// Each command in the docs is good shell, begins with a program that is known
// here, and asks Caddy and make for what they can do.
func TestCommandsAreGood(t *testing.T) {
	makefile := readPage(t, "Makefile")
	subcommands := caddycmd.Commands()
	heredoc := regexp.MustCompile(`(?ms)<<'EOF'$.*?^EOF$`)
	commands := 0
	for _, name := range docPages(t) {
		for _, f := range fences(readPage(t, name)) {
			if f.language != "sh" {
				continue
			}
			commands++
			check := exec.Command("bash", "-n")
			check.Stdin = strings.NewReader(f.text)
			if out, err := check.CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s\n%s", name, err, out, f.text)
			}
			text := heredoc.ReplaceAllString(f.text, "")
			for line := range strings.Lines(text) {
				line = strings.TrimSpace(line)
				if line == "" || strings.HasPrefix(line, "#") {
					continue
				}
				word := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '=' })[0]
				if word == `"$(go` {
					word = path.Base(strings.Trim(strings.Fields(line)[2], `"`))
				}
				if word = strings.TrimPrefix(word, "./"); !slices.Contains(knownCommands, word) {
					t.Errorf("%s: %q begins with an unknown command", name, line)
				}
				if target, ok := strings.CutPrefix(line, "make "); ok && !strings.Contains(makefile, "\n"+strings.Fields(target)[0]+":") {
					t.Errorf("%s: %q: the Makefile has no such target", name, line)
				}
				if packages, ok := strings.CutPrefix(line, "go run ./"); ok {
					if _, err := fs.Stat(os.DirFS("."), strings.Fields(packages)[0]); err != nil {
						t.Errorf("%s: %q: %v", name, line, err)
					}
				}
			}
			for _, match := range caddyCommand.FindAllStringSubmatch(text, -1) {
				if _, ok := subcommands[match[1]]; !ok && match[1] != "help" {
					t.Errorf("%s: caddy has no command %s", name, match[1])
				}
			}
		}
	}
	if commands < 30 {
		t.Errorf("%d fences with commands", commands)
	}
}

var (
	linkPattern    = regexp.MustCompile(`\[[^\]]*\]\(([^)\s]+)\)`)
	headingPattern = regexp.MustCompile(`(?m)^#{1,6} (.*)$`)
	notInAnchor    = regexp.MustCompile(`[^\p{L}\p{N}\p{M} _-]`)
)

// anchors are those of a page's headings, as GitHub makes them.
func anchors(page string) map[string]bool {
	found := make(map[string]bool)
	for _, heading := range headingPattern.FindAllStringSubmatch(outsideFences(page), -1) {
		text := linkPattern.ReplaceAllStringFunc(heading[1], func(link string) string { return link[1:strings.Index(link, "]")] })
		found[strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(text), ""), " ", "-")] = true
	}
	return found
}

// Each link of the docs leads to a file that there is, and to a heading in it.
func TestLinksLead(t *testing.T) {
	links := 0
	for _, name := range docPages(t) {
		page := readPage(t, name)
		for _, match := range linkPattern.FindAllStringSubmatch(outsideFences(page), -1) {
			link, err := url.Parse(match[1])
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if link.IsAbs() {
				continue
			}
			links++
			target := name
			if link.Path != "" {
				target = path.Join(path.Dir(name), link.Path)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %s leads nowhere", name, match[1])
				continue
			}
			if link.Fragment != "" && !anchors(readPage(t, target))[link.Fragment] {
				t.Errorf("%s: %s has no heading %s", name, target, link.Fragment)
			}
		}
	}
	if links < 100 {
		t.Errorf("%d links", links)
	}
}

// Each page can be reached from the README by links.
func TestPagesAreLinked(t *testing.T) {
	reached := map[string]bool{"README.md": true}
	for todo := []string{"README.md"}; len(todo) > 0; todo = todo[1:] {
		for _, match := range linkPattern.FindAllStringSubmatch(readPage(t, todo[0]), -1) {
			link, _, _ := strings.Cut(match[1], "#")
			target := path.Join(path.Dir(todo[0]), link)
			if strings.HasPrefix(target, "docs/") && strings.HasSuffix(target, ".md") && !reached[target] {
				reached[target] = true
				todo = append(todo, target)
			}
		}
	}
	for _, name := range docPages(t) {
		if strings.HasPrefix(name, "docs/") && !strings.HasPrefix(name, "docs/adr/") && !reached[name] {
			t.Errorf("no link leads to %s", name)
		}
	}
}

// The probes of Kubernetes are answered by the gateway, in the manifest and in
// the page about it: they have to be right also while the application is away.
func TestHealthIsTheGateways(t *testing.T) {
	for _, name := range []string{"packaging/kubernetes/gateway.yaml", "docs/deploy/kubernetes.md"} {
		t.Run(path.Base(name), func(t *testing.T) {
			site := regexp.MustCompile(`(?ms)^( *)http://:8080 \{\n(.*?)^( *)\}$`).FindStringSubmatch(readPage(t, name))
			if site == nil || site[1] != site[3] {
				t.Fatal("no site http://:8080")
			}
			g := startGateway(t, "http:// {\nbind {socket}\n"+site[2]+"}\n")
			if resp := g.get("/healthz"); resp.StatusCode != http.StatusOK {
				t.Errorf("status %d", resp.StatusCode)
			}
		})
	}
}

// A log line that another page quotes is in the list of all lines.
func TestQuotedLogLinesAreThere(t *testing.T) {
	all := readPage(t, "docs/reference/log-lines.md")
	quote := regexp.MustCompile("(?i)(access )?(?:log says|log lines?|log:) `([^`]+)`")
	quotes := 0
	for _, name := range docPages(t) {
		for _, match := range quote.FindAllStringSubmatch(readPage(t, name), -1) {
			if match[1] != "" {
				continue
			}
			quotes++
			if !strings.Contains(all, "| `"+match[2]) {
				t.Errorf("%s quotes the log line %q, which there is not", name, match[2])
			}
		}
	}
	if quotes < 8 {
		t.Errorf("%d quotes", quotes)
	}
}

// The README is read in a minute or two.
func TestREADMEIsShort(t *testing.T) {
	if n := len(strings.Fields(readPage(t, "README.md"))); n > 900 {
		t.Errorf("%d words, expected at most 900", n)
	}
}

// Each page says in its first lines what the reader gets: a title, and then a
// sentence.
func TestPagesBeginWithWhatTheyGive(t *testing.T) {
	sentence := regexp.MustCompile(`^# [^\n]+\n\n(\*\*)?[A-Z][^\n]*[.:](\*\*)?\n`)
	for _, name := range docPages(t) {
		if page := readPage(t, name); strings.HasPrefix(name, "docs/") && !strings.HasPrefix(name, "docs/adr/") && !sentence.MatchString(page) {
			first, _, _ := strings.Cut(strings.TrimPrefix(page, "# "), "\n## ")
			t.Errorf("%s begins with\n%.200s", name, first)
		}
	}
}

// tableColumn returns the names in a column of the table of a page whose first
// cell is title: those in backquotes.
func tableColumn(t *testing.T, page, title string, column int) (names []string) {
	t.Helper()
	_, table, ok := strings.Cut(readPage(t, page), "\n| "+title+" |")
	if !ok {
		t.Fatalf("%s has no table %q", page, title)
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
	reasons := slices.Sorted(maps.Values(constantsOf(t, "EndReason")))
	if len(reasons) < 13 {
		t.Errorf("%d reasons in the code", len(reasons))
	}
	if known := slices.Sorted(slices.Values(stream.EndReasons)); !slices.Equal(known, reasons) {
		t.Errorf("the metric has\n%q, expected\n%q", known, reasons)
	}
	if documented := tableColumn(t, headersPage, "end reason", 1); !slices.Equal(documented, reasons) {
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
	if documented := tableColumn(t, headersPage, "in `sse`", 2); len(placeholders) == 0 || !slices.Equal(documented, placeholders) {
		t.Errorf("documented are the placeholders\n%q, expected\n%q", documented, placeholders)
	}
	enc := zapcore.NewMapObjectEncoder()
	if err := enc.AddObject("sse", accessFields{private: stream.PrivateMethod}); err != nil {
		t.Fatal(err)
	}
	fields := slices.Sorted(maps.Keys(enc.Fields["sse"].(map[string]any)))
	if documented := tableColumn(t, headersPage, "in `sse`", 1); !slices.Equal(documented, fields) {
		t.Errorf("documented are the fields\n%q, expected\n%q", documented, fields)
	}
}

// Each guarantee names a test that there is, and the numbers are in order.
func TestGuaranteesHaveTests(t *testing.T) {
	tests := make(map[string]bool)
	module := os.DirFS(".")
	err := fs.WalkDir(module, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		text, err := fs.ReadFile(module, name)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`).FindAllStringSubmatch(string(text), -1) {
			tests[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	text := section(readPage(t, "docs/security.md"), "## What the gateway guarantees")
	guarantees := regexp.MustCompile(`(?m)^(\d+)\. .*$`).FindAllStringSubmatch(text, -1)
	if len(guarantees) < 13 {
		t.Errorf("%d guarantees", len(guarantees))
	}
	for i, g := range guarantees {
		if g[1] != strconv.Itoa(i+1) {
			t.Errorf("number %s, expected %d", g[1], i+1)
		}
		named := regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(g[0], -1)
		if len(named) == 0 {
			t.Errorf("no test: %s", g[0])
		}
		for _, name := range named {
			if !tests[name[1]] {
				t.Errorf("there is no %s: %s", name[1], g[0])
			}
		}
	}
}
