package ksef

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestSecretIsNeverPrinted(t *testing.T) {
	secret := NewSecret("CANARY")
	type exported struct{ S Secret }
	type hidden struct{ s Secret } // fmt cannot call methods on this one
	var printed strings.Builder
	for _, v := range []any{secret, &secret, exported{secret}, &exported{secret}, hidden{secret}, &hidden{secret}, []Secret{secret}, map[string]hidden{"a": {secret}}, fmt.Errorf("with %v", secret)} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%p"} {
			fmt.Fprintf(&printed, verb+"\n", v)
		}
		for _, handler := range []slog.Handler{slog.NewTextHandler(&printed, nil), slog.NewJSONHandler(&printed, nil)} {
			slog.New(handler).Info("x", "v", v)
		}
		encoded, _ := json.Marshal(v)
		printed.Write(encoded)
		encoded, _ = xml.Marshal(v)
		printed.Write(encoded)
	}
	printed.WriteString(secret.String() + secret.GoString() + secret.LogValue().String())
	for _, form := range []string{"CANARY", "43414e415259", "43414E415259", "67 65 78"} {
		if strings.Contains(printed.String(), form) {
			t.Errorf("the secret was printed as %s:\n%s", form, printed.String())
		}
	}
	if got := secret.String(); got != "[redacted]" {
		t.Errorf("got %q", got)
	}
}

func TestSecretReveal(t *testing.T) {
	if got := NewSecret("CANARY").Reveal(); got != "CANARY" {
		t.Errorf("got %q", got)
	}
	if !(Secret{}).IsZero() || !NewSecret("").IsZero() || NewSecret("x").IsZero() || (Secret{}).Reveal() != "" {
		t.Error("zero is not told from non-zero")
	}
}
