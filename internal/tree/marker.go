package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ErrNotMounted says that the folder has no marker file. Most often the volume it lies on is not mounted, and what is
// seen is the empty mount point: whoever took that for an empty tree would fill the wrong disk.
var ErrNotMounted = errors.New("the tree's marker file " + markerName + " is missing; mount the volume or restore the file")

const (
	markerName = ".ksefmirror"
	markerSize = 4 << 10 // a marker is a few hundred bytes; whatever is larger is not ours

	markerIntroduction = `This folder belongs to ksefmirror. It holds copies of invoices from KSeF, the national e-invoicing system.
Keep this file: without it ksefmirror takes the folder for a volume that is not mounted, and stops.
`
	markerLine = "id: "
)

// ID gives the id in the marker file of the folder dir, and "" when the folder or its marker does not exist.
func ID(dir string) (string, error) {
	file, err := os.OpenInRoot(dir, markerName)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("open marker of tree %s: %w", dir, err)
	}
	defer file.Close()
	id, err := readMarker(file)
	if err != nil {
		return "", fmt.Errorf("read marker of tree %s: %w", dir, err)
	}
	return id, nil
}

func readMarker(r io.Reader) (id string, err error) {
	text, err := io.ReadAll(io.LimitReader(r, markerSize))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		// A person may have saved the file on Windows, hence the carriage return.
		if id, found := strings.CutPrefix(strings.TrimRight(line, "\r\n"), markerLine); found && validID(id) {
			return id, nil
		}
	}
	return "", fmt.Errorf("%s holds no line %q; restore it from a backup", markerName, markerLine+"…")
}

// validID says whether a marker can carry the id: one line that reads back as it was written.
func validID(id string) bool {
	return id != "" && len(id) <= 200 && id == strings.TrimSpace(id) && !strings.ContainsAny(id, "\r\n")
}

// Create makes the folder dir, its parents and its marker with the given id, all of them durable on return. It succeeds
// when the folder holds that marker already, and fails when it holds another one. Other content of the folder is left
// alone. The id is one line of at most 200 bytes.
func Create(dir, id string) error {
	if !validID(id) {
		return fmt.Errorf("create tree %s: %q cannot be an id", dir, id)
	}
	if err := create(dir, id); err != nil {
		return fmt.Errorf("create tree %s: %w", dir, explain(err))
	}
	return nil
}

func create(dir, id string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, folderMode); err != nil {
		return err
	}
	found, err := ID(dir)
	if err != nil {
		return err
	}
	if found == "" {
		if err := writeMarker(dir, id); err != nil {
			return err
		}
		// Read again: another process may have been faster.
		if found, err = ID(dir); err != nil {
			return err
		}
	}
	if found != id {
		return fmt.Errorf("the folder belongs to the mirror %q, not to %q; choose another folder", found, id)
	}
	return syncAncestors(dir)
}

// writeMarker writes the marker by way of a temporary file: a crash leaves no marker or a whole one, and at most a
// temporary file, which the first Put removes.
func writeMarker(dir, id string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	t := &Tree{dir: dir, root: root, id: id}
	defer t.Close()
	if err := t.prepareTemporaries(); err != nil {
		return err
	}
	temporary, err := t.writeTemporary([]byte(markerIntroduction+markerLine+id+"\n"), true)
	if err != nil {
		return err
	}
	if err := t.rename(context.Background(), temporary, markerName); err != nil && !errors.Is(err, fs.ErrExist) {
		return errors.Join(err, root.Remove(temporary))
	}
	return nil
}

// SyncFolder makes the list of names in the folder dir durable.
func SyncFolder(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	return errors.Join(syncPath(root, "."), root.Close())
}

// syncAncestors makes the folder dir and its parents durable. All of them, not only those made by this call: an earlier
// call may have made some and crashed before it got here. It ends at the first folder that this process may not read,
// as it cannot have made that one.
func syncAncestors(dir string) error {
	for {
		root, err := os.OpenRoot(dir)
		if errors.Is(err, fs.ErrPermission) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := errors.Join(syncPath(root, "."), root.Close()); err != nil {
			return err
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return nil
		}
		dir = parent
	}
}
