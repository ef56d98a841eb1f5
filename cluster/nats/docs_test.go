package natsbus

import (
	"io/fs"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// The page about clusters and the example are formatted, and adapt without a warning; the
// page names each option.
func TestDocs(t *testing.T) {
	read := func(name string) string {
		text, err := fs.ReadFile(os.DirFS("../.."), name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	page := read("docs/cluster.md")
	texts := []string{read("examples/cluster/node.Caddyfile")}
	for _, match := range regexp.MustCompile("(?ms)^```caddy\n(.*?)^```").FindAllStringSubmatch(page, -1) {
		texts = append(texts, match[1])
	}
	if len(texts) != 3 {
		t.Errorf("%d Caddyfiles", len(texts))
	}
	for _, text := range texts {
		if formatted := string(caddyfile.Format([]byte(text))); formatted != text {
			t.Errorf("not formatted:\n%s", text)
		}
		out, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
		if err != nil || len(warnings) > 0 || !strings.Contains(string(out), `"type":"nats"`) {
			t.Errorf("%v, %v\n%s", err, warnings, text)
		}
	}
	for _, config := range []any{NATS{}, Embedded{}} {
		for field := range reflect.TypeOf(config).Fields() {
			if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" && !strings.Contains(page, "| `"+name+"`") {
				t.Errorf("docs/cluster.md does not have the option %s", name)
			}
		}
	}
}
