package ksefsim

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"ksefmirror/internal/ksef"
)

// Invoice is a document to be put into the simulator with [Server.Add].
type Invoice struct {
	XML     []byte      // served exactly so, whatever it is
	Number  ksef.Number // "": made by Add
	Stored  time.Time   // permanent storage date, cut to microseconds; zero: now
	Visible time.Time   // when it can first be listed and fetched; zero: at Stored

	// Metadata, when not nil, changes what was derived from the XML before it is
	// served: a wrong hash, a damaged number, dates in another precision. A Stored
	// that it sets becomes the permanent storage date. A Raw that it sets is
	// served in place of everything else.
	Metadata func(*ksef.Metadata)
}

// Stored is what [Server.Listed] tells of an invoice.
type Stored struct {
	Number    ksef.Number
	XML       []byte // not to be changed
	StoredAt  time.Time
	VisibleAt time.Time
	Metadata  ksef.Metadata
}

// stored is an invoice in the simulator. It never changes.
type stored struct {
	Stored
	row  row    // what queries show
	seen []list // by whom
}

// list names the invoices of one context in one role.
type list struct {
	context ksef.Context
	subject ksef.SubjectType
}

// Add stores invoices and returns their numbers in the same order. An invoice
// is seen by the contexts that its XML names, in the roles that it gives them.
//
// While an invoice is not visible yet, the high water mark does not pass its
// permanent storage date: that is how KSeF keeps its promise that nothing
// appears below the mark. An invoice added below a mark that a client has
// already been told breaks the promise, as has been seen in the wild, and does
// not move the mark back.
//
// It is an error to give a Number that is taken; nothing is stored then.
func (s *Server) Add(invoices ...Invoice) ([]ksef.Number, error) {
	documents, hashes := make([]document, len(invoices)), make([]string, len(invoices))
	inParallel(len(invoices), func(i int) { documents[i], hashes[i] = read(invoices[i].XML), hash(invoices[i].XML) })
	s.mutex.Lock()
	defer s.mutex.Unlock()
	now := s.now().UTC()
	given := make(map[ksef.Number]bool)
	for _, invoice := range invoices {
		if invoice.Number == "" {
			continue
		}
		if given[invoice.Number] || s.numbers[invoice.Number] != nil {
			return nil, fmt.Errorf("add invoice %s: the number is taken", invoice.Number)
		}
		given[invoice.Number] = true
	}
	numbers := make([]ksef.Number, len(invoices))
	for i, invoice := range invoices {
		document := documents[i]
		one := &stored{Stored: Stored{Number: invoice.Number, XML: invoice.XML, StoredAt: invoice.Stored, VisibleAt: invoice.Visible}}
		if one.StoredAt.IsZero() {
			one.StoredAt = now
		}
		one.StoredAt = one.StoredAt.UTC().Truncate(time.Microsecond)
		for one.Number == "" || given[one.Number] && invoice.Number == "" || s.numbers[one.Number] != nil {
			one.Number = s.nextNumber(document.seller.nip, one.StoredAt)
		}
		one.row = document.row(one.Number, one.StoredAt, hashes[i])
		if invoice.Metadata != nil {
			invoice.Metadata(&one.row.Metadata)
			if changed := one.row.Stored.Time(); !changed.IsZero() {
				one.StoredAt = changed
			}
		}
		one.Metadata = one.row.Metadata
		if one.VisibleAt.IsZero() {
			one.VisibleAt = one.StoredAt
		}
		if one.VisibleAt.After(now) && !one.StoredAt.Before(s.promised) {
			s.hidden = append(s.hidden, one)
		}
		s.numbers[one.Number] = one
		one.seen = document.seenBy(s.everyone)
		for _, each := range one.seen {
			s.lists[each] = append(s.lists[each], one)
		}
		numbers[i] = one.Number
	}
	return numbers, nil
}

// inParallel calls do for 0 to n-1 on all processors.
func inParallel(n int, do func(int)) {
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				do(i)
			}
		})
	}
	group.Wait()
}

// nextNumber makes a KSeF number (numer-ksef.md). The mutex is held.
func (s *Server) nextNumber(nip string, at time.Time) ksef.Number {
	s.serial++
	number, err := ksef.NewNumber(fmt.Sprintf("%s-%s-0100%08X", nip, at.Format("20060102"), s.serial))
	if err != nil {
		panic(err) // nip was checked, and a date before 2020 is a programmer's error
	}
	return number
}

// Listed returns every invoice that context ever sees as subject, visible yet or
// not, in the order of permanent storage: the truth that a mirror must reach.
func (s *Server) Listed(context ksef.Context, subject ksef.SubjectType) []Stored {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	all := make([]Stored, 0, len(s.lists[list{context, subject}]))
	for _, one := range s.lists[list{context, subject}] {
		all = append(all, one.Stored)
	}
	slices.SortStableFunc(all, func(a, b Stored) int { return a.StoredAt.Compare(b.StoredAt) })
	return all
}

// SetListed hides an invoice from those who see it as subject, in queries and
// packages, or shows it again. It can be fetched by its number all the same.
func (s *Server) SetListed(number ksef.Number, subject ksef.SubjectType, listed bool) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.unlisted == nil {
		s.unlisted = make(map[unlisted]bool)
	}
	s.unlisted[unlisted{number, subject}] = !listed
}

// unlisted names an invoice in one role.
type unlisted struct {
	number  ksef.Number
	subject ksef.SubjectType
}

// HWM is the high water mark now: HWMLag behind the clock, but not past an
// invoice that is not visible yet.
func (s *Server) HWM() time.Time {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.hwm(s.now().UTC())
}

// hwm is HWM at now. The mutex is held.
func (s *Server) hwm(now time.Time) time.Time {
	if !s.fixedHWM.IsZero() {
		return s.fixedHWM
	}
	s.hidden = slices.DeleteFunc(s.hidden, func(one *stored) bool { return !one.VisibleAt.After(now) })
	mark := now.Add(-s.hwmLag).Truncate(time.Microsecond)
	for _, one := range s.hidden {
		if one.StoredAt.Before(mark) {
			mark = one.StoredAt
		}
	}
	return mark
}

// SetHWM holds the high water mark at an instant, which may lie behind a mark
// already told or past invoices that are not visible yet; the zero time lets it
// move again.
func (s *Server) SetHWM(at time.Time) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.fixedHWM = at.UTC().Truncate(time.Microsecond)
	clear(s.queries) // the mark may change between two pages of one query
}

// LoadFolder reads every *.xml file below dir, in the order of their paths. The
// invoices are stored when they are added.
func LoadFolder(dir string) ([]Invoice, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("load invoices: %w", err)
	}
	defer func() { _ = root.Close() }() // only read from
	var invoices []Invoice
	err = fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.EqualFold(filepath.Ext(path), ".xml") {
			return err
		}
		text, err := fs.ReadFile(root.FS(), path)
		if err != nil {
			return err
		}
		invoices = append(invoices, Invoice{XML: text})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load invoices from %s: %w", dir, err)
	}
	return invoices, nil
}
