// Command bench measures what ksefmirror promises of speed, memory and disk, and
// prints it beside the bounds that it must keep:
//
//	go run ./internal/bench
//
// It mirrors packages from a simulated KSeF in another process, with the real
// packages of the program and into real files, and does the same in a naive way.
// What is compared is measured side by side, in turns; what counts are ratios and
// counts, for the speed of a machine says little. It takes half an hour to an
// hour and some 15 GB of disk, and ends with 1 when a bound is not kept.
//
// CPU, memory and system calls are read in Linux's own ways, so it works on Linux
// only.
package main
