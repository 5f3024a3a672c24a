package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// placeProgram is the step that puts the program where a service may be started
// from: a place that the service's account sees and that only administrators can
// write to.
func placeProgram(from, to string) Step {
	return Step{"copy the program to " + to, func(context.Context) error { return copyProgram(from, to) }}
}

// copyProgram replaces to by a copy of from. After a crash to is the old program
// or the new one, and a temporary file may be left beside it.
func copyProgram(from, to string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil { // #nosec G301 -- everybody may see programs
		return err
	}
	temporary, err := os.CreateTemp(filepath.Dir(to), ".ksefmirror-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temporary.Name()))
		}
	}()
	_, err = io.Copy(temporary, source)
	if err == nil {
		err = temporary.Sync()
	}
	if closeErr := temporary.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Chmod(temporary.Name(), 0o755) // #nosec G302 -- everybody may run it
	}
	if err == nil {
		err = os.Rename(temporary.Name(), to)
	}
	if err != nil {
		return fmt.Errorf("%w; if the service runs, stop it first", err)
	}
	return nil
}
