// Sse-doctor is the command sse-doctor of Caddy as a program of its own, for any event stream.
//
//	CGO_ENABLED=0 go build ./cmd/sse-doctor
package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/caddy-sse/caddy-sse/internal/doctor"
)

func main() { os.Exit(run(os.Args[1:])) }

// exitError ends the program with a code.
type exitError int

func (exitError) Error() string { return "failed" }

// run runs the command, and returns the exit code.
func run(args []string) int {
	cmd := &cobra.Command{
		Use: "sse-doctor " + doctor.Usage, Short: doctor.Short, Long: doctor.Long, SilenceUsage: true, SilenceErrors: true,
	}
	doctor.SetUp(cmd, func(code int) error { return exitError(code) })
	cmd.SetArgs(args)
	err := cmd.Execute()
	if code, ok := errors.AsType[exitError](err); ok {
		return int(code)
	}
	if err != nil {
		return 1
	}
	return 0
}
