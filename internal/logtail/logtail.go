// Package logtail keeps the last lines of a log in memory, for tests to print when they fail.
package logtail

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
)

// Lines is the number of lines that a Tail keeps.
const Lines = 20

// A Tail keeps the last lines written to it. It may be written and read from any goroutine.
type Tail struct {
	mu    sync.Mutex
	lines []string
}

// New returns a Tail, and a logger that writes its messages of at least this level to the
// Tail.
func New(level slog.Level) (*Tail, *slog.Logger) {
	t := &Tail{}
	return t, slog.New(slog.NewTextHandler(t, &slog.HandlerOptions{Level: level}))
}

// Write adds lines to the Tail. p must have whole lines, as slog writes them.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for line := range bytes.Lines(p) {
		t.lines = append(t.lines, string(bytes.TrimRight(line, "\n")))
	}
	t.lines = t.lines[max(0, len(t.lines)-Lines):]
	return len(p), nil
}

// String returns all lines that the Tail has, indented.
func (t *Tail) String() string { return t.Last(Lines) }

// Last returns the last n lines, or all if there are fewer, indented.
func (t *Tail) Last(n int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == 0 {
		return "  nothing was logged"
	}
	return "  " + strings.Join(t.lines[max(0, len(t.lines)-n):], "\n  ")
}
