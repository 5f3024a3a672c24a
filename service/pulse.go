package service

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Pulse knows whether the parts of a program move, and which are in trouble. Each
// part says by when it will be heard of again. The zero value knows no part; it
// is safe for concurrent use.
type Pulse struct {
	mu    sync.Mutex
	parts map[string]part
}

type part struct {
	due      time.Time
	failures int
}

// Beat notes that the part has moved and will be heard of again before due, and
// how many times in a row it has failed.
func (p *Pulse) Beat(name string, due time.Time, failures int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.parts == nil {
		p.parts = map[string]part{}
	}
	p.parts[name] = part{due, failures}
}

// Forget notes that a part has ended and need not be heard of again.
func (p *Pulse) Forget(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.parts, name)
}

// Moved notes that a part, in the middle of its work, will be heard of again
// before due. It is never less than what the part has said before.
func (p *Pulse) Moved(name string, due time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if is, known := p.parts[name]; known && is.due.Before(due) {
		is.due = due
		p.parts[name] = is
	}
}

// Health says in a line how the program is, and names the parts that should have
// been heard of by now.
func (p *Pulse) Health(now time.Time) (text string, stuck []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var failing []string
	for name, is := range p.parts {
		if now.After(is.due) {
			stuck = append(stuck, name)
		}
		if is.failures > 0 {
			failing = append(failing, name)
		}
	}
	slices.Sort(stuck)
	slices.Sort(failing)
	text = fmt.Sprintf("%d mirrors", len(p.parts))
	if len(p.parts) == 1 {
		text = "1 mirror"
	}
	if len(failing) > 0 {
		text += ", in trouble: " + shortened(failing)
	}
	if len(stuck) > 0 {
		text += ", stuck: " + shortened(stuck)
	}
	if len(failing)+len(stuck) == 0 {
		text += ", all in order"
	}
	return text, stuck
}

// shortened names a few and counts the rest, for one line.
func shortened(names []string) string {
	const few = 5
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}
