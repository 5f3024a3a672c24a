package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"ksefmirror/internal/config"
	"ksefmirror/internal/control"
	"ksefmirror/service"
)

func (c *command) service() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "service",
		Short: "Have the system keep ksefmirror running",
		Args:  noArguments,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		c.serviceInstall(),
		c.serviceOrder("uninstall", "Stop the service and remove it", (*service.Control).Uninstall,
			"Stops the service and removes it from the service manager. The program, the\nconfiguration, the invoices and the service's account stay."),
		c.serviceOrder("start", "Start the service", (*service.Control).Start,
			"Starts the installed service, and returns when it is ready."),
		c.serviceOrder("stop", "Stop the service", (*service.Control).Stop,
			"Stops the service at a safe point, which takes seconds."),
		c.serviceOrder("restart", "Stop the service and start it", (*service.Control).Restart,
			"Stops the service if it runs, and starts it: after an upgrade, or a change of the\nconfiguration."),
		c.serviceStatus(),
	)
	return cmd
}

func (c *command) serviceInstall() *cobra.Command {
	var onlyPrint bool
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install the service, or renew it",
		Long: `Installs the service for the configuration, to start with the machine: on Linux a
systemd unit with a user of its own, on Windows a service with a virtual account, on
macOS a launchd daemon. It changes nothing but what --print lists. Run it again
after an upgrade, or when the configuration names another folder or secret; then
restart the service.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			plan, err := c.plan()
			if err != nil {
				return usageError(err)
			}
			if onlyPrint {
				_, _ = fmt.Fprintln(c.stderr, "service install would:")
				for _, step := range plan.Steps {
					_, _ = fmt.Fprintln(c.stderr, "-", step.Text)
				}
				_, err := fmt.Fprint(c.stdout, plan.Definition)
				return err
			}
			err = plan.Install(cmd.Context(), func(step service.Step) { _, _ = fmt.Fprintln(c.stdout, "done:", step.Text) })
			if err != nil {
				return err
			}
			_, _ = fmt.Fprintln(c.stdout, "The service is installed. Next: ksefmirror service start, or restart if it runs.")
			return nil
		},
	}
	cmd.Flags().BoolVar(&onlyPrint, "print", false, "print the service's definition, and on standard error what would be done; touch nothing")
	return cmd
}

// plan says what installing the service for the configuration takes.
func (c *command) plan() (service.Plan, error) {
	loaded, path, err := c.loadBy(config.Load)
	if err != nil {
		return service.Plan{}, err
	}
	var s service.Setup
	if s.Config, err = filepath.Abs(path); err != nil {
		return service.Plan{}, err
	}
	program, err := os.Executable()
	if err != nil {
		return service.Plan{}, err
	}
	if s.Program, err = filepath.EvalSymlinks(program); err != nil {
		return service.Plan{}, err
	}
	s.DataDir, s.BackupDir = loaded.DataDir, loaded.Backup.Dir
	s.Mirrors = append(s.Mirrors, control.Folder(loaded.DataDir)) // it is the service's too
	for _, m := range loaded.Mirrors {
		s.Mirrors = append(s.Mirrors, m.Dir)
	}
	for _, reference := range loaded.References() {
		switch reference.Scheme {
		case "cred":
			s.Credentials = append(s.Credentials, reference.Name)
		case "file", "dpapi":
			s.SecretFiles = append(s.SecretFiles, reference.Name)
		}
	}
	slices.Sort(s.Credentials) // mirrors may share one
	s.Credentials = slices.Compact(s.Credentials)
	return service.NewPlan(s)
}

// serviceOrder is a command that gives the service manager an order.
func (c *command) serviceOrder(name, short string, order func(*service.Control, context.Context) error, long string) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: short, Long: long,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			control, err := service.NewControl()
			if err != nil {
				return err
			}
			return order(control, cmd.Context())
		},
	}
}

func (c *command) serviceStatus() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show whether the service runs",
		Long: `Shows what the service manager says of the service. Exits 0 when it runs, 1 when it
does not. How complete the mirrors are, ksefmirror status shows.`,
		Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			control, err := service.NewControl()
			if err != nil {
				return err
			}
			status, err := control.Status()
			if err != nil {
				return err
			}
			_, _ = fmt.Fprintln(c.stdout, status)
			if status != service.Running {
				return &coded{code: exitFailure}
			}
			return nil
		},
	}
}
