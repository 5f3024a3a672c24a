package config

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

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

// A service's account that may read a file may read the one that takes its place.
func TestCopyAccess(t *testing.T) {
	if windows.NewLazySystemDLL("ntdll.dll").NewProc("wine_get_version").Find() == nil {
		t.Skip("Wine makes modes of access lists, which say less")
	}
	user, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	from, to := filepath.Join(folder, "acme.key"), filepath.Join(folder, "acme.key.new")
	const service = "(A;;FR;;;LS)" // in its place: an account that is on every machine
	file, err := createWith(from, "D:P(A;;FA;;;"+user.User.Sid.String()+")"+service)
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if err := WriteSecret(to, []byte("hunter2")); err != nil {
		t.Fatal(err)
	}
	access := func(path string) string {
		t.Helper()
		descriptor, err := windows.GetNamedSecurityInfo(path, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION)
		if err != nil {
			t.Fatal(err)
		}
		return descriptor.String()
	}
	if before := access(to); strings.Contains(before, service) {
		t.Fatalf("before: %s", before)
	}
	if err := CopyAccess(from, to); err != nil {
		t.Fatal(err)
	}
	if got, want := access(to), access(from); got != want || !strings.Contains(got, ";LS)") {
		t.Errorf("got %s, want %s", got, want)
	}
}

// protect encrypts data by DPAPI for the user of this process, or for the machine.
func protect(t *testing.T, data []byte, flags uint32) []byte {
	t.Helper()
	in := windows.DataBlob{Size: uint32(len(data)), Data: &data[0]}
	var out windows.DataBlob
	if err := windows.CryptProtectData(&in, nil, nil, 0, nil, flags, &out); err != nil {
		t.Fatal(err)
	}
	encrypted := bytes.Clone(unsafe.Slice(out.Data, out.Size))
	if _, err := windows.LocalFree(windows.Handle(unsafe.Pointer(out.Data))); err != nil {
		t.Fatal(err)
	}
	return encrypted
}

func TestReadProtected(t *testing.T) {
	path := filepath.Join(t.TempDir(), "passphrase")
	const localMachine = 4 // CRYPTPROTECT_LOCAL_MACHINE
	for name, flags := range map[string]uint32{"for the user": 0, "for the machine": localMachine} {
		encrypted := protect(t, []byte("zażółć\r\n"), flags)
		if bytes.Contains(encrypted, []byte("za")) {
			t.Errorf("%s: it is not encrypted", name)
		}
		write(t, path, string(encrypted))
		if got, err := (Reference{"dpapi", path}).ReadPassphrase(); got != "zażółć" || err != nil {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
		write(t, path, string(encrypted[:len(encrypted)-8]))
		if got, err := (Reference{"dpapi", path}).ReadKey(); got != nil || !errors.Is(err, ErrNotHere) {
			t.Errorf("%s, cut short: got %q, %v", name, got, err)
		}
	}
	for _, content := range []string{"", "hunter2"} {
		write(t, path, content)
		if got, err := (Reference{"dpapi", path}).ReadKey(); got != nil || err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: got %q, %v", content, got, err)
		}
	}
}
