package db

import (
	"context"
	"crypto/sha256"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// Invoices are small and much alike, so alone they compress badly: most of one
// is the element names that all of them have. A dictionary of our own making
// holds what they share.
//
// A database keeps every dictionary it was written with. A new one may be
// shipped at any time and serves the documents stored from then on.
//
//go:generate go run ./dictionary
//go:embed dictionary/invoices.zdict
var invoiceDictionary []byte

// maxDocument bounds the memory that one document can take, in bytes: twenty
// times what KSeF accepts (limity.md: 3 MB with attachments).
const maxDocument = 64 << 20

// compressor compresses documents. It may be used from several goroutines.
type compressor struct{ *zstd.Encoder }

func newCompressor(dictionary []byte) (*compressor, error) {
	encoder, err := zstd.NewWriter(nil,
		zstd.WithEncoderDict(dictionary),
		// The better levels save a tenth, and take six times as long: they copy large
		// tables of the dictionary for each document.
		zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), // the SHA-256 in the row tells more
	)
	if err != nil {
		return nil, fmt.Errorf("zstd dictionary for documents: %w", err)
	}
	return &compressor{encoder}, nil
}

// decompressor reads documents of one dictionary. It may be used from several
// goroutines.
type decompressor struct{ *zstd.Decoder }

func newDecompressor(dictionary []byte) (*decompressor, error) {
	decoder, err := zstd.NewReader(nil,
		zstd.WithDecoderDicts(dictionary),
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderMaxMemory(maxDocument),
	)
	if err != nil {
		return nil, fmt.Errorf("zstd dictionary: %w", err)
	}
	return &decompressor{decoder}, nil
}

const (
	selectDictionaryID = `SELECT id FROM dictionaries WHERE sha256 = ?`
	selectDictionary   = `SELECT content FROM dictionaries WHERE id = ?`
	insertDictionary   = `INSERT INTO dictionaries(sha256, content) VALUES(?, ?) ON CONFLICT(sha256) DO NOTHING`
)

// useDictionary makes the dictionary the one for new documents, and the database
// keep it.
func (d *DB) useDictionary(ctx context.Context, dictionary []byte) error {
	d.shipped = dictionary
	sum := sha256.Sum256(dictionary)
	find := d.read.statements[selectDictionaryID]
	err := find.QueryRowContext(ctx, sum[:]).Scan(&d.dictionary)
	if !errors.Is(err, sql.ErrNoRows) {
		return d.explain("read the dictionaries of", err)
	}
	err = d.transaction(ctx, "store the dictionary in", func(ctx context.Context, tx *sql.Tx) error {
		_, err := d.exec(ctx, tx, insertDictionary, sum[:], dictionary)
		return err
	})
	if err != nil {
		return err
	}
	return d.explain("read the dictionaries of", find.QueryRowContext(ctx, sum[:]).Scan(&d.dictionary))
}

// compress compresses what is stored of a document. It may be called from several
// goroutines.
func (d *DB) compress(document []byte) ([]byte, error) {
	d.compressorMu.Lock()
	defer d.compressorMu.Unlock()
	if d.compressor == nil {
		var err error
		if d.compressor, err = newCompressor(d.shipped); err != nil {
			return nil, err
		}
	}
	return d.compressor.EncodeAll(document, nil), nil
}

// decompressor gives the decompressor for a row of dictionaries.
func (d *DB) decompressor(ctx context.Context, id int64) (*decompressor, error) {
	d.decompressorsMu.Lock()
	defer d.decompressorsMu.Unlock()
	if known, ok := d.decompressors[id]; ok {
		return known, nil
	}
	var content []byte
	if err := d.read.statements[selectDictionary].QueryRowContext(ctx, id).Scan(&content); err != nil {
		return nil, fmt.Errorf("dictionary %d: %w", id, err)
	}
	created, err := newDecompressor(content)
	if err != nil {
		return nil, fmt.Errorf("dictionary %d: %w", id, err)
	}
	if d.decompressors == nil {
		d.decompressors = make(map[int64]*decompressor)
	}
	d.decompressors[id] = created
	return created, nil
}

const selectDocument = `SELECT d.dictionary, d.size, d.sha256, d.xml_zstd
	FROM invoices i JOIN documents d ON d.invoice_id = i.id WHERE i.ksef_number = ?`

// Document gives the XML of an invoice as KSeF served it, with its length and
// SHA-256 checked. The error wraps [ErrNotStored] for an unknown number.
func (d *DB) Document(ctx context.Context, number string) ([]byte, error) {
	var dictionary, size int64
	var sum, packed []byte
	err := d.read.statements[selectDocument].QueryRowContext(ctx, number).Scan(&dictionary, &size, &sum, &packed)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("document of invoice %s: %w", number, ErrNotStored)
	}
	if err != nil {
		return nil, d.explain("read invoice "+number+" from", err)
	}
	xml, _, err := d.unpack(ctx, dictionary, size, packed)
	if err != nil {
		return nil, d.explain("decompress invoice "+number+" from", err)
	}
	if found := sha256.Sum256(xml); string(found[:]) != string(sum) {
		return nil, fmt.Errorf("document of invoice %s in database %s: its %d bytes are not those that were stored: the file is damaged; restore a backup", number, d.path, len(xml))
	}
	return xml, nil
}

// unpack gives what is in the frame of a document whose XML has size bytes: the
// XML, and KSeF's metadata unless it was stored before schema version 4.
func (d *DB) unpack(ctx context.Context, dictionary, size int64, packed []byte) (xml, metadata []byte, err error) {
	decompressor, err := d.decompressor(ctx, dictionary)
	if err != nil {
		return nil, nil, err
	}
	content, err := decompressor.DecodeAll(packed, nil)
	if err != nil {
		return nil, nil, err
	}
	size = max(0, min(size, int64(len(content)))) // both are of a file that may be damaged
	return content[:size:size], content[size:], nil
}
