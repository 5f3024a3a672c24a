// Package doctor looks at what a mirror needs around it: the way to KSeF, the clock,
// folders, disks and limits of the system, and what the ministry's beacon says. It
// changes nothing, takes no lock, and sends KSeF one request, which no limit counts.
package doctor

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
	"unicode"

	"ksefmirror/internal/tree"
)

// Verdict is how bad a finding is.
type Verdict int

// The verdicts, in ascending order.
const (
	OK   Verdict = iota
	Warn         // it works, and may not do so for long, or not as well as it should
	Fail         // it cannot work
)

// String is the verdict in one word.
func (v Verdict) String() string { return [...]string{"ok", "warn", "fail"}[v] }

// Finding is one thing that was looked at.
type Finding struct {
	Verdict Verdict
	What    string // was looked at, such as clock
	Found   string // in one line
	Do      string // what to do about it; "" if nothing
}

// patience is how long a name server, KSeF or the beacon may take to answer.
const patience = 15 * time.Second

// How far the clock of this machine may be from KSeF's. Certificates and sessions
// are judged by it to the minute; a larger difference grows.
const (
	clockOff   = 10 * time.Second
	clockWrong = 2 * time.Minute
)

// Way looks at the way to KSeF at the address, such as https://HOST/v2: its name,
// the connection with its certificate, the answer, and by its date the clock.
func Way(ctx context.Context, address string) []Finding {
	const keys = "/security/public-key-certificates" // for anybody; like logins it is not counted (open-api)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address+keys, nil)
	if err != nil {
		return []Finding{{Fail, "address", "it is none", "correct api_url in config.toml"}}
	}
	var findings []Finding
	proxy, err := http.ProxyFromEnvironment(request)
	switch {
	case err != nil:
		findings = append(findings, Finding{Warn, "proxy", "what the environment names is no address of a proxy", "correct HTTPS_PROXY in the environment of the service"})
	case proxy != nil:
		findings = append(findings, Finding{OK, "proxy", "KSeF is reached through the proxy " + proxy.Host, ""})
	default:
		found := name(ctx, request.URL.Hostname())
		findings = append(findings, found)
		if found.Verdict == Fail {
			return findings
		}
	}
	sent := time.Now()
	answer, err := client().Do(request)
	if err != nil {
		return append(findings, connection(err))
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, 1<<20) // how it begins is enough
	if answer.TLS != nil {
		until := answer.TLS.PeerCertificates[0].NotAfter.UTC().Format(time.DateOnly)
		findings = append(findings, Finding{OK, "connection", fmt.Sprintf("%s, with a certificate that is trusted here, until %s", tls.VersionName(answer.TLS.Version), until), ""})
	} else {
		findings = append(findings, Finding{OK, "connection", "not encrypted, as configured for a simulator on this machine", ""})
	}
	findings = append(findings, status(answer.StatusCode))
	return append(findings, clock(answer.Header.Get("Date"), sent, time.Now()))
}

// name looks the host up.
func name(ctx context.Context, host string) Finding {
	if _, err := netip.ParseAddr(host); err == nil {
		return Finding{OK, "name", host + " needs no name server", ""}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupHost(ctx, host)
	var unknown *net.DNSError
	switch {
	case errors.As(err, &unknown) && unknown.IsNotFound:
		return Finding{Fail, "name", host + " is not known to the name server", "see that the name is right, and that this machine asks a name server that knows the internet"}
	case err != nil:
		return Finding{Fail, "name", fmt.Sprintf("%s could not be looked up: %v", host, err), "see that this machine reaches its name server"}
	}
	return Finding{OK, "name", fmt.Sprintf("%s is %s", host, strings.Join(addresses, ", ")), ""}
}

func client() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: patience}).DialContext,
			TLSHandshakeTimeout: patience, ResponseHeaderTimeout: patience, DisableKeepAlives: true,
		},
		Timeout:       2 * patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// connection is why there was none.
func connection(err error) Finding {
	var address *url.Error
	if errors.As(err, &address) {
		err = address.Err
	}
	var untrusted *tls.CertificateVerificationError
	if errors.As(err, &untrusted) {
		return Finding{Fail, "connection", fmt.Sprintf("the certificate of the other side is not trusted: %v", untrusted.Err),
			"see that the clock is right and the system's root certificates are up to date; a proxy that reads along must leave this address alone"}
	}
	return Finding{Fail, "connection", err.Error(), "see that a firewall lets this machine out to this address"}
}

// status is what an answer says of the way.
func status(code int) Finding {
	switch {
	case code == http.StatusOK:
		return Finding{OK, "answer", "KSeF answers", ""}
	case code == http.StatusForbidden:
		return Finding{Warn, "answer", "HTTP 403: the firewall in front of KSeF refuses this machine", "wait for an hour; if it stays, ask KSeF's help desk"}
	case code == http.StatusTooManyRequests:
		return Finding{Warn, "answer", "HTTP 429: KSeF takes no more requests of this machine for now", "wait; see whether another program here asks KSeF too"}
	case code >= 500:
		return Finding{Warn, "answer", fmt.Sprintf("HTTP %d: KSeF is in trouble", code), "wait; nothing is lost meanwhile"}
	}
	return Finding{Fail, "answer", fmt.Sprintf("HTTP %d, which KSeF does not answer here", code), "see that api_url is right, and that nothing between here and KSeF answers in its place"}
}

// clock compares the clock of this machine with the date of an answer to a request
// that was sent and answered at the given instants.
func clock(date string, sent, answered time.Time) Finding {
	server, err := http.ParseTime(date)
	if err != nil {
		return Finding{Warn, "clock", "the answer has no date to compare it with", "see that nothing between here and KSeF answers in its place"}
	}
	// The date is cut to a second, and was made at some instant between the two.
	off := time.Duration(0)
	switch latest := server.Add(time.Second); {
	case latest.Before(sent):
		off = sent.Sub(latest)
	case server.After(answered):
		off = answered.Sub(server)
	}
	const do = "let the system keep it: timedatectl set-ntp true, or on Windows w32tm /resync"
	words := "ahead of"
	if off < 0 {
		words = "behind"
	}
	found := fmt.Sprintf("%s %s KSeF's", off.Abs().Round(time.Second), words)
	switch {
	case off.Abs() > clockWrong:
		return Finding{Fail, "clock", found, do}
	case off.Abs() > clockOff:
		return Finding{Warn, "clock", found, do}
	}
	return Finding{OK, "clock", "as KSeF's", ""}
}

// Folder looks at the folder of a mirror, and at the volume it is on. A folder that
// is not there yet is looked at where it will be made.
func Folder(dir string) []Finding {
	_, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		parent := dir
		for errors.Is(err, fs.ErrNotExist) && parent != filepath.Dir(parent) {
			parent = filepath.Dir(parent)
			_, err = os.Stat(parent)
		}
		findings := []Finding{writable("folder", parent, dir+" is not there yet, and can be made")}
		return append(findings, volume(parent))
	}
	findings := []Finding{writable("folder", dir, dir+" can be written to")}
	if findings[0].Verdict != OK {
		return append(findings, volume(dir))
	}
	for _, each := range []string{"database", "invoices", "quarantine"} {
		inside := filepath.Join(dir, each)
		// One that is not there is made at the next run, or told of as not mounted.
		if _, err := os.Stat(inside); !errors.Is(err, fs.ErrNotExist) {
			if found := writable("folder", inside, ""); found.Verdict != OK {
				findings = append(findings, found)
			}
		}
	}
	if info, err := os.Stat(dir); err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o007 != 0 {
		findings = append(findings, Finding{Warn, "permissions", fmt.Sprintf("everybody on this machine gets at %s (mode %#o)", dir, info.Mode().Perm()), fmt.Sprintf("chmod o-rwx %q", dir)})
	}
	return append(findings, volume(dir))
}

// writable makes a file in the folder and removes it.
func writable(what, dir, found string) Finding {
	file, err := os.CreateTemp(dir, ".ksefmirror-doctor-*")
	if err != nil {
		return Finding{Fail, what, fmt.Sprintf("this user cannot write to %s: %v", dir, reason(err)), "run this as the user of the service, and let that user write there"}
	}
	if err := errors.Join(file.Close(), os.Remove(file.Name())); err != nil {
		return Finding{Fail, what, fmt.Sprintf("%s: %v", dir, reason(err)), "see that the disk is in order"}
	}
	return Finding{OK, what, found, ""}
}

// reason is err without the name of the file.
func reason(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// volume tells of the kind of the volume. How full it is, the notices say.
func volume(dir string) Finding {
	v, err := tree.VolumeOf(dir)
	switch {
	case err != nil:
		return Finding{Warn, "disk", err.Error(), "see that the disk is in order"}
	case v.Network:
		return Finding{Warn, "disk", fmt.Sprintf("%s is on a network file system (%s), whose locks SQLite cannot rely on: the database may be damaged", dir, v.Kind),
			"set data_dir to a disk of this machine; copy the folder invoices to the share instead"}
	}
	return Finding{OK, "disk", fmt.Sprintf("%.1f GB of %.1f GB are free (%s)", float64(v.Free)/1e9, float64(v.Size)/1e9, v.Kind), ""}
}

// System looks at the limits of the system for a number of mirrors.
func System(mirrors int) []Finding {
	const perMirror = 25 // connections to the database, the folders, a request
	findings := []Finding{}
	if limit, known := openFiles(); known {
		found := Finding{OK, "open files", fmt.Sprintf("up to %d", limit), ""}
		if need := uint64(100 + perMirror*mirrors); limit < need { // #nosec G115 -- nobody has 2^63 mirrors
			found = Finding{Warn, "open files", fmt.Sprintf("only %d, and %d mirrors may need %d", limit, mirrors, need), "raise it: LimitNOFILE= in systemctl edit ksefmirror, or ulimit -n"}
		}
		findings = append(findings, found)
	}
	const perFolder = 200 // folders of some years, by role and month
	for name, need := range map[string]int{"max_user_instances": 128, "max_user_watches": max(8192, perFolder*mirrors)} {
		if limit, known := inotify(name); known && limit < need {
			findings = append(findings, Finding{Warn, "inotify", fmt.Sprintf("fs.inotify.%s is only %d", name, limit),
				fmt.Sprintf("sysctl -w fs.inotify.%s=%d, and in a file in /etc/sysctl.d; changes in folders are noticed later without", name, need)})
		}
	}
	return findings
}

// BeaconAddress is where Latarnia, the ministry's beacon for outages of KSeF, is for
// an environment; "" where there is none worth asking: that of test is a dummy.
func BeaconAddress(environment string) string {
	if environment != "prod" {
		return ""
	}
	return "https://api-latarnia.ksef.mf.gov.pl"
}

// Beacon asks the beacon at the address. What it says is information: it has been
// down while KSeF was not, and silent while KSeF was down. So it is never a failure.
func Beacon(ctx context.Context, address string) Finding {
	const what = "Latarnia"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/status", nil)
	if err != nil {
		return Finding{Warn, what, "its address is none", "correct latarnia_url in config.toml"}
	}
	answer, err := client().Do(request)
	if err != nil {
		return Finding{OK, what, "the ministry's beacon does not answer; that says nothing of KSeF", ""}
	}
	defer answer.Body.Close()
	return heard(answer.StatusCode, io.LimitReader(answer.Body, 1<<20))
}

// heard is what an answer of the beacon says.
func heard(code int, body io.Reader) Finding {
	const what = "Latarnia"
	said := struct {
		Status   string `json:"status"`
		Messages []struct {
			Title string `json:"title"`
			Text  string `json:"text"`
			Start string `json:"start"`
			End   string `json:"end"`
		} `json:"messages"`
	}{}
	err := json.NewDecoder(body).Decode(&said)
	switch {
	case err != nil || code != http.StatusOK || said.Status == "":
		return Finding{OK, what, fmt.Sprintf("the ministry's beacon answers, with HTTP %d, nothing that is understood; that says nothing of KSeF", code), ""}
	case said.Status == "AVAILABLE" && len(said.Messages) == 0:
		return Finding{OK, what, "the ministry announces no outage", ""}
	}
	found := "the ministry says " + short(said.Status, 30)
	for i, message := range said.Messages {
		if i == 3 {
			found += fmt.Sprintf("; and %d more", len(said.Messages)-i)
			break
		}
		found += fmt.Sprintf("; %s (%s to %s)", short(message.Title, 200), short(message.Start, 30), short(message.End, 30))
	}
	if said.Status == "AVAILABLE" {
		return Finding{OK, what, found, ""}
	}
	return Finding{Warn, what, found, "wait; nothing is lost meanwhile"}
}

// short makes foreign text fit for a line.
func short(text string, limit int) string {
	if text == "" {
		return "?"
	}
	runes := []rune(strings.ToValidUTF8(text, "?"))
	if len(runes) > limit {
		runes = append(runes[:limit], '…')
	}
	for i, r := range runes {
		if !unicode.IsPrint(r) {
			runes[i] = ' '
		}
	}
	return string(runes)
}
