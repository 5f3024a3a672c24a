package cli

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func (c *command) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  noArguments,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(c.stdout, "ksefmirror", buildVersion())
			return err
		},
	}
}

// release is the version of a package, which .ci/package has the linker put here. It
// is "" in what was built in another way, and never changes.
var release string

// buildVersion is the version of the package, or what the Go toolchain recorded: a
// released version, or the commit that was built.
func buildVersion() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return info.Main.Version
}
