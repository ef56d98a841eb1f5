package caddysse

import "testing"

// What handlers before sse made of a header that is not in the key.
func TestRevDerivedPlaceholders(t *testing.T) {
	u := startUpstream(t, nil)
	g := startGateway(t, site(`
		@tok header_regexp tok Authorization "Bearer (.*)"
		header @tok X-Nothing 1
		vars tenant {http.request.header.X-Tenant}
		map {http.request.header.X-User} {who} {
			~(.*) "${1}"
		}
		sse {
			share public
			join live
		}
		reverse_proxy `+u.address+` {
			header_up A {re.tok.1}
			header_up B {vars.tenant}
			header_up C {who}
		}`))
	g.subscribe("/", "Authorization: Bearer alice", "X-Tenant: alice", "X-User: alice")
	r := u.accept().request
	for _, name := range []string{"A", "B", "C"} {
		if v := r.Header.Get(name); v != "" {
			t.Errorf("%s: %s", name, v)
		}
	}
}
