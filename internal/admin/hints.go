package admin

import (
	"net/http"

	"github.com/caddy-sse/caddy-sse/internal/hints"
)

// HintList answers GET /sse/hints.
type HintList struct {
	Total int          `json:"total"`
	Hints []hints.Hint `json:"hints"`
}

// listHints answers with all hints: there are never many.
func listHints(w http.ResponseWriter, _ *http.Request, _ params) error {
	all := hints.Process.List()
	return writeJSON(w, http.StatusOK, HintList{Total: len(all), Hints: all})
}
