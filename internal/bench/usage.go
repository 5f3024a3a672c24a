//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"
)

// usage is what a process has used since it began.
type usage struct {
	cpu     time.Duration // of all its threads, in the program and in the kernel
	mallocs uint64
}

func used() (usage, error) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return usage{}, os.NewSyscallError("getrusage", err)
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return usage{cpu: time.Duration(r.Utime.Nano() + r.Stime.Nano()), mallocs: memory.Mallocs}, nil
}

// peakMemory is the most memory that this process ever had resident, in bytes. It
// is not getrusage's, which a process inherits from the one that started it.
func peakMemory() (int64, error) {
	return peakMemoryOf("/proc/self/status")
}

func peakMemoryOf(path string) (int64, error) {
	status, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	_, after, found := bytes.Cut(status, []byte("VmHWM:"))
	if !found {
		return 0, fmt.Errorf("%s has no VmHWM", path)
	}
	var kilobytes int64
	if _, err := fmt.Sscanf(string(after), "%d kB", &kilobytes); err != nil {
		return 0, fmt.Errorf("VmHWM in %s: %w", path, err)
	}
	return kilobytes << 10, nil
}
