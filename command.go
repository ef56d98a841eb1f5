package caddysse

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-sse/caddy-sse/internal/doctor"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:      "sse-doctor",
		Usage:     doctor.Usage,
		Short:     doctor.Short,
		Long:      doctor.Long,
		CobraFunc: doctorCommand,
	})
}

// doctorCommand sets up the command sse-doctor.
func doctorCommand(cmd *cobra.Command) {
	doctor.SetUp(cmd, func(code int) error {
		return caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) { return code, nil })(cmd, nil)
	})
}
