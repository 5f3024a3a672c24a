package cli

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"ksefmirror/internal/config"
)

func (c *command) config() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check the configuration, or write a first one",
		Args:  noArguments,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.configCheck(), c.configInit())
	return cmd
}

func (c *command) configCheck() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Report every mistake in the configuration, and what it logs in with",
		Long: `Reports every mistake in the configuration at once. Of a certificate it shows whom
it is for, until when it is valid and whom KSeF takes it for, and it checks that
the private key is its own. It asks KSeF nothing, and no receiver of new invoices. What only the service can see,
such as its systemd credentials, is checked when it logs in.`,
		Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			loaded, err := c.load()
			if err != nil {
				return err
			}
			for _, warning := range loaded.Warnings {
				_, _ = fmt.Fprintln(c.stderr, "ksefmirror: warning:", warning)
			}
			var problems config.Problems
			for _, m := range loaded.Mirrors {
				c.say("%s: %s, %s, every %s, into %s", m.Name, m.Environment, strings.Join(m.Roles, " "), m.Interval, m.Dir)
				for _, err := range []error{c.printLogin(m, time.Now()), c.printReceivers(m)} {
					var wrong config.Problems
					switch {
					case errors.As(err, &wrong):
						for _, problem := range wrong {
							problem.File = loaded.File
							problems = append(problems, problem)
						}
					case err != nil:
						return usageError(err)
					}
				}
			}
			if len(problems) > 0 {
				return problems
			}
			c.say("The configuration is in order.")
			return nil
		},
	}
}

func (c *command) configInit() *cobra.Command {
	var o config.InitOptions
	var tokenFile string
	var forService bool
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write a commented configuration for one mirror",
		Long: `Writes a commented configuration file, and the KSeF token into a file of its own
that only you can read. Asks for what no flag says. The token is never a flag,
for other users of the machine can read command lines: type it when asked, or
give a file with --token-file. Existing files are left alone. With --service the
configuration is the system's, and on Linux it keeps invoices in /var/lib/ksefmirror
and lets systemd alone read the token.`,
		Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			path := c.configFlag
			switch {
			case path == "" && forService:
				path = config.SystemPath()
			case path == "":
				path = "config.toml"
			}
			// Only systemd hands over credentials.
			o.Service = forService && runtime.GOOS == "linux"
			if err := c.ask(&o, tokenFile); err != nil {
				return usageError(err)
			}
			written, err := config.Write(path, o)
			if err != nil {
				return usageError(err)
			}
			for _, file := range written {
				_, _ = fmt.Fprintln(c.stdout, "wrote", file)
			}
			switch {
			case o.Method == config.MethodCertificate:
				c.say("Now put the KSeF certificate and its key into the files that %s names, readable only by you; or let ksefmirror get them: auth enroll, or on TEST auth self-signed.", path)
			case o.Token == "":
				_, _ = fmt.Fprintf(c.stdout, "Now put the KSeF token into the file that %s names under auth.token, readable only by you.\n", path)
			}
			if forService {
				_, _ = fmt.Fprintf(c.stdout, "Next: ksefmirror --config %s service install, then: ksefmirror service start\n", path)
				return nil
			}
			_, _ = fmt.Fprintf(c.stdout, "Next: ksefmirror --config %s config check, then: ksefmirror --config %s sync\n", path, path)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Name, "name", "", "the mirror's name, also its folder's")
	flags.StringVar(&o.Environment, "environment", "", "test, demo or prod")
	flags.StringVar(&o.APIURL, "api-url", "", "another address than the environment's, such as a simulator's")
	flags.StringVar(&o.Context, "context", "", "whose invoices, such as nip:5265877635")
	flags.StringVar(&o.Method, "method", config.MethodToken, "token, or certificate: then its files may be made or put there afterwards")
	flags.StringVar(&tokenFile, "token-file", "", "a `file` that holds the KSeF token; - reads it from standard input")
	flags.BoolVar(&forService, "service", false, "write the configuration of the system's service")
	return cmd
}

// ask fills in what the flags left open.
func (c *command) ask(o *config.InitOptions, tokenFile string) error {
	lines := bufio.NewScanner(c.stdin)
	line := func(what string, into *string) error {
		if *into != "" {
			return nil
		}
		_, _ = fmt.Fprint(c.stderr, what+": ")
		if !lines.Scan() {
			_, _ = fmt.Fprintln(c.stderr)
			return fmt.Errorf("no answer to %q: answer it, or give it as a flag (see --help)", what)
		}
		*into = strings.TrimSpace(lines.Text())
		return nil
	}
	if err := line("Name of the mirror (also its folder)", &o.Name); err != nil {
		return err
	}
	if err := line("Environment (test, demo or prod)", &o.Environment); err != nil {
		return err
	}
	if err := line("Whose invoices (such as nip:5265877635)", &o.Context); err != nil {
		return err
	}
	switch {
	case o.Method != config.MethodToken:
		if tokenFile != "" {
			return errors.New("--token-file goes with --method token")
		}
		return nil
	case tokenFile == "-":
		return line("KSeF token", &o.Token)
	case tokenFile != "":
		content, err := os.ReadFile(tokenFile)
		if err != nil {
			return err
		}
		o.Token = strings.TrimSpace(string(content))
		return nil
	case isTerminal(c.stdin):
		_, _ = fmt.Fprint(c.stderr, "KSeF token (not shown; empty to add it later): ")
		token, err := term.ReadPassword(int(os.Stdin.Fd()))
		_, _ = fmt.Fprintln(c.stderr)
		o.Token = strings.TrimSpace(string(token))
		return err
	}
	return nil
}
