package key

import (
	"net"
	"net/http"
	"testing"
)

// TestNobodysAddress: what libraries take for inside is not the address of
// shared upstream requests.
func TestNobodysAddress(t *testing.T) {
	ip := net.ParseIP(Nobody)
	if ip.IsPrivate() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsUnspecified() || !ip.IsGlobalUnicast() {
		t.Errorf("%s passes for an address inside", Nobody)
	}
	for _, documentation := range []string{"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"} {
		_, block, err := net.ParseCIDR(documentation)
		if err != nil {
			t.Fatal(err)
		}
		if block.Contains(ip) {
			t.Errorf("%s is of a block that libraries count among the private ones", Nobody)
		}
	}
}

// TestProxiesOfAllReverseProxiesAreBelieved: whom all the reverse_proxy behind sse
// trust is believed, and nobody else.
func TestProxiesOfAllReverseProxiesAreBelieved(t *testing.T) {
	p := New(Config{})
	p.heed(&behind{trusted: [][]string{{"10.0.0.0/8", "::1"}, {"10.0.0.0/8", "::1"}}})
	for address, want := range map[string]bool{"10.0.0.1:1": true, "[::1]:1": true, "[::ffff:10.0.0.1]:2": true, "11.0.0.1:1": false, "@": false} {
		r := (&http.Request{RemoteAddr: address}).WithContext(t.Context())
		if got := p.believed(r); got != want {
			t.Errorf("%s is believed: %v", address, got)
		}
	}
	p = New(Config{})
	if p.heed(&behind{trusted: [][]string{{"10.0.0.0/8"}, nil}}); len(p.trusted) > 0 {
		t.Error("whom one of two reverse_proxy trusts is believed by the other")
	}
}
