//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ksefmirror/internal/cli"
)

// keeping is the program as a daemon, with many mirrors.
type keeping struct {
	process *exec.Cmd
	cycles  chan string // the name of a mirror for every cycle that it has ended
	ready   time.Duration
	ask     *json.Encoder
	answers *json.Decoder
}

// keepMirrors is a process that is the program, run, and that tells how many
// goroutines it has whenever a line comes in.
func keepMirrors(ctx context.Context, configuration string) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			_ = json.NewEncoder(os.Stdout).Encode(runtime.NumGoroutine()) // whoever asked will notice
		}
		stop()
	}()
	if code := cli.Main(ctx, []string{"--config", configuration, "run"}, strings.NewReader(""), os.Stdout, os.Stderr); code != 0 {
		return fmt.Errorf("run: exit code %d", code)
	}
	return nil
}

// nip gives the NIP of the nth company, with its check digit (weights 6 5 7 2
// 3 4 5 6 7, modulo 11).
func nip(n int) string {
	for serial := 526000000 + n*11; ; serial++ {
		digits := strconv.Itoa(serial)
		sum := 0
		for i, weight := range []int{6, 5, 7, 2, 3, 4, 5, 6, 7} {
			sum += weight * int(digits[i]-'0')
		}
		if sum%11 != 10 {
			return digits + strconv.Itoa(sum%11)
		}
	}
}

// startKeeping configures count mirrors of the simulator in a new folder, starts the
// program, and waits until it says that it is ready.
func (b *bench) startKeeping(ctx context.Context, sim *simulator, count int, interval time.Duration) (_ *keeping, err error) {
	dir := b.folder()
	if err := os.MkdirAll(filepath.Join(dir, "secrets"), 0o700); err != nil {
		return nil, err
	}
	var text strings.Builder
	for i := range count {
		name := fmt.Sprintf("m%03d", i)
		fmt.Fprintf(&text, "[mirror.%s]\nenvironment = \"test\"\napi_url = %q\ncontext = \"nip:%s\"\ninterval = %q\n[mirror.%s.auth]\ntoken = \"file:secrets/%s.token\"\n",
			name, sim.url+"/v2", nip(i), interval, name, name)
		if err := os.WriteFile(filepath.Join(dir, "secrets", name+".token"), []byte(token+nip(i)), 0o600); err != nil {
			return nil, err
		}
	}
	configuration := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(configuration, []byte(text.String()), 0o600); err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "notify")
	notified, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	defer func() { _ = notified.Close() }() // it has been read from

	k := &keeping{cycles: make(chan string, count)}
	if k.process, err = command(ctx, "keep", configuration); err != nil {
		return nil, err
	}
	k.process.Env = append(os.Environ(), "NOTIFY_SOCKET="+socket)
	k.process.Stderr = nil // it is read here
	stderr, err := k.process.StderrPipe()
	if err != nil {
		return nil, err
	}
	stdin, err := k.process.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := k.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	k.ask, k.answers = json.NewEncoder(stdin), json.NewDecoder(stdout)
	began := time.Now()
	if err := k.process.Start(); err != nil {
		return nil, err
	}
	go k.read(bufio.NewScanner(stderr))
	buffer := make([]byte, 4096)
	for {
		if err := notified.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			return nil, errors.Join(err, k.stop())
		}
		n, err := notified.Read(buffer)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("the program did not say that it is ready: %w", err), k.stop())
		}
		if bytes.HasPrefix(buffer[:n], []byte("READY=1")) {
			k.ready = time.Since(began)
			return k, nil
		}
	}
}

// read reads the log and passes on the ends of cycles; what is wrong it shows.
func (k *keeping) read(log *bufio.Scanner) {
	defer close(k.cycles)
	for log.Scan() {
		var line struct{ Level, Msg, Mirror, Role string }
		if err := json.Unmarshal(log.Bytes(), &line); err != nil || line.Level == "ERROR" {
			fmt.Fprintln(os.Stderr, log.Text())
		}
		if line.Msg == "cycle done" && line.Role == "seller" { // one of the four lines of a cycle
			k.cycles <- line.Mirror
		}
	}
}

// until waits until every one of count mirrors has ended so many cycles.
func (k *keeping) until(count, cycles int) error {
	ended := map[string]int{}
	for missing := count; missing > 0; {
		name, open := <-k.cycles
		if !open {
			return errors.New("the program ended")
		}
		if ended[name]++; ended[name] == cycles {
			missing--
		}
	}
	return nil
}

// rest lets d pass and counts the cycles that end meanwhile.
func (k *keeping) rest(ctx context.Context, d time.Duration) (cycles int, err error) {
	over := time.NewTimer(d)
	defer over.Stop()
	for {
		select {
		case <-ctx.Done():
			return cycles, ctx.Err()
		case <-over.C:
			return cycles, nil
		case _, open := <-k.cycles:
			if !open {
				return cycles, errors.New("the program ended")
			}
			cycles++
		}
	}
}

// load is what a process has and has used.
type load struct {
	cpu                     time.Duration
	resident                int64 // bytes, at most since it began
	goroutines, descriptors int
}

func (k *keeping) load() (l load, err error) {
	proc := filepath.Join("/proc", strconv.Itoa(k.process.Process.Pid))
	if l.resident, err = peakMemoryOf(filepath.Join(proc, "status")); err != nil {
		return l, err
	}
	stat, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return l, err
	}
	// The second field is the name in parentheses; user and system time are the
	// fourteenth and fifteenth, in hundredths of a second (proc_pid_stat(5)).
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	for _, field := range fields[11:13] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return l, err
		}
		l.cpu += time.Duration(ticks) * 10 * time.Millisecond
	}
	descriptors, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		return l, err
	}
	l.descriptors = len(descriptors)
	if err := k.ask.Encode("goroutines"); err != nil {
		return l, err
	}
	return l, k.answers.Decode(&l.goroutines)
}

// stop ends the program as a service manager does.
func (k *keeping) stop() error {
	if err := k.process.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	for range k.cycles { // until its log ends
	}
	_ = k.process.Wait() // a process that a signal ended is no failure here
	return nil
}

// mirrors measures many mirrors in one process: what they need while nothing is new,
// and whether anything grows.
func (b *bench) mirrors(ctx context.Context) (rows []row, err error) {
	const (
		few         = 12
		quarterHour = 15 * time.Minute
	)
	err = b.with(ctx, scenario{Companies: b.Mirrors}, func(sim *simulator) (err error) {
		b.say("%d mirrors in one process, for an interval of 15 minutes after the first cycles", b.Mirrors)
		many, err := b.startKeeping(ctx, sim, b.Mirrors, quarterHour)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, many.stop()) }()
		if err := many.until(b.Mirrors, 1); err != nil {
			return err
		}
		before, err := many.load()
		if err != nil {
			return err
		}
		began := time.Now()
		cycles, err := many.rest(ctx, b.Rest)
		if err != nil {
			return err
		}
		took := time.Since(began)
		after, err := many.load()
		if err != nil {
			return err
		}
		b.say("  %d cycles, %v; before %+v, after %+v", cycles, took, before, after)
		cpu := 100 * (after.cpu - before.cpu).Seconds() / took.Seconds()
		rows = append(rows,
			row{what: fmt.Sprintf("start-up with %d mirrors", b.Mirrors), bound: "under 5 s", found: fmt.Sprintf("%.2f s", many.ready.Seconds()), kept: many.ready < 5*time.Second},
			row{what: "CPU of a core, nothing new, every 15 minutes", bound: "under 1 %", found: fmt.Sprintf("%.2f %% (%d cycles)", cpu, cycles), kept: cpu < 1},
			row{what: "peak memory, their first cycles included", bound: "under 256 MiB", found: fmt.Sprintf("%d MiB", after.resident>>20), kept: after.resident < 256<<20})
		return nil
	})
	if err != nil {
		return rows, err
	}
	err = b.with(ctx, scenario{Companies: few}, func(sim *simulator) (err error) {
		b.say("the cycles of a week")
		week, err := b.startKeeping(ctx, sim, few, 50*time.Millisecond)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, week.stop()) }()
		if err := week.until(few, b.Cycles/7); err != nil {
			return err
		}
		before, err := week.load()
		if err != nil {
			return err
		}
		if err := week.until(few, b.Cycles); err != nil {
			return err
		}
		after, err := week.load()
		if err != nil {
			return err
		}
		b.say("  before %+v, after %+v", before, after)
		// Connections and the goroutines of requests come and go.
		const slack = 4 * few
		rows = append(rows, row{
			what: fmt.Sprintf("goroutines and descriptors, %d mirrors, after the cycles of a day and of a week", few), bound: fmt.Sprintf("no more than %d apart", slack),
			found: fmt.Sprintf("%d and %d; %d and %d", before.goroutines, before.descriptors, after.goroutines, after.descriptors),
			kept:  after.goroutines <= before.goroutines+slack && after.descriptors <= before.descriptors+slack,
		})
		return nil
	})
	return rows, err
}
