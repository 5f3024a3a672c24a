//go:build !windows

package cli

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// refuseForeignFolder refuses to let root work in a folder that belongs to
// another user, such as the service's: what root would make there the service
// could neither read nor write. A folder that is not there is no one's.
func refuseForeignFolder(dir string) error {
	if os.Geteuid() != 0 {
		return nil // the system refuses by itself
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil //nolint:nilerr // what is wrong with the folder, opening it says
	}
	status, ok := info.Sys().(*syscall.Stat_t)
	if !ok || status.Uid == 0 {
		return nil
	}
	owner := "#" + strconv.FormatUint(uint64(status.Uid), 10)
	if account, err := user.LookupId(owner[1:]); err == nil {
		owner = account.Username
	}
	return fmt.Errorf("%s belongs to the user %s, who could not use what root makes there: run the command as sudo -u '%s' ksefmirror …", dir, owner, owner)
}
