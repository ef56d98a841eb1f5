// Command pocketbase is a PocketBase with a collection of notes that only their owners may see, for the end-to-end
// tests. What happens is told on standard output, one JSON object a line. It ends with its standard input.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/pocketbase/pocketbase/apis"
	"github.com/pocketbase/pocketbase/core"
	_ "github.com/pocketbase/pocketbase/migrations"
)

// report is a line of the standard output.
type report struct {
	Event      string `json:"event"` // listening, open or close
	Address    string `json:"address,omitempty"`
	Connection int    `json:"connection,omitempty"`
	ID         string `json:"id,omitempty"` // that the connection was given
	At         int64  `json:"at"`           // Unix time in nanoseconds
}

// reporter tells the test what happens.
type reporter struct {
	mu          sync.Mutex
	out         *json.Encoder
	connections int
}

func (r *reporter) report(what report) {
	if err := r.write(what); err != nil {
		log.Fatal(err)
	}
}

func (r *reporter) write(what report) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	what.At = time.Now().UnixNano()
	return r.out.Encode(what)
}

// connected numbers a new connection.
func (r *reporter) connected() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.connections++
	return r.connections
}

// addUsers adds user0@example.com and so on, each with the password that the clients know.
func addUsers(app core.App, n int) error {
	users, err := app.FindCollectionByNameOrId("users")
	if err != nil {
		return err
	}
	for i := range n {
		user := core.NewRecord(users)
		user.SetEmail(fmt.Sprintf("user%d@example.com", i))
		user.SetPassword("correct horse")
		user.SetVerified(true)
		if err := app.Save(user); err != nil {
			return err
		}
	}
	return nil
}

// addNotes adds a collection of which everybody may see, and be told of, his own records.
func addNotes(app core.App) error {
	users, err := app.FindCollectionByNameOrId("users")
	if err != nil {
		return err
	}
	notes := core.NewBaseCollection("notes")
	notes.Fields.Add(
		&core.TextField{Name: "text"},
		&core.RelationField{Name: "owner", CollectionId: users.Id, MaxSelect: 1},
	)
	own := "owner = @request.auth.id"
	notes.ListRule, notes.ViewRule, notes.CreateRule = &own, &own, &own
	return app.Save(notes)
}

// prepare makes the application ready to serve.
func prepare(dir string, users int, r *reporter) (http.Handler, error) {
	app := core.NewBaseApp(core.BaseAppConfig{DataDir: dir})
	if err := app.Bootstrap(); err != nil {
		return nil, err
	}
	if err := app.RunAllMigrations(); err != nil {
		return nil, err
	}
	if err := errors.Join(addUsers(app, users), addNotes(app)); err != nil {
		return nil, err
	}
	app.OnRealtimeConnectRequest().BindFunc(func(e *core.RealtimeConnectRequestEvent) error {
		n := r.connected()
		r.report(report{Event: "open", Connection: n, ID: e.Client.Id()})
		defer r.report(report{Event: "close", Connection: n, ID: e.Client.Id()})
		return e.Next()
	})
	router, err := apis.NewRouter(app)
	if err != nil {
		return nil, err
	}
	return router.BuildMux()
}

func main() {
	dir := flag.String("dir", "", "where its data is")
	users := flag.Int("users", 0, "how many users there are")
	flag.Parse()
	r := &reporter{out: json.NewEncoder(os.Stdout)}
	handler, err := prepare(*dir, *users, r)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	r.report(report{Event: "listening", Address: listener.Addr().String()})
	go func() {
		server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
		log.Fatal(server.Serve(listener))
	}()
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		log.Fatal(err)
	}
}
