package natsbus

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile" // the adapter
)

// adapt makes JSON of a Caddyfile whose global options have these.
func adapt(t *testing.T, options string) (string, error) {
	t.Helper()
	text := "{\n\tadmin off\n\tpersist_config off\n" + options + "\n}\n"
	out, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	return string(out), err
}

func TestCaddyfileBecomesJSON(t *testing.T) {
	out, err := adapt(t, `	sse_cluster nats {
		embedded {
			listen 10.0.0.1:6222
			routes 10.0.0.2:6222 10.0.0.3:6222
			advertise 203.0.113.1:6222
			tls {
				cert cert.pem
				key key.pem
				ca ca.pem
			}
		}
		secret {env.SSE_CLUSTER_SECRET}
		prefix prod.sse
	}`)
	if err != nil {
		t.Fatal(err)
	}
	const want = `"sse_cluster":{"bus":{"embedded":{"advertise":"203.0.113.1:6222","listen":"10.0.0.1:6222","routes":["10.0.0.2:6222","10.0.0.3:6222"],` +
		`"tls":{"ca":"ca.pem","cert":"cert.pem","key":"key.pem"}},"prefix":"prod.sse","secret":"{env.SSE_CLUSTER_SECRET}","type":"nats"}}`
	if !strings.Contains(out, want) {
		t.Errorf("JSON %s\nexpected %s", out, want)
	}
	if out, err = adapt(t, "\tsse_cluster nats {\n\t\tservers nats://a:4222 tls://b:4222\n\t\tcredentials user.creds\n\t\ttls {\n\t\t\tca ca.pem\n\t\t}\n\t\tsecret x\n\t}"); err != nil {
		t.Fatal(err)
	}
	if want := `{"credentials":"user.creds","secret":"x","servers":["nats://a:4222","tls://b:4222"],"tls":{"ca":"ca.pem"},"type":"nats"}`; !strings.Contains(out, want) {
		t.Errorf("JSON %s\nexpected %s", out, want)
	}
}

// What cannot work, or would not be safe, is refused, and the error says where and what was
// expected.
func TestRefusedCaddyfiles(t *testing.T) {
	const secret = "\n\t\tsecret {env.S}"
	for options, want := range map[string]string{
		"sse_cluster":                           "sse_cluster: expected what carries messages between the nodes, such as nats, at Caddyfile:4",
		"sse_cluster rabbit {\n}":               "cluster/nats), at Caddyfile:4",
		"sse_cluster nats {\n\t}":               "secret: expected one, the same on all nodes: secret {env.SSE_CLUSTER_SECRET}, at Caddyfile:",
		"sse_cluster nats x {\n\t}":             `expected a block of options, not the argument "x"`,
		"sse_cluster nats {" + secret + "\n\t}": "expected embedded, or servers",
		"sse_cluster nats {\n\t\tembedded {\n\t\t\tlisten :6222\n\t\t}\n\t}":                                                                  "secret: expected one",
		"sse_cluster nats {\n\t\tembedded" + secret + "\n\t}":                                                                                 "embedded: expected listen with the address",
		"sse_cluster nats {\n\t\tembedded {\n\t\t\tlisten :6222\n\t\t\tport 1\n\t\t}\n\t}":                                                    `unknown option "port" of embedded, at Caddyfile:7`,
		"sse_cluster nats {\n\t\tembedded {\n\t\t\tlisten\n\t\t}\n\t}":                                                                        "listen: expected an address, such as 10.0.0.1:6222, at Caddyfile:6",
		"sse_cluster nats {\n\t\tembedded {\n\t\t\troutes\n\t\t}\n\t}":                                                                        "routes: expected addresses",
		"sse_cluster nats {\n\t\tembedded {\n\t\t\tlisten a:1 b:1\n\t\t}\n\t}":                                                                "listen: expected an address",
		"sse_cluster nats {\n\t\tembedded {\n\t\t\tlisten a:1\n\t\t\tlisten b:1\n\t\t}\n\t}":                                                  "listen: given twice",
		"sse_cluster nats {\n\t\tembedded {\n\t\t\tlisten a:1\n\t\t\tinsecure yes\n\t\t}\n\t}":                                                `insecure: unexpected argument "yes"`,
		"sse_cluster nats {\n\t\tembedded {\n\t\t\tlisten a:1\n\t\t\tinsecure\n\t\t\ttls {\n\t\t\t\tca f\n\t\t\t}\n\t\t}" + secret + "\n\t}":  "expected tls or insecure, not both",
		"sse_cluster nats {\n\t\tembedded {\n\t\t\tlisten a:1\n\t\t\ttls {\n\t\t\t\tcert f\n\t\t\t\tkey f\n\t\t\t}\n\t\t}" + secret + "\n\t}": "expected cert, key and ca",
		"sse_cluster nats {\n\t\tembedded {\n\t\t\tlisten a:1\n\t\t}\n\t\tservers nats://a:4222" + secret + "\n\t}":                           "embedded or servers, not both",
		"sse_cluster nats {\n\t\tembedded {\n\t\t\tlisten a:1\n\t\t}\n\t\tcredentials f" + secret + "\n\t}":                                   "credentials and tls: only with servers",
		"sse_cluster nats {\n\t\tservers nats://a:4222\n\t\ttls {\n\t\t\tcert f\n\t\t}" + secret + "\n\t}":                                    "expected cert and key, or neither",
		"sse_cluster nats {\n\t\tservers nats://a:4222\n\t\tprefix a.>" + secret + "\n\t}":                                                    "prefix: expected words joined by dots",
		"sse_cluster nats {\n\t\tservers nats://a:4222\n\t\tprefix $SYS" + secret + "\n\t}":                                                   "prefix: expected words joined by dots",
	} {
		if _, err := adapt(t, "\t"+options); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\nerror: %v\nexpected: %s", options, err, want)
		}
	}
}

// What shows only when placeholders are replaced is refused then; nothing is told of the
// secret.
func TestRefusedValues(t *testing.T) {
	for name, test := range map[string]struct {
		config NATS
		want   string
	}{
		"short secret": {NATS{Secret: "too short", Embedded: &Embedded{Listen: ":6222"}}, "secret: expected at least 32 characters"},
		"no secret":    {NATS{Secret: "{env.CADDY_SSE_TEST_NO_SUCH}", Embedded: &Embedded{Listen: ":6222"}}, "secret: "},
		"no port":      {NATS{Secret: testSecret, Embedded: &Embedded{Listen: "10.0.0.1"}}, "expected an address with a port"},
		"route host":   {NATS{Secret: testSecret, Embedded: &Embedded{Listen: ":6222", Routes: []string{":6222"}}}, "expected an address with a port"},
		"scheme":       {NATS{Secret: testSecret, Servers: []string{"http://a:4222"}}, "servers: expected URLs"},
		"host":         {NATS{Secret: testSecret, Servers: []string{"a:4222"}}, "servers: expected URLs"},
	} {
		_, err := test.config.settings(caddy.NewReplacer())
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "too short") {
			t.Errorf("%s: error %v, expected %s", name, err, test.want)
		}
	}
}

// Files that are not there are told when the configuration is loaded.
func TestMissingFiles(t *testing.T) {
	s := embeddedAt(t, testSecret, "127.0.0.1:0")
	dir := t.TempDir()
	s.embedded.tls = &TLS{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key"), CA: filepath.Join(dir, "ca")}
	b := newBus()
	if err := b.start(newTestLink(t, s)); err == nil || !strings.Contains(err.Error(), "reading the CA") {
		t.Errorf("error %v", err)
	}
	if err := os.WriteFile(s.embedded.tls.CA, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.start(newTestLink(t, s)); err == nil || !strings.Contains(err.Error(), "no certificate in") {
		t.Errorf("error %v", err)
	}
}

// load loads a configuration with a cluster.
func load(t *testing.T, listen, prefix string) error {
	t.Helper()
	config := map[string]any{
		"admin":   map[string]any{"disabled": true, "config": map[string]any{"persist": false}},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"writer": map[string]any{"output": "discard"}}}},
		"apps": map[string]any{"sse_cluster": map[string]any{"bus": map[string]any{
			"type": "nats", "secret": testSecret, "prefix": prefix, "embedded": map[string]any{"listen": listen},
		}}},
	}
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	return caddy.Load(text, true)
}

// A reload with the same configuration keeps the connection; one with another replaces it,
// also at the same address; one that fails keeps the old one; and the end closes it.
func TestReload(t *testing.T) {
	address := ownAddress(t)
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
		if process.current() != nil {
			t.Error("the connection is left")
		}
	})
	if err := load(t, address, "sse"); err != nil {
		t.Fatal(err)
	}
	first := process.current()
	stop, err := process.Answer("topic", func([]byte) []byte { return []byte("here") })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	other := startNode(t, embeddedAt(t, testSecret, "127.0.0.1:0", address))
	awaitAnswer(t, other, "topic", "")

	if err := load(t, address, "sse"); err != nil {
		t.Fatal(err)
	}
	if process.current() != first {
		t.Error("the same configuration has replaced the connection")
	}
	if err := load(t, address, "other"); err != nil {
		t.Fatal(err)
	}
	second := process.current()
	if second == first || second.settings.prefix != "other" {
		t.Error("another configuration has not replaced the connection")
	}
	renamed := embeddedAt(t, testSecret, "127.0.0.1:0", address)
	renamed.prefix = "other"
	another := startNode(t, renamed)
	awaitAnswer(t, another, "topic", "")

	if err := load(t, other.address(), "other"); err == nil {
		t.Fatal("an address that is taken was not refused")
	}
	if process.current() == nil {
		t.Fatal("a configuration that failed has ended the connection")
	}
	awaitAnswer(t, another, "topic", "")
}
