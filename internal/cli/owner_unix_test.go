//go:build !windows

package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Root must not make files in the service's folder that the service cannot read.
func TestRootKeepsOutOfTheServicesFolder(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a folder to another user")
	}
	dir := t.TempDir()
	for _, fine := range []string{dir, filepath.Join(dir, "none")} {
		if err := refuseForeignFolder(fine); err != nil {
			t.Errorf("root's own folder, or none: %v", err)
		}
	}
	if err := os.Chown(dir, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	if err := refuseForeignFolder(dir); err == nil || !strings.Contains(err.Error(), "sudo -u '#12345'") {
		t.Errorf("another user's folder: %v", err)
	}
}
