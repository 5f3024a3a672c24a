package cli

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ksefmirror/internal/config"
	"ksefmirror/internal/credential"
	"ksefmirror/internal/ksef"
	ksefsync "ksefmirror/sync"
)

func (c *command) auth() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "auth",
		Short: "Try how a mirror logs in; get, renew and revoke its certificates",
		Long: `Works on what a mirror logs in with. Where a command asks KSeF, it does so within the
budget of the mirror, also while the daemon runs, and ends its own session. NAME may
be left out where there is one mirror.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.authTest(), c.authSelfSigned(), c.authEnroll(), c.authRenew(), c.authList(), c.authRevoke(), c.authLogout())
	return cmd
}

// one loads the configuration and gives the one mirror that is meant, as
// [atHand] makes it.
func (c *command) one(names []string, load func(string, func(string) error) (*config.Config, error)) (*config.Config, config.Mirror, error) {
	loaded, _, err := c.loadBy(load)
	if err != nil {
		return nil, config.Mirror{}, err
	}
	var known []string
	for _, m := range loaded.Mirrors {
		if len(names) == 1 && m.Name == names[0] || len(names) == 0 && len(loaded.Mirrors) == 1 {
			m.Auth, err = atHand(m.Auth, loaded)
			return loaded, m, err
		}
		known = append(known, m.Name)
	}
	if len(names) == 1 {
		return nil, config.Mirror{}, usageError(fmt.Errorf("no mirror %q in the configuration", names[0]))
	}
	return nil, config.Mirror{}, usageError(fmt.Errorf("say which mirror is meant: %s", strings.Join(known, ", ")))
}

// secretsFolder is where keys and certificates are made, and where systemd finds what
// it hands to the service (package service).
func secretsFolder(loaded *config.Config) (string, error) {
	folder, err := filepath.Abs(filepath.Join(filepath.Dir(loaded.File), "secrets"))
	if err != nil {
		return "", fmt.Errorf("locate configuration %s: %w", loaded.File, err)
	}
	return folder, nil
}

// atHand names the files behind what systemd hands to the service alone: root, who
// can read them, can try and exchange what the service logs in with. The service
// itself has been given it, and only it can open what systemd-creds has encrypted.
func atHand(auth config.Auth, loaded *config.Config) (config.Auth, error) {
	if os.Getenv("CREDENTIALS_DIRECTORY") != "" {
		return auth, nil
	}
	folder, err := secretsFolder(loaded)
	if err != nil {
		return auth, err
	}
	for _, reference := range []*config.Reference{&auth.Token, &auth.Certificate, &auth.PrivateKey, &auth.PKCS12, &auth.Passphrase} {
		path := filepath.Join(folder, reference.Name)
		if reference.Scheme == "cred" && (exists(path) || !exists(path+encryptedSuffix)) {
			*reference = config.Reference{Scheme: "file", Name: path}
		}
	}
	return auth, nil
}

// handedOver reports whether systemd hands one of the references to the service.
func handedOver(references ...config.Reference) bool {
	return slices.ContainsFunc(references, func(r config.Reference) bool { return r.Scheme == "cred" })
}

// noLog is a request log for logging in only, which is not counted.
type noLog struct{}

func (noLog) StartRequest(context.Context, string, int64, []int64, ksef.Admit) (int64, error) {
	return 0, errors.New("there is no log of requests yet")
}
func (noLog) EndRequest(context.Context, int64, time.Time) error                { return nil }
func (noLog) BlockGroup(context.Context, string, time.Time) error               { return nil }
func (noLog) Requests(context.Context, time.Time) ([]ksef.LoggedRequest, error) { return nil, nil }
func (noLog) Blocks(context.Context) (map[string]time.Time, error)              { return nil, nil }

// loggedIn is inSession with what the mirror is configured to log in with.
func (c *command) loggedIn(ctx context.Context, m config.Mirror, log *slog.Logger, work func(context.Context, *ksef.Client) error) error {
	return c.inSession(ctx, m, log, func(client *ksef.Client) { logInWith(client, m, log) }, work)
}

// inSession logs in for a mirror, runs work, and ends the session. The published
// limits will do for the few requests that a command sends. A mirror that has never
// run has no database in which requests could be counted. Its database is made only
// after a login, for it is tied to the context for good: until then the configuration
// may yet turn out to be wrong.
func (c *command) inSession(ctx context.Context, m config.Mirror, log *slog.Logger, logIn func(*ksef.Client),
	work func(context.Context, *ksef.Client) error,
) (err error) {
	o, err := options(m, log)
	if err != nil {
		return err
	}
	client := newClient(m, noLog{}, log)
	logIn(client)
	requests, err := ksefsync.OpenRequestLog(ctx, o)
	if errors.Is(err, fs.ErrNotExist) {
		if err := refuseForeignFolder(m.Dir); err != nil {
			return fmt.Errorf("%s has no database yet, which the service makes when it first starts; start it, or: %w", m.Name, err)
		}
		if err := client.Login(ctx); err != nil {
			return c.loginRefused(m, err)
		}
		mirror, openErr := ksefsync.Open(ctx, o)
		if openErr != nil {
			return fmt.Errorf("%s: %w", m.Name, openErr)
		}
		if err := mirror.Close(); err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
		requests, err = ksefsync.OpenRequestLog(ctx, o)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", m.Name, err)
	}
	defer func() { err = errors.Join(err, requests.Close()) }()
	client.Limiter = ksef.NewLimiter(requests, ksef.DefaultLimits())
	if err := client.Login(ctx); err != nil {
		return c.loginRefused(m, err)
	}
	err = work(ctx, client)
	// A session that is left would end by itself within seven days. It is ended also
	// when the command was interrupted.
	if logoutErr := client.Logout(context.WithoutCancel(ctx)); logoutErr != nil {
		log.Warn("the session was not ended; it ends by itself within seven days", "err", logoutErr)
	}
	if budget, ok := errors.AsType[*ksef.BudgetError](err); ok {
		return c.spent(m.Name, budget, "repeat the command then")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", m.Name, err)
	}
	return nil
}

// loginRefused is the error of a login, as an exit code if the limits caused it.
func (c *command) loginRefused(m config.Mirror, err error) error {
	if budget, ok := errors.AsType[*ksef.BudgetError](err); ok {
		return c.spent(m.Name, budget, "repeat the command then")
	}
	return fmt.Errorf("%s: %w", m.Name, err)
}

func (c *command) authTest() *cobra.Command {
	return &cobra.Command{
		Use:   "test [NAME]",
		Short: "Log in, and show permissions and limits",
		Long: `Logs in as configured and shows the context, the method, the permissions and the
limits in force. It warns of permissions that a mirror does not need.`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, names []string) error {
			loaded, m, err := c.one(names, config.Load)
			if err != nil {
				return err
			}
			log := c.logger(loaded.Log).With("mirror", m.Name)
			c.say("%s: %s, %s", m.Name, m.Environment, m.Context)
			if err := c.printLogin(m, time.Now()); err != nil {
				return usageError(err)
			}
			return c.loggedIn(cmd.Context(), m, log, func(ctx context.Context, client *ksef.Client) error {
				c.say("  logged in")
				return c.printRights(ctx, m, client)
			})
		},
	}
}

// printRights shows what the session may do, and how often.
func (c *command) printRights(ctx context.Context, m config.Mirror, client *ksef.Client) error {
	permissions, err := client.Permissions(ctx)
	if err != nil {
		return err
	}
	further := slices.DeleteFunc(slices.Clone(permissions), func(p ksef.Permission) bool { return p == ksef.PermissionInvoiceRead })
	switch {
	case ownsContext(m):
		c.say("  permissions: all, as the owner of the context")
		c.say("  ! a mirror needs %s alone, and whoever steals this key may also issue invoices; better is the certificate of a person who has been granted that and nothing else", ksef.PermissionInvoiceRead)
	case len(permissions) == 0:
		c.say("  permissions: KSeF lists none that were granted")
		c.say("  ! unless it logs in for the owner of the context, who needs none, have %s granted in KSeF", ksef.PermissionInvoiceRead)
	default:
		c.say("  permissions: %s", strings.Join(permissions, ", "))
	}
	if len(permissions) > 0 && len(further) == len(permissions) && !ownsContext(m) {
		c.say("  ! %s is missing; have it granted in KSeF, or there is nothing to mirror", ksef.PermissionInvoiceRead)
	}
	if len(further) > 0 {
		c.say("  ! a mirror does not need %s; have it withdrawn, so that whoever steals the credentials can read and do nothing else", strings.Join(further, ", "))
	}
	limits, err := client.RateLimits(ctx)
	if err != nil {
		return err
	}
	c.say("  limits an hour: %d listings, %d packages, %d single downloads, %d other requests", limits[ksef.GroupMetadata].PerHour,
		limits[ksef.GroupExport].PerHour, limits[ksef.GroupDownload].PerHour, limits[ksef.GroupOther].PerHour)
	return nil
}

// ownsContext reports whether the mirror logs in with a certificate of the company
// whose invoices it mirrors.
func ownsContext(m config.Mirror) bool {
	if m.Auth.Method != config.MethodCertificate || ksefContext(m.Context).Type != ksef.ContextNIP {
		return false
	}
	loaded, err := loadCredential(m, time.Now())
	return err == nil && slices.ContainsFunc(credential.Identities(loaded.Certificate()), func(i credential.Identity) bool {
		return i.Kind == credential.IdentityNIP && i.Value == m.Context.Value
	})
}

func (c *command) authSelfSigned() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "self-signed [NAME]",
		Short: "Make a certificate that the TEST environment accepts",
		Long: `Makes a key and a certificate for the company of a mirror of the TEST environment,
which takes it for the company's qualified seal. They are put where the
configuration names them, and never overwrite anything. It asks KSeF nothing. DEMO
and PROD would refuse such a certificate, and so does this command.`,
		Args: atMostOne,
		RunE: func(_ *cobra.Command, names []string) error {
			loaded, m, err := c.one(names, config.LoadWithoutSecrets)
			if err != nil {
				return err
			}
			nip, _, _ := strings.Cut(m.Context.Value, "-")
			switch {
			case m.Environment != "test":
				return usageError(fmt.Errorf("%s: it is of the environment %s, which refuses self-signed certificates; only test accepts them", m.Name, m.Environment))
			case ksefContext(m.Context).Type == ksef.ContextPeppolID:
				return usageError(fmt.Errorf("%s: its context is no company's", m.Name))
			}
			files, err := newFiles(loaded, m)
			if err != nil {
				return err
			}
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				return err
			}
			certificate, err := ksef.SelfSignedCertificate(nip, name, key, time.Now())
			if err != nil {
				return err
			}
			keyPEM, err := encodeKey(key)
			if err != nil {
				return err
			}
			// A crash in between leaves a key that the next attempt refuses to touch.
			if err := config.WriteSecret(files.key, keyPEM); err != nil {
				return err
			}
			if err := config.WriteSecret(files.certificate, encodeCertificate(certificate)); err != nil {
				return err
			}
			c.say("wrote %s\nwrote %s", files.key, files.certificate)
			c.sayWhatToSet(loaded, m, files)
			return nil
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "the company's name in the certificate (default: its NIP)")
	return cmd
}

func (c *command) authList() *cobra.Command {
	return &cobra.Command{
		Use:   "list [NAME]",
		Short: "List the KSeF certificates of whoever logs in",
		Args:  atMostOne,
		RunE: func(cmd *cobra.Command, names []string) error {
			loaded, m, err := c.one(names, config.Load)
			if err != nil {
				return err
			}
			log := c.logger(loaded.Log).With("mirror", m.Name)
			return c.loggedIn(cmd.Context(), m, log, func(ctx context.Context, client *ksef.Client) error {
				all, err := client.Certificates(ctx)
				if err != nil {
					return err
				}
				c.say("%-16s  %-14s  %-8s  %-10s  %-10s  %-10s  %s", "serial number", "type", "status", "from", "until", "last used", "name")
				for _, each := range all {
					c.say("%-16s  %-14s  %-8s  %-10s  %-10s  %-10s  %s", plain(each.SerialNumber), plain(each.Type), plain(each.Status),
						day(each.ValidFrom), day(each.ValidTo), orDash(day(each.LastUsed)), plain(each.Name))
				}
				limits, err := client.CertificateLimits(ctx)
				if err != nil {
					return err
				}
				c.note("%s: %d of %d certificates and %d of %d applications are left", m.Name,
					limits.Certificates.Remaining, limits.Certificates.Limit, limits.Enrollments.Remaining, limits.Enrollments.Limit)
				return nil
			})
		},
	}
}

// day is the date of an instant; "" for none.
func day(t ksef.Timestamp) string {
	if t == "" {
		return ""
	}
	return t.Time().Format(time.DateOnly)
}

func (c *command) authRevoke() *cobra.Command {
	var reason string
	var inUse bool
	cmd := &cobra.Command{
		Use:   "revoke [NAME] SERIAL",
		Short: "End a KSeF certificate for good",
		Long: `Revokes a KSeF certificate of whoever logs in, by the serial number that auth list
shows. It cannot be undone. Sessions that were begun with it go on for up to seven
days: auth logout ends them. The certificate that the mirror logs in with is revoked
only with --in-use.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return usageError(errors.New("want the serial number of one certificate, and before it perhaps the name of a mirror"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			reasons := map[string]string{"unspecified": ksef.RevokedUnspecified, "superseded": ksef.RevokedSuperseded, "key-compromise": ksef.RevokedKeyCompromise}
			why, known := reasons[reason]
			if !known {
				return usageError(fmt.Errorf("--reason %q: want unspecified, superseded or key-compromise", reason))
			}
			serial := strings.ToUpper(args[len(args)-1])
			loaded, m, err := c.one(args[:len(args)-1], config.Load)
			if err != nil {
				return err
			}
			if used, err := loadCredential(m, time.Now()); err == nil && m.Auth.Method == config.MethodCertificate && !inUse &&
				fmt.Sprintf("%016X", used.Certificate().SerialNumber) == serial {
				return usageError(fmt.Errorf("%s logs in with this certificate, and could not any more; exchange it first (auth renew), or add --in-use", m.Name))
			}
			log := c.logger(loaded.Log).With("mirror", m.Name)
			return c.loggedIn(cmd.Context(), m, log, func(ctx context.Context, client *ksef.Client) error {
				if err := client.RevokeCertificate(ctx, serial, why); err != nil {
					return err
				}
				c.say("%s: certificate %s is revoked", m.Name, serial)
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "unspecified", "unspecified, superseded or key-compromise")
	cmd.Flags().BoolVar(&inUse, "in-use", false, "also if the mirror logs in with it")
	return cmd
}

func (c *command) authLogout() *cobra.Command {
	return &cobra.Command{
		Use:   "logout [NAME]",
		Short: "End every session of whoever logs in",
		Long: `Ends all sessions at KSeF of whoever the mirror logs in for, in its context, also
those of other programs: nobody can go on with a stolen one for longer than 15
minutes. A daemon that runs logs in anew by itself.`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, names []string) error {
			loaded, m, err := c.one(names, config.Load)
			if err != nil {
				return err
			}
			log := c.logger(loaded.Log).With("mirror", m.Name)
			return c.loggedIn(cmd.Context(), m, log, func(ctx context.Context, client *ksef.Client) error {
				sessions, err := client.Sessions(ctx)
				if err != nil {
					return err
				}
				ended := 0
				for _, session := range sessions {
					if session.Current { // it ends with the command
						continue
					}
					if err := client.EndSession(ctx, session.Reference); err != nil {
						return fmt.Errorf("%d of %d sessions are ended: %w", ended, len(sessions)-1, err)
					}
					ended++
					c.say("%s: ended the session of %s by %s", m.Name, session.Started.Time().Local().Format("2006-01-02 15:04"), plain(session.Method))
				}
				c.say("%s: %d sessions ended, and this command's own", m.Name, ended)
				return nil
			})
		},
	}
}

func encodeCertificate(certificate *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("write the private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
