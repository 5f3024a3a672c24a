package config

import (
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// good is a file with every key set to something other than its default.
const good = `data_dir = "copies"
watch_folders = false
[log]
level = "warn"
format = "json"
[backup]
dir = "kept"
keep = 30
[mirror.acme]
environment = "demo"
api_url = "https://Example.test/v2/"
context = "nip:5265877635"
roles = ["buyer", "seller"]
since = "2026-03-01"
interval = "1h"
quiet_hours = "22:00-06:15"
night_roles = ["seller"]
layout = "{date}"
[mirror.acme.auth]
method = "token"
token = "env:ACME_TOKEN"
[mirror.Unit-7]
environment = "test"
context = "internalId:6824515772-12343"
[mirror.Unit-7.auth]
token = "cred:unit.token"
`

var today = time.Date(2026, 11, 22, 9, 30, 0, 0, time.UTC)

// home is the folder of the test's configuration file.
func home(t testing.TB) string {
	t.Helper()
	folder, err := filepath.Abs("home")
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

// refuseBad is a layout check that knows one bad layout.
func refuseBad(layout string) error {
	if strings.Contains(layout, "{bad}") {
		return errors.New("unknown placeholder {bad}")
	}
	return nil
}

func TestDecodeGood(t *testing.T) {
	got, problems, err := decode("config.toml", home(t), []byte(good), today, refuseBad)
	if err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	data := filepath.Join(home(t), "copies")
	unit := DefaultMirror()
	unit.Name = "Unit-7"
	unit.Environment = "test"
	unit.Context = Context{"internalId", "6824515772-12343"}
	unit.Auth.Token = Reference{"cred", "unit.token"}
	unit.Dir = filepath.Join(data, "Unit-7")
	want := &Config{
		DataDir: data,
		Log:     Log{Level: slog.LevelWarn, Format: "json"},
		Backup:  Backup{Dir: filepath.Join(home(t), "kept"), Keep: 30},
		Mirrors: []Mirror{unit, {
			Name:        "acme",
			Environment: "demo",
			APIURL:      "https://example.test/v2",
			Context:     Context{"nip", "5265877635"},
			Roles:       []string{"buyer", "seller"},
			Since:       time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC),
			Interval:    time.Hour,
			NightRoles:  []string{"seller"},
			QuietHours:  Hours{22 * 60, 6*60 + 15},
			Layout:      "{date}",
			Auth:        Auth{Method: "token", Token: Reference{"env", "ACME_TOKEN"}},
			Dir:         filepath.Join(data, "acme"),
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestDecodeAccepts(t *testing.T) {
	for _, test := range []struct{ name, old, new string }{
		{"metrics", `data_dir = "copies"`, "data_dir = \"copies\"\nmetrics = \"[::1]:9187\""},
		{"metrics for others", `data_dir = "copies"`, "data_dir = \"copies\"\nmetrics = \":9187\"\nmetrics_beyond_this_machine = true"},
		{"ping", `layout = "{date}"`, "layout = \"{date}\"\nping_url = \"cred:acme.ping\""},
		{"absolute data_dir", `"copies"`, `'` + filepath.Join(home(t), "elsewhere") + `'`},
		{"15 minutes on prod", "interval = \"1h\"", "interval = \"15m\""},
		{"no night roles and no quiet hours", "quiet_hours = \"22:00-06:15\"\nnight_roles = [\"seller\"]", "quiet_hours = \"\"\nnight_roles = []"},
		{"any interval at a simulator", "https://Example.test/v2/\"\ncontext = \"nip:5265877635\"\nroles = [\"buyer\", \"seller\"]\nsince = \"2026-03-01\"\ninterval = \"1h\"",
			"http://127.0.0.1:8080/v2\"\ncontext = \"nip:5265877635\"\nroles = [\"buyer\", \"seller\"]\nsince = \"2026-03-01\"\ninterval = \"10ms\""},
		{"http to localhost", `https://Example.test/v2/`, `http://localhost:8080`},
		{"http to ::1", `https://Example.test/v2/`, `http://[::1]:8080`},
		{"today", `"2026-03-01"`, `"2026-11-22"`},
		{"first day of KSeF 1.0", `"2026-03-01"`, `"2022-01-01"`},
		{"nipVatUe", `nip:5265877635`, `nipVatUe:5265877635-DE123456789`},
		{"peppolId", `nip:5265877635`, `peppolId:PPL123456`},
		{"dotted name", `mirror.Unit-7`, `mirror."Unit.7_a"`},
		{"same context in another environment", `internalId:6824515772-12343`, `nip:5265877635`},
		{"certificate", `token = "cred:unit.token"`, "method = \"certificate\"\ncertificate = \"file:unit.crt\"\nprivate_key = \"cred:unit.key\"\npassphrase = \"env:UNIT\""},
		{"PKCS#12 without a passphrase", `token = "cred:unit.token"`, "method = \"certificate\"\npkcs12 = \"cred:unit.p12\""},
		{"on the way to a certificate", `token = "cred:unit.token"`, "method = \"token\"\ntoken = \"cred:unit.token\"\ncertificate = \"cred:unit.crt\""},
		{"on the way back", `token = "cred:unit.token"`, "method = \"certificate\"\ntoken = \"cred:unit.token\"\npkcs12 = \"cred:unit.p12\""},
		{"byte order mark", `data_dir`, "\ufeffdata_dir"},
		{"windows line ends", "\n", "\r\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, problems, err := decode("config.toml", home(t), []byte(replace(t, good, test.old, test.new)), today, refuseBad)
			if err != nil || len(problems) > 0 {
				t.Errorf("err %v, problems:\n%v", err, problems)
			}
		})
	}
}

func TestDecodeProblems(t *testing.T) {
	for _, test := range []struct {
		name, old, new   string
		key, value, want string // of the one problem; want is a part of the sentence
	}{
		{"empty data_dir", `"copies"`, `""`, "data_dir", "", "want a folder"},
		{"home folder", `"copies"`, `"~/ksef"`, "data_dir", "~/ksef", "without ~"},
		{"backup in a home folder", `"kept"`, `"~/kept"`, "backup.dir", "~/kept", "without ~"},
		{"no backup kept", `keep = 30`, `keep = 0`, "backup.keep", "0", "want a number from 1"},
		{"backups in words", `keep = 30`, `keep = "all"`, "backup.keep", "all", "want a number from 1"},
		{"number for text", `"copies"`, `7`, "data_dir", "7", "quotation marks"},
		{"metrics for others", `data_dir =`, "metrics = \"0.0.0.0:9187\"\ndata_dir =", "metrics", "0.0.0.0:9187", "add metrics_beyond_this_machine = true"},
		{"metrics for others by name", `data_dir =`, "metrics = \"server:9187\"\ndata_dir =", "metrics", "server:9187", "an address of this machine alone"},
		{"metrics on every address", `data_dir =`, "metrics = \":9187\"\nmetrics_beyond_this_machine = false\ndata_dir =", "metrics", ":9187", "an address of this machine alone"},
		{"metrics without a port", `data_dir =`, "metrics = \"127.0.0.1\"\ndata_dir =", "metrics", "127.0.0.1", "an address and a port"},
		{"metrics on any port", `data_dir =`, "metrics = \"127.0.0.1:0\"\ndata_dir =", "metrics", "127.0.0.1:0", "an address and a port"},
		{"metrics beyond is text", `data_dir =`, "metrics_beyond_this_machine = \"yes\"\ndata_dir =", "metrics_beyond_this_machine", "yes", "true or false"},
		{"watch_folders is text", `watch_folders = false`, `watch_folders = "false"`, "watch_folders", "false", "true or false, without quotation marks"},
		{"ping address itself", `layout = "{date}"`, "ping_url = \"https://hc-ping.com/a\"", "mirror.acme.ping_url", redacted, "where the address is kept"},
		{"ping is a list", `layout = "{date}"`, "ping_url = [\"file:a\"]", "mirror.acme.ping_url", redacted, "where the address is kept"},
		{"level", `"warn"`, `"loud"`, "log.level", "loud", "debug, info, warn or error"},
		{"format", `"json"`, `"xml"`, "log.format", "xml", "auto, text or json"},
		{"log is no table", "[log]\nlevel = \"warn\"\nformat = \"json\"", "log = 3", "log", redacted, "want a table: a line [log]"},
		{"auth is no table", "[mirror.Unit-7.auth]\ntoken = \"cred:unit.token\"", "auth = \"cred:unit.token\"", "mirror.Unit-7.auth", redacted, "a line [mirror.Unit-7.auth]"},

		{"misspelt key", `interval =`, `intervall =`, "mirror.acme.intervall", redacted, "did you mean interval?"},
		{"misspelt table", "[log]\nlevel = \"warn\"\nformat = \"json\"", "[logs]\nlevel = 1\nformat = 2", "logs", redacted, "did you mean log?"},
		{"capitals", `interval =`, `Interval =`, "mirror.acme.Interval", redacted, "did you mean interval?"},
		{"unknown key", `data_dir = "copies"`, `colour = "blue"`, "colour", redacted, "want one of data_dir, metrics, metrics_beyond_this_machine, watch_folders, log, mail, backup, mirror"},
		{"key in the wrong table", `data_dir =`, `interval = "1h"` + "\ndata_dir =", "interval", redacted, "belongs in [mirror.NAME]"},
		{"top key in a table", "[log]\n", "[log]\ndata_dir = \"x\"\n", "log.data_dir", redacted, "at the top of the file"},

		{"name of a Windows device", `mirror.Unit-7`, `mirror."nul.old"`, `mirror."nul.old"`, "nul.old", "safe folder name"},
		{"name ends with a dot", `mirror.Unit-7`, `mirror."Unit."`, `mirror."Unit."`, "Unit.", "safe folder name"},
		{"name leads elsewhere", `mirror.Unit-7`, `mirror."../x"`, `mirror."../x"`, "../x", "safe folder name"},
		{"name with a Polish letter", `mirror.Unit-7`, `mirror."spółka"`, `mirror."spółka"`, "spółka", "safe folder name"},
		{"name too long", `mirror.Unit-7`, `mirror.` + strings.Repeat("a", 65), `mirror.` + strings.Repeat("a", 65), strings.Repeat("a", 65), "at most 64"},
		{"names that differ in case", `mirror.Unit-7`, `mirror.ACME`, "mirror.acme", "acme", "differs from ACME"},

		{"environment", `"demo"`, `"production"`, "mirror.acme.environment", "production", "test, demo or prod"},
		{"empty environment", `"demo"`, `""`, "mirror.acme.environment", "", "test, demo or prod"},
		{"no environment", "environment = \"demo\"\n", "", "mirror.acme.environment", "", "missing; want test, demo or prod"},
		{"http to the world", `https://Example.test/v2/`, `http://example.test/v2`, "mirror.acme.api_url", "http://example.test/v2", "want https"},
		{"other scheme", `https://Example.test/v2/`, `ftp://localhost/v2`, "mirror.acme.api_url", "ftp://localhost/v2", "https://HOST/v2"},
		{"no host", `https://Example.test/v2/`, `https:///v2`, "mirror.acme.api_url", "https:///v2", "https://HOST/v2"},
		{"query", `https://Example.test/v2/`, `https://a.test/v2?x=1`, "mirror.acme.api_url", "https://a.test/v2?x=1", "without a user, a query"},

		{"no context", "context = \"nip:5265877635\"\n", "", "mirror.acme.context", "", "missing; want nip:NIP"},
		{"context without a kind", `nip:5265877635`, `5265877635`, "mirror.acme.context", "5265877635", "want nip:NIP"},
		{"short NIP", `nip:5265877635`, `nip:123`, "mirror.acme.context", "nip:123", "ten digits"},
		{"NIP with dashes", `nip:5265877635`, `nip:526-587-76-35`, "mirror.acme.context", "nip:526-587-76-35", "without dashes"},
		{"NIP check digit", `nip:5265877635`, `nip:5265877634`, "mirror.acme.context", "nip:5265877634", "check digit"},
		{"NIP digits swapped", `nip:5265877635`, `nip:5265877653`, "mirror.acme.context", "nip:5265877653", "check digit"},
		{"internalId too short", `6824515772-12343`, `6824515772-1234`, "mirror.Unit-7.context", "internalId:6824515772-1234", "five digits"},
		{"NIP in internalId", `6824515772-12343`, `6824515771-12343`, "mirror.Unit-7.context", "internalId:6824515771-12343", "check digit"},
		{"internalId check digit", `6824515772-12343`, `6824515772-12344`, "mirror.Unit-7.context", "internalId:6824515772-12344", "internal identifier whose last digit"},
		{"NIP in nipVatUe", `nip:5265877635`, `nipVatUe:5265877636-DE123456789`, "mirror.acme.context", "nipVatUe:5265877636-DE123456789", "check digit"},
		{"VAT number in nipVatUe", `nip:5265877635`, `nipVatUe:5265877635-DE12345678`, "mirror.acme.context", "nipVatUe:5265877635-DE12345678", "EU VAT number"},
		{"peppolId", `nip:5265877635`, `peppolId:PL123456`, "mirror.acme.context", "peppolId:PL123456", "six digits"},
		{"same context twice", "\"test\"\ncontext = \"internalId:6824515772-12343\"", "\"demo\"\napi_url = \"https://example.TEST/v2\"\ncontext = \"nip:5265877635\"",
			"mirror.acme.context", "nip:5265877635", "that mirror Unit-7 does not have"},

		{"no roles", `["buyer", "seller"]`, `[]`, "mirror.acme.roles", "[]", "at least one of seller"},
		{"roles as text", `["buyer", "seller"]`, `"buyer"`, "mirror.acme.roles", "buyer", "want a list"},
		{"unknown role", `["buyer", "seller"]`, `["buyer", "payer"]`, "mirror.acme.roles", "payer", "seller, buyer, third_party, authorized"},
		{"role twice", `["buyer", "seller"]`, `["buyer", "buyer"]`, "mirror.acme.roles", "buyer", "at most once"},

		{"day without quotation marks", `"2026-03-01"`, `2026-03-01`, "mirror.acme.since", "2026-03-01 00:00:00 +0000 date-local", "quotation marks"},
		{"Polish date", `"2026-03-01"`, `"01.03.2026"`, "mirror.acme.since", "01.03.2026", "YEAR-MONTH-DAY"},
		{"before KSeF", `"2026-03-01"`, `"2021-12-31"`, "mirror.acme.since", "2021-12-31", "2022-01-01 or later"},
		{"in the future", `"2026-03-01"`, `"2026-11-23"`, "mirror.acme.since", "2026-11-23", "not in the future"},

		{"quiet hours without an end", `"22:00-06:15"`, `"22:00"`, "mirror.acme.quiet_hours", "22:00", `such as "22:00-06:00"`},
		{"quiet hours of no clock", `"22:00-06:15"`, `"24:00-06:15"`, "mirror.acme.quiet_hours", "24:00-06:15", `such as "22:00-06:00"`},
		{"quiet hours all day", `"22:00-06:15"`, `"22:00-22:00"`, "mirror.acme.quiet_hours", "22:00-22:00", "never be asked"},
		{"quiet hours as a number", `"22:00-06:15"`, `22`, "mirror.acme.quiet_hours", "22", "quotation marks"},
		{"night role that is none", `["seller"]`, `["sellers"]`, "mirror.acme.night_roles", "sellers", "want a list"},
		{"night role that is not asked for", `["seller"]`, `["authorized"]`, "mirror.acme.night_roles", "authorized", "among roles"},
		{"interval without unit", `"1h"`, `"15"`, "mirror.acme.interval", "15", "with its unit"},
		{"negative interval", `"1h"`, `"-1h"`, "mirror.acme.interval", "-1h", "with its unit"},
		{"too often for demo", `"1h"`, `"14m59s"`, "mirror.acme.interval", "14m59s", `at least "15m"`},
		{"too often for prod", "environment = \"demo\"\napi_url = \"https://Example.test/v2/\"\ncontext = \"nip:5265877635\"\nroles = [\"buyer\", \"seller\"]\nsince = \"2026-03-01\"\ninterval = \"1h\"",
			"environment = \"prod\"\ncontext = \"nip:5265877635\"\ninterval = \"14m\"", "mirror.acme.interval", "14m", `at least "15m"`},
		{"too often for test", `context = "internalId`, "interval = \"59s\"\ncontext = \"internalId", "mirror.Unit-7.interval", "59s", `at least "1m"`},
		{"layout", `"{date}"`, `"{bad}"`, "mirror.acme.layout", "{bad}", "unknown placeholder {bad}"},

		{"other method", `method = "token"`, `method = "password"`, "mirror.acme.auth.method", redacted, `want certificate or token`},
		{"method forgotten", `token = "cred:unit.token"`, `pkcs12 = "cred:unit.p12"`, "mirror.Unit-7.auth.method", "", `missing; want "certificate"`},
		{"method forgotten beside a token", `token = "cred:unit.token"`, "token = \"cred:unit.token\"\nprivate_key = \"cred:unit.key\"", "mirror.Unit-7.auth.method", "", `missing; want "certificate"`},
		{"no private key", `token = "cred:unit.token"`, "method = \"certificate\"\ncertificate = \"cred:unit.crt\"", "mirror.Unit-7.auth.private_key", "", "missing; want where the private key is kept"},
		{"no certificate", `token = "cred:unit.token"`, "method = \"certificate\"\nprivate_key = \"cred:unit.key\"", "mirror.Unit-7.auth.certificate", "", "or name a PKCS#12 file under pkcs12"},
		{"both forms", `token = "cred:unit.token"`, "method = \"certificate\"\nprivate_key = \"cred:unit.key\"\npkcs12 = \"cred:unit.p12\"", "mirror.Unit-7.auth.pkcs12", redacted, "want either this"},
		{"inline passphrase", `token = "cred:unit.token"`, "method = \"certificate\"\npkcs12 = \"cred:unit.p12\"\npassphrase = \"hunter2\"", "mirror.Unit-7.auth.passphrase", redacted, "where the passphrase is kept, never the passphrase itself"},
		{"inline key", `token = "cred:unit.token"`, "token = \"cred:unit.token\"\nmethod = \"token\"\nprivate_key = \"\"\"-----BEGIN PRIVATE KEY-----\nMIGH\"\"\"", "mirror.Unit-7.auth.private_key", redacted, "never the private key itself"},
		{"passphrase as a number", `token = "cred:unit.token"`, "method = \"certificate\"\npkcs12 = \"cred:unit.p12\"\npassphrase = 1234", "mirror.Unit-7.auth.passphrase", redacted, "quotation marks"},
		{"no token", "token = \"cred:unit.token\"\n", "", "mirror.Unit-7.auth.token", "", "missing; want where the token is kept"},
		{"no auth", "[mirror.Unit-7.auth]\ntoken = \"cred:unit.token\"\n", "", "mirror.Unit-7.auth.token", "", "missing; want where the token is kept"},
		{"inline token", `env:ACME_TOKEN`, `hunter2`, "mirror.acme.auth.token", redacted, "never the token itself"},
		{"unknown place", `env:ACME_TOKEN`, `vault:acme`, "mirror.acme.auth.token", redacted, `"file:PATH", "cred:NAME", "dpapi:PATH" or "env:NAME"`},
		{"file without a path", `env:ACME_TOKEN`, `file:`, "mirror.acme.auth.token", redacted, `"file:PATH"`},
		{"credential elsewhere", `env:ACME_TOKEN`, `cred:../acme`, "mirror.acme.auth.token", redacted, `"cred:NAME"`},
		{"variable with a dollar", `env:ACME_TOKEN`, `env:$ACME`, "mirror.acme.auth.token", redacted, `"env:NAME"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, problems, err := decode("config.toml", home(t), []byte(replace(t, good, test.old, test.new)), today, refuseBad)
			if err != nil {
				t.Fatal(err)
			}
			if len(problems) != 1 {
				t.Fatalf("%d problems, want 1:\n%v", len(problems), problems)
			}
			got := problems[0]
			if got.File != "config.toml" || got.Key != test.key || got.Value != test.value || !strings.Contains(got.Want, test.want) {
				t.Errorf("got  %+v\nwant key %s, value %q, and in the text: %s", got, test.key, test.value, test.want)
			}
		})
	}
}

// TestDecodeReportsEverything puts a mistake into every key and table.
func TestDecodeReportsEverything(t *testing.T) {
	const text = `data_dir = ""
data_dri = "x"
[log]
level = "loud"
format = 1
[mirror."..."]
environment = "live"
api_url = "example"
context = "nip:1"
roles = ["nobody", "seller", "seller", 3]
since = "soon"
interval = "often"
layout = "{bad}"
[mirror."...".auth]
method = "smile"
token = "hunter2"
[mirror.second]
`
	_, problems, err := decode("config.toml", home(t), []byte(text), today, refuseBad)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, problem := range problems {
		keys = append(keys, problem.Key)
	}
	want := []string{
		"data_dri", "data_dir", "log.level", "log.format",
		`mirror."..."`, `mirror."...".environment`, `mirror."...".api_url`, `mirror."...".context`,
		`mirror."...".roles`, `mirror."...".roles`, `mirror."...".roles`,
		`mirror."...".since`, `mirror."...".interval`, `mirror."...".layout`,
		`mirror."...".auth.method`, `mirror."...".auth.token`,
		"mirror.second.environment", "mirror.second.context", "mirror.second.auth.token",
	}
	if diff := cmp.Diff(want, keys); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if lines := strings.Count(problems.Error(), "\n") + 1; lines != len(want) {
		t.Errorf("the error has %d lines, want one for each of %d problems:\n%v", lines, len(want), problems)
	}
}

func TestDecodeNoMirror(t *testing.T) {
	for _, text := range []string{"", "[mirror]\n", "data_dir = \"x\"\n"} {
		_, problems, err := decode("config.toml", home(t), []byte(text), today, nil)
		if err != nil || len(problems) != 1 || problems[0].Key != "mirror" {
			t.Errorf("%q: err %v, problems %v; want one about mirror", text, err, problems)
		}
	}
}

func TestDecodeSyntax(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"unquoted text", "[log]\nlevel = info\n", "config.toml: line 2 (near log): not valid TOML"},
		{"windows path", `data_dir = "C:\invoices"`, "Windows paths in 'single' ones"},
		{"key twice", "data_dir = \"a\"\ndata_dir = \"b\"\n", "config.toml: line 2 (near data_dir): Key 'data_dir' has already been defined"},
		{"table twice", "[log]\n[log]\n", "config.toml: line 2: Key 'log' has already been defined"},
		{"UTF-16", "d\x00a\x00", "config.toml: line 1: not valid TOML"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := decode("config.toml", home(t), []byte(test.text), today, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v\nwant %s", err, test.want)
			}
		})
	}
}

// TestSecretsAreNeverShown writes a token into the file in every way people do.
func TestSecretsAreNeverShown(t *testing.T) {
	const token = `20260625-EC-319D7EE000-B67F415CDC-2C|nip-5265877635|c0ffee51c0ffee52c0ffee53`
	const plain = `c0ffee51c0ffee52c0ffee53`
	for _, test := range []struct{ name, old, new string }{
		{"inline", `"env:ACME_TOKEN"`, `"` + token + `"`},
		{"inline, another form", `"env:ACME_TOKEN"`, `"` + plain + `"`},
		{"without quotation marks", `"env:ACME_TOKEN"`, token},
		{"number-like", `"env:ACME_TOKEN"`, `0` + plain},
		{"digits only", `"env:ACME_TOKEN"`, `51525354555657585960616263`},
		{"date-like", `"env:ACME_TOKEN"`, `2026-06-25T` + plain},
		{"quotation mark forgotten at the end", `"env:ACME_TOKEN"`, `"` + token},
		{"quotation mark forgotten at the start", `"env:ACME_TOKEN"`, token + `"`},
		{"two lines", `"env:ACME_TOKEN"`, "\"" + token[:40] + "\n" + token[40:] + "\""},
		{"bad escape", `"env:ACME_TOKEN"`, `"\` + plain + `"`},
		{"in a list", `"env:ACME_TOKEN"`, `["` + plain + `"]`},
		{"in a table", `"env:ACME_TOKEN"`, `{value = "` + plain + `"}`},
		{"behind file:", `env:ACME_TOKEN`, `file:` + token},
		{"behind env:", `env:ACME_TOKEN`, `env:` + token},
		{"behind cred:", `env:ACME_TOKEN`, `cred:` + token},
		{"as the passphrase", `method = "token"`, "method = \"token\"\npassphrase = \"" + plain + `"`},
		{"as the private key", `method = "token"`, "method = \"token\"\nprivate_key = \"" + plain + `"`},
		{"as the method", `method = "token"`, `method = "` + plain + `"`},
		{"under a mistyped key", `token = "env:`, `tokne = "` + plain + `"` + "\ntoken = \"env:"},
		{"in the mirror's table", `since = `, `token = "` + plain + `"` + "\nsince = "},
		{"instead of the table", "[mirror.Unit-7.auth]\ntoken = \"cred:unit.token\"", `auth = "` + plain + `"`},
		{"as the context", `nip:5265877635`, token},
		{"as the layout", `{date}`, `{bad}` + token},
		{"as a role", `["buyer", "seller"]`, `["` + token + `"]`},
		{"as a key", `since =`, `"` + token + `" = 1` + "\nsince ="},
		{"as a mirror", `mirror.Unit-7`, `mirror."` + token + `"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.toml")
			write(t, path, replace(t, good, test.old, test.new))
			_, err := Load(path, refuseBad)
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range []string{plain, "c0ffee51", "319D7EE000", "5152535455"} {
				if strings.Contains(err.Error(), part) {
					t.Errorf("the error shows %s:\n%v", part, err)
				}
			}
		})
	}
}

func TestNearest(t *testing.T) {
	words := []string{"roles", "since", "interval", "api_url"}
	for text, want := range map[string]string{"role": "roles", "sinse": "since", "api-url": "api_url", "INTERVAL": "interval", "colour": "", "x": "", "": ""} {
		if got := nearest(text, words); got != want {
			t.Errorf("nearest(%q) = %q, want %q", text, got, want)
		}
	}
}

// FuzzDecode checks that no file makes decode panic, and that whatever it lets
// pass is a configuration that the rest of the program may rely on.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(manual))
	for _, text := range []string{"mirror=3", "[[mirror]]", "mirror.a.auth=1", "a.b.c=1", "[mirror.a]\nroles=[[]]", "x={", "[log]\n[log]"} {
		f.Add([]byte(text))
	}
	folder := home(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		config, problems, err := decode("config.toml", folder, data, today, refuseBad)
		switch {
		case err != nil:
			if !strings.HasPrefix(err.Error(), "config.toml: ") {
				t.Errorf("the error does not name the file: %v", err)
			}
			return
		case len(problems) > 0:
			for _, problem := range problems {
				if problem.Key == "" || problem.Want == "" {
					t.Errorf("incomplete problem %+v", problem)
				}
			}
			return
		}
		if !filepath.IsAbs(config.DataDir) || len(config.Mirrors) == 0 {
			t.Fatalf("%+v", config)
		}
		for _, mirror := range config.Mirrors {
			if _, err := ParseContext(mirror.Context.String()); err != nil {
				t.Errorf("context %s: %v", mirror.Context, err)
			}
			if filepath.Dir(mirror.Dir) != config.DataDir || !filepath.IsLocal(mirror.Name) {
				t.Errorf("mirror %q is in %s, not in %s", mirror.Name, mirror.Dir, config.DataDir)
			}
			if len(mirror.Roles) == 0 || mirror.Interval <= 0 || mirror.Since.After(today) ||
				!slices.Contains(environments, mirror.Environment) || len(mirror.Auth.used()) == 0 {
				t.Errorf("%+v", mirror)
			}
		}
	})
}

func TestHours(t *testing.T) {
	at := func(clock string) time.Time {
		t.Helper()
		parsed, err := time.Parse("15:04:05", clock)
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	for _, test := range []struct {
		hours   Hours
		in, out []string
		length  time.Duration
	}{
		{Hours{}, nil, []string{"00:00:00", "12:00:00"}, 0},
		{Hours{9 * 60, 17*60 + 30}, []string{"09:00:00", "17:29:59"}, []string{"08:59:59", "17:30:00", "00:00:00"}, 8*time.Hour + 30*time.Minute},
		{Hours{22 * 60, 6 * 60}, []string{"22:00:00", "23:59:59", "00:00:00", "05:59:59"}, []string{"21:59:59", "06:00:00", "12:00:00"}, 8 * time.Hour},
		{Hours{22 * 60, 0}, []string{"22:00:00", "23:59:59"}, []string{"00:00:00"}, 2 * time.Hour},
	} {
		for want, clocks := range map[bool][]string{true: test.in, false: test.out} {
			for _, clock := range clocks {
				if test.hours.Contain(at(clock)) != want {
					t.Errorf("%v contain %s: want %t", test.hours, clock, want)
				}
			}
		}
		if got := test.hours.Length(); got != test.length {
			t.Errorf("%v are %s long, want %s", test.hours, got, test.length)
		}
	}
}
