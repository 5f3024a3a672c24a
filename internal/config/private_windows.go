package config

import (
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
		return fmt.Errorf(`its access control list lets all users at it; run: icacls "%s" /inheritance:r /grant:r ACCOUNT:R, with the account that runs ksefmirror, and replace the token if others could have read it`, file.Name())
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
