//go:build !linux

package main

import (
	"errors"
	"time"
)

// supported says why nothing can be measured here.
func supported() error {
	return errors.New("CPU, memory and system calls of a process are measured on Linux only")
}

type usage struct {
	cpu     time.Duration
	mallocs uint64
}

func used() (usage, error) { return usage{}, supported() }

func peakMemory() (int64, error) { return 0, supported() }
