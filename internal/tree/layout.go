package tree

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// DefaultLayout is the pattern of a path when the user gives none.
const DefaultLayout = "{role}/{year}/{month}/{date}_{counterparty}_{invoice}"

const (
	// With a folder of up to 99 characters around the tree, a path stays below the 260 that Explorer and Office open.
	maxPath      = 160 // bytes
	maxComponent = 120 // bytes; file systems take 255
	maxValue     = 60  // bytes of one part of the decoration, when there is room

	// maxIdentity is the length of the longest identity with its extension: "x", a SHA-256 in hexadecimal, ".xml".
	maxIdentity = 1 + 2*sha256.Size + 4

	undated   = "undated"
	separator = " ._-"
)

// ksefNumber matches the numbers of KSeF 2.0, 35 characters (numer-ksef.md), and those of KSeF 1.0 with one more hyphen. They
// are file names as they are, on every system.
var ksefNumber = regexp.MustCompile(`^[0-9]{10}-[0-9]{8}-[0-9A-F]{6}-?[0-9A-F]{6}-[0-9A-F]{2}$`)

// Name is what a path is made of. Everything but Number is decoration and may be anything.
type Name struct {
	Number        string // KSeF's number of the invoice, its identity
	Role          string // seller, buyer, third_party or authorized
	IssueDate     string // YYYY-MM-DD
	Counterparty  string
	InvoiceNumber string // the seller's number of the invoice
}

// Layout is a checked pattern of paths. The zero Layout puts all files at the top, named by their identity alone.
type Layout struct {
	components [][]part // each the parts of a folder's name, the last one of the file's
}

// part is a literal text or a placeholder; one of the two is empty.
type part struct{ literal, placeholder string }

// ParseLayout checks a pattern such as [DefaultLayout]: folders and the first part of the file name, separated by slashes.
// The placeholders are {role}, {year}, {month}, {day}, {date}, {counterparty} and {invoice}; beside them there may be
// letters, digits, spaces, dots, hyphens and underscores. A folder of which nothing is left, because all its
// placeholders are empty, is left out.
func ParseLayout(pattern string) (Layout, error) {
	if !utf8.ValidString(pattern) {
		return Layout{}, fmt.Errorf("layout %q: not valid UTF-8", pattern)
	}
	var layout Layout
	for component := range strings.SplitSeq(norm.NFC.String(pattern), "/") {
		parts, err := parseComponent(component)
		if err != nil {
			return Layout{}, fmt.Errorf("layout %q: %w", pattern, err)
		}
		layout.components = append(layout.components, parts)
	}
	// The longest that can be left when all that can be cut is cut. Path relies on it.
	for _, date := range []string{"2026-12-31", undated} {
		longest := Name{Role: "third_party", IssueDate: date}
		if _, fits := layout.path(longest, strings.Repeat("x", maxIdentity), 0); !fits {
			return Layout{}, fmt.Errorf("layout %q: the fixed text is too long; a path has room for %d bytes, a folder's or file's name for %d, and the KSeF number takes up to %d of them",
				pattern, maxPath, maxComponent, maxIdentity)
		}
	}
	return layout, nil
}

func parseComponent(component string) (parts []part, err error) {
	switch {
	case component == "":
		return nil, errors.New("an empty folder or file name; write no slash at the start or the end and no two together")
	case strings.Contains(component, `\`):
		return nil, errors.New(`a backslash; separate folders by "/", on Windows too`)
	}
	rest := component
	for rest != "" {
		literal, after, found := strings.Cut(rest, "{")
		for _, r := range literal {
			if !isWord(r) && !strings.ContainsRune(separator, r) {
				return nil, fmt.Errorf("the character %q in %q; use letters, digits, spaces, dots, hyphens and underscores", r, component)
			}
		}
		if literal != "" {
			parts = append(parts, part{literal: literal})
		}
		if !found {
			break
		}
		placeholder, next, closed := strings.Cut(after, "}")
		if !closed {
			return nil, fmt.Errorf("no closing brace in %q", component)
		}
		switch placeholder {
		case "role", "year", "month", "day", "date", "counterparty", "invoice":
			parts = append(parts, part{placeholder: placeholder})
		default:
			return nil, fmt.Errorf("unknown placeholder {%s}; there are {role} {year} {month} {day} {date} {counterparty} {invoice}", placeholder)
		}
		rest = next
	}
	if strings.Trim(component, separator) == "" {
		return nil, fmt.Errorf("%q, which is no folder or file name", component)
	}
	return parts, nil
}

// Path gives the path of an invoice's file, slash-separated and relative to the tree, for example
//
//	purchases/2026/11/2026-11-05_ACME-Sp-z-o-o_FV-12-2026_5265877635-20261105-0100001AF629-AF.xml
//
// It takes any Name whatever and gives a valid path on Linux, Windows and macOS, always the same one for the same Name.
// Different numbers have different paths, also where case is ignored. The decoration is cut to make the path fit, the
// longest parts first; the number never is. A number that KSeF cannot have given is replaced by its SHA-256.
func (l Layout) Path(name Name) string {
	file := SafeName(name.Number) + ".xml"
	name.Counterparty, name.InvoiceNumber = clean(name.Counterparty), clean(name.InvoiceNumber)
	for room := maxValue; ; room-- {
		// It fits at the latest when nothing is left of the values: ParseLayout saw to that.
		if result, fits := l.path(name, file, room); fits || room == 0 {
			return result
		}
	}
}

// SafeName gives a name of a file, without an extension, for KSeF's number of an invoice: the number itself, or the letter x
// and the SHA-256 of whatever is not a number that KSeF can have given. Different numbers have different names, also
// where case is ignored.
func SafeName(number string) string {
	if ksefNumber.MatchString(number) {
		return number
	}
	hash := sha256.Sum256([]byte(number))
	return "x" + hex.EncodeToString(hash[:])
}

// NumberOf gives KSeF's number that a file name ends with, whatever stands before it, and "" when there is none. A person may
// have given the name.
func NumberOf(name string) string {
	stem, isXML := strings.CutSuffix(name, ".xml")
	number := stem[strings.LastIndexAny(stem, "_/")+1:]
	if !isXML || !ksefNumber.MatchString(number) {
		return ""
	}
	return number
}

// path renders the layout with at most room bytes of each value, and says whether the limits are kept.
func (l Layout) path(name Name, file string, room int) (result string, fits bool) {
	values := values(name, room)
	fits = true
	var components []string
	for i, parts := range l.components {
		var b strings.Builder
		for _, part := range parts {
			b.WriteString(part.literal)
			b.WriteString(values[part.placeholder])
		}
		component := tidy(b.String())
		switch last := i == len(l.components)-1; {
		case component == "":
			continue
		case last:
			file = component + "_" + file
		default:
			fits = fits && len(component) <= maxComponent
			components = append(components, component)
		}
	}
	fits = fits && len(file) <= maxComponent
	result = strings.Join(append(components, file), "/")
	return result, fits && len(result) <= maxPath
}

// values gives the text of each placeholder; that of no placeholder is "".
func values(name Name, room int) map[string]string {
	values := map[string]string{
		"role":         "other",
		"date":         undated,
		"year":         undated,
		"counterparty": cut(name.Counterparty, room),
		"invoice":      cut(name.InvoiceNumber, room),
	}
	switch name.Role {
	case "seller":
		values["role"] = "sales"
	case "buyer":
		values["role"] = "purchases"
	case "third_party":
		values["role"] = "third-party"
	case "authorized":
		values["role"] = "authorized"
	}
	if date, err := time.Parse(time.DateOnly, name.IssueDate); err == nil {
		values["date"] = name.IssueDate
		values["year"], values["month"], values["day"] = date.Format("2006"), date.Format("01"), date.Format("02")
	}
	return values
}

// clean keeps letters and digits in composed form, and makes one hyphen of whatever is between them.
func clean(value string) string {
	var b strings.Builder
	gap := false
	for _, r := range norm.NFC.String(value) {
		if !isWord(r) {
			gap = true
			continue
		}
		if gap && b.Len() > 0 {
			b.WriteByte('-')
		}
		gap = false
		b.WriteRune(r)
	}
	return b.String()
}

func isWord(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }

// cut gives the first runes of value, at most room bytes of them, without a hyphen at the end.
func cut(value string, room int) string {
	if len(value) <= room {
		return value
	}
	for room > 0 && !utf8.RuneStart(value[room]) {
		room--
	}
	return strings.TrimRight(value[:room], "-")
}

// tidy makes a folder's or file's name of a rendered component: what stood around an empty value goes, so that no name
// begins or ends with a separator (Windows drops dots and spaces at the end, a dot in front hides a file), and the names
// that Windows keeps for devices are avoided.
func tidy(component string) string {
	for _, r := range separator {
		once, twice := string(r), string(r)+string(r)
		for strings.Contains(component, twice) {
			component = strings.ReplaceAll(component, twice, once)
		}
	}
	component = strings.Trim(component, separator)
	// A device's name counts up to the first dot, whatever follows.
	base, _, _ := strings.Cut(component, ".")
	if deviceName.MatchString(base) {
		return "_" + component
	}
	return component
}

// deviceName matches the names that Windows keeps for devices, with the spaces that it ignores at the end.
// https://learn.microsoft.com/en-us/windows/win32/fileio/naming-a-file
var deviceName = regexp.MustCompile(`(?i)^(con|prn|aux|nul|(com|lpt)[0-9]) *$`)
