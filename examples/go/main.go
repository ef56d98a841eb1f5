// A ticker as anybody would write it: each request has a goroutine and a connection, there are no IDs, and nothing is sent
// again.
package main

import (
	"fmt"
	"log"
	"net/http"
	"sync/atomic"
	"time"
)

func main() {
	var open atomic.Int32
	http.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		open.Add(1)
		defer open.Add(-1)
		w.Header().Set("Content-Type", "text/event-stream")
		ticker := time.NewTicker(200 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case now := <-ticker.C:
				// All connections tell the same: the time in fifths of a second.
				if _, err := fmt.Fprintf(w, "data: %d\n\n", now.UnixMilli()/200); err != nil {
					return
				}
				if http.NewResponseController(w).Flush() != nil {
					return
				}
			case <-r.Context().Done():
				return
			}
		}
	})
	http.HandleFunc("GET /connections", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, open.Load())
	})
	server := &http.Server{Addr: "localhost:3000", ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}
