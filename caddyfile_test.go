package caddysse

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-sse/caddy-sse/internal/stream"
)

// optionTests are, for each option, a valid use with the JSON that it becomes,
// and wrong ones with what the error says. Where the JSON depends on another
// option, that is written too.
var optionTests = map[string][]struct{ options, want string }{
	"name": {
		{`name feed`, `{"name":"feed"}`},
		{`name`, `!expected a name`},
		{`name ""`, `!expected a name`},
		{`name a b`, `!unexpected argument "b"`},
	},
	"set_cookie": {
		{`set_cookie strip`, `{"set_cookie":"strip"}`},
		{`set_cookie private`, `{"set_cookie":"private"}`},
		{`set_cookie`, `!expected strip or private`},
		{`set_cookie keep`, `!expected strip, private, not "keep"`},
		{`set_cookie strip private`, `!unexpected argument "private"`},
	},
	"share": {
		{`share public`, `{"share":"public"}`},
		{`share off`, `{"share":"off"}`},
		{`share cookies tenant lang`, `{"share":"cookies","share_cookies":["tenant","lang"]}`},
		{`share`, `!expected public, off, or cookies`},
		{`share headers X-Tenant Authorization`, `{"share":"headers","share_headers":["X-Tenant","Authorization"]}`},
		{`share everything`, `!expected public, off, or cookies or headers with their names, not "everything"`},
		{`share cookies`, `!expected the name of at least one cookie`},
		{`share headers`, `!expected the name of at least one`},
		{`share public tenant`, `!unexpected argument "tenant"`},
		{"share public\nkey {http.request.uri}", `!not with share public`},
	},
	"key": {
		{`key {http.request.uri}`, `{"key":"{http.request.uri}"}`},
		{`key {path}-{header.X-Tenant}`, `{"key":"{http.request.uri.path}-{http.request.header.X-Tenant}"}`},
		{`key`, `!expected a template, such as {http.request.uri}`},
		{`key ""`, `!expected a template`},
		{`key constant`, `!expected a template with at least one placeholder`},
		{`key {path} {query}`, `!unexpected argument`},
	},
	"key_add": {
		{`key_add {vars.tenant} {client_ip}`, `{"key_add":["{http.vars.tenant}","{http.vars.client_ip}"]}`},
		{`key_add`, `!expected at least one placeholder`},
		{`key_add tenant`, `!expected a placeholder, such as {http.vars.tenant}, not "tenant"`},
		{`key_add {vars.tenant} b`, `!not "b"`},
	},
	"key_ignore": {
		{"key_ignore query _ ts\nkey_ignore header X-Noise", `{"key_ignore":{"query":["_","ts"],"headers":["X-Noise"]}}`},
		{`key_ignore`, `!expected query or header`},
		{`key_ignore cookie a`, `!expected query or header, not "cookie"`},
		{`key_ignore query`, `!expected at least one name`},
		{`key_ignore header`, `!expected at least one name`},
		{"key_ignore query a\nkey_ignore query b", `!given twice`},
		{"key_ignore header a\nkey_ignore header b", `!given twice`},
	},
	"buffer": {
		{`buffer 100`, `{"buffer":{"events":100}}`},
		{`buffer 100 4MiB`, `{"buffer":{"events":100,"size":4194304}}`},
		{`buffer 100 1kB 90s`, `{"buffer":{"events":100,"size":1000,"age":90000000000}}`},
		{`buffer`, `!expected <events> [<size>] [<age>]`},
		{`buffer many`, `!expected a number above 0, not "many"`},
		{`buffer 0`, `!expected a number above 0, not "0"`},
		{`buffer -1`, `!expected a number above 0, not "-1"`},
		{`buffer 1.5`, `!expected a number above 0`},
		{`buffer 10 big`, `!expected a size, such as 4MiB, not "big"`},
		{`buffer 10 0`, `!expected a size`},
		{`buffer 10 -1MiB`, `!expected a size`},
		{`buffer 10 1MiB soon`, `!expected a duration, such as 15s, not "soon"`},
		{`buffer 10 1MiB 0s`, `!expected an age above 0`},
		{`buffer 10 1MiB -5s`, `!expected a duration`},
		{`buffer 10 1MiB 5m more`, `!expected <events> [<size>] [<age>]`},
	},
	"memory": {
		{`memory 256MiB`, `{"memory":268435456}`},
		{`memory 1GB`, `{"memory":1000000000}`},
		{`memory`, `!expected a size, such as 512MiB`},
		{`memory lots`, `!expected a size, such as 4MiB, not "lots"`},
		{`memory 0`, `!expected a size`},
		{`memory -1MiB`, `!expected a size`},
		{`memory 9999PiB`, `!expected a size`},
		{`memory 1MiB 2MiB`, `!unexpected argument "2MiB"`},
		{"memory 1MiB\nmemory 2MiB", `!given twice`},
	},
	"delivery": {
		{`delivery handler`, `{"delivery":"handler"}`},
		{`delivery connection`, `{"delivery":"connection"}`},
		{`delivery`, `!expected connection or handler`},
		{`delivery fast`, `!delivery: expected connection, handler, not "fast"`},
		{`delivery handler now`, `!unexpected argument "now"`},
	},
	"heartbeat": {
		{`heartbeat 20s`, `{"heartbeat":{"interval":20000000000}}`},
		{`heartbeat off`, `{"heartbeat":{"interval":0}}`},
		{`heartbeat 20s event ping`, `{"heartbeat":{"interval":20000000000,"event":"ping"}}`},
		{`heartbeat 20s event ping "{}"`, `{"heartbeat":{"interval":20000000000,"event":"ping","data":"{}"}}`},
		{`heartbeat`, `!expected <interval> [event <type> [<data>]], or off`},
		{`heartbeat often`, `!expected a duration, such as 15s, not "often"`},
		{`heartbeat 0s`, `!expected an interval of 1ms or more, or off`},
		{`heartbeat -1s`, `!expected a duration`},
		{`heartbeat 15`, `!expected a duration`},
		{`heartbeat off now`, `!unexpected argument "now" after off`},
		{`heartbeat 15s ping`, `!expected <interval> [event <type> [<data>]], or off, not "15s ping"`},
		{`heartbeat 15s event`, `!expected <interval>`},
		{`heartbeat 15s event ""`, `!expected <interval>`},
		{`heartbeat 15s event ping a b`, `!expected <interval>`},
		{"heartbeat 15s event \"a\nb\"", `!expected an event type without line ends`},
	},
	"heartbeat_padding": {
		{`heartbeat_padding 4KiB`, `{"heartbeat":{"padding":4096}}`},
		{"heartbeat_padding 2048\nheartbeat 5s", `{"heartbeat":{"interval":5000000000,"padding":2048}}`},
		{"heartbeat 5s\nheartbeat_padding 2048", `{"heartbeat":{"interval":5000000000,"padding":2048}}`},
		{`heartbeat_padding`, `!expected a number of bytes`},
		{`heartbeat_padding wide`, `!expected a size`},
		{`heartbeat_padding 0`, `!expected a size`},
		{`heartbeat_padding 65537`, `!expected 0 to 65536 bytes, not 65537`},
		{`heartbeat_padding 5TiB`, `!expected 0 to 65536 bytes`},
		{`heartbeat_padding 1 2`, `!unexpected argument "2"`},
	},
	"retry": {
		{`retry 2s`, `{"retry":{"min":2000000000}}`},
		{`retry 2s 10s`, `{"retry":{"min":2000000000,"max":10000000000}}`},
		{`retry`, `!expected <min> [<max>]`},
		{`retry soon`, `!expected a duration, such as 15s, not "soon"`},
		{`retry 2s later`, `!expected a duration, such as 15s, not "later"`},
		{`retry 10s 2s`, `!expected a range of reconnection times`},
		{`retry 0s`, `!expected a range of reconnection times`},
		{`retry 1s 2s 3s`, `!expected <min> [<max>]`},
	},
	"linger": {
		{`linger 1m`, `{"linger":60000000000}`},
		{`linger 0s`, `{"linger":0}`},
		{`linger`, `!expected a duration, such as 15s`},
		{`linger long`, `!expected a duration, such as 15s, not "long"`},
		{`linger -1s`, `!expected a duration`},
		{`linger 1s 2s`, `!unexpected argument "2s"`},
	},
	"join": {
		{`join live`, `{"join":"live"}`},
		{`join auto`, `{"join":"auto"}`},
		{`join replay`, `{"join":"replay"}`},
		{`join replay 10`, `{"join":"replay","join_replay":10}`},
		{`join greeting`, `{"join":"greeting"}`},
		{`join`, `!expected `},
		{`join late`, `!not "late"`},
		{`join replay all`, `!expected a number above 0, not "all"`},
		{`join replay 0`, `!expected a number above 0`},
		{`join live 10`, `!unexpected argument "10"`},
		{`join replay 10 20`, `!unexpected argument "20"`},
	},
	"splice_limit": {
		{`splice_limit 4`, `{"splice_limit":4}`},
		{`splice_limit`, `!expected a number`},
		{`splice_limit 0`, `!expected a number above 0, not "0"`},
		{`splice_limit some`, `!expected a number above 0, not "some"`},
		{`splice_limit 4 5`, `!unexpected argument "5"`},
	},
	"splice_timeout": {
		{`splice_timeout 10s`, `{"splice_timeout":10000000000}`},
		{`splice_timeout`, `!expected a duration, such as 15s`},
		{`splice_timeout never`, `!expected a duration, such as 15s, not "never"`},
		{`splice_timeout 0s`, `!expected a duration above 0`},
		{`splice_timeout 1s 2s`, `!unexpected argument "2s"`},
	},
	"ids": {
		{`ids gateway`, `{"ids":"gateway"}`},
		{`ids upstream`, `{"ids":"upstream"}`},
		{`ids auto`, `{"ids":"auto"}`},
		{`ids`, `!expected auto, upstream or gateway`},
		{`ids none`, `!expected auto, upstream, gateway, not "none"`},
		{`ids auto auto`, `!unexpected argument "auto"`},
	},
	"gap_event": {
		{`gap_event missed`, `{"gap_event":"missed"}`},
		{`gap_event`, `!expected an event type`},
		{`gap_event ""`, `!expected an event type`},
		{"gap_event \"a\nb\"", `!expected an event type without line ends`},
		{`gap_event a b`, `!unexpected argument "b"`},
	},
	"prime": {
		{`prime on`, `{"prime":true}`},
		{`prime off`, `{"prime":false}`},
		{`prime`, `!expected on or off`},
		{`prime yes`, `!expected on or off, not "yes"`},
		{`prime on off`, `!unexpected argument "off"`},
	},
	"empty_blocks": {
		{`empty_blocks on`, `{"empty_blocks":true}`},
		{`empty_blocks off`, `{"empty_blocks":false}`},
		{`empty_blocks`, `!expected on or off`},
		{`empty_blocks none`, `!expected on or off, not "none"`},
	},
	"probe": {
		{`probe on`, `{"probe":true}`},
		{`probe off`, `{}`},
		{`probe`, `!expected on or off`},
		{`probe /path`, `!expected on or off, not "/path"`},
		{`probe on off`, `!unexpected argument "off"`},
	},
	"lag": {
		{`lag disconnect`, `{"lag":"disconnect"}`},
		{"lag skip\ngap_event missed", `{"gap_event":"missed","lag":"skip"}`},
		{"gap_event missed\nlag skip", `{"gap_event":"missed","lag":"skip"}`},
		{`lag`, `!expected disconnect or skip`},
		{`lag wait`, `!expected disconnect, skip, not "wait"`},
		{`lag skip`, `!needs gap_event`},
		{`lag disconnect now`, `!unexpected argument "now"`},
	},
	"write_timeout": {
		{`write_timeout 5s`, `{"write_timeout":5000000000}`},
		{`write_timeout 0s`, `{"write_timeout":0}`},
		{`write_timeout`, `!expected a duration, such as 15s`},
		{`write_timeout 5`, `!expected a duration, such as 15s, not "5"`},
		{`write_timeout -5s`, `!expected a duration`},
		{`write_timeout 5s 6s`, `!unexpected argument "6s"`},
	},
	"max_event_size": {
		{`max_event_size 1MiB`, `{"max_event_size":1048576}`},
		{`max_event_size`, `!expected a size, such as 4MiB`},
		{`max_event_size big`, `!expected a size, such as 4MiB, not "big"`},
		{`max_event_size 0`, `!expected a size`},
		{`max_event_size 3GiB`, `!expected 1 to 2147483647 bytes`},
		{`max_event_size 9999PiB`, `!expected a size`},
		{`max_event_size 1MiB 2`, `!unexpected argument "2"`},
	},
	"max_streams": {
		{`max_streams 100`, `{"max_streams":100}`},
		{`max_streams`, `!expected a number`},
		{`max_streams few`, `!expected a number above 0, not "few"`},
		{`max_streams 0`, `!expected a number above 0`},
		{`max_streams 1 2`, `!unexpected argument "2"`},
	},
	"max_subscribers": {
		{`max_subscribers 100`, `{"max_subscribers":100}`},
		{`max_subscribers`, `!expected a number`},
		{`max_subscribers -3`, `!expected a number above 0, not "-3"`},
		{`max_subscribers 1 2`, `!unexpected argument "2"`},
	},
	"reconnect": {
		{`reconnect broken`, `{"reconnect":"broken"}`},
		{`reconnect always`, `{"reconnect":"always"}`},
		{`reconnect resumable`, `{"reconnect":"resumable"}`},
		{`reconnect never`, `{"reconnect":"never"}`},
		{`reconnect`, `!expected broken, always, resumable or never`},
		{`reconnect sometimes`, `!expected broken, always, resumable, never, not "sometimes"`},
		{`reconnect never ever`, `!unexpected argument "ever"`},
	},
	"upstream_timeout": {
		{`upstream_timeout 45s`, `{"upstream_timeout":45000000000}`},
		{`upstream_timeout 0s`, `{}`},
		{`upstream_timeout`, `!expected a duration, such as 15s`},
		{`upstream_timeout long`, `!expected a duration, such as 15s, not "long"`},
		{`upstream_timeout -1s`, `!expected a duration`},
		{`upstream_timeout 1s 2s`, `!unexpected argument "2s"`},
	},
	"give_up": {
		{`give_up 5m`, `{"give_up":300000000000}`},
		{`give_up`, `!expected a duration, such as 15s`},
		{`give_up never`, `!expected a duration, such as 15s, not "never"`},
		{`give_up 0s`, `!expected a duration above 0`},
		{`give_up 1s 2s`, `!unexpected argument "2s"`},
	},
	"drain": {
		{`drain 10s`, `{"drain":10000000000}`},
		{`drain 0s`, `{"drain":0}`},
		{`drain`, `!expected a duration, such as 15s`},
		{`drain slowly`, `!expected a duration, such as 15s, not "slowly"`},
		{`drain 1s 2s`, `!unexpected argument "2s"`},
	},
	"max_per_client": {
		{`max_per_client 10`, `{"max_per_client":{"responses":10}}`},
		{`max_per_client 10 {client_ip}`, `{"max_per_client":{"responses":10,"by":"{http.vars.client_ip}"}}`},
		{`max_per_client`, `!expected a number`},
		{`max_per_client 0`, `!expected a number above 0, not "0"`},
		{`max_per_client 10 user`, `!expected a placeholder, such as {http.vars.client_ip}, not "user"`},
		{`max_per_client 10 {client_ip} more`, `!unexpected argument "more"`},
	},
	"max_age": {
		{`max_age 1h`, `{"max_age":3600000000000}`},
		{`max_age`, `!expected a duration, such as 15s`},
		{`max_age old`, `!expected a duration, such as 15s, not "old"`},
		{`max_age -1h`, `!expected a duration`},
		{`max_age 1h 2h`, `!unexpected argument "2h"`},
	},
	"reauthorize": {
		{`reauthorize 1m`, `{"reauthorize":{"interval":60000000000}}`},
		{`reauthorize 30s upstream`, `{"reauthorize":{"interval":30000000000,"upstream":true}}`},
		{`reauthorize`, `!expected a duration, such as 15s`},
		{`reauthorize often`, `!expected a duration, such as 15s, not "often"`},
		{`reauthorize 500ms`, `!expected an interval of at least 1s`},
		{`reauthorize 1m application`, `!expected upstream or nothing after the interval, not "application"`},
		{`reauthorize 1m upstream now`, `!unexpected argument "now"`},
	},
	"revoke_by": {
		{`revoke_by {http.auth.user.id}`, `{"revoke_by":"{http.auth.user.id}"}`},
		{`revoke_by {cookie.session}`, `{"revoke_by":"{http.request.cookie.session}"}`},
		{`revoke_by`, `!expected a placeholder, such as {http.auth.user.id}`},
		{`revoke_by user`, `!expected a placeholder, such as {http.auth.user.id}, not "user"`},
		{`revoke_by {user} {tenant}`, `!unexpected argument "{tenant}"`},
	},
	"last_event_id_query": {
		{`last_event_id_query since cursor`, `{"last_event_id_query":["since","cursor"]}`},
		{`last_event_id_query off`, `{"last_event_id_query":[]}`},
		{`last_event_id_query`, `!expected the names of query parameters, or off`},
	},
	"detach": {
		{`detach 10m`, `{"detach":600000000000}`},
		{"detach 1m\nids gateway", `{"detach":60000000000,"ids":"gateway"}`},
		{`detach`, `!expected a duration, such as 15s`},
		{`detach always`, `!expected a duration, such as 15s, not "always"`},
		{`detach 0s`, `!expected a duration above 0`},
		{`detach -1s`, `!expected a duration`},
		{`detach 1m 2m`, `!unexpected argument "2m"`},
		{"detach 1m\nids upstream", `!not with ids upstream`},
		{"ids upstream\ndetach 1m", `!not with ids upstream`},
	},
	"resume_upstream": {
		{`resume_upstream last_event_id`, `{"resume_upstream":"last_event_id"}`},
		{`resume_upstream openai_responses`, `{"resume_upstream":"openai_responses"}`},
		{`resume_upstream`, `!expected last_event_id or openai_responses`},
		{`resume_upstream always`, `!resume_upstream: expected last_event_id, openai_responses, not "always"`},
		{`resume_upstream last_event_id openai_responses`, `!unexpected argument "openai_responses"`},
	},
	"early": {
		{`early 2s`, `{"early":2000000000}`},
		{`early`, `!expected a duration, such as 15s`},
		{`early soon`, `!expected a duration, such as 15s, not "soon"`},
		{`early 0s`, `!expected a duration above 0`},
		{`early 1s 2s`, `!unexpected argument "2s"`},
	},
	"early_error": {
		{`early_error openai`, `{"early_error":"openai"}`},
		{`early_error anthropic`, `{"early_error":"anthropic"}`},
		{`early_error sse`, `{"early_error":"sse"}`},
		{`early_error`, `!expected openai, anthropic or sse`},
		{`early_error json`, `!early_error: expected openai, anthropic, sse, not "json"`},
	},
	"detach_headers": {
		{`detach_headers X-Session X-Tenant`, `{"detach_headers":["X-Session","X-Tenant"]}`},
		{`detach_headers`, `!expected the names of header fields`},
		{`detach_headers ""`, `!expected the names of header fields, not an empty text`},
	},
	"max_request_body": {
		{`max_request_body 2MiB`, `{"max_request_body":2097152}`},
		{`max_request_body`, `!expected a size, such as 1MiB`},
		{`max_request_body big`, `!expected a size, such as 4MiB, not "big"`},
		{`max_request_body 0`, `!expected a size`},
		{`max_request_body 3GiB`, `!expected 1 to 2147483647 bytes`},
		{`max_request_body 1MiB 2`, `!unexpected argument "2"`},
	},
}

// adaptOptions returns the handler that a directive with these options becomes,
// as JSON. The options begin on line 3 of the Caddyfile.
func adaptOptions(t *testing.T, options string) (string, error) {
	t.Helper()
	text, err := adapt(t, "http://a.test {\n\tsse {\n"+options+"\n}\n}\n")
	if err != nil {
		return "", err
	}
	var config any
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		t.Fatal(err)
	}
	handler := findHandler(config)
	delete(handler, "handler")
	out, err := json.Marshal(handler)
	if err != nil {
		t.Fatal(err)
	}
	return string(out), nil
}

// findHandler returns the sse handler in a configuration.
func findHandler(config any) map[string]any {
	switch v := config.(type) {
	case map[string]any:
		if v["handler"] == "sse" {
			return v
		}
		for _, inner := range v {
			if h := findHandler(inner); h != nil {
				return h
			}
		}
	case []any:
		for _, inner := range v {
			if h := findHandler(inner); h != nil {
				return h
			}
		}
	}
	return nil
}

func TestOptions(t *testing.T) {
	for option := range subdirectives {
		if len(optionTests[option]) == 0 {
			t.Errorf("option %s has no test", option)
		}
	}
	for option, tests := range optionTests {
		if _, ok := subdirectives[option]; !ok {
			t.Errorf("there is no option %s", option)
		}
		valid := ""
		for _, test := range tests {
			t.Run(test.options, func(t *testing.T) {
				got, err := adaptOptions(t, test.options)
				message, wrong := strings.CutPrefix(test.want, "!")
				if !wrong {
					if err != nil {
						t.Fatal(err)
					}
					if canonical(t, got) != canonical(t, test.want) {
						t.Errorf("%s, expected %s", got, test.want)
					}
					return
				}
				if err == nil {
					t.Fatalf("%s, expected the error %q", got, message)
				}
				last := 3 + strings.Count(strings.ReplaceAll(test.options, "a\nb", ""), "\n")
				if !strings.Contains(err.Error(), message) || !strings.Contains(err.Error(), option) {
					t.Errorf("error %q, expected the option and %q", err, message)
				}
				if at := fmt.Sprintf("Caddyfile:%d", last); !strings.Contains(err.Error(), at) && option != "lag" {
					t.Errorf("error %q, expected it to be %s", err, at)
				}
			})
			if valid == "" {
				valid = test.options
			}
		}
		t.Run(option+" twice", func(t *testing.T) {
			// A wrong line after it, so that it is not the end of the block
			// that is told.
			_, err := adaptOptions(t, valid+"\n"+valid)
			if err == nil || !strings.Contains(err.Error(), option) || !strings.Contains(err.Error(), "given twice") {
				t.Errorf("error %v, expected that %s is given twice", err, option)
			}
			if at := fmt.Sprintf("Caddyfile:%d", 4+strings.Count(valid, "\n")); err != nil && !strings.Contains(err.Error(), at) {
				t.Errorf("error %v, expected it to be at %s", err, at)
			}
		})
		t.Run(option+" with a block", func(t *testing.T) {
			_, err := adaptOptions(t, valid+" {\nx\n}")
			if err == nil || !strings.Contains(err.Error(), "Caddyfile:") {
				t.Errorf("error %v, expected one about the block", err)
			}
		})
	}
}

// canonical formats JSON so that the order of members does not matter.
func canonical(t *testing.T, text string) string {
	t.Helper()
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	out, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestDirective(t *testing.T) {
	for _, test := range []struct{ caddyfile, want string }{
		{"http://a.test {\nsse {\nheartbeats 15s\n}\n}", `Caddyfile:3`},
		{"http://a.test {\nsse {\nheartbeats 15s\n}\n}", `unknown option "heartbeats" of sse`},
		{"http://a.test {\nsse public\n}", `Caddyfile:2`},
		{"http://a.test {\nsse public\n}", `expected a block of options, not the argument "public"`},
		{"http://a.test {\nsse /events public {\n}\n}", `not the argument "public"`},
	} {
		_, err := adapt(t, test.caddyfile)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, expected %s", test.caddyfile, err, test.want)
		}
	}
	for caddyfile, want := range map[string]string{
		"sse":                       `{"handler":"sse"}`,
		"sse {\n}":                  `{"handler":"sse"}`,
		"sse /events":               `"handle":[{"handler":"sse"}],"match":[{"path":["/events"]}]`,
		"sse /a {\nshare public\n}": `{"handler":"sse","share":"public"}`,
		"sse\nreverse_proxy :1":     `[{"handler":"sse"},{"handler":"reverse_proxy"`,
		"reverse_proxy :1\nsse":     `[{"handler":"sse"},{"handler":"reverse_proxy"`,
		"php_fastcgi :1\nsse":       `"handler":"sse"`,
		"sse\nrespond 403":          `{"handler":"static_response","status_code":403},{"handler":"sse"}`,
		"sse\nbasic_auth {\na $2a$04$ejETZ251pXH.9s.3fTOjA.FHREk3qDML/FHld4IUNSkzjROKpJfYW\n}": `,{"handler":"sse"}`,
	} {
		got, err := adapt(t, "http://a.test {\n"+caddyfile+"\n}")
		if err != nil || !strings.Contains(got, want) {
			t.Errorf("%q: %s %v, expected %s", caddyfile, got, err, want)
		}
	}
}

// TestDirectiveOrder: what refuses requests is sorted before sse.
func TestDirectiveOrder(t *testing.T) {
	got, err := adapt(t, "http://a.test {\nsse\nreverse_proxy :1\nforward_auth :2 {\nuri /\n}\nerror /x 500\nheader X 1\nrequest_header Y 2\nrewrite /a /b\nencode\n}")
	if err != nil {
		t.Fatal(err)
	}
	before, after, ok := strings.Cut(got, `"handler":"sse"`)
	if !ok || !strings.Contains(after, `"dial":":1"`) {
		t.Fatalf("no sse before the reverse_proxy: %s", got)
	}
	for _, part := range []string{`"dial":":2"`, `"handler":"error"`, `"handler":"headers"`, `"handler":"rewrite"`, `"handler":"encode"`} {
		if !strings.Contains(before, part) {
			t.Errorf("%s is not before sse: %s", part, got)
		}
	}
}

// TestAllOptionsTogether also goes from JSON to the struct and back, so that no
// field is forgotten.
func TestAllOptionsTogether(t *testing.T) {
	var options []string
	for option, tests := range optionTests {
		if option == "share" || option == "heartbeat_padding" {
			continue // with key; with heartbeat
		}
		options = append(options, tests[0].options)
	}
	slices.Sort(options)
	got, err := adaptOptions(t, strings.Join(options, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	h := new(Handler)
	if err := caddy.StrictUnmarshalJSON([]byte(got), h); err != nil {
		t.Fatal(err)
	}
	if err := h.Validate(); err != nil {
		t.Error(err)
	}
	again, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	if canonical(t, string(again)) != canonical(t, got) {
		t.Errorf("%s, expected %s", again, got)
	}
}

func TestWrongJSON(t *testing.T) {
	for _, test := range []struct{ config, want string }{
		{`{"share":"everything"}`, "share: expected public, cookies, headers or off"},
		{`{"share":"cookies"}`, "share cookies: expected the name"},
		{`{"share":"headers"}`, "share headers: expected the name"},
		{`{"share_headers":["a"]}`, "share_headers: only with share headers"},
		{`{"set_cookie":"keep"}`, "set_cookie: expected"},
		{`{"share_cookies":["a"]}`, "share_cookies: only with share cookies"},
		{`{"share":"public","share_cookies":["a"]}`, "share_cookies: only with share cookies"},
		{`{"share":"public","key":"{http.request.uri}"}`, "key: not with share public"},
		{`{"key":"constant"}`, "key: expected a template"},
		{`{"key_add":["{http.vars.a}","b"]}`, "key_add: expected a placeholder"},
		{`{"key_add":[""]}`, "key_add: expected a placeholder"},
		{`{"buffer":{"events":-1}}`, "buffer: expected"},
		{`{"buffer":{"size":-1}}`, "buffer: expected"},
		{`{"buffer":{"age":-1}}`, "buffer: expected"},
		{`{"memory":-1}`, "memory: expected a number of bytes above 0, not -1"},
		{`{"retry":{}}`, "retry: expected"},
		{`{"retry":{"max":"1s"}}`, "retry: expected"},
		{`{"retry":{"min":"2s","max":"1s"}}`, "retry: expected"},
		{`{"retry":{"min":-1}}`, "retry: expected"},
		{`{"linger":-1}`, "linger: expected"},
		{`{"join":"late"}`, "join: expected"},
		{`{"join_replay":3}`, "join_replay: expected"},
		{`{"join":"live","join_replay":3}`, "join_replay: expected"},
		{`{"join":"replay","join_replay":-3}`, "join_replay: expected"},
		{`{"splice_limit":-1}`, "splice_limit: expected"},
		{`{"splice_timeout":-1}`, "splice_timeout: expected"},
		{`{"ids":"none"}`, "ids: expected"},
		{`{"max_event_size":-1}`, "max_event_size: expected"},
		{`{"max_event_size":2147483648}`, "max_event_size: expected"},
		{`{"max_streams":-1}`, "max_streams: expected"},
		{`{"max_subscribers":-1}`, "max_subscribers: expected"},
		{`{"heartbeat":{"interval":-1}}`, "heartbeat: expected"},
		{`{"heartbeat":{"event":"a\nb"}}`, "heartbeat: expected an event type"},
		{`{"heartbeat":{"event":"a\u0000b"}}`, "heartbeat: expected an event type"},
		{`{"heartbeat":{"data":"a"}}`, "heartbeat: data needs"},
		{`{"heartbeat":{"padding":-1}}`, "heartbeat_padding: expected"},
		{`{"heartbeat":{"padding":65537}}`, "heartbeat_padding: expected"},
		{`{"gap_event":"a\rb"}`, "gap_event: expected"},
		{`{"lag":"wait"}`, "lag: expected"},
		{`{"lag":"skip"}`, "lag skip: needs gap_event"},
		{`{"write_timeout":-1}`, "write_timeout: expected"},
		{`{"max_per_client":{"responses":0}}`, "max_per_client: expected"},
		{`{"max_per_client":{"responses":1,"by":"user"}}`, "max_per_client: expected"},
		{`{"max_age":-1}`, "max_age: expected"},
		{`{"revoke_by":"x"}`, "revoke_by: expected"},
		{`{"reauthorize":{}}`, "reauthorize: expected"},
		{`{"reconnect":"no"}`, "reconnect: expected"},
		{`{"upstream_timeout":-1}`, "upstream_timeout: expected"},
		{`{"give_up":-1}`, "give_up: expected"},
		{`{"drain":-1}`, "drain: expected"},
		{`{"detach":-1}`, "detach: expected"},
		{`{"detach":"1m","ids":"upstream"}`, "detach: not with ids upstream"},
		{`{"detach_headers":[""]}`, "detach_headers: expected"},
		{`{"early":-1}`, "early: expected"},
		{`{"resume_upstream":"x"}`, "resume_upstream: expected"},
		{`{"early_error":"x"}`, "early_error: expected"},
		{`{"max_request_body":-1}`, "max_request_body: expected"},
		{`{"max_request_body":2147483648}`, "max_request_body: expected"},
	} {
		h := new(Handler)
		if err := caddy.StrictUnmarshalJSON([]byte(test.config), h); err != nil {
			t.Fatalf("%s: %v", test.config, err)
		}
		if err := h.Validate(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, expected %q", test.config, err, test.want)
		}
		// A whole Caddy refuses it too, and leaves no stream or handler behind.
		config := `{"admin":{"disabled":true,"config":{"persist":false}},"logging":{"logs":{"default":{"writer":{"output":"discard"}}}},` +
			`"apps":{"http":{"servers":{"a":{"routes":[{"handle":[{"handler":"sse",` + strings.TrimPrefix(test.config, "{") + `]}]}}}}}`
		if err := caddy.Validate(parseConfig(t, config)); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: Caddy's error %v, expected %q", test.config, err, test.want)
		}
	}
	if n := instances(); n != 0 {
		t.Errorf("%d handlers of configurations that were refused are left", n)
	}
}

func parseConfig(t *testing.T, text string) *caddy.Config {
	t.Helper()
	config := new(caddy.Config)
	if err := json.Unmarshal([]byte(text), config); err != nil {
		t.Fatal(err)
	}
	return config
}

// instances counts the handlers that the hub knows.
func instances() int { return stream.Process.Handlers() }

// The option, in a server: a value that is stated counts until its handler is
// gone.
func TestMemoryOption(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, proxied("memory 20kB\njoin live", u))
	a := g.subscribe("/")
	up := u.accept()
	text := strings.Repeat("x", 1000)
	up.event(text)
	first := a.expect(text).LastEventID
	for range 100 {
		up.event(text)
		a.expect(text)
	}
	eventually(t, "room is made", func() bool { _, over := stream.Process.MemoryLimit(); return !over })
	b := g.subscribe("/", "Last-Event-ID: "+first)
	if got := b.outcome(); got != stream.ResumeGap {
		t.Errorf("SSE-Resume: %s, expected a gap", got)
	}
	if n, _ := stream.Process.MemoryLimit(); n != 20_000 {
		t.Errorf("limit %d", n)
	}
	a.close()
	b.close()
	g.load(proxied("memory 1MB\njoin live", u))
	eventually(t, "the new value counts", func() bool { limit, _ := stream.Process.MemoryLimit(); return limit == 1_000_000 })
	g.load(proxied("join live", u))
	eventually(t, "the default counts", func() bool { limit, _ := stream.Process.MemoryLimit(); return limit == stream.DefaultMemory })
}

// An error in an option names its line, also behind options that read ahead.
func TestErrorNamesItsLine(t *testing.T) {
	_, err := adaptOptions(t, "lag skip\nids none\ngap_event missed")
	if err == nil || !strings.Contains(err.Error(), "Caddyfile:4") {
		t.Errorf("error %v, expected it to be at Caddyfile:4", err)
	}
}

// Options of any text are refused with an error, or become a configuration that Caddy
// reads again as the same.
func FuzzOptions(f *testing.F) {
	for _, tests := range optionTests {
		for _, test := range tests {
			f.Add(test.options)
		}
	}
	f.Add("{\n}")
	f.Add("heartbeat \"\nbuffer {")
	f.Fuzz(func(t *testing.T, options string) {
		tokens, err := caddyfile.Tokenize([]byte("sse {\n"+options+"\n}"), "Caddyfile") // what makes a dispenser for tests ends the process
		if err != nil {
			return
		}
		h := new(Handler)
		if err := h.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
			return
		}
		if h.Validate() != nil {
			return
		}
		text, err := json.Marshal(h)
		if err != nil {
			t.Fatalf("%q is accepted, and cannot be written: %v", options, err)
		}
		again := new(Handler)
		if err := caddy.StrictUnmarshalJSON(text, again); err != nil {
			t.Fatalf("%q becomes %s, which is refused: %v", options, text, err)
		}
		if err := again.Validate(); err != nil {
			t.Errorf("%q becomes %s, which is not valid: %v", options, text, err)
		}
		if twice, err := json.Marshal(again); err != nil || !bytes.Equal(twice, text) {
			t.Errorf("%q becomes %s, and then %s, %v", options, text, twice, err)
		}
	})
}
