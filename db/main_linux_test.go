package db

import (
	"errors"
	"os"
	"testing"

	"modernc.org/sqlite"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(childRole); role != "" {
		os.Exit(runChild(role, os.Getenv(childPath)))
	}
	// Some tests use SQLite without Open, which otherwise must come first.
	if _, err := sqlite.OFDLocking(true); err != nil && !errors.Is(err, sqlite.ErrOFDLockingUnavailable) {
		panic(err)
	}
	os.Exit(m.Run())
}
