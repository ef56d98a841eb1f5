package caddysse

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-sse/caddy-sse/internal/doctor"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "sse-doctor",
		Usage: "<url> [--json] [--timeout <duration>] [--late <duration>] [--header <field>] [--insecure]",
		Short: "Diagnoses buffering, dropped connections and lost events on an event stream",
		Long: `
Finds what holds events back, cuts the stream, or loses events on the way to
clients, and says what to change. Run it where the clients are.

It connects as a browser's EventSource does, watches the stream, goes away, and
returns with a last event ID. It opens up to six connections, three at a time.

A silent stream has two possible causes: something buffers it, or the
application sends nothing. To tell them apart, turn on the option probe of sse
while you look.

Exit codes: 0 healthy; 1 there are problems; 2 there was no answer, or the
command was not understood.`,
		CobraFunc: doctorCommand,
	})
}

// exitFailed is the exit code of sse-doctor where there is nothing to report.
const exitFailed = 2

// errProblems ends sse-doctor with exit code 1, as any error does.
var errProblems = errors.New("there are problems")

// doctorCommand sets up the command sse-doctor.
func doctorCommand(cmd *cobra.Command) {
	var o doctor.Options
	var fields []string
	var asJSON bool
	flags := cmd.Flags()
	flags.BoolVar(&asJSON, "json", false, "Print the report as JSON")
	flags.DurationVar(&o.Timeout, "timeout", doctor.DefaultTimeout, "How long to watch the stream")
	flags.DurationVar(&o.Late, "late", doctor.DefaultLate, "How much later than the fastest an event of the probe may come")
	flags.StringArrayVarP(&fields, "header", "H", nil, "A request header, 'Name: value'; may be repeated, is never printed")
	flags.BoolVarP(&o.Insecure, "insecure", "k", false, "Accept any certificate")
	// Cobra's own messages may quote a credential that stands in the wrong place.
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, _ error) error {
		return failed(cmd, errors.New("unknown option, or a wrong value of one: see caddy help sse-doctor"))
	})
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return failed(cmd, fmt.Errorf("expected one URL, not %d arguments: is a header field in quotes?", len(args)))
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.URL = args[0]
		var err error
		if o.Header, err = parseFields(fields); err != nil {
			return failed(cmd, err)
		}
		if o.Timeout <= 0 || o.Late <= 0 {
			return failed(cmd, errors.New("--timeout, --late: expected durations above 0"))
		}
		return runDoctor(cmd, o, asJSON)
	}
}

// runDoctor prints a report. The error ends the process with the exit code.
func runDoctor(cmd *cobra.Command, o doctor.Options, asJSON bool) error {
	report, err := doctor.Run(cmd.Context(), o)
	if err != nil {
		if asJSON {
			_ = doctor.WriteFailure(cmd.OutOrStdout(), o.URL, err) // it is told on standard error as well
		}
		return failed(cmd, err)
	}
	write := report.WriteText
	if asJSON {
		write = report.WriteJSON
	}
	if err := write(cmd.OutOrStdout()); err != nil {
		return failed(cmd, err)
	}
	if !report.Healthy {
		cmd.SilenceErrors = true // it was told
		return errProblems
	}
	return nil
}

// failed says what is wrong and ends the command with exitFailed.
func failed(cmd *cobra.Command, err error) error {
	_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "sse-doctor: %v\n", err)
	cmd.SilenceErrors = true
	return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return exitFailed, nil })(cmd, nil)
}

// parseFields makes a header of lines "Name: value". Its errors do not repeat
// them.
func parseFields(lines []string) (http.Header, error) {
	header := make(http.Header)
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return nil, errors.New("--header: expected 'Name: value'")
		}
		header.Add(name, value)
	}
	return header, nil
}
