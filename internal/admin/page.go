package admin

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"net/http"
	"strconv"
)

// The live page is one document, so that it needs no request that Caddy's admin
// endpoint takes for another site's: it refuses those that browsers make for
// the style sheets, scripts and pictures of a page.

//go:embed page/page.html
var pageHTML []byte

//go:embed page/page.css
var pageCSS []byte

//go:embed page/page.js
var pageJS []byte

// thePage is the document, and its policy: nothing runs, and nothing is fetched,
// but what is in it and the admin API.
var thePage, thePagePolicy = buildPage(pageHTML, pageCSS, pageJS)

// buildPage puts a style sheet and a script into a document.
func buildPage(html, css, js []byte) (page []byte, policy string) {
	page = bytes.Replace(html, []byte("<style></style>"), bytes.Join([][]byte{[]byte("<style>"), css, []byte("</style>")}, nil), 1)
	page = bytes.Replace(page, []byte("<script></script>"), bytes.Join([][]byte{[]byte("<script>"), js, []byte("</script>")}, nil), 1)
	policy = "default-src 'none'; style-src " + sourceHash(css) + "; script-src " + sourceHash(js) +
		"; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'" +
		"; require-trusted-types-for 'script'; trusted-types 'none'"
	return page, policy
}

// sourceHash names an inline script or style sheet in a policy (CSP3, 2.3.1).
func sourceHash(text []byte) string {
	sum := sha256.Sum256(text)
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// servePage answers with the page.
func servePage(w http.ResponseWriter, _ *http.Request, _ params) error {
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Length", strconv.Itoa(len(thePage)))
	header.Set("Content-Security-Policy", thePagePolicy)
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	// Caddy's admin endpoint asks for the referrer of a request without an
	// origin, which are those of the page that only read.
	header.Set("Referrer-Policy", "same-origin")
	_, _ = w.Write(thePage) // the client may be gone
	return nil
}
