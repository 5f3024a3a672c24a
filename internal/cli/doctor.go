package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ksefmirror/internal/config"
	"ksefmirror/internal/doctor"
	"ksefmirror/internal/health"
	"ksefmirror/internal/ksef"
)

func (c *command) doctor() *cobra.Command {
	var logIn bool
	cmd := &cobra.Command{
		Use:   "doctor [NAME…]",
		Short: "Look at everything that a mirror needs, and say what to do",
		Long: `Looks at the configuration and its secrets, the way to KSeF (name, connection, answer,
and by it the clock), folders and their permissions, disks and file systems, limits
of the system, and at what status knows; each is a line that begins with ok, warn or
fail and says what to do. It also asks Latarnia, the ministry's beacon for outages,
which is information only.

It takes no lock, changes nothing, and also works while the daemon runs. To each
KSeF it sends one request, which needs no login and which no limit counts. With
--login it also logs in for each mirror and asks for the permissions: some requests
of a login, which are not counted, and two of those of which KSeF allows 120 an hour.

Exits 1 when a line begins with fail, else 0.`,
		RunE: func(cmd *cobra.Command, names []string) error {
			return c.examine(cmd.Context(), names, logIn)
		},
	}
	cmd.Flags().BoolVar(&logIn, "login", false, "also log in, and look at the permissions")
	return cmd
}

// examination prints findings, and keeps the worst verdict.
type examination struct {
	*command
	worst doctor.Verdict
}

// tell prints findings about a mirror, or about the machine if mirror is "".
func (e *examination) tell(mirror string, findings ...doctor.Finding) {
	for _, f := range findings {
		e.worst = max(e.worst, f.Verdict)
		about := f.What
		if mirror != "" {
			about = mirror + ": " + about
		}
		line := fmt.Sprintf("%-5s %s: %s", f.Verdict, about, f.Found)
		if f.Do != "" {
			line += "; " + f.Do
		}
		e.say("%s", strings.ReplaceAll(line, "\n", "; "))
	}
}

func (c *command) examine(ctx context.Context, names []string, logIn bool) error {
	e := &examination{command: c}
	loaded, path, err := c.loadBy(config.Load)
	var problems config.Problems
	switch {
	case errors.As(err, &problems):
		for _, problem := range problems {
			e.tell("", doctor.Finding{Verdict: doctor.Fail, What: "configuration", Found: problem.String()})
		}
		// Perhaps only the secrets are wrong; then the rest can be looked at.
		if loaded, _, err = c.loadBy(config.LoadWithoutSecrets); err != nil {
			return &coded{code: exitFailure}
		}
	case err != nil:
		return err
	default:
		e.tell("", doctor.Finding{What: "configuration", Found: fmt.Sprintf("%s is in order, %d mirrors", path, len(loaded.Mirrors))})
	}
	for _, warning := range loaded.Warnings {
		e.tell("", doctor.Finding{Verdict: doctor.Warn, What: "configuration", Found: warning.String()})
	}
	mirrors, err := choose(loaded.Mirrors, names)
	if err != nil {
		return err
	}
	e.tell("", doctor.System(len(loaded.Mirrors))...)
	seen := map[string]bool{}
	for _, m := range mirrors {
		address := apiAddress(m)
		if !seen[address] {
			seen[address] = true
			e.tell("", inPlaceOf(address, doctor.Way(ctx, address))...)
		}
		if beacon := cmp.Or(m.LatarniaURL, beaconOf(m)); beacon != "" && !seen[beacon] {
			seen[beacon] = true
			e.tell("", doctor.Beacon(ctx, beacon))
		}
		e.mirror(ctx, loaded, m, logIn)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if e.worst == doctor.Fail {
		return &coded{code: exitFailure}
	}
	return nil
}

// mirror looks at one mirror.
func (e *examination) mirror(ctx context.Context, loaded *config.Config, m config.Mirror, logIn bool) {
	login := loginState(m, time.Now())
	switch {
	case errors.Is(login.Err, config.ErrNotHere):
		e.tell(m.Name, doctor.Finding{Verdict: doctor.Warn, What: "credentials", Found: login.Err.Error(), Do: "status, STATUS.txt and the log of the service tell how they are"})
	case login.Err == nil:
		e.tell(m.Name, doctor.Finding{What: "credentials", Found: fmt.Sprintf("a %s, until %s", m.Auth.Method, login.Ends.UTC().Format("2006-01-02 15:04 UTC"))})
	}
	if err := refuseForeignFolder(m.Dir); err != nil {
		e.tell(m.Name, doctor.Finding{Verdict: doctor.Warn, What: "folder", Found: err.Error()})
	} else {
		e.tell(m.Name, doctor.Folder(m.Dir)...)
	}
	for _, n := range healthOf(m, loaded.Backup.Dir).Look(ctx, nil, time.Now()).Notices {
		verdict := doctor.Warn
		if n.Level == health.Act {
			verdict = doctor.Fail
		}
		about := string(n.Kind)
		if n.Role != "" {
			about += " of " + n.Role
		}
		e.tell(m.Name, doctor.Finding{Verdict: verdict, What: about, Found: n.Text})
	}
	if logIn {
		e.tell(m.Name, e.tryLogin(ctx, loaded, m))
	}
}

// tryLogin logs in and looks at the permissions.
func (e *examination) tryLogin(ctx context.Context, loaded *config.Config, m config.Mirror) doctor.Finding {
	log := e.logger(loaded.Log).With("mirror", m.Name)
	var permissions []ksef.Permission
	err := e.loggedIn(ctx, m, log, func(ctx context.Context, client *ksef.Client) (err error) {
		permissions, err = client.Permissions(ctx)
		return err
	})
	const what = "login"
	var said *coded
	switch {
	case errors.As(err, &said) && said.err == nil:
		return doctor.Finding{Verdict: doctor.Warn, What: what, Found: "KSeF's limits allow it later only, as said above"}
	case err != nil:
		return doctor.Finding{Verdict: doctor.Fail, What: what, Found: err.Error()}
	case slices.Contains(permissions, ksef.PermissionInvoiceRead) || ownsContext(m):
		return doctor.Finding{What: what, Found: "KSeF lets it in, and lets it read invoices"}
	}
	return doctor.Finding{
		Verdict: doctor.Warn, What: what, Found: "KSeF lets it in, and lists no permission to read invoices",
		Do: fmt.Sprintf("unless it logs in for the owner of the context, have %s granted in KSeF", ksef.PermissionInvoiceRead),
	}
}

// inPlaceOf says in each finding which address it is about.
func inPlaceOf(address string, findings []doctor.Finding) []doctor.Finding {
	for i := range findings {
		findings[i].What = address + ": " + findings[i].What
	}
	return findings
}

// beaconOf is the beacon of a mirror that names none: a simulator has none.
func beaconOf(m config.Mirror) string {
	if m.APIURL != "" {
		return ""
	}
	return doctor.BeaconAddress(m.Environment)
}
