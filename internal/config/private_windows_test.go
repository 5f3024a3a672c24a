package config

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/windows"
)

func TestSecretOpenToEveryone(t *testing.T) {
	user, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "token")
	file, err := createWith(path, "D:P(A;;FA;;;"+user.User.Sid.String()+")(A;;FR;;;WD)")
	if err != nil {
		t.Fatal(err)
	}
	_, writeErr := file.WriteString("hunter2")
	if err := file.Close(); err != nil || writeErr != nil {
		t.Fatal(err, writeErr)
	}
	if got, err := (Reference{"file", path}).Read(); got != "" || err == nil || !strings.Contains(err.Error(), "icacls") {
		t.Errorf("got %q, %v; want an error with the icacls to run", got, err)
	}
}
