package db

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ksefmirror/parse"
)

// A receiver begins with what is stored after it was first named, keeps its place
// while it is named, and is forgotten when it is not.
func TestSetReceivers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "invoices.db")
	d := openTest(t, path)
	set := func(receivers ...string) {
		t.Helper()
		if err := d.SetReceivers(t.Context(), receivers); err != nil {
			t.Fatal(err)
		}
	}
	behind := func() map[string]int64 {
		t.Helper()
		all, err := d.Deliveries(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		counts := map[string]int64{}
		for _, one := range all {
			counts[one.Receiver] = one.Behind
		}
		return counts
	}
	set("webhook")
	commit(t, d, Batch{Role: "buyer", Invoices: []Invoice{testInvoice(1), testInvoice(2)}})
	set("webhook", "command")
	commit(t, d, Batch{Role: "buyer", Invoices: []Invoice{testInvoice(2), testInvoice(3)}, Seen: []string{testNumber(1)}})
	if diff := cmp.Diff(map[string]int64{"webhook": 3, "command": 1}, behind()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if err := d.Acknowledge(t.Context(), "webhook", 2, time.Now()); err != nil {
		t.Fatal(err)
	}
	set("webhook", "command")
	if diff := cmp.Diff(map[string]int64{"webhook": 1, "command": 1}, behind()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	set("webhook")
	set("command", "webhook")
	if diff := cmp.Diff(map[string]int64{"webhook": 1, "command": 0}, behind()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if err := d.Offer(t.Context(), "digest", 3); !errors.Is(err, ErrNoReceiver) {
		t.Errorf("got %v", err)
	}
	if _, err := d.Delivery(t.Context(), "digest"); !errors.Is(err, ErrNoReceiver) {
		t.Errorf("got %v", err)
	}
}

// What is recorded of a receiver is read again, also by another process.
func TestDeliveryIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "invoices.db")
	d := openTest(t, path)
	at := time.Date(2026, 11, 22, 9, 30, 0, 0, time.UTC)
	d.now = func() time.Time { return at }
	if err := d.SetReceivers(t.Context(), []string{"webhook"}); err != nil {
		t.Fatal(err)
	}
	commit(t, d, Batch{Role: "buyer", Invoices: []Invoice{testInvoice(1), testInvoice(2), testInvoice(3)}})
	reader, err := OpenReadOnly(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for _, step := range []struct {
		name string
		do   func() error
		want Delivery
	}{
		{"offer", func() error { return d.Offer(t.Context(), "webhook", 2) }, Delivery{OfferedID: 2, Behind: 3}},
		{"failure", func() error { return d.DeliveryFailed(t.Context(), "webhook", "no", at.Add(time.Hour)) },
			Delivery{OfferedID: 2, Behind: 3, Failures: 1, LastError: "no", NextAttempt: at.Add(time.Hour)}},
		{"the last failure", func() error { return d.DeliveryFailed(t.Context(), "webhook", "never", time.Time{}) },
			Delivery{OfferedID: 2, Behind: 3, Failures: 2, LastError: "never"}},
		{"acknowledgement", func() error { return d.Acknowledge(t.Context(), "webhook", 2, at.Add(2*time.Hour)) },
			Delivery{LastID: 2, Behind: 1, LastSuccess: at.Add(2 * time.Hour)}},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		step.want.Receiver, step.want.Since = "webhook", at
		got, err := reader.Delivery(t.Context(), "webhook")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(step.want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", step.name, diff)
		}
	}
	if err := reader.Offer(t.Context(), "webhook", 3); !errors.Is(err, ErrReadOnly) {
		t.Errorf("got %v", err)
	}
}

func TestNewInvoices(t *testing.T) {
	d := newTest(t)
	at := time.Date(2026, 11, 22, 9, 30, 0, 0, time.UTC)
	d.now = func() time.Time { return at }
	for n := 1; n <= 4; n++ {
		in := testInvoice(n)
		in.Gross = parse.Minor{Value: -5, Stated: true}
		commit(t, d, Batch{Role: "buyer", Invoices: []Invoice{in}})
		at = at.Add(time.Hour)
	}
	commit(t, d, Batch{Role: "buyer", Seen: []string{testNumber(2)}})
	got, err := d.NewInvoices(t.Context(), 1, 3, 10)
	if err != nil || len(got) != 2 {
		t.Fatalf("got %v, %v", got, err)
	}
	in := testInvoice(2)
	want := NewInvoice{
		KSeFNumber: in.KSeFNumber, Roles: []string{"buyer", "seller"}, Path: in.Path, Hash: in.Hash, Type: in.APIType, Form: "FA",
		InvoiceNumber: in.InvoiceNumber, IssueDate: in.IssueDate, ReceivedDate: in.ReceivedDate, StoredAt: in.StoredAt.UTC(),
		FirstSeenAt: time.Date(2026, 11, 22, 10, 30, 0, 0, time.UTC), SellerNIP: in.SellerNIP, SellerName: in.Document.Parties[0].Name,
		BuyerIDType: in.BuyerIDType, BuyerID: in.BuyerID, BuyerName: in.Document.Parties[1].Name, Currency: in.Currency,
		Net: "1000.00", VATPLN: "230.00", Gross: "-0.05",
	}
	if diff := cmp.Diff(want, got[0]); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got[1].KSeFNumber != testNumber(3) || len(got[1].Roles) != 1 {
		t.Errorf("got %+v", got[1])
	}
	if got, err := d.NewInvoices(t.Context(), 0, 4, 3); err != nil || len(got) != 3 {
		t.Errorf("got %d, %v", len(got), err)
	}
	counts, err := d.CountNewInvoices(t.Context(), 1, 4)
	if diff := cmp.Diff(map[string]int{"seller": 3, "buyer": 1}, counts); err != nil || diff != "" {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
	for hour, want := range map[int]int64{9: 1, 10: 1, 11: 2, 12: 3, 13: 4, 20: 4} { // the first of them is acknowledged
		before := time.Date(2026, 11, 22, hour, 0, 0, 0, time.UTC)
		if got, err := d.NewestInvoiceBefore(t.Context(), 1, before); err != nil || got != want {
			t.Errorf("before %s: %d, %v, want %d", before, got, err, want)
		}
	}
}
