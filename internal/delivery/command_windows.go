package delivery

import (
	"errors"
	"os/exec"

	"golang.org/x/sys/windows"
)

// run runs a command in a job of its own, which is ended when the command's context
// ends. What the command starts in its first instant, before it is in the job,
// escapes.
func run(cmd *exec.Cmd) (err error) {
	job, err := windows.CreateJobObject(nil, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, windows.CloseHandle(job)) }()
	cmd.Cancel = func() error { return errors.Join(windows.TerminateJobObject(job, 1), cmd.Process.Kill()) }
	if err := cmd.Start(); err != nil {
		return err
	}
	// What could not be put into the job is killed alone.
	_ = cmd.Process.WithHandle(func(handle uintptr) {
		_ = windows.AssignProcessToJobObject(job, windows.Handle(handle))
	})
	return cmd.Wait()
}
