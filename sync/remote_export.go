package sync

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/tree"
)

const (
	// exportTree is what the marker of a folder that holds an export says.
	exportTree = "remote export"
	// exportState is the file that says where an unfinished export goes on.
	exportState = ".ksefmirror-export.json"
	// exportParts is the folder for the parts of a package while it is read.
	exportParts = ".ksefmirror-parts"
	// placeEvery is how many invoices are written together.
	placeEvery = 200
)

// Exported is what [Direct.Export] did.
type Exported struct {
	Present    int       // invoices that the folder had already
	FromMirror int       // written from the mirror's copy
	FromKSeF   int       // written as KSeF served them
	Packages   int       // asked for
	Reached    string    // everything up to here is in the folder: where the next call goes on after an error
	Kept       []string  // where something that stood in the way was kept, below the folder
	Failed     []Waiting // listed, but not to be had
}

// Export writes the invoices that q selects into the folder dir, named as in the
// mirror's folder, each with its metadata as JSON beside it. It asks KSeF for as
// little as it can: nothing below the watermark; else a page of metadata, and then
// a few single invoices, or a package, which costs one request for 10,000.
//
// After an error what was written stays, and the next call with the same query
// goes on from there. A crash costs the package that was under way. Nothing in dir
// is ever overwritten; a file of an invoice's name with other content is renamed.
func (d *Direct) Export(ctx context.Context, q ksef.Query, dir string, fresh bool) (Exported, error) {
	if err := q.Check(); err != nil {
		return Exported{}, err
	}
	x := &export{
		Direct: d, query: q, fresh: fresh, dir: dir, planned: map[string]bool{},
		stream: &stream{Mirror: d.m, role: roleOf(q.SubjectType), subject: q.SubjectType},
	}
	if err := x.open(); err != nil {
		return x.done, err
	}
	err := x.run(ctx)
	if err == nil {
		err = os.Remove(filepath.Join(dir, exportState))
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	return x.done, errors.Join(err, os.RemoveAll(filepath.Join(dir, exportParts)), x.tree.Close())
}

// export is one call of Export.
type export struct {
	*Direct
	stream  *stream
	query   ksef.Query // From is where to go on
	fresh   bool
	dir     string
	tree    *tree.Tree
	given   []byte // the query as it was given
	batch   []tree.File
	planned map[string]bool // numbers dealt with: some are listed twice
	done    Exported
}

// state is the content of the file exportState.
type state struct {
	Query json.RawMessage `json:"query"`
	From  ksef.Timestamp  `json:"from"` // where to go on
}

// open makes the folder, and takes up what an unfinished export left in it.
func (x *export) open() (err error) {
	// Nothing but SQLite may open a file beside the database, and the mirror's other
	// folders are the mirror's.
	inside, err := isInside(x.dir, x.m.Dir)
	if err != nil {
		return err
	}
	if inside {
		return fmt.Errorf("%s is part of the mirror: choose another folder", x.dir)
	}
	if x.given, err = json.Marshal(x.query); err != nil {
		return err
	}
	var left state
	text, err := os.ReadFile(filepath.Join(x.dir, exportState))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case json.Unmarshal(text, &left) != nil || left.From.Time().IsZero():
		return fmt.Errorf("%s is damaged: delete it to begin again; invoices that are there are not fetched again one by one", filepath.Join(x.dir, exportState))
	case !bytes.Equal(left.Query, x.given):
		return fmt.Errorf("%s holds the beginning of another export: repeat that command, or choose another folder", x.dir)
	default:
		x.query.From = left.From
	}
	x.done.Reached = string(x.query.From)
	if err := tree.Create(x.dir, exportTree); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(x.dir, exportParts)); err != nil { // of a crash
		return err
	}
	x.tree, err = tree.Open(x.dir, exportTree)
	return err
}

// isInside tells whether a folder is another one or lies in it.
func isInside(dir, other string) (bool, error) {
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return false, err
	}
	inside, err := filepath.Rel(other, absolute)
	return err == nil && filepath.IsLocal(inside), nil // an error: it is on another volume
}

func (x *export) run(ctx context.Context) error {
	upTo, all, err := x.mirrored(ctx, x.query, x.fresh)
	if err != nil {
		return err
	}
	if upTo != "" {
		var rows []ksef.Metadata
		for row, err := range x.listed(ctx, x.query, upTo, all) {
			if err != nil {
				return err
			}
			if rows = append(rows, row); len(rows) == placeEvery {
				if err := x.placeAll(ctx, rows); err != nil {
					return err
				}
				rows = nil
			}
		}
		if err := x.placeAll(ctx, rows); err != nil {
			return err
		}
		if err := x.reached(ctx, upTo); err != nil || all {
			return err
		}
	}
	for {
		part, more := x.window(x.query)
		next, cut, err := x.part(ctx, part)
		if err != nil {
			return err
		}
		switch {
		case cut && next.Compare(part.From) <= 0:
			return tooMany(part, next)
		case cut:
		case !more:
			return nil
		default:
			next = behind(part.To)
		}
		if err := x.reached(ctx, next); err != nil {
			return err
		}
	}
}

// part writes the invoices of one window. cut says that there are more, from next
// on.
func (x *export) part(ctx context.Context, q ksef.Query) (next ksef.Timestamp, cut bool, err error) {
	remote, err := x.remote(ctx)
	if err != nil {
		return "", false, err
	}
	page, err := remote.QueryMetadata(ctx, q, 0, pageSize)
	if errors.Is(err, ksef.ErrNothingNew) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	// With more than a page, a package lists the rest for one request, and brings
	// it too.
	if page.HasMore || page.IsTruncated {
		return x.pack(ctx, q)
	}
	missing, err := x.place(ctx, page.Invoices)
	if err != nil {
		return "", false, err
	}
	if len(missing) > singles {
		return x.pack(ctx, q)
	}
	for _, one := range missing {
		err := x.single(ctx, remote, one)
		var spent *ksef.BudgetError
		if errors.As(err, &spent) && spent.Group == ksef.GroupDownload {
			return x.pack(ctx, q)
		}
		if err != nil {
			return "", false, errors.Join(err, x.flush(context.WithoutCancel(ctx)))
		}
	}
	return "", false, x.flush(ctx)
}

// placeAll is place, followed by single downloads of what the mirror should have
// but cannot read.
func (x *export) placeAll(ctx context.Context, rows []ksef.Metadata) error {
	missing, err := x.place(ctx, rows)
	for i := 0; i < len(missing) && err == nil; i++ {
		var remote Remote
		if remote, err = x.remote(ctx); err == nil {
			err = x.single(ctx, remote, missing[i])
		}
	}
	return errors.Join(err, x.flush(context.WithoutCancel(ctx)))
}

// wanted is an invoice that only KSeF has.
type wanted struct {
	row  *ksef.Metadata
	path string // in the folder
}

// place writes the rows whose invoices the folder or the mirror has, and gives
// the others.
func (x *export) place(ctx context.Context, rows []ksef.Metadata) (missing []wanted, err error) {
	known, err := x.stream.known(ctx, rows)
	if err != nil {
		return nil, err
	}
	for i := range rows {
		row := &rows[i]
		number, err := ksef.ParseNumber(row.KSeFNumber)
		if err != nil {
			x.fail(row, err.Error())
			continue
		}
		stored := known[row.KSeFNumber]
		path := x.path(row, number, stored)
		xml, err := x.tree.Read(path)
		if err == nil && hashOf(xml) == row.InvoiceHash {
			x.add(row, path, xml, &x.done.Present)
			continue
		}
		if !x.fresh && stored.Hash == row.InvoiceHash {
			if xml, err = x.m.db.Document(ctx, row.KSeFNumber); err == nil {
				x.add(row, path, xml, &x.done.FromMirror)
				continue
			}
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		missing = append(missing, wanted{row, path})
	}
	return missing, x.flush(ctx)
}

// path is where the mirror has an invoice, or would have it.
func (x *export) path(row *ksef.Metadata, number ksef.Number, stored db.Known) string {
	if stored.Path != "" {
		return stored.Path
	}
	return x.stream.path(row, number)
}

// single fetches one invoice. An error means that no other can be fetched now.
func (x *export) single(ctx context.Context, remote Remote, one wanted) error {
	xml, err := remote.Invoice(ctx, ksef.Number(one.row.KSeFNumber))
	var refused *ksef.Error
	switch {
	case errors.Is(err, ksef.ErrHashMismatch), errors.As(err, &refused) && refusedForGood(refused):
		x.fail(one.row, err.Error())
	case err != nil:
		return err
	default:
		x.arrived(one, xml)
	}
	return nil
}

// arrived takes an invoice that KSeF served.
func (x *export) arrived(one wanted, xml []byte) {
	if got := hashOf(xml); got != one.row.InvoiceHash {
		x.fail(one.row, fmt.Sprintf("the SHA-256 of the invoice as served is %s, KSeF's metadata says %s", got, one.row.InvoiceHash))
		return
	}
	x.add(one.row, one.path, xml, &x.done.FromKSeF)
}

// add puts an invoice and its metadata into the batch, and counts it, once.
func (x *export) add(row *ksef.Metadata, path string, xml []byte, count *int) {
	if x.planned[row.KSeFNumber] {
		return
	}
	x.planned[row.KSeFNumber] = true
	*count++
	if count != &x.done.Present {
		x.batch = append(x.batch, tree.File{Path: path, Content: xml})
	}
	// KSeF does not always write a row in the same way; what is there is as good.
	beside := strings.TrimSuffix(path, ".xml") + ".json"
	if _, err := x.tree.Read(beside); err == nil {
		return
	}
	var text bytes.Buffer
	if err := json.Indent(&text, row.Raw, "", "  "); err != nil {
		text.Write(row.Raw) // cannot be: it was decoded
	}
	text.WriteByte('\n')
	x.batch = append(x.batch, tree.File{Path: beside, Content: text.Bytes()})
}

func (x *export) fail(row *ksef.Metadata, reason string) {
	if x.planned[row.KSeFNumber] {
		return
	}
	x.planned[row.KSeFNumber] = true
	x.done.Failed = append(x.done.Failed, Waiting{row.KSeFNumber, x.stream.role, reason})
}

// flush writes the batch.
func (x *export) flush(ctx context.Context) error {
	kept, err := x.tree.Put(ctx, x.batch...)
	for _, k := range kept {
		x.done.Kept = append(x.done.Kept, k.Beside)
	}
	if err == nil {
		x.batch = nil
	}
	return err
}

// reached notes, once the files are written, that the export goes on from there. A
// crash before it repeats what came since the last note.
func (x *export) reached(ctx context.Context, from ksef.Timestamp) error {
	if err := x.flush(ctx); err != nil {
		return err
	}
	x.query.From, x.done.Reached = from, string(from)
	text, err := json.Marshal(state{x.given, from})
	if err != nil {
		return err
	}
	name := filepath.Join(x.dir, exportState)
	if err := os.WriteFile(name+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

// pack writes the invoices of one window by a package.
func (x *export) pack(ctx context.Context, q ksef.Query) (next ksef.Timestamp, cut bool, err error) {
	if err := x.flush(ctx); err != nil {
		return "", false, err
	}
	key := ksef.NewExportKey()
	e := db.Export{Key: key.Key[:], IV: key.IV[:], CreatedAt: x.m.Now()}
	if e.Reference, err = x.m.remote.StartExport(ctx, q, false, key); err != nil {
		return "", false, err
	}
	x.done.Packages++
	x.m.Log.Info("waiting until KSeF has made a package", "reference", e.Reference)
	parts := filepath.Join(x.dir, exportParts)
	if err := os.MkdirAll(parts, 0o700); err != nil {
		return "", false, err
	}
	until := e.CreatedAt.Add(2 * abandonAfter) // a person waits until it is given up
	err = x.stream.withPackage(ctx, e, parts, until, func(p *ksef.Package, files []*os.File) (err error) {
		next, cut, err = x.unpack(ctx, q, p, files)
		return err
	})
	if errors.Is(err, ksef.ErrNothingNew) {
		return "", false, nil
	}
	return next, cut, err
}

// unpack writes what a package holds, if it agrees with itself.
func (x *export) unpack(ctx context.Context, q ksef.Query, p *ksef.Package, files []*os.File) (next ksef.Timestamp, cut bool, err error) {
	pack, invoices, err := readPackage(ctx, p, files)
	if err != nil {
		return "", false, err
	}
	rows := make(map[string]*ksef.Metadata, len(pack.rows))
	for i := range pack.rows {
		rows[pack.rows[i].KSeFNumber] = &pack.rows[i]
	}
	known, err := x.stream.known(ctx, pack.rows)
	if err != nil {
		return "", false, err
	}
	held := 0
	for entry, err := range invoices {
		if err != nil {
			return "", false, errors.Join(err, errExport)
		}
		row := rows[string(entry.Number)]
		if row == nil {
			return "", false, fmt.Errorf("the package holds an invoice that it does not list: %w", errExport)
		}
		held++
		x.unpacked(row, entry, known[row.KSeFNumber])
		if len(x.batch) >= placeEvery {
			if err := x.flush(ctx); err != nil {
				return "", false, err
			}
		}
	}
	if held != len(rows) {
		return "", false, fmt.Errorf("the package lists %d invoices and holds %d: %w", len(rows), held, errExport)
	}
	if err := x.flush(ctx); err != nil || !pack.full {
		return "", false, err
	}
	next, err = x.lastDate(q, pack.rows)
	return next, true, err
}

// unpacked takes one invoice of a package, unless the folder has it already.
func (x *export) unpacked(row *ksef.Metadata, entry ksef.PackageEntry, stored db.Known) {
	path := x.path(row, entry.Number, stored)
	if there, err := x.tree.Read(path); err == nil && hashOf(there) == row.InvoiceHash {
		x.add(row, path, there, &x.done.Present)
		return
	}
	x.arrived(wanted{row, path}, slices.Clone(entry.Content))
}
