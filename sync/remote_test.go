package sync_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/ksefsim"
	ksefsync "ksefmirror/sync"
)

// direct opens direct access beside whatever works on the mirror.
func (w *world) direct() *ksefsync.Direct {
	w.tb.Helper()
	d, err := ksefsync.OpenDirect(w.tb.Context(), w.options)
	if err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(func() {
		if err := d.Close(); err != nil {
			w.tb.Error(err)
		}
	})
	return d
}

// create makes the mirror without mirroring anything.
func (w *world) create() {
	w.tb.Helper()
	m, err := ksefsync.Open(w.tb.Context(), w.options)
	if err != nil {
		w.tb.Fatal(err)
	}
	if err := m.Close(); err != nil {
		w.tb.Fatal(err)
	}
}

// query lists by direct access, and gives the numbers.
func (w *world) query(d *ksefsync.Direct, q ksef.Query, fresh bool) ([]string, ksefsync.Listing, error) {
	w.tb.Helper()
	var numbers []string
	listing, err := d.Query(w.tb.Context(), q, fresh, func(row ksef.Metadata) error {
		numbers = append(numbers, row.KSeFNumber)
		return nil
	})
	return numbers, listing, err
}

// inKSeF gives the numbers of what KSeF shows a role.
func (w *world) inKSeF(role string) []string {
	var numbers []string
	for _, s := range w.sim.Listed(company, subjects[role]) {
		numbers = append(numbers, string(s.Number))
	}
	return numbers
}

func (w *world) asked() int { return w.sim.Stats().Requests }

func wantSame(t *testing.T, what string, got, want []string) {
	t.Helper()
	got, want = slices.Clone(got), slices.Clone(want)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %d invoices, want %d", what, len(got), len(want))
	}
}

func from(at time.Time) ksef.Timestamp { return ksef.NewTimestamp(at) }

// Every page, every window of 99 days and what lies beyond the most that KSeF lists
// at once are listed, once each, by every kind of date.
func TestQueryListsAll(t *testing.T) {
	slow(t)
	w := newWorld(t, ksefsim.Options{PageCap: 500})
	w.create()
	w.add(w.generate(4000, 230*24*time.Hour, 1)...)
	for _, by := range []ksef.DateType{ksef.ByPermanentStorage, ksef.ByInvoicing, ksef.ByIssue} {
		d := w.direct()
		got, listing, err := w.query(d, ksef.Query{SubjectType: ksef.Buyer, From: from(start.AddDate(0, 0, -280)), DateType: by}, false)
		if err != nil {
			t.Fatalf("%s: %v", by, err)
		}
		wantSame(t, string(by), got, w.inKSeF("buyer"))
		if listing.FromKSeF != len(got) || listing.FromMirror != 0 || listing.Repeated {
			t.Errorf("%s: %+v", by, listing)
		}
		w.clock.advance(2 * time.Hour) // for a new budget
	}
	// More of one instant than KSeF lists at once cannot be told apart by dates.
	same := w.generate(600, time.Hour, 2)
	for i := range same {
		same[i].Stored = start.Add(-30 * time.Minute)
	}
	w.add(same...)
	role := ksef.Seller
	if len(w.inKSeF("buyer")) > len(w.inKSeF("seller")) {
		role = ksef.Buyer
	}
	w = newWorld(t, ksefsim.Options{PageCap: 100})
	w.create()
	w.add(same...)
	if _, _, err := w.query(w.direct(), ksef.Query{SubjectType: role, From: from(start.AddDate(0, 0, -1))}, false); err == nil || !strings.Contains(err.Error(), "narrow the query") {
		t.Errorf("got %v", err)
	}
}

// What is below the watermark is answered by the mirror, with any filter just as
// KSeF would, and only what is above it by KSeF.
func TestQueryFromMirror(t *testing.T) {
	slow(t)
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(300, 20*24*time.Hour, 3)...)
	w.mustCycle()
	watermark := ksef.Timestamp(w.stream("seller").Watermark)
	d := w.direct()
	before := w.asked()
	all := ksef.Query{SubjectType: ksef.Seller, From: from(start.AddDate(0, 0, -30)), To: from(watermark.Time().Add(-time.Second))}
	got, listing, err := w.query(d, all, false)
	if err != nil || listing.FromKSeF != 0 || listing.MirrorUpTo != all.To || d.Asked() || w.asked() != before {
		t.Fatalf("%v %+v, %d requests", err, listing, w.asked()-before)
	}
	wantSame(t, "all", got, w.inKSeF("seller"))

	yes, no := true, false
	example := w.sim.Listed(company, ksef.Seller)[7].Metadata
	for name, filter := range map[string]ksef.Filter{
		"KSeF number":    {KSeFNumber: example.KSeFNumber},
		"number":         {InvoiceNumber: example.InvoiceNumber},
		"seller":         {SellerNIP: company.Value},
		"another seller": {SellerNIP: "1111111111"},
		"buyer":          {Buyer: &ksef.BuyerID{Type: example.Buyer.Identifier.Type, Value: example.Buyer.Identifier.Value}},
		"any NIP":        {Buyer: &ksef.BuyerID{Type: "Nip"}},
		"none":           {Buyer: &ksef.BuyerID{Type: "None"}},
		"currency":       {Currencies: []string{"EUR", "USD"}},
		"types":          {InvoiceTypes: []string{"Kor", "Zal"}},
		"mode":           {InvoicingMode: "Offline"},
		"form":           {FormType: "FA"},
		"self-invoicing": {IsSelfInvoicing: &yes},
		"none such":      {IsSelfInvoicing: &no},
		"attachment":     {HasAttachment: &yes},
		"gross":          {Amount: &ksef.AmountRange{Type: "Brutto", From: "1000", To: "5000.50"}},
		"net":            {Amount: &ksef.AmountRange{Type: "Netto", From: example.NetAmount, To: example.NetAmount}},
		"negative VAT":   {Amount: &ksef.AmountRange{Type: "Vat", To: "-0.01"}},
	} {
		q := all
		q.Filter = filter
		mirrors, listing, err := w.query(d, q, false)
		if err != nil || listing.FromKSeF != 0 {
			t.Fatalf("%s: %v %+v", name, err, listing)
		}
		ksefs, listing, err := w.query(d, q, true)
		if err != nil || listing.FromMirror != 0 {
			t.Fatalf("%s: %v %+v", name, err, listing)
		}
		wantSame(t, name, mirrors, ksefs)
		w.clock.advance(10 * time.Minute)
	}

	// Newer ones come from KSeF, for one request; at the watermark itself too.
	w.add(w.fresh(6, 4)...)
	w.clock.advance(5 * time.Minute)
	before = w.sim.Stats().ByGroup[ksef.GroupMetadata]
	open := all
	open.To = ""
	got, listing, err = w.query(d, open, false)
	if err != nil || listing.FromMirror == 0 || listing.MirrorUpTo != watermark || w.sim.Stats().ByGroup[ksef.GroupMetadata]-before != 1 {
		t.Errorf("%v %+v", err, listing)
	}
	wantSame(t, "open range", got, w.inKSeF("seller"))
	// By another date, or from before what is mirrored, only KSeF can tell.
	for name, change := range map[string]func(*ksef.Query){
		"by issue":  func(q *ksef.Query) { q.DateType = ksef.ByIssue },
		"too early": func(q *ksef.Query) { q.From = "2026-01-15T00:00:00Z"; q.To = "2026-02-15T00:00:00Z" },
	} {
		q := all
		change(&q)
		if _, listing, err := w.query(d, q, false); err != nil || listing.FromMirror != 0 || listing.MirrorUpTo != "" {
			t.Errorf("%s: %v %+v", name, err, listing)
		}
		w.clock.advance(time.Hour)
	}
}

// A query that the budget cuts short says where it can go on, and then does.
func TestQueryWithoutBudget(t *testing.T) {
	slow(t)
	w := newWorld(t, ksefsim.Options{Limits: ksef.DefaultLimits(), PageCap: 1000})
	w.create()
	w.add(w.generate(12_000, 20*24*time.Hour, 5)...)
	q := ksef.Query{SubjectType: ksef.Buyer, From: from(start.AddDate(0, 0, -25))}
	got, listing, err := w.query(w.direct(), q, false)
	budget := asBudget(err)
	if budget == nil || budget.Group != ksef.GroupMetadata || len(got) < 4500 {
		t.Fatalf("%d invoices, %v", len(got), err)
	}
	w.clock.advance(budget.Until.Sub(w.clock.Now()))
	q.From = listing.Reached
	for range 3 {
		var more []string
		if more, listing, err = w.query(w.direct(), q, false); err != nil {
			w.clock.advance(time.Hour + time.Minute)
		}
		got, q.From = append(got, more...), listing.Reached
	}
	slices.Sort(got)
	wantSame(t, "in turns", slices.Compact(got), w.inKSeF("buyer"))
	if w.sim.Stats().TooMany != 0 {
		t.Errorf("%d answers 429", w.sim.Stats().TooMany)
	}
}

// The mirror and the person draw on one budget, also at the same time, and each
// heeds at once how KSeF blocked the other.
func TestDirectSharesBudget(t *testing.T) {
	w := newWorld(t, ksefsim.Options{Limits: ksef.DefaultLimits()})
	w.add(w.generate(5, time.Hour, 6)...)
	m, err := ksefsync.Open(t.Context(), w.options) // as the daemon has it
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	if _, err := m.Cycle(t.Context()); err != nil {
		t.Fatal(err)
	}
	d := w.direct()
	q := ksef.Query{SubjectType: ksef.Buyer, From: from(start.AddDate(0, 0, -1))}
	for asked := 0; ; asked++ {
		if _, _, err = w.query(d, q, true); err != nil {
			if asBudget(err) == nil || asked < 10 {
				t.Fatalf("after %d: %v", asked, err)
			}
			break
		}
	}
	groups, err := d.Budget(t.Context())
	if err != nil || groups[0].Left != 0 || groups[2].Left == 0 {
		t.Errorf("budget %+v, %v", groups, err)
	}
	if _, err := m.Cycle(t.Context()); asBudget(err) == nil {
		t.Errorf("the mirror's next cycle: %v, want a BudgetError", err)
	}
	w.clock.advance(2 * time.Hour)
	w.sim.Fault(ksefsim.TooMany("/invoices/query/metadata", 1, "1800"))
	if _, _, err := w.query(d, q, true); asBudget(err) == nil {
		t.Fatalf("got %v", err)
	}
	before := w.sim.Stats().ByGroup[ksef.GroupMetadata]
	if _, err := m.Cycle(t.Context()); asBudget(err) == nil {
		t.Errorf("the mirror's cycle while KSeF blocks the person: %v", err)
	}
	if asked := w.sim.Stats().ByGroup[ksef.GroupMetadata] - before; asked != 0 || w.sim.Stats().TooMany != 0 {
		t.Errorf("%d queries in spite of the block, %d answers 429", asked, w.sim.Stats().TooMany)
	}
}

// Direct access changes nothing of the mirror but its log.
func TestDirectTouchesNothing(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	if _, err := ksefsync.OpenDirect(t.Context(), w.options); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "never run") {
		t.Errorf("without a mirror: %v", err)
	}
	if _, err := os.Stat(w.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("it made the mirror's folder")
	}
	w.add(w.generate(40, 10*24*time.Hour, 7)...)
	w.mustCycle()
	w.add(w.fresh(30, 8)...)
	w.clock.advance(5 * time.Minute)
	streams := func() []db.Stream {
		var all []db.Stream
		for _, role := range roles {
			all = append(all, w.stream(role))
		}
		return all
	}
	before, invoices := streams(), w.status().Invoices
	d := w.direct()
	q := ksef.Query{SubjectType: ksef.Buyer, From: from(start.AddDate(0, 0, -30))}
	if _, _, err := w.query(d, q, false); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Export(t.Context(), q, filepath.Join(t.TempDir(), "export"), true); err != nil {
		t.Fatal(err)
	}
	if after := streams(); !slices.Equal(before, after) || w.status().Invoices != invoices {
		t.Errorf("streams %+v became %+v", before, after)
	}
	w.check()
	w.mustCycle()
	w.complete()
}

func TestDownload(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	w.add(w.generate(3, time.Hour, 9)...)
	w.mustCycle()
	mirrored := w.sim.Listed(company, ksef.Buyer)
	if len(mirrored) == 0 {
		mirrored = w.sim.Listed(company, ksef.Seller)
	}
	d := w.direct()
	before := w.asked()
	got, err := d.Download(t.Context(), mirrored[0].Number, false)
	if err != nil || !got.FromMirror || !bytes.Equal(got.XML, mirrored[0].XML) || w.asked() != before || d.Asked() {
		t.Errorf("mirrored: %v, from the mirror %t, %d requests", err, got.FromMirror, w.asked()-before)
	}
	got, err = d.Download(t.Context(), mirrored[0].Number, true)
	if err != nil || got.FromMirror || got.Differs || !bytes.Equal(got.XML, mirrored[0].XML) || !d.Asked() {
		t.Errorf("fresh: %v %t", err, got.FromMirror)
	}
	numbers := w.add(w.fresh(1, 10)...)
	w.clock.advance(5 * time.Minute)
	if got, err = d.Download(t.Context(), numbers[0], false); err != nil || got.FromMirror {
		t.Errorf("not mirrored: %v", err)
	}
	unknown, err := ksef.NewNumber("5265877635-20261120-FFFFFFFFFFFF")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Download(t.Context(), unknown, false); !errors.Is(err, ksef.ErrNotFound) {
		t.Errorf("unknown: %v", err)
	}
	w.fault("/invoices/ksef/*", 1, func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) {
		rw.Header().Set("Content-Type", "application/xml")
		_, _ = rw.Write([]byte("<another/>"))
	})
	if got, err = d.Download(t.Context(), mirrored[0].Number, true); err != nil || !got.Differs {
		t.Errorf("another invoice under the number: differs %t, %v", got.Differs, err)
	}
}

// exported checks that a folder holds exactly the invoices of a role that KSeF
// shows, with their metadata, and nothing left over.
func (w *world) exported(dir, role string) {
	w.tb.Helper()
	want := map[string]ksefsim.Stored{}
	for _, s := range w.sim.Listed(company, subjects[role]) {
		want[string(s.Number)] = s
	}
	found := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasPrefix(entry.Name(), ".ksefmirror") && entry.Name() == ".ksefmirror" {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		switch filepath.Ext(path) {
		case ".xml":
			found++
			name := strings.TrimSuffix(filepath.Base(path), ".xml")
			number := name[len(name)-35:]
			if !bytes.Equal(content, want[number].XML) {
				w.tb.Errorf("%s is not what KSeF serves", path)
			}
			var row ksef.Metadata
			beside, err := os.ReadFile(strings.TrimSuffix(path, ".xml") + ".json")
			if err != nil || json.Unmarshal(beside, &row) != nil || row.KSeFNumber != number {
				w.tb.Errorf("metadata of %s: %v", number, err)
			}
		case ".json":
			if entry.Name() == ".ksefmirror-export.json" {
				w.tb.Error("the note of an unfinished export is left")
			}
		default:
			w.tb.Errorf("left over: %s", path)
		}
		return nil
	})
	if err != nil {
		w.tb.Fatal(err)
	}
	if found != len(want) {
		w.tb.Errorf("%d invoices are exported, want %d", found, len(want))
	}
}

// Where an export comes from, and what it costs.
func TestExportRoutes(t *testing.T) {
	w := newWorld(t, ksefsim.Options{PartSize: 20_000, PackageCap: 300})
	w.add(w.generate(900, 20*24*time.Hour, 11)...)
	dir := filepath.Join(t.TempDir(), "export")
	since := from(start.AddDate(0, 0, -25))
	export := func(q ksef.Query, fresh bool) (ksefsync.Exported, map[ksef.Group]int) {
		t.Helper()
		before := w.sim.Stats().ByGroup
		done, err := w.direct().Export(t.Context(), q, dir, fresh)
		if err != nil || len(done.Failed) > 0 || len(done.Kept) > 0 {
			t.Fatalf("%v %+v", err, done)
		}
		cost := w.sim.Stats().ByGroup
		for group := range cost {
			cost[group] -= before[group]
		}
		w.exported(dir, roleName(q.SubjectType))
		w.clock.advance(time.Hour)
		return done, cost
	}
	// Nothing is mirrored: packages, in many parts, one after the other. None of it goes
	// through the mirror's own folder for packages, which another process may empty.
	w.create()
	packages := filepath.Join(w.dir, "packages")
	if err := os.RemoveAll(packages); err != nil {
		t.Fatal(err)
	}
	done, cost := export(ksef.Query{SubjectType: ksef.Buyer, From: since}, false)
	n := len(w.inKSeF("buyer"))
	if done.FromKSeF != n || done.Packages < 2 || cost[ksef.GroupExport] != done.Packages || cost[ksef.GroupDownload] != 0 || len(w.sim.Stats().Parts) < 3*done.Packages {
		t.Errorf("%+v, %v, %d parts", done, cost, len(w.sim.Stats().Parts))
	}
	for _, gone := range []string{packages, filepath.Join(dir, ".ksefmirror-parts")} {
		if _, err := os.Stat(gone); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", gone, err)
		}
	}
	// The same once more: they are there.
	if done, _ = export(ksef.Query{SubjectType: ksef.Buyer, From: since, DateType: ksef.ByIssue}, false); done.Present != n || done.FromKSeF != 0 {
		t.Errorf("%+v", done)
	}
	// Mirrored: nothing is asked.
	w.mustCycle()
	dir = filepath.Join(t.TempDir(), "mirrored")
	before := w.asked()
	q := ksef.Query{SubjectType: ksef.Buyer, From: since, To: from(start.Add(-30 * time.Minute))}
	if done, _ = export(q, false); done.FromMirror != n || w.asked() != before {
		t.Errorf("%+v, %d requests", done, w.asked()-before)
	}
	// A few new ones: one listing, and each of them singly.
	w.add(w.fresh(20, 12)...)
	w.clock.advance(5 * time.Minute)
	newer := len(w.inKSeF("buyer")) - n
	q.To = ""
	dir = filepath.Join(t.TempDir(), "newer")
	if done, cost = export(q, false); done.FromMirror != n || done.FromKSeF != newer || cost[ksef.GroupMetadata] != 1 || cost[ksef.GroupDownload] != newer || done.Packages != 0 {
		t.Errorf("%+v, %v, want %d new", done, cost, newer)
	}
	// Fresh: all from KSeF, whatever is mirrored.
	dir = filepath.Join(t.TempDir(), "fresh")
	if done, _ = export(q, true); done.FromMirror != 0 || done.FromKSeF != n+newer {
		t.Errorf("%+v", done)
	}
}

func roleName(subject ksef.SubjectType) string {
	for role, s := range subjects {
		if s == subject {
			return role
		}
	}
	return ""
}

// A budget that ends half-way costs nothing: the same call goes on, and fetches
// nothing twice.
func TestExportGoesOn(t *testing.T) {
	limits := ksef.DefaultLimits()
	limits[ksef.GroupExport] = ksef.Limit{PerSecond: 8, PerMinute: 16, PerHour: 2}
	w := newWorld(t, ksefsim.Options{Limits: limits, PackageCap: 100})
	w.create()
	w.add(w.generate(900, 20*24*time.Hour, 13)...)
	dir := filepath.Join(t.TempDir(), "export")
	q := ksef.Query{SubjectType: ksef.Buyer, From: from(start.AddDate(0, 0, -25))}
	fetched, refused := 0, 0
	for range 10 {
		done, err := w.direct().Export(t.Context(), q, dir, false)
		fetched += done.FromKSeF
		if err == nil {
			break
		}
		budget := asBudget(err)
		if budget == nil {
			t.Fatal(err)
		}
		if refused++; refused == 1 {
			other := q
			other.SubjectType = ksef.Seller
			if _, err := w.direct().Export(t.Context(), other, dir, false); err == nil || !strings.Contains(err.Error(), "beginning of another export") {
				t.Errorf("another export into the same folder: %v", err)
			}
		}
		w.clock.advance(budget.Until.Sub(w.clock.Now()) + time.Second)
	}
	w.exported(dir, "buyer")
	if n := len(w.inKSeF("buyer")); fetched != n || refused == 0 || w.sim.Stats().TooMany != 0 {
		t.Errorf("fetched %d of %d in %d goes, %d answers 429", fetched, n, refused+1, w.sim.Stats().TooMany)
	}
}

// Nothing in the folder is overwritten, what KSeF serves wrongly is not written,
// and the mirror's own folders are out of bounds.
func TestExportHostile(t *testing.T) {
	w := newWorld(t, ksefsim.Options{})
	w.create()
	w.add(w.generate(12, time.Hour, 14)...)
	q := ksef.Query{SubjectType: ksef.Buyer, From: from(start.AddDate(0, 0, -1))}
	for _, dir := range []string{w.dir, filepath.Join(w.dir, "database"), filepath.Join(w.dir, "invoices", "x")} {
		if _, err := w.direct().Export(t.Context(), q, dir, false); err == nil || !strings.Contains(err.Error(), "part of the mirror") {
			t.Errorf("into %s: %v", dir, err)
		}
	}
	victim := w.sim.Listed(company, ksef.Buyer)[1]
	w.sim.Fault(ksefsim.RewriteBody("/invoices/ksef/"+string(victim.Number), 0, func(xml []byte) []byte { return xml[1:] }))
	dir := filepath.Join(t.TempDir(), "export")
	done, err := w.direct().Export(t.Context(), q, dir, false)
	if err != nil || len(done.Failed) != 1 || done.Failed[0].KSeFNumber != string(victim.Number) {
		t.Fatalf("%v %+v", err, done)
	}
	w.sim.ClearFaults()
	files, err := filepath.Glob(filepath.Join(dir, "*", "*", "*", "*.xml"))
	if err != nil || len(files) != len(w.inKSeF("buyer"))-1 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	if err := os.Chmod(files[0], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[0], []byte("my notes"), 0o600); err != nil {
		t.Fatal(err)
	}
	done, err = w.direct().Export(t.Context(), q, dir, false)
	if err != nil || len(done.Kept) != 1 || done.FromKSeF != 2 {
		t.Fatalf("%v %+v", err, done)
	}
	if kept, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(done.Kept[0]))); err != nil || string(kept) != "my notes" {
		t.Errorf("kept: %q, %v", kept, err)
	}
	// Another mirror's folder is not taken for one's own.
	other := newWorld(t, ksefsim.Options{})
	other.create()
	if _, err := w.direct().Export(t.Context(), q, filepath.Join(other.dir, "invoices"), false); err == nil || !strings.Contains(err.Error(), "belongs to the mirror") {
		t.Errorf("into another mirror: %v", err)
	}
	// Listed with another hash than KSeF serves, singly and in a package.
	for _, n := range []int{16, 60} {
		lying := newWorld(t, ksefsim.Options{})
		lying.create()
		invoices := lying.generate(n, time.Hour, 16)
		for i := range invoices {
			invoices[i].Metadata = func(row *ksef.Metadata) { row.InvoiceHash = hash([]byte("another")) }
		}
		lying.add(invoices...)
		dir := filepath.Join(t.TempDir(), "lying")
		done, err := lying.direct().Export(t.Context(), q, dir, false)
		files, globErr := filepath.Glob(filepath.Join(dir, "*", "*", "*", "*.xml"))
		if err != nil || globErr != nil || len(done.Failed) != len(lying.inKSeF("buyer")) || len(done.Failed) == 0 || len(files) != 0 || (done.Packages > 0) != (n == 60) {
			t.Errorf("%v, %d failed and %d files of %d, %d packages", err, len(done.Failed), len(files), n, done.Packages)
		}
	}
	// A package whose bytes are wrong counts for nothing.
	w.add(w.fresh(60, 15)...)
	w.clock.advance(5 * time.Minute)
	w.sim.SetExportOutcome(ksefsim.ExportOutcome{Archive: func(b []byte) []byte { return b[:len(b)/2] }})
	if _, err := w.direct().Export(t.Context(), q, filepath.Join(t.TempDir(), "wrong"), false); err == nil || !strings.Contains(err.Error(), "came to nothing") {
		t.Errorf("a broken package: %v", err)
	}
}
