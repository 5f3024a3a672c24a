package cli

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
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
)

// Timings of an application.
const (
	enrollPoll    = time.Second
	enrollPollMax = 15 * time.Second
	enrollPatient = 10 * time.Minute
	// How long an application whose answer was lost may take to appear in KSeF's list.
	enrollUnlisted = time.Minute
)

// keyFiles are where a key and its certificate are, or are to be. While they are
// applied for, they are beside, with [pendingSuffix].
type keyFiles struct{ key, certificate string }

// pendingSuffix marks the files of an application that has not come to its end: the
// key from before it is sent, the certificate once it is issued. The same command
// goes on from there.
const pendingSuffix = ".new"

// encryptedSuffix is of what systemd-creds has encrypted, which systemd prefers to
// hand to the service (package service).
const encryptedSuffix = ".cred"

// configured gives the files that the configuration names; ok is false when it does
// not name two files.
func configured(m config.Mirror) (files keyFiles, ok bool) {
	key, certificate := m.Auth.PrivateKey, m.Auth.Certificate
	files = keyFiles{key: key.Name, certificate: certificate.Name}
	return files, m.Auth.Method == config.MethodCertificate && key.Scheme == "file" && certificate.Scheme == "file" && key != certificate
}

// newFiles gives the files for a new pair: those that the configuration names, else
// two beside it, that do not exist. Where an application is pending, it gives its
// files.
func newFiles(loaded *config.Config, m config.Mirror) (keyFiles, error) {
	folder, err := secretsFolder(loaded)
	if err != nil {
		return keyFiles{}, err
	}
	var places []keyFiles
	if files, ok := configured(m); ok {
		places = append(places, files)
	}
	for _, name := range []string{m.Name, m.Name + "-ksef"} {
		places = append(places, keyFiles{filepath.Join(folder, name+".key"), filepath.Join(folder, name+".crt")})
	}
	for _, files := range places {
		if files.pending() {
			return files, nil
		}
	}
	for _, files := range places {
		if !exists(files.key) && !exists(files.certificate) && !exists(files.key+encryptedSuffix) && !exists(files.certificate+encryptedSuffix) {
			return files, nil
		}
	}
	last := places[len(places)-1]
	return keyFiles{}, usageError(fmt.Errorf("%s and %s exist, and are left as they are; auth renew exchanges what the configuration names, or move them away", last.key, last.certificate))
}

func (f keyFiles) pending() bool {
	return exists(f.key+pendingSuffix) || exists(f.certificate+pendingSuffix)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// sayWhatToSet says what the user has to do until the mirror logs in with the files.
func (c *command) sayWhatToSet(loaded *config.Config, m config.Mirror, files keyFiles) {
	written := loaded.Mirrors[slices.IndexFunc(loaded.Mirrors, func(each config.Mirror) bool { return each.Name == m.Name })].Auth
	now, ok := configured(m)
	switch {
	case (!ok || now != files) && handedOver(written.Token, written.Certificate, written.PrivateKey, written.PKCS12):
		c.say("Now set in the table [mirror.%s.auth] of the configuration:\n    method = \"certificate\"\n    certificate = %q\n    private_key = %q\nwithout pkcs12 and passphrase, and have systemd hand them over: ksefmirror service install, then ksefmirror service restart",
			m.Name, "cred:"+filepath.Base(files.certificate), "cred:"+filepath.Base(files.key))
	case !ok || now != files:
		c.say("Now set in the table [mirror.%s.auth] of the configuration, which a daemon that runs notices:\n    method = \"certificate\"\n    certificate = %q\n    private_key = %q\nwithout pkcs12 and passphrase.",
			m.Name, "file:"+filepath.ToSlash(files.certificate), "file:"+filepath.ToSlash(files.key))
	case handedOver(written.Certificate, written.PrivateKey):
		c.say("The configuration names them already. systemd hands them to the service when it starts: ksefmirror service restart")
	default:
		c.say("The configuration names them already.")
	}
	for _, path := range []string{files.key, files.certificate} {
		if exists(path + encryptedSuffix) {
			c.say("But systemd hands over %s%s: encrypt %[1]s into it (systemd-creds encrypt --name=%[3]s), and remove %[1]s.", path, encryptedSuffix, filepath.Base(path))
		}
	}
}

// with is what an application logs in with instead of what is configured.
type with struct{ certificate, privateKey, pkcs12, passphrase string }

func (c *command) authEnroll() *cobra.Command {
	var w with
	cmd := &cobra.Command{
		Use:   "enroll [NAME]",
		Short: "Get a KSeF certificate for logging in",
		Long: `Applies for a KSeF certificate of the type Authentication in the name of whoever logs
in, and stores it with its key, which is made here and never leaves this machine.
For that it logs in with a certificate: the configured one, or a qualified one given
by flags. A KSeF token cannot apply. An RSA or EC certificate of any issuer that KSeF
accepts will do if its key is in a file.

They are put where the configuration names them, or beside it; nothing is ever
overwritten. KSeF gives each owner a limited number of certificates. So the key is
on the disk before KSeF is asked, and after an interruption the same command goes on
with the application that was made, instead of making another.`,
		Example: `  ksefmirror auth enroll acme --pkcs12 seal.p12
  ksefmirror auth enroll acme --certificate me.crt --private-key me.key --passphrase-file me.passphrase`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, names []string) error {
			load := config.Load
			if w != (with{}) {
				load = config.LoadWithoutSecrets // what it names may be what is to be made
			}
			loaded, m, err := c.one(names, load)
			if err != nil {
				return err
			}
			target := m // whose files are to be made, whatever it logs in with for that
			if err := c.use(&m, w); err != nil {
				return usageError(err)
			}
			files, err := newFiles(loaded, target)
			if err != nil {
				return err
			}
			a := application{command: c, mirror: m, files: files, log: c.logger(loaded.Log).With("mirror", m.Name)}
			if err := a.finish(cmd.Context()); err != nil {
				return err
			}
			c.sayWhatToSet(loaded, target, files)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&w.certificate, "certificate", "", "log in with the certificate in this `file`, not as configured")
	flags.StringVar(&w.privateKey, "private-key", "", "its private key")
	flags.StringVar(&w.pkcs12, "pkcs12", "", "a `file` with both, instead")
	flags.StringVar(&w.passphrase, "passphrase-file", "", "a `file` with the passphrase of the key as its only line, if it is encrypted")
	return cmd
}

// use makes a mirror log in with the certificate that flags name.
func (c *command) use(m *config.Mirror, w with) error {
	switch {
	case w == with{}:
		if m.Auth.Method != config.MethodCertificate {
			return errors.New("it is configured to log in with a KSeF token, which cannot apply for certificates; name a certificate with --pkcs12, or with --certificate and --private-key")
		}
		return nil
	case w.pkcs12 != "" && (w.certificate != "" || w.privateKey != ""):
		return errors.New("want either --pkcs12, which holds certificate and private key, or --certificate and --private-key")
	case w.pkcs12 == "" && (w.certificate == "" || w.privateKey == ""):
		return errors.New("want --certificate and --private-key, or --pkcs12")
	}
	auth := config.Auth{Method: config.MethodCertificate}
	for flag, into := range map[string]*config.Reference{
		w.certificate: &auth.Certificate, w.privateKey: &auth.PrivateKey, w.pkcs12: &auth.PKCS12, w.passphrase: &auth.Passphrase,
	} {
		if flag == "" {
			continue
		}
		path, err := filepath.Abs(flag)
		if err != nil {
			return err
		}
		*into = config.Reference{Scheme: "file", Name: path}
	}
	m.Auth = auth
	return nil
}

func (c *command) authRenew() *cobra.Command {
	var within string
	cmd := &cobra.Command{
		Use:   "renew [NAME]",
		Short: "Exchange the KSeF certificate for a new one before it ends",
		Long: `Logs in with the configured certificate, applies for a new one for the same owner as
auth enroll does, logs in with it once, and puts it in the place of the old one. A
daemon that runs uses it from its next full login, without a restart; the old files
are kept beside. With --within it does nothing while the certificate lasts longer, so
it can be run daily. After an interruption the same command goes on.`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, names []string) error {
			least, err := parseSpan(within)
			if within != "" && err != nil {
				return usageError(fmt.Errorf("--within %q: want a time such as 30d", within))
			}
			loaded, m, err := c.one(names, config.Load)
			if err != nil {
				return err
			}
			if m.Auth.Method != config.MethodCertificate {
				return usageError(fmt.Errorf("%s logs in with a KSeF token, which cannot be renewed here; auth enroll gets a certificate", m.Name))
			}
			files, inPlace := configured(m)
			if !inPlace {
				return usageError(fmt.Errorf("%s does not keep its key and its certificate in a file each, which alone can be exchanged here; auth enroll gets it a new pair of files, with the certificate it has", m.Name))
			}
			a := application{command: c, mirror: m, files: files, log: c.logger(loaded.Log).With("mirror", m.Name), replace: true}
			old, err := loadCredential(m, time.Now())
			switch {
			case err != nil && !exists(files.certificate+pendingSuffix): // else it is the key of the new one
				return usageError(err)
			case err == nil && within != "" && time.Until(old.Certificate().NotAfter) > least && !files.pending():
				c.say("%s: the certificate is valid until %s; nothing to do", m.Name, old.Certificate().NotAfter.UTC().Format(time.DateOnly))
				return nil
			}
			if err := a.finish(cmd.Context()); err != nil {
				return err
			}
			c.sayWhatToSet(loaded, m, files)
			if old != nil {
				c.say("Once the mirror has logged in with the new one, the old one can go: ksefmirror auth revoke %s %016X --reason superseded", m.Name, old.Certificate().SerialNumber)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&within, "within", "", "only if the certificate ends within this `time`, such as 30d")
	return cmd
}

// application gets a KSeF certificate, from wherever an earlier process left it. What
// is on the disk says where that is:
//
//   - a pending key: nothing was sent yet.
//   - a line after it in the file, [askedLine]: it may have been applied for. KSeF's
//     list of certificates tells, for their names say which key they are for.
//   - a line with the reference: KSeF has answered, and can be asked what came of it.
//   - a pending certificate, too: it is issued. It is tried, and put in place.
type application struct {
	*command
	mirror  config.Mirror
	files   keyFiles
	log     *slog.Logger
	replace bool // what is there, keeping it beside
}

func (a application) finish(ctx context.Context) error {
	issued, err := a.issued()
	if err != nil {
		return err
	}
	if !issued {
		err := a.loggedIn(ctx, a.mirror, a.log, a.apply)
		if err != nil {
			return err
		}
	}
	return a.install(ctx)
}

// issued reports whether the certificate is on the disk. One that a crash cut short is
// removed: KSeF gives it again.
func (a application) issued() (bool, error) {
	path := a.files.certificate + pendingSuffix
	content, err := os.ReadFile(path) // #nosec G304 -- beside a file that the configuration names
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	}
	if block, _ := pem.Decode(content); block != nil && block.Type == "CERTIFICATE" {
		return true, nil
	}
	return false, os.Remove(path)
}

// apply ends with the certificate on the disk, beside its key.
func (a application) apply(ctx context.Context, client *ksef.Client) error {
	if !exists(a.files.key + pendingSuffix) {
		limits, err := client.CertificateLimits(ctx)
		if err != nil {
			return err
		}
		if !limits.CanRequest {
			return fmt.Errorf("KSeF allows no further certificate: %d of %d are left, and %d of %d applications; revoke one (auth list, auth revoke)",
				limits.Certificates.Remaining, limits.Certificates.Limit, limits.Enrollments.Remaining, limits.Enrollments.Limit)
		}
		if err := a.makeKey(); err != nil {
			return err
		}
	}
	key, asked, reference, err := a.readPending()
	if err != nil {
		return err
	}
	name, err := certificateName(a.mirror.Name, key)
	if err != nil {
		return err
	}
	serial := ""
	switch {
	case reference != "":
		a.say("Going on with the application %s.", reference)
	case asked:
		a.say("Looking for the certificate %q, which may have been applied for.", name)
		if serial, err = a.find(ctx, client, name); err != nil {
			return err
		}
	}
	if serial == "" && reference == "" {
		if reference, err = a.send(ctx, client, name, key); err != nil {
			return err
		}
	}
	if serial == "" {
		if serial, err = a.await(ctx, client, reference); err != nil {
			return err
		}
	}
	certificate, err := client.RetrieveCertificate(ctx, serial)
	if err != nil {
		return err
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(certificate.PublicKey) {
		return fmt.Errorf("certificate %s is not for the key in %s", serial, a.files.key+pendingSuffix)
	}
	return config.WriteSecret(a.files.certificate+pendingSuffix, encodeCertificate(certificate))
}

// makeKey puts a new key on the disk. A crash before it is whole leaves a file that
// cannot be read and that nothing was applied for with.
func (a application) makeKey() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return err
	}
	return config.WriteSecret(a.files.key+pendingSuffix, keyPEM)
}

// What may follow a pending key in its file. Nothing that reads PEM minds.
const (
	askedLine     = "KSeF was asked for its certificate"
	referenceLine = "KSeF's reference: "
)

// note adds a line to the file of the pending key, durably.
func (a application) note(line string) error {
	file, err := os.OpenFile(a.files.key+pendingSuffix, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	// A line that a crash cut short must not become the beginning of this one.
	_, err = fmt.Fprintf(file, "\n%s\n", line)
	return errors.Join(err, file.Sync(), file.Close())
}

// readPending reads the pending key, whether it may have been applied for, and the
// reference, "" if it is not known.
func (a application) readPending() (key crypto.Signer, asked bool, reference string, err error) {
	path := a.files.key + pendingSuffix
	content, err := config.Reference{Scheme: "file", Name: path}.ReadKey()
	if err != nil {
		return nil, false, "", err
	}
	block, rest := pem.Decode(content)
	var parsed any
	if block != nil {
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	key, ok := parsed.(crypto.Signer)
	if err != nil || !ok {
		return nil, false, "", fmt.Errorf("%s holds no whole key, so nothing was applied for with it: remove it", path)
	}
	for line := range strings.Lines(string(rest)) {
		if strings.HasPrefix(line, askedLine) {
			asked, reference = true, "" // whatever was before came to nothing, or was cut short
		}
		if found, ok := strings.CutPrefix(line, referenceLine); ok && strings.HasSuffix(found, "\n") {
			reference = strings.TrimSpace(found)
		}
	}
	return key, asked, reference, nil
}

// certificateName is what KSeF's list calls the certificate of a key: the mirror, and
// which key it is.
func certificateName(mirror string, key crypto.Signer) (string, error) {
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return "", fmt.Errorf("name the certificate: %w", err)
	}
	sum := sha256.Sum256(public)
	letters := strings.Map(func(r rune) rune { // of those that KSeF takes (open-api, EnrollCertificateRequest)
		if r == '.' {
			return '-'
		}
		return r
	}, mirror)
	return fmt.Sprintf("ksefmirror %.60s %X", letters, sum[:8]), nil
}

// find looks for a certificate in KSeF's list for as long as one may take to appear
// there; "" if it does not.
func (a application) find(ctx context.Context, client *ksef.Client, name string) (serial string, err error) {
	for waited := time.Duration(0); ; waited += enrollPollMax {
		all, err := client.Certificates(ctx)
		if err != nil {
			return "", err
		}
		for _, each := range all {
			if each.Name == name {
				return each.SerialNumber, nil
			}
		}
		if waited >= enrollUnlisted {
			return "", nil
		}
		if err := wait(ctx, enrollPollMax); err != nil {
			return "", err
		}
	}
}

// send applies for the certificate. That it is asked for, and the reference, are
// noted with the key, before and after.
func (a application) send(ctx context.Context, client *ksef.Client, name string, key crypto.Signer) (reference string, err error) {
	data, err := client.EnrollmentData(ctx)
	if err != nil {
		return "", err
	}
	csr, err := ksef.NewCertificateRequest(data, key)
	if err != nil {
		return "", err
	}
	if err := a.note(askedLine); err != nil {
		return "", err
	}
	if reference, err = client.Enroll(ctx, name, csr); err != nil {
		return "", err
	}
	a.say("Applied for the certificate %q in the name of %q; waiting for KSeF to issue it.", name, data.CommonName)
	return reference, a.note(referenceLine + reference)
}

// await gives the serial number of the certificate once it is issued.
func (a application) await(ctx context.Context, client *ksef.Client, reference string) (serial string, err error) {
	waited := time.Duration(0)
	for pause := enrollPoll; ; pause = min(2*pause, enrollPollMax) {
		answer, err := client.Enrollment(ctx, reference)
		switch {
		case err != nil:
			return "", err
		case answer.Status == 200:
			return answer.SerialNumber, nil
		case answer.Status != 100:
			// Nothing will come of this key any more.
			return "", errors.Join(fmt.Errorf("KSeF did not issue the certificate: status %d: %s [reference %s]",
				answer.Status, strings.Join(answer.Details, "; "), reference), os.Remove(a.files.key+pendingSuffix))
		case waited >= enrollPatient:
			return "", fmt.Errorf("KSeF has not issued the certificate within %s; repeat the command later, it goes on with the same application", enrollPatient)
		}
		if err := wait(ctx, pause); err != nil {
			return "", err
		}
		waited += pause
	}
}

// install logs in with the new certificate and puts the pair in its place. Every step
// finds it done when a process that died had done it.
func (a application) install(ctx context.Context) error {
	certificatePEM, err := config.Reference{Scheme: "file", Name: a.files.certificate + pendingSuffix}.ReadCertificate()
	if err != nil {
		return err
	}
	keyFile := a.files.key
	if exists(keyFile + pendingSuffix) {
		keyFile += pendingSuffix
	}
	keyPEM, err := config.Reference{Scheme: "file", Name: keyFile}.ReadKey()
	if err != nil {
		return err
	}
	pair, err := credential.LoadPair(certificatePEM, keyPEM, "", time.Now())
	if err != nil {
		return fmt.Errorf("%s, with the key in %s: %w", a.files.certificate+pendingSuffix, keyFile, err)
	}
	logIn := func(client *ksef.Client) {
		client.Certificate = func() (crypto.Signer, *x509.Certificate, error) { return pair.Key(), pair.Certificate(), nil }
	}
	if err := a.inSession(ctx, a.mirror, a.log, logIn, func(context.Context, *ksef.Client) error { return nil }); err != nil {
		return fmt.Errorf("the new certificate is in %s but has not logged in yet; repeat the command: %w", a.files.certificate+pendingSuffix, err)
	}
	// The key first: until the certificate is there too, whoever loads the two sees
	// that they do not belong together, and a running daemon stays with the old.
	for _, path := range []string{a.files.key, a.files.certificate} {
		if err := a.put(path); err != nil {
			return err
		}
	}
	a.say("wrote %s\nwrote %s\nThe certificate %016X of %q is valid until %s.", a.files.key, a.files.certificate,
		pair.Certificate().SerialNumber, pair.Certificate().Subject.CommonName, pair.Certificate().NotAfter.UTC().Format(time.DateOnly))
	return nil
}

// put moves a pending file to its place. What was there is kept beside.
func (a application) put(path string) error {
	if !exists(path + pendingSuffix) {
		return nil
	}
	old, err := os.ReadFile(path) // #nosec G304 -- the configuration names the file
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case !a.replace:
		return fmt.Errorf("%s exists, and is left as it is; move it away and repeat the command", path)
	default:
		if err := keep(path, old); err != nil {
			return err
		}
		// Whoever could use the old one, such as the service, must be able to use the new.
		if err := config.CopyAccess(path, path+pendingSuffix); err != nil {
			return err
		}
	}
	if err := os.Rename(path+pendingSuffix, path); err != nil {
		return err
	}
	return config.SyncFolder(filepath.Dir(path))
}

// keep writes what a file holds to the first of path.old-1, path.old-2, … that does
// not exist, or holds just that.
func keep(path string, content []byte) error {
	for n := 1; ; n++ {
		beside := fmt.Sprintf("%s.old-%d", path, n)
		there, err := os.ReadFile(beside) // #nosec G304 -- beside a file that the configuration names
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return config.WriteSecret(beside, content)
		case err != nil:
			return err
		case bytes.Equal(there, content):
			return nil
		}
	}
}

// wait waits for d or until ctx ends, whose error it returns then.
func wait(ctx context.Context, d time.Duration) error {
	waiting, end := context.WithTimeout(ctx, d)
	defer end()
	<-waiting.Done()
	return ctx.Err()
}
