package caddysse

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddy-sse/caddy-sse/internal/hints"
	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// startUnloaded starts a gateway without a site, whose log reloadWith writes.
func startUnloaded(t *testing.T) logged {
	t.Helper()
	file := filepath.Join(t.TempDir(), "log") // before the gateway, so that it is removed after that has stopped
	return logged{startGateway(t, ""), file}
}

// reloadWith loads a configuration with global options, and the log that startLogged writes.
func (l logged) reloadWith(globals, caddyfile string) {
	l.t.Helper()
	globals = "log sse {\noutput file " + l.file + "\nlevel DEBUG\ninclude http.handlers.sse\n}\n" + globals
	body, err := adapt(l.t, strings.ReplaceAll(strings.Replace(testGlobals, "admin off", "admin off\n"+globals, 1)+caddyfile, "{socket}", "unix/"+l.socket))
	if err != nil {
		l.t.Fatal(err)
	}
	if err := loadConfig(l.t, withDelivery(l.t, []byte(body))); err != nil {
		l.t.Fatal(err)
	}
	l.client.CloseIdleConnections()
}

// What is doubtful is told when it is loaded: in the log, and as a hint. What the hint says to write instead makes it go
// away.
func TestDoubtfulConfigurations(t *testing.T) {
	const proxy = "reverse_proxy 127.0.0.1:1"
	const app = "&(app) {\n" + proxy + "\n}\n"
	for name, test := range map[string]struct {
		globals, directives string
		kind                hints.Kind
		place, text, remedy string
		globalsAfter, after string // the remedy, followed
	}{
		"sse beside handle": {
			directives: "sse\nhandle /events {\n" + proxy + "\n}\nhandle {\n" + proxy + "\n}",
			kind:       hints.Unreached, text: "take its requests", remedy: "inside the handle",
			after: "handle /events {\nsse\n" + proxy + "\n}\nhandle {\n" + proxy + "\n}",
		},
		"sse beside a handle that takes its path": {
			directives: "sse /events/live\nhandle /events/* {\n" + proxy + "\n}\n" + proxy,
			kind:       hints.Unreached, place: "/events/live", text: "take its requests", remedy: "inside the handle",
			after: "handle /events/* {\nsse /events/live\n" + proxy + "\n}\n" + proxy,
		},
		"sse beside invoke": {
			directives: "sse\ninvoke app",
			kind:       hints.Unreached, text: "take its requests", remedy: "inside the handle",
			after: "route {\nsse\ninvoke app\n}",
		},
		"sse behind what answers all": {
			directives: "route {\n" + proxy + "\nsse\nrespond 404\n}",
			kind:       hints.Unreached, text: "answers all its requests", remedy: "above reverse_proxy",
			after: "route {\nsse\n" + proxy + "\n}",
		},
		"nothing behind": {
			directives: "sse\nheader X-A b\nencode",
			kind:       hints.Unreached, text: "no handler behind it answers", remedy: "reverse_proxy",
			after: "sse\nheader X-A b\nencode\n" + proxy,
		},
		"grace_period": {
			globals: "grace_period 2s", directives: "sse\n" + proxy,
			kind: hints.GracePeriod, text: "grace_period (2s) is shorter than drain (3s)", remedy: "grace_period 13s",
			globalsAfter: "grace_period 13s", after: "sse\n" + proxy,
		},
		"grace_period, and a drain that fits": {
			globals: "grace_period 2s", directives: "sse\n" + proxy,
			kind: hints.GracePeriod, text: "is shorter", remedy: "or drain 1s",
			globalsAfter: "grace_period 2s", after: "sse {\ndrain 1s\n}\n" + proxy,
		},
		"linger": {
			directives: "sse {\nlinger 2s\n}\n" + proxy,
			kind:       hints.Linger, text: "linger (2s)", remedy: "linger 30s", after: "sse {\nlinger 30s\n}\n" + proxy,
		},
		"heartbeat": {
			directives: "sse {\nheartbeat 2m\n}\n" + proxy,
			kind:       hints.Heartbeat, text: "heartbeat (2m0s)", remedy: "heartbeat 15s", after: "sse {\nheartbeat 15s\n}\n" + proxy,
		},
		"names": {
			directives: "sse /a\nsse /b\n" + proxy,
			kind:       hints.Names, place: "/b", text: "no name", remedy: "name ", after: "sse /a {\nname a\n}\nsse /b {\nname b\n}\n" + proxy,
		},
		"detach": {
			directives: "sse {\ndetach 1m\n}\n" + proxy,
			kind:       hints.Detach, text: "without a matcher", remedy: "sse /v1/*", after: "sse /v1/* {\ndetach 1m\n}\n" + proxy,
		},
		"memory": {
			directives: "sse /a {\nname a\nmemory 1MiB\n}\nsse /b {\nname b\nmemory 2MiB\n}\n" + proxy,
			kind:       hints.Memory, place: "/b", text: "the smallest (1048576 bytes) counts", remedy: "{ sse { memory <size> } }",
			globalsAfter: "sse {\nmemory 2MiB\n}", after: "sse /a {\nname a\n}\nsse /b {\nname b\n}\n" + proxy,
		},
		"the listener wrapper without HTTP/2": {
			globals: "servers {\nprotocols h1\nlistener_wrappers {\nsse\n}\n}", directives: "sse\n" + proxy,
			kind: hints.Wrapper, text: "protocols of the server are h1, and it needs h1 and h2", remedy: "protocols h1 h2 h3",
			globalsAfter: "servers {\nprotocols h1 h2 h3\nlistener_wrappers {\nsse\n}\n}", after: "sse\n" + proxy,
		},
		"memory of a handler and of all": {
			globals: "sse {\nmemory 3MiB\n}", directives: "sse {\nmemory 2MiB\n}\n" + proxy,
			kind: hints.Memory, text: "the smallest (2097152 bytes) counts", remedy: "{ sse { memory <size> } }",
			globalsAfter: "sse {\nmemory 3MiB\n}", after: "sse\n" + proxy,
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := startUnloaded(t)
			l.reloadWith(test.globals, app+pageSite+site(test.directives))
			list := hints.Process.List()
			if len(list) != 1 || list[0].Kind != test.kind {
				t.Fatalf("hints %+v, expected one: %s", list, test.kind)
			}
			if h := list[0]; !strings.Contains(h.Place, test.place) || !strings.Contains(h.Text, test.text) || !strings.Contains(h.Remedy, test.remedy) {
				t.Errorf("hint %+v", h)
			}
			l.expectLine("doubtful configuration", test.text)
			l.expectOnPage(list[0].Text)
			l.reloadWith(test.globalsAfter, app+pageSite+site(test.after))
			l.expectOnPage()
			if list := hints.Process.List(); len(list) != 0 {
				t.Errorf("%+v is left when the remedy was followed", list)
			}
		})
	}
}

// What stands as it should is not doubted.
func TestSoundConfigurationsAreNotDoubted(t *testing.T) {
	const proxy = "reverse_proxy 127.0.0.1:1"
	for name, directives := range map[string]string{
		"the shortest":               "sse\n" + proxy,
		"inside handle":              "handle /a/* {\nsse\n" + proxy + "\n}\nhandle {\n" + proxy + "\n}",
		"the rest of handle":         "sse\nhandle /a/* {\n" + proxy + "\n}\n" + proxy,
		"handle of another path":     "sse /b\nhandle /a/* {\n" + proxy + "\n}\n" + proxy,
		"in handle, proxy after it":  "handle /a/* {\nsse\n}\n" + proxy,
		"route":                      "route {\nsse\n" + proxy + "\n}",
		"PHP":                        "sse\nphp_fastcgi 127.0.0.1:1",
		"a handler that is unknown":  "route {\nsse\ntest_hang\n}",
		"a named route":              "route {\nsse\ninvoke app\n}",
		"after what turns away":      "@a header X-Bad *\nrespond @a 403\nsse\n" + proxy,
		"after forward_auth":         "forward_auth 127.0.0.1:1 {\nuri /auth\n}\nsse\n" + proxy,
		"detach with a matcher":      "@post method POST\nsse @post {\ndetach 1m\n}\n" + proxy,
		"detach in a handle":         "handle /v1/* {\nsse {\ndetach 1m\n}\n" + proxy + "\n}",
		"no heartbeat":               "sse {\nheartbeat off\n}\n" + proxy,
		"memory twice, and the same": "sse /a {\nname a\nmemory 1MiB\n}\nsse /b {\nname b\nmemory 1MiB\n}\n" + proxy,
	} {
		t.Run(name, func(t *testing.T) {
			l := startUnloaded(t)
			l.reloadWith("grace_period 10s", "&(app) {\n"+proxy+"\n}\n"+site(directives))
			if list := hints.Process.List(); len(list) != 0 {
				t.Errorf("doubted: %+v", list)
			}
		})
	}
}

// memory is one limit for the process: it can be stated once for all.
func TestMemoryIsAGlobalOption(t *testing.T) {
	l := startUnloaded(t)
	l.reloadWith("sse {\nmemory 7MiB\n}", site("sse\nreverse_proxy 127.0.0.1:1"))
	if limit, _ := stream.Process.MemoryLimit(); limit != 7<<20 {
		t.Errorf("the limit is %d", limit)
	}
	for block, want := range map[string]string{
		"sse {\nmemory 0\n}":             "memory: expected a size",
		"sse {\nmemory\n}":               "memory: expected a size",
		"sse {\nmemory 1MiB 2\n}":        `memory: unexpected argument "2"`,
		"sse {\nmemory 1\nmemory 2\n}":   "memory: given twice",
		"sse {\nshare public\n}":         `unknown global option "share" of sse`,
		"sse 1MiB":                       `expected a block of options, not the argument "1MiB"`,
		"sse {\nmemory 1\n}\nsse {\n\n}": "sse: given twice",
	} {
		_, err := adapt(t, "{\n"+block+"\n}\n:80 {\nsse\n}")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, expected %q", block, err, want)
		}
	}
}
