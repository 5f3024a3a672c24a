//go:build !windows

package service

import (
	"context"
	"errors"
	"log/slog"
)

var errNotWindows = errors.New(RunArgument + " is for Windows's service control manager only")

// RunAsWindowsService does what its name says, on Windows.
func RunAsWindowsService(context.Context, Work) error { return errNotWindows }

// NewEventLog gives a handler that writes to Windows's event log, on Windows.
func NewEventLog(slog.Leveler) (slog.Handler, error) { return nil, errNotWindows }
