package admin

import (
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// The page is one document that fetches nothing from elsewhere, and its policy
// allows nothing else.
func TestPage(t *testing.T) {
	url := startAPI(t)
	resp := get(t, url+"/sse/")
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	text := string(body)
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
		t.Fatalf("%s %v", resp.Status, resp.Header)
	}
	policy := resp.Header.Get("Content-Security-Policy")
	if !strings.HasPrefix(policy, "default-src 'none'; ") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") {
		t.Errorf("policy %s", policy)
	}
	for tag, directive := range map[string]string{"script": "script-src ", "style": "style-src "} {
		inline := regexp.MustCompile(`(?s)<`+tag+`>(.*?)</`+tag+`>`).FindAllStringSubmatch(text, -1)
		if len(inline) != 1 || len(inline[0][1]) < 1000 {
			t.Fatalf("%d elements %s", len(inline), tag)
		}
		sum := sha256.Sum256([]byte(inline[0][1]))
		if want := directive + "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "';"; !strings.Contains(policy, want) {
			t.Errorf("the policy has not got %s", want)
		}
	}
	for _, address := range regexp.MustCompile(`(?i)(https?:)?//[a-z0-9.-]+\.[a-z]+[^'"\s]*`).FindAllString(text, -1) {
		if address != "http://www.w3.org/2000/svg" { // a name
			t.Errorf("an address elsewhere: %s", address)
		}
	}
	// What the policy, or the escaping of text, would be void with.
	for _, bad := range []string{
		`(?i)\s(src|srcset|style|on[a-z]+)=`, `innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|createContextualFragment`,
		`(?i)@import|url\(|<link[^>]*stylesheet`,
	} {
		if found := regexp.MustCompile(bad).FindString(text); found != "" {
			t.Errorf("the page has %q", found)
		}
	}
	// What the script asks for is there.
	for _, id := range regexp.MustCompile(`byId\('([^']+)'\)`).FindAllStringSubmatch(text, -1) {
		if !strings.Contains(text, `id="`+id[1]+`"`) {
			t.Errorf("no element %s", id[1])
		}
	}
	for _, sort := range regexp.MustCompile(`<option value="(\S+) (?:asc|desc)">`).FindAllStringSubmatch(text, -1) {
		if feedOrders[sort[1]] == nil {
			t.Errorf("streams cannot be sorted by %s", sort[1])
		}
	}
	for name, want := range map[string]string{
		"Referrer-Policy": "same-origin", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store",
		"Cross-Origin-Resource-Policy": "same-origin",
	} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if resp := do(t, http.MethodHead, url+"/sse/"); resp.StatusCode != http.StatusOK || resp.ContentLength != int64(len(text)) {
		t.Errorf("HEAD: %s, %d bytes", resp.Status, resp.ContentLength)
	}
	if resp := get(t, url+"/sse"); resp.Request.URL.Path != "/sse/" {
		t.Errorf("/sse leads to %v", resp.Request.URL)
	}
}
