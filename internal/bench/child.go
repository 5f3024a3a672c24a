//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
)

// Everything that is measured runs in a process of its own: this program again,
// with the job and its argument, as JSON, on the command line. It writes its
// result to standard output, as JSON.

// childArgument marks such a process.
const childArgument = "child"

// runChild does one job.
func runChild(ctx context.Context, job, argument string) error {
	switch job {
	case "simulator":
		return do(argument, func(s scenario) error { return serveSimulator(ctx, s) })
	case "mirror":
		return answer(argument, func(j mirrorJob) (measured, error) { return mirror(ctx, j) })
	case "keep":
		return do(argument, func(configuration string) error { return keepMirrors(ctx, configuration) })
	case "naive":
		return answer(argument, func(j mirrorJob) (measured, error) { return naive(ctx, j) })
	case "stages":
		return answer(argument, func(j mirrorJob) (stages, error) { return measureStages(ctx, j) })
	case "reader":
		return answer(argument, func(path string) (reading, error) { return readMeanwhile(ctx, path) })
	case "multiply":
		return do(argument, func(j multiplication) error { return multiply(ctx, j) })
	case "months":
		return answer(argument, func(j monthJob) ([]monthly, error) { return askViews(ctx, j) })
	case "idle":
		return answer(argument, func(j mirrorJob) (idleness, error) { return idle(ctx, j) })
	}
	return fmt.Errorf("no job %q", job)
}

func do[In any](argument string, job func(In) error) error {
	var in In
	if err := json.Unmarshal([]byte(argument), &in); err != nil {
		return err
	}
	return job(in)
}

func answer[In, Out any](argument string, job func(In) (Out, error)) error {
	return do(argument, func(in In) error {
		out, err := job(in)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(out)
	})
}

// command is a process for a job; wrapper, if any, is the command that runs it.
func command(ctx context.Context, job string, argument any, wrapper ...string) (*exec.Cmd, error) {
	text, err := json.Marshal(argument)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	line := append(wrapper, self, childArgument, job, string(text))
	child := exec.CommandContext(ctx, line[0], line[1:]...) //nolint:gosec // this program, with arguments that it made
	child.Stderr = os.Stderr
	return child, nil
}

// measure runs a job in a process of its own and gives its result.
func measure[Out any](ctx context.Context, job string, argument any, wrapper ...string) (out Out, err error) {
	child, err := command(ctx, job, argument, wrapper...)
	if err != nil {
		return out, err
	}
	if out, err = output[Out](child); err != nil {
		return out, fmt.Errorf("%s: %w", job, err)
	}
	return out, nil
}

// output runs a process and gives its result.
func output[Out any](child *exec.Cmd) (out Out, err error) {
	text, err := child.Output()
	if err != nil {
		return out, err
	}
	return out, json.Unmarshal(text, &out)
}
