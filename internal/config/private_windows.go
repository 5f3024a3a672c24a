package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/windows"
)

// privateToOwner says why others could read the contents of file: nil when its
// access control list grants nothing to everyone, to all users, or to guests.
// Groups of the company's own are not looked into.
func privateToOwner(file *os.File) error {
	descriptor, err := windows.GetSecurityInfo(windows.Handle(file.Fd()), windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION)
	if err != nil {
		return fmt.Errorf("read its access control list: %w", err)
	}
	if grantsEveryone(descriptor.String()) {
		return fmt.Errorf(`its access control list lets all users at it; run: icacls "%s" /inheritance:r /grant:r ACCOUNT:R, with the account that runs ksefmirror, and replace the secret if others could have read it`, file.Name())
	}
	return nil
}

// createPrivate creates the file at path for this process's user, the
// Administrators and the system; it must not exist. The access list is there from
// the first moment: files in %ProgramData% would otherwise inherit that all users
// may read them.
func createPrivate(path string) (*os.File, error) {
	user, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return nil, fmt.Errorf("find the user of this process: %w", err)
	}
	return createWith(path, fmt.Sprintf("D:P(A;;FA;;;%s)(A;;FA;;;BA)(A;;FA;;;SY)", user.User.Sid))
}

// createWith creates the file at path with an access list written in the
// Security Descriptor Definition Language.
func createWith(path, access string) (*os.File, error) {
	fail := func(err error) (*os.File, error) {
		return nil, &os.PathError{Op: "create", Path: path, Err: err}
	}
	descriptor, err := windows.SecurityDescriptorFromString(access)
	if err != nil {
		return fail(err)
	}
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return fail(err)
	}
	attributes := &windows.SecurityAttributes{SecurityDescriptor: descriptor}
	attributes.Length = uint32(unsafe.Sizeof(*attributes)) // #nosec G103 -- Windows wants the size of the structure in it
	handle, err := windows.CreateFile(name, windows.GENERIC_READ|windows.GENERIC_WRITE, 0, attributes,
		windows.CREATE_NEW, windows.FILE_ATTRIBUTE_NORMAL, 0)
	if err != nil {
		return fail(err)
	}
	return os.NewFile(uintptr(handle), path), nil
}

// CopyAccess lets those at the file to who may be at the file from: it copies the
// access list.
func CopyAccess(from, to string) error {
	descriptor, err := windows.GetNamedSecurityInfo(from, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION)
	if err != nil {
		return fmt.Errorf("read the access control list of %s: %w", from, err)
	}
	list, _, err := descriptor.DACL()
	if err != nil {
		return fmt.Errorf("read the access control list of %s: %w", from, err)
	}
	err = windows.SetNamedSecurityInfo(to, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION|windows.PROTECTED_DACL_SECURITY_INFORMATION, nil, nil, list, nil)
	if err != nil {
		return fmt.Errorf("set the access control list of %s: %w", to, err)
	}
	return nil
}

// unprotect decrypts what DPAPI has encrypted, without additional entropy, for
// this machine or for the user of this process.
func unprotect(data []byte) ([]byte, error) {
	if len(data) == 0 {
		return nil, errors.New("it is empty; want what DPAPI has encrypted")
	}
	in := windows.DataBlob{Size: uint32(len(data)), Data: &data[0]} // #nosec G115 -- readFile gives at most 256 KiB
	var out windows.DataBlob
	// Without the flag it could ask the user something, whom a service does not have.
	if err := windows.CryptUnprotectData(&in, nil, nil, 0, nil, windows.CRYPTPROTECT_UI_FORBIDDEN, &out); err != nil {
		return nil, fmt.Errorf("%w: DPAPI cannot decrypt it (%w); it must have been encrypted on this machine, for the machine or for the account that runs ksefmirror", ErrNotHere, err)
	}
	if out.Data == nil {
		return nil, nil
	}
	plain := bytes.Clone(unsafe.Slice(out.Data, out.Size))                // #nosec G103 -- Windows gives the memory and its size
	_, err := windows.LocalFree(windows.Handle(unsafe.Pointer(out.Data))) // #nosec G103 -- it is Windows' own memory, to be given back
	return plain, err
}

// SyncFolder does nothing: Windows makes names durable by itself, and cannot be
// asked to.
func SyncFolder(string) error { return nil }
