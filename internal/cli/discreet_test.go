package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"testing"

	"ksefmirror/internal/ksef"
)

func TestWithoutNIPs(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "",
		"disk full":                           "disk full",
		"5265877635-20260801-0123456789AB-CD": "…-20260801-0123456789AB-CD",
		"invoice 5265877635-20260801-012345-6789AB-CD is gone":                                                             "invoice …-20260801-012345-6789AB-CD is gone",
		"M123456789-20260801-0123456789AB-CD, ABC1234567-20261231-0123456789AB-00":                                         "…-20260801-0123456789AB-CD, …-20261231-0123456789AB-00",
		`Get "https://ksef.example/v2/invoices/ksef/5265877635-20260801-0123456789AB-CD": EOF`:                             `Get "https:…-20260801-0123456789AB-CD": EOF`,
		"open purchases/2026/11/2026-11-05_Jan-Nowak_FV-1_5265877635-20261105-0100001AF629-88.xml: is a directory":         "open …-20261105-0100001AF629-88.xml: is a directory",
		`C:\Mirror\acme\invoices\Jan-Nowak\5265877635 FV 1_5265877635-20261105-0100001AF629-88.kept-1.xml`:                 `C:…-20261105-0100001AF629-88.kept-1.xml`,
		"both 5265877635-20260801-0123456789AB-CD and 7123306158-20260802-0123456789AB-CD":                                 "both …-20260801-0123456789AB-CD and …-20260802-0123456789AB-CD",
		"[5265877635-20260801-0123456789AB-CD 7123306158-20260802-0123456789AB-CD]":                                        "[…-20260801-0123456789AB-CD …-20260802-0123456789AB-CD]",
		`context "nip:5265877635", VATPL-5265877635, PL5265877635, /data/5265877635/invoices, internalId:5265877635-12345`: `context "nip:…7635", VATPL-…7635, PL…7635, /data/…7635/invoices, internalId:…7635-12345`,
		// No NIPs: by their check digit, by their length, parts of hashes and references.
		"1234567890 bytes, 52658776350, 526587763, a5265877635b, 20260801-EX-52658776AF-ABCDEF0123-45": "1234567890 bytes, 52658776350, 526587763, a5265877635b, 20260801-EX-52658776AF-ABCDEF0123-45",
	} {
		if got := withoutNIPs(text); got != want {
			t.Errorf("%s\n gives %s\n  want %s", text, got, want)
		}
	}
}

// No text whatever keeps a KSeF number or a NIP, and none loses what it need not.
func FuzzWithoutNIPs(f *testing.F) {
	f.Add("invoice 5265877635-20260801-0123456789AB-CD", "/a b/")
	f.Add("5265877635", "x5265877635 ")
	f.Fuzz(func(t *testing.T, before, after string) {
		const tail = "20260801-0123456789AB-CD"
		got := withoutNIPs(before + "5265877635-" + tail + after)
		if strings.Contains(got, "5265877635-"+tail) || !strings.Contains(got, tail) {
			t.Errorf("%q", got)
		}
		if again := withoutNIPs(got); again != got {
			t.Errorf("%q becomes %q", got, again)
		}
	})
}

type named struct{ nip string }

func (n named) LogValue() slog.Value { return slog.GroupValue(slog.String("seller", n.nip)) }

// What is written above debug holds no NIP, wherever it stands; at debug it is whole.
func TestDiscreetLog(t *testing.T) {
	const nip, number = "5265877635", "5265877635-20260801-0123456789AB-CD"
	for name, handler := range map[string]func(*bytes.Buffer, *slog.HandlerOptions) slog.Handler{
		"text": func(b *bytes.Buffer, o *slog.HandlerOptions) slog.Handler { return slog.NewTextHandler(b, o) },
		"json": func(b *bytes.Buffer, o *slog.HandlerOptions) slog.Handler { return slog.NewJSONHandler(b, o) },
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			log := slog.New(discreet{handler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})})
			attributes := []any{
				"ksef_number", number, "typed", ksef.Number(number), "several", []string{number}, "seller", named{nip}, "count", 5265877635,
				"err", fmt.Errorf("seller: %w", &fs.PathError{Op: "open", Path: "x/Jan_" + number + ".xml", Err: errors.New("gone")}),
				slog.Group("outer", slog.Group("inner", "of", nip, "n", 7)),
			}
			for _, level := range []slog.Level{slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
				out.Reset()
				log.With("path", number, slog.Group("g", "nip", nip)).WithGroup("later").Log(t.Context(), level, "invoice "+number, attributes...)
				if said := out.String(); strings.Count(said, nip) != 1 || strings.Contains(said, "Jan") || strings.Count(said, "…-20260801-0123456789AB-CD") != 6 || !strings.Contains(said, "7") {
					t.Errorf("%s: %s", level, said) // once, as a count
				}
			}
			out.Reset()
			log.Debug("invoice "+number, attributes...)
			if said := out.String(); strings.Count(said, nip) != 8 || !strings.Contains(said, "Jan_"+number) {
				t.Errorf("debug: %s", said)
			}
		})
	}
}
