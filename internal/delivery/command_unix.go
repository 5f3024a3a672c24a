//go:build unix

package delivery

import (
	"os/exec"
	"syscall"
)

// run runs a command in a process group of its own, which is killed when the
// command's context ends.
func run(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd.Run()
}
