//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"ksefmirror/db"
	"ksefmirror/internal/ksef"
	"ksefmirror/internal/tree"
	"ksefmirror/parse"
)

// stages is the CPU that each stage of the pipeline takes by itself: one after the
// other, without the goroutines, queues and look-ups that make a pipeline of them.
type stages struct {
	Download time.Duration // and decrypt into a file
	Unpack   time.Duration // the archive twice, as ReadPackage does: checked, then used
	Parse    time.Duration // and check the hash
	Files    time.Duration
	Database time.Duration
}

func (s stages) sum() time.Duration { return s.Download + s.Unpack + s.Parse + s.Files + s.Database }

// stageBatch is how many invoices go through a stage before the next one begins.
const stageBatch = 500

// stageRun is a measurement of stages under way.
type stageRun struct {
	stages
	db   *db.DB
	tree *tree.Tree
	last time.Duration // the process's CPU at the last lap
}

// lap adds what was used since the last one to a stage.
func (r *stageRun) lap(stage *time.Duration) error {
	now, err := used()
	*stage += now.cpu - r.last
	r.last = now.cpu
	return err
}

func measureStages(ctx context.Context, j mirrorJob) (stages, error) {
	r := &stageRun{}
	if err := os.MkdirAll(j.Dir, 0o750); err != nil {
		return stages{}, err
	}
	d, err := db.Open(ctx, filepath.Join(j.Dir, "database", "invoices.db"), db.Mirror{Environment: "test", ID: "stages"}, slog.New(slog.DiscardHandler))
	if err != nil {
		return stages{}, err
	}
	defer func() { _ = d.Close() }() // nobody reads it
	r.db = d
	if err := tree.Create(filepath.Join(j.Dir, "invoices"), "stages"); err != nil {
		return stages{}, err
	}
	if r.tree, err = tree.Open(filepath.Join(j.Dir, "invoices"), "stages"); err != nil {
		return stages{}, err
	}
	defer r.tree.Close()
	return r.stages, r.run(ctx, j)
}

func (r *stageRun) run(ctx context.Context, j mirrorJob) error {
	c := &clock{}
	remote := client(j.URL, c, forgetful{})
	key := ksef.NewExportKey()
	reference, err := remote.StartExport(ctx, everything(c), false, key)
	if err != nil {
		return err
	}
	status, err := remote.ExportStatus(ctx, reference)
	if err != nil {
		return err
	}
	if status.Package == nil {
		return errors.New("there is no package")
	}
	var started time.Duration
	if err := r.lap(&started); err != nil {
		return err
	}
	var parts []*io.SectionReader
	for _, part := range status.Package.Parts {
		file, err := os.Create(filepath.Join(j.Dir, strconv.Itoa(part.Ordinal)))
		if err != nil {
			return err
		}
		defer file.Close()
		if err := remote.DownloadPart(ctx, part, key, file); err != nil {
			return err
		}
		parts = append(parts, io.NewSectionReader(file, 0, part.Size))
	}
	if err := r.lap(&r.Download); err != nil {
		return err
	}
	metadata, entries, err := ksef.ReadPackage(ctx, status.Package.Compression, parts...)
	if err != nil {
		return err
	}
	rows := make(map[string]*ksef.Metadata, len(metadata))
	for i := range metadata {
		rows[metadata[i].KSeFNumber] = &metadata[i]
	}
	var batch []db.Invoice
	for entry, err := range entries {
		if err != nil {
			return err
		}
		row := rows[string(entry.Number)]
		batch = append(batch, db.Invoice{
			KSeFNumber: row.KSeFNumber, Hash: row.InvoiceHash, StoredAt: row.Stored.Time(), MetadataJSON: row.Raw, ParseStatus: "ok",
			Path: filepath.ToSlash(filepath.Join("purchases", row.IssueDate, row.KSeFNumber+".xml")), XML: bytes.Clone(entry.Content),
		})
		if len(batch) == stageBatch {
			if err := r.store(ctx, batch); err != nil {
				return err
			}
			batch = nil
		}
	}
	return r.store(ctx, batch)
}

// store takes a batch through the stages after unpacking.
func (r *stageRun) store(ctx context.Context, batch []db.Invoice) error {
	if err := r.lap(&r.Unpack); err != nil {
		return err
	}
	for i := range batch {
		sum := sha256.Sum256(batch[i].XML)
		if base64.StdEncoding.EncodeToString(sum[:]) != batch[i].Hash {
			return errors.New("an invoice has another hash than its metadata say")
		}
		document, err := parse.Parse(batch[i].XML)
		if err != nil {
			return err
		}
		batch[i].Document = document
	}
	if err := r.lap(&r.Parse); err != nil {
		return err
	}
	files := make([]tree.File, len(batch))
	for i := range batch {
		files[i] = tree.File{Path: batch[i].Path, Content: batch[i].XML}
	}
	if _, err := r.tree.Put(ctx, files...); err != nil {
		return err
	}
	if err := r.lap(&r.Files); err != nil {
		return err
	}
	if err := r.db.Commit(ctx, db.Batch{Role: "buyer", Invoices: batch}); err != nil {
		return err
	}
	return r.lap(&r.Database)
}
