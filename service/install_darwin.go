package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"

	kardianos "github.com/kardianos/service"
)

// NewPlan says what installing the service takes. It touches nothing. The
// service runs as the user who owns the configuration, who can read the secrets
// and write the invoices already.
func NewPlan(s Setup) (Plan, error) {
	if err := s.validate(); err != nil {
		return Plan{}, err
	}
	if len(s.Credentials) > 0 {
		return Plan{}, fmt.Errorf("cred:%s: only systemd hands over credentials; name the secret by file:PATH", s.Credentials[0])
	}
	owner, err := ownerOf(s.Config)
	if err != nil {
		return Plan{}, err
	}
	m, err := systemManager(kardianos.Config{
		Executable: s.Program,
		Arguments:  []string{"--config", s.Config, "run"},
		UserName:   owner,
		Option:     kardianos.KeyValue{"RunAtLoad": true, "KeepAlive": true, "LogOutput": true},
	})
	if err != nil {
		return Plan{}, err
	}
	return Plan{
		Definition: fmt.Sprintf("Program: %s\nArguments: --config %s run\nUser: %s\nStart: with the machine, and again whenever it ends\n", s.Program, s.Config, owner),
		Steps: []Step{{"write /Library/LaunchDaemons/" + Name + ".plist, in place of one that is there", func(context.Context) error {
			if _, err := m.Status(); !errors.Is(err, kardianos.ErrNotInstalled) {
				if err := m.Uninstall(); err != nil {
					return err
				}
			}
			return m.Install()
		}}},
	}, nil
}

func ownerOf(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	status, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", fmt.Errorf("the owner of %s cannot be determined", path)
	}
	owner, err := user.LookupId(strconv.FormatUint(uint64(status.Uid), 10))
	if err != nil {
		return "", err
	}
	return owner.Username, nil
}

// withBoundedStop leaves a stop to launchd, which kills what does not stop.
func withBoundedStop(m manager) manager { return m }
