package doctor

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// What the command says of itself.
const (
	Usage = "<url> [--json] [--timeout <duration>] [--late <duration>] [--header <field>] [--insecure] [--admin <url>]"
	Short = "Diagnoses buffering, dropped connections and lost events on an event stream"
	Long  = `
Finds what holds events back, cuts the stream, or loses events on the way to
clients, and says what to change. Run it where the clients are.

It connects as a browser's EventSource does, watches the stream, goes away, and
returns with a last event ID. It opens up to seven connections, four at a time.

A silent stream has two possible causes: something buffers it, or the
application sends nothing. To tell them apart, turn on the option probe of sse
while you look.

Exit codes: 0 healthy; 1 there are problems; 2 there was no answer, or the
command was not understood.`
)

// exitFailed is the exit code of sse-doctor where there is nothing to report.
const exitFailed = 2

// ErrProblems ends sse-doctor with exit code 1, as any error does.
var ErrProblems = errors.New("there are problems")

// exit makes the error that ends the program with an exit code.
type exit func(code int) error

// SetUp makes a command of the doctor: of Caddy's, or of a program of its own.
func SetUp(cmd *cobra.Command, by func(code int) error) {
	end := exit(by)
	var o Options
	var fields []string
	var asJSON bool
	flags := cmd.Flags()
	flags.BoolVar(&asJSON, "json", false, "Print the report as JSON")
	flags.DurationVar(&o.Timeout, "timeout", DefaultTimeout, "How long to watch the stream")
	flags.DurationVar(&o.Late, "late", DefaultLate, "How much later than the fastest an event of the probe may come")
	flags.StringArrayVarP(&fields, "header", "H", nil, "A request header, 'Name: value'; may be repeated, is never printed")
	flags.StringVar(&o.Admin, "admin", "", "Where the gateway's admin API is, http://localhost:2019 say: asks what has come to it")
	flags.BoolVarP(&o.Insecure, "insecure", "k", false, "Accept any certificate")
	// Cobra's own messages may quote a credential that stands in the wrong place.
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return end.failed(cmd, flagError(err))
	})
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return end.failed(cmd, fmt.Errorf("expected one URL, not %d arguments: is a header field in quotes?", len(args)))
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.URL = args[0]
		var err error
		if o.Header, err = parseFields(fields); err != nil {
			return end.failed(cmd, err)
		}
		if o.Timeout <= 0 || o.Late <= 0 {
			return end.failed(cmd, errors.New("--timeout, --late: expected durations above 0"))
		}
		return end.run(cmd, o, asJSON)
	}
}

// run prints a report. The error ends the process with the exit code.
func (end exit) run(cmd *cobra.Command, o Options, asJSON bool) error {
	if terminal(os.Stderr) {
		o.Progress = func(watched time.Duration) {
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "\r%-40s\r", fmt.Sprintf("watching: %v of about %v", watched.Round(time.Second), o.Timeout))
		}
	}
	report, err := Run(cmd.Context(), o)
	if o.Progress != nil {
		_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "\r%-40s\r", "")
	}
	if err != nil {
		if asJSON {
			_ = WriteFailure(cmd.OutOrStdout(), o.URL, err) // it is told on standard error as well
		}
		return end.failed(cmd, err)
	}
	write := report.WriteText
	if asJSON {
		write = report.WriteJSON
	}
	if err := write(cmd.OutOrStdout()); err != nil {
		return end.failed(cmd, err)
	}
	if !report.Healthy {
		cmd.SilenceErrors = true // it was told
		return ErrProblems
	}
	return nil
}

// failed says what is wrong and ends the command with exitFailed.
func (end exit) failed(cmd *cobra.Command, err error) error {
	_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "sse-doctor: %v\n", err)
	cmd.SilenceErrors = true
	return end(exitFailed)
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

// flagError names the flag that is wrong, and not its value, which may be a credential in the wrong place. So may a flag
// that there is not: only what looks like one is named.
func flagError(err error) error {
	const help = ": see help sse-doctor"
	if e, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		return fmt.Errorf("--%s: a wrong value%s", e.GetFlag().Name, help)
	}
	if e, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		return fmt.Errorf("--%s: a value is missing%s", e.GetFlag().Name, help)
	}
	if e, ok := errors.AsType[*pflag.NotExistError](err); ok && len(e.GetSpecifiedName()) <= 16 &&
		strings.Trim(e.GetSpecifiedName(), "abcdefghijklmnopqrstuvwxyz-") == "" {
		return fmt.Errorf("unknown option --%s%s", e.GetSpecifiedName(), help)
	}
	return errors.New("unknown option, or a wrong value of one" + help)
}

// terminal reports whether a file is one.
func terminal(file *os.File) bool {
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
