package config

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// The tables of the file. Every value is any, so that a number where a text
// belongs is one problem among the others, not the end of the reading.
type (
	fileTable struct {
		DataDir       any                    `toml:"data_dir"`
		Metrics       any                    `toml:"metrics"`
		MetricsBeyond any                    `toml:"metrics_beyond_this_machine"`
		WatchFolders  any                    `toml:"watch_folders"`
		Log           logTable               `toml:"log"`
		Mail          *mailTable             `toml:"mail"`
		Backup        backupTable            `toml:"backup"`
		Mirror        map[string]mirrorTable `toml:"mirror"`
	}
	logTable struct {
		Level  any `toml:"level"`
		Format any `toml:"format"`
	}
	mailTable struct {
		Server   any `toml:"server"`
		User     any `toml:"user"`
		Password any `toml:"password"`
		From     any `toml:"from"`
	}
	backupTable struct {
		Dir  any `toml:"dir"`
		Keep any `toml:"keep"`
	}
	mirrorTable struct {
		Environment any           `toml:"environment"`
		APIURL      any           `toml:"api_url"`
		LatarniaURL any           `toml:"latarnia_url"`
		Context     any           `toml:"context"`
		Roles       any           `toml:"roles"`
		Since       any           `toml:"since"`
		NightRoles  any           `toml:"night_roles"`
		Interval    any           `toml:"interval"`
		QuietHours  any           `toml:"quiet_hours"`
		Layout      any           `toml:"layout"`
		PingURL     any           `toml:"ping_url"`
		Auth        authTable     `toml:"auth"`
		Command     *commandTable `toml:"command"`
		Webhook     *webhookTable `toml:"webhook"`
		Digest      *digestTable  `toml:"digest"`
	}
	commandTable struct {
		Run     any `toml:"run"`
		Timeout any `toml:"timeout"`
	}
	webhookTable struct {
		URL    any `toml:"url"`
		Secret any `toml:"secret"`
	}
	digestTable struct {
		To any `toml:"to"`
		At any `toml:"at"`
	}
	authTable struct {
		Method      any `toml:"method"`
		Token       any `toml:"token"`
		Certificate any `toml:"certificate"`
		PrivateKey  any `toml:"private_key"`
		PKCS12      any `toml:"pkcs12"`
		Passphrase  any `toml:"passphrase"`
	}
)

var (
	environments = []string{"test", "demo", "prod"}
	roles        = []string{"seller", "buyer", "third_party", "authorized"}
	methods      = []string{MethodCertificate, MethodToken}
	formats      = []string{"auto", "text", "json"}
	levels       = map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
)

// decode reads and checks data, the contents of the file called name in folder,
// without looking at any other file. The configuration is usable only when there
// are no problems and no error.
func decode(name, folder string, data []byte, now time.Time, checkLayout func(string) error) (*Config, Problems, error) {
	var file fileTable
	meta, err := toml.Decode(string(data), &file)
	if parse := (toml.ParseError{}); errors.As(err, &parse) {
		return nil, nil, syntaxError(name, parse)
	}
	c := &checker{file: name, folder: folder, now: now, checkLayout: checkLayout}
	for _, key := range meta.Keys() {
		c.checkTable(key, meta.Type(key...))
	}
	switch {
	case len(c.problems) > 0:
		// With a value where a table belongs, what Decode gave is not whole, and
		// its keys would all seem to be missing.
		return new(Config), c.problems, nil
	case err != nil:
		return nil, nil, fmt.Errorf("%s: a value stands where a table such as [log] belongs", name)
	}
	for _, key := range meta.Keys() {
		c.checkKnown(key)
	}
	return c.config(file), c.problems, nil
}

// syntaxError says where the file is not TOML. The library's own message may
// quote a value, and an inline secret without quotation marks is such a value:
// only the message about a repeated key, which quotes no value, is passed on.
func syntaxError(name string, err toml.ParseError) error {
	reason := `not valid TOML; text stands in "quotation marks", Windows paths in 'single' ones`
	if strings.HasPrefix(err.Message, "Key ") {
		reason = err.Message
	}
	where := fmt.Sprintf("%s: line %d", name, err.Position.Line)
	if err.LastKey != "" {
		where += fmt.Sprintf(" (near %s)", shown(err.LastKey))
	}
	return fmt.Errorf("%s: %s", where, shown(reason))
}

// checker turns the tables of one file into a [Config] and collects problems.
type checker struct {
	file, folder string
	now          time.Time
	checkLayout  func(string) error
	problems     Problems
}

// report adds a problem. A nil value is a missing key.
func (c *checker) report(key toml.Key, value any, want string) {
	problem := Problem{File: c.file, Key: shown(key), Want: want}
	switch {
	case value == nil:
		problem.Want = "missing; " + want
	case slices.Contains(key, "auth"), slices.Contains(key, "webhook"), slices.Contains(key, "mail"):
		// Beside the secrets, a wrong value may be a secret in the wrong place; and an
		// address may hold one.
		problem.Value = redacted
	default:
		problem.Value = shown(value)
	}
	c.problems = append(c.problems, problem)
}

// text gives value as a text, fallback when it is nil, and reports anything
// else.
func (c *checker) text(key toml.Key, value any, fallback string) (text string, ok bool) {
	if value == nil {
		return fallback, true
	}
	text, ok = value.(string)
	if !ok {
		c.report(key, value, "want text in quotation marks")
	}
	return text, ok
}

// oneOf is text for a key that has a few known values.
func (c *checker) oneOf(key toml.Key, value any, fallback string, known []string) string {
	text, ok := c.text(key, value, fallback)
	if ok && !slices.Contains(known, text) {
		c.report(key, value, "want "+alternatives(known))
	}
	return text
}

// yesOrNo gives value as a truth value, fallback when it is nil, and reports
// anything else.
func (c *checker) yesOrNo(key toml.Key, value any, fallback bool) bool {
	if value == nil {
		return fallback
	}
	yes, ok := value.(bool)
	if !ok {
		c.report(key, value, "want true or false, without quotation marks")
	}
	return yes
}

func (c *checker) config(file fileTable) *Config {
	config := Default()
	if dir, ok := c.text(toml.Key{"data_dir"}, file.DataDir, config.DataDir); ok {
		if dir == "" {
			c.report(toml.Key{"data_dir"}, dir, "want a folder")
		}
		config.DataDir = c.path(toml.Key{"data_dir"}, dir)
	}

	config.Metrics = c.metrics(file.Metrics, file.MetricsBeyond)
	config.WatchFolders = c.yesOrNo(toml.Key{"watch_folders"}, file.WatchFolders, config.WatchFolders)

	level := c.oneOf(toml.Key{"log", "level"}, file.Log.Level, strings.ToLower(config.Log.Level.String()),
		[]string{"debug", "info", "warn", "error"})
	config.Log.Level = levels[level]
	config.Log.Format = c.oneOf(toml.Key{"log", "format"}, file.Log.Format, config.Log.Format, formats)

	if file.Mail != nil {
		config.Mail = c.mail(*file.Mail)
	}
	if dir, ok := c.text(toml.Key{"backup", "dir"}, file.Backup.Dir, config.Backup.Dir); ok && dir != "" {
		config.Backup.Dir = c.path(toml.Key{"backup", "dir"}, dir)
	}
	if file.Backup.Keep != nil {
		keep, ok := file.Backup.Keep.(int64)
		if !ok || keep < 1 || keep > 10_000 {
			c.report(toml.Key{"backup", "keep"}, file.Backup.Keep, "want a number from 1 to 10000, without quotation marks")
		}
		config.Backup.Keep = int(keep)
	}

	if len(file.Mirror) == 0 {
		c.report(toml.Key{"mirror"}, nil, "want at least one table [mirror.NAME]")
	}
	// Two mirrors of the same invoices would spend the same limits twice, and
	// two in one folder would be one mirror with two minds.
	folders := make(map[string]string)
	sources := make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(file.Mirror)) {
		mirror := c.mirror(name, config.DataDir, file.Mirror[name])
		config.Mirrors = append(config.Mirrors, mirror)

		key := toml.Key{"mirror", name}
		if mirror.Digest != nil {
			if mirror.Digest.Mail = config.Mail; config.Mail == nil {
				c.report(toml.Key{"mail"}, nil, fmt.Sprintf("want a table [mail] that says how the digest of mirror %s is sent", shown(name)))
			}
		}
		folder := strings.ToLower(name)
		if other, taken := folders[folder]; taken {
			c.report(key, name, fmt.Sprintf("want a name that differs from %s by more than case: both are one folder on Windows", shown(other)))
		}
		folders[folder] = name

		if mirror.Environment == "" || mirror.Context == (Context{}) {
			continue
		}
		source := strings.Join([]string{mirror.Environment, mirror.APIURL, mirror.Context.String()}, " ")
		if other, taken := sources[source]; taken {
			c.report(append(key, "context"), mirror.Context, fmt.Sprintf("want a context that mirror %s does not have in the same environment", shown(other)))
		}
		sources[source] = name
	}
	return &config
}

// metrics gives the address at which metrics are served; "" for none.
func (c *checker) metrics(value, beyond any) string {
	open := c.yesOrNo(toml.Key{"metrics_beyond_this_machine"}, beyond, false)
	address, ok := c.text(toml.Key{"metrics"}, value, "")
	if !ok || address == "" {
		return ""
	}
	host, port, err := net.SplitHostPort(address)
	if number, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil || number == 0 {
		c.report(toml.Key{"metrics"}, address, `want an address and a port, such as "127.0.0.1:9187"`)
		return ""
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) && !open {
		c.report(toml.Key{"metrics"}, address, `want an address of this machine alone, such as "127.0.0.1:9187": whoever reaches it reads the names of the mirrors and how many invoices come; if others are to, add metrics_beyond_this_machine = true`)
	}
	return address
}

// path makes a folder that the file names absolute.
func (c *checker) path(key toml.Key, dir string) string {
	switch {
	case strings.HasPrefix(dir, "~"):
		c.report(key, dir, "want a path without ~, which only a shell understands")
	case !filepath.IsAbs(dir):
		dir = filepath.Join(c.folder, dir)
	}
	return filepath.Clean(dir)
}

func (c *checker) mirror(name, dataDir string, table mirrorTable) Mirror {
	key := func(rest ...string) toml.Key { return append(toml.Key{"mirror", name}, rest...) }
	mirror := DefaultMirror()
	mirror.Name = name
	mirror.Dir = filepath.Join(dataDir, name)
	if !validName(name) {
		c.report(key(), name, "want a name of letters A-Z and a-z, digits, - _ and . that is a safe folder name: it begins with a letter or digit, does not end with a dot, has at most 64 characters and is no device name of Windows such as con or nul")
	}

	if table.Environment == nil {
		c.report(key("environment"), nil, "want "+alternatives(environments))
	} else {
		mirror.Environment = c.oneOf(key("environment"), table.Environment, "", environments)
	}

	loopback := false
	if text, ok := c.text(key("api_url"), table.APIURL, ""); ok && text != "" {
		address, local, err := parseAPIURL(text)
		if err != nil {
			c.report(key("api_url"), text, err.Error())
		}
		mirror.APIURL, loopback = address, local
	}

	if text, ok := c.text(key("latarnia_url"), table.LatarniaURL, ""); ok && text != "" {
		address, _, err := parseAPIURL(text)
		if err != nil {
			c.report(key("latarnia_url"), text, err.Error())
		}
		mirror.LatarniaURL = address
	}

	if table.Context == nil {
		c.report(key("context"), nil, wantContext)
	} else if text, ok := c.text(key("context"), table.Context, ""); ok {
		context, err := ParseContext(text)
		if err != nil {
			c.report(key("context"), text, err.Error())
		}
		mirror.Context = context
	}

	before := len(c.problems)
	if table.Roles != nil {
		mirror.Roles = c.roles(key("roles"), table.Roles)
	}
	rolesAreRight := len(c.problems) == before
	if list, ok := table.NightRoles.([]any); table.NightRoles != nil && (!ok || len(list) > 0) {
		mirror.NightRoles = c.roles(key("night_roles"), table.NightRoles)
		for _, role := range mirror.NightRoles {
			if rolesAreRight && !slices.Contains(mirror.Roles, role) {
				c.report(key("night_roles"), role, "want roles that are among roles")
			}
		}
	}

	if text, ok := c.text(key("since"), table.Since, mirror.Since.Format(time.DateOnly)); ok {
		since, err := time.Parse(time.DateOnly, text)
		switch {
		case err != nil:
			c.report(key("since"), text, `want a day as YEAR-MONTH-DAY, such as "2026-02-01"`)
		case since.Year() < 2022:
			c.report(key("since"), text, "want 2022-01-01 or later: KSeF has no invoice from before 2022")
		case since.After(c.now):
			c.report(key("since"), text, "want a day that is not in the future, or the invoices until then would be missed")
		}
		mirror.Since = since
	}

	if text, ok := c.text(key("interval"), table.Interval, mirror.Interval.String()); ok {
		interval, err := time.ParseDuration(text)
		minimum := minimumInterval(mirror.Environment, loopback)
		switch {
		case err != nil || interval <= 0:
			c.report(key("interval"), text, `want a duration with its unit, such as "15m" or "1h"`)
		case interval < minimum:
			c.report(key("interval"), text, fmt.Sprintf("want at least %q in this environment", strings.TrimSuffix(minimum.String(), "0s")))
		}
		mirror.Interval = interval
	}

	if text, ok := c.text(key("quiet_hours"), table.QuietHours, ""); ok && text != "" {
		hours, err := parseHours(text)
		if err != nil {
			c.report(key("quiet_hours"), text, err.Error())
		}
		mirror.QuietHours = hours
	}

	if text, ok := c.text(key("layout"), table.Layout, mirror.Layout); ok {
		if c.checkLayout != nil {
			if err := c.checkLayout(text); err != nil {
				c.report(key("layout"), text, err.Error())
			}
		}
		mirror.Layout = text
	}

	// A value that is no reference may be the address itself, and so is not shown.
	if text, isText := table.PingURL.(string); table.PingURL != nil && (text != "" || !isText) {
		reference, err := parseReference(text, c.folder, "address")
		if err != nil {
			c.unwelcome(key("ping_url"), err.Error())
		}
		mirror.PingURL = reference
	}

	mirror.Auth = c.auth(key("auth"), mirror.Auth.Method, table.Auth)
	if table.Command != nil {
		mirror.Command = c.command(key("command"), *table.Command)
	}
	if table.Webhook != nil {
		mirror.Webhook = c.webhook(key("webhook"), *table.Webhook)
	}
	if table.Digest != nil {
		mirror.Digest = c.digest(key("digest"), *table.Digest)
	}
	return mirror
}

// auth reads the table auth at key; method is the default. The keys of the method
// that is not used may be there: whoever changes from one to the other can go
// back.
func (c *checker) auth(key toml.Key, method string, table authTable) Auth {
	sub := func(name string) toml.Key { return below(key, name) }
	reference := func(name string, value any, what string) Reference { return c.reference(sub(name), value, what) }
	auth := Auth{
		Method:      c.oneOf(sub("method"), table.Method, method, methods),
		Token:       reference("token", table.Token, "token"),
		Certificate: reference("certificate", table.Certificate, "certificate"),
		PrivateKey:  reference("private_key", table.PrivateKey, "private key"),
		PKCS12:      reference("pkcs12", table.PKCS12, "PKCS#12 file"),
		Passphrase:  reference("passphrase", table.Passphrase, "passphrase"),
	}
	switch {
	case table.Method == nil && (table.Certificate != nil || table.PrivateKey != nil || table.PKCS12 != nil):
		// The default would pass over the certificate without a word.
		c.report(sub("method"), nil, `want "certificate" to log in with the certificate named here, or "token"`)
	case auth.Method == MethodToken && table.Token == nil:
		c.report(sub("token"), nil, wantReference("token"))
	case auth.Method == MethodCertificate && table.PKCS12 != nil && (table.Certificate != nil || table.PrivateKey != nil):
		c.report(sub("pkcs12"), table.PKCS12, "want either this, which holds certificate and private key, or certificate and private_key")
	case auth.Method == MethodCertificate && table.PKCS12 == nil:
		if table.Certificate == nil {
			c.report(sub("certificate"), nil, wantReference("certificate")+"; or name a PKCS#12 file under pkcs12")
		}
		if table.PrivateKey == nil {
			c.report(sub("private_key"), nil, wantReference("private key")+"; it may be the file of the certificate")
		}
	}
	return auth
}

// reference reads where a secret is kept; a missing key refers to nothing.
func (c *checker) reference(key toml.Key, value any, what string) Reference {
	text, ok := c.text(key, value, "")
	if value == nil || !ok {
		return Reference{}
	}
	reference, err := parseReference(text, c.folder, what)
	if err != nil {
		c.report(key, text, err.Error())
	}
	return reference
}

// below is the key called name in the table at key.
func below(key toml.Key, name string) toml.Key { return append(slices.Clone(key), name) }

func (c *checker) roles(key toml.Key, value any) []string {
	want := "want a list of at least one of " + strings.Join(roles, ", ")
	list, ok := value.([]any)
	if !ok || len(list) == 0 {
		c.report(key, value, want)
		return nil
	}
	var chosen []string
	for _, item := range list {
		role, ok := item.(string)
		switch {
		case !ok || !slices.Contains(roles, role):
			c.report(key, item, want)
		case slices.Contains(chosen, role):
			c.report(key, role, "want every role at most once")
		default:
			chosen = append(chosen, role)
		}
	}
	return chosen
}

var hoursPattern = regexp.MustCompile(`^([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])$`)

// parseHours reads hours such as 22:00-06:00. The error says what is expected.
func parseHours(text string) (Hours, error) {
	found := hoursPattern.FindStringSubmatch(text)
	if found == nil {
		return Hours{}, errors.New(`want hours of the day such as "22:00-06:00"`)
	}
	minutes := func(hours, minutes string) int {
		h, _ := strconv.Atoi(hours) // the pattern lets digits through only
		m, _ := strconv.Atoi(minutes)
		return h*60 + m
	}
	hours := Hours{From: minutes(found[1], found[2]), To: minutes(found[3], found[4])}
	if hours.From == hours.To {
		return Hours{}, errors.New("want an end that is not the beginning, or KSeF would never be asked, or always")
	}
	return hours, nil
}

// minimumInterval is the shortest time between two cycles. KSeF asks for 15
// minutes between two queries for the same role (incremental download guide,
// przyrostowe-pobieranie-faktur.md). On test, where people try things out, a
// minute is let pass; the limits are kept there all the same. A simulator on this
// machine (loopback) bears anything.
func minimumInterval(environment string, loopback bool) time.Duration {
	switch {
	case loopback:
		return 0
	case environment == "test":
		return time.Minute
	}
	return 15 * time.Minute
}

// parseAPIURL gives the address without a slash at its end, its host in lower
// case, and whether it is on this machine. The error says what is expected.
func parseAPIURL(text string) (address string, loopback bool, err error) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" ||
		(u.Scheme != "http" && u.Scheme != "https") {
		return "", false, errors.New(`want an address such as "https://HOST/v2", without a user, a query or a fragment`)
	}
	loopback = isLoopback(u.Hostname())
	if u.Scheme == "http" && !loopback {
		return "", false, errors.New("want https: plain http is only for a simulator on this machine (localhost, 127.0.0.1)")
	}
	u.Host = strings.ToLower(u.Host)
	return strings.TrimRight(u.String(), "/"), loopback, nil
}

var (
	namePattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9_-])?$`)
	// Windows reserves these with any extension and in any case.
	deviceName = regexp.MustCompile(`(?i)^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)`)
)

func validName(name string) bool {
	return namePattern.MatchString(name) && !deviceName.MatchString(name)
}

// checkTable reports a key whose value is not the table it should be.
func (c *checker) checkTable(key toml.Key, kind string) {
	_, isTable := knownKeys()[tableOf(key)]
	if isTable || tableOf(key) == "mirror" {
		if kind == "Hash" || kind == "" { // "": a table that only its own tables mention
			return
		}
		want := key.String()
		if want == "mirror" {
			want = "mirror.NAME"
		}
		c.unwelcome(key, fmt.Sprintf("want a table: a line [%s], and its keys in the lines after it", want))
	}
}

// checkKnown reports the first part of key that its table does not have. The
// library itself would pass over it, or take it for a key that differs only in
// case.
func (c *checker) checkKnown(key toml.Key) {
	for i, name := range key {
		table := tableOf(key[:i])
		known, exists := knownKeys()[table]
		if !exists || slices.Contains(known, name) {
			continue
		}
		want := "no such key; want one of " + strings.Join(known, ", ")
		if near := nearest(name, known); near != "" {
			want = fmt.Sprintf("no such key; did you mean %s?", near)
		}
		for other, keys := range knownKeys() {
			if other != table && slices.Contains(keys, name) {
				want = "no such key here; it belongs " + placeOf(other)
			}
		}
		c.unwelcome(key[:i+1], want)
		return
	}
}

// unwelcome reports a key whose value is not looked at, and not shown: nobody
// knows what it is. A key that several others begin with is reported once.
func (c *checker) unwelcome(key toml.Key, want string) {
	problem := Problem{File: c.file, Key: shown(key), Value: redacted, Want: want}
	if !slices.Contains(c.problems, problem) {
		c.problems = append(c.problems, problem)
	}
}

// knownKeys gives the keys of every table by the table's name, as [tableOf]
// writes it.
func knownKeys() map[string][]string {
	return map[string][]string{
		"":                    keysOf(reflect.TypeFor[fileTable]()),
		"log":                 keysOf(reflect.TypeFor[logTable]()),
		"mirror.NAME":         keysOf(reflect.TypeFor[mirrorTable]()),
		"mirror.NAME.auth":    keysOf(reflect.TypeFor[authTable]()),
		"mirror.NAME.command": keysOf(reflect.TypeFor[commandTable]()),
		"mirror.NAME.webhook": keysOf(reflect.TypeFor[webhookTable]()),
		"mirror.NAME.digest":  keysOf(reflect.TypeFor[digestTable]()),
		"mail":                keysOf(reflect.TypeFor[mailTable]()),
	}
}

func keysOf(table reflect.Type) []string {
	keys := make([]string, table.NumField())
	for i := range keys {
		keys[i] = table.Field(i).Tag.Get("toml")
	}
	return keys
}

// tableOf names the table at key, whatever mirror it is in.
func tableOf(key toml.Key) string {
	if len(key) > 1 && key[0] == "mirror" {
		key = slices.Clone(key)
		key[1] = "NAME"
	}
	return strings.Join(key, ".")
}

func placeOf(table string) string {
	if table == "" {
		return "at the top of the file, before the first table"
	}
	return "in [" + table + "]"
}

// nearest gives the known word that text is most likely a misspelling of, or "".
func nearest(text string, known []string) string {
	best, fewest := "", 3
	for _, word := range known {
		if edits := distance(strings.ToLower(text), word); edits < fewest && edits < len(word)-1 {
			best, fewest = word, edits
		}
	}
	return best
}

// distance counts the characters to insert, delete or replace to turn a into b
// (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

func alternatives(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}
