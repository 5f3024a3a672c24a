//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: CPU, memory and system calls of a process are measured on Linux only")
	os.Exit(1)
}
