package scenarios

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// A narrator prints a story: the comment of each step, each command as a person would type it, the output of
// the command while it runs, and a summary.
type narrator struct {
	out    io.Writer
	colour bool
	steps  []string  // the first line of each step so far
	begun  time.Time // when the last step began
}

const (
	bold  = "\x1b[1m"
	green = "\x1b[32m"
	red   = "\x1b[31m"
	plain = "\x1b[0m"
)

func (n *narrator) style(style, text string) string {
	if !n.colour {
		return text
	}
	return style + text + plain
}

// step ends the previous step and begins another.
func (n *narrator) step(text string) {
	n.stepDone()
	n.steps = append(n.steps, text)
	n.begun = time.Now()
	fmt.Fprintf(n.out, "\n%s\n", n.style(bold, "# "+text))
}

func (n *narrator) say(text string) {
	fmt.Fprintln(n.out, n.style(bold, "# "+text))
}

// command prints a command behind a prompt that names who.
func (n *narrator) command(who, text string) {
	fmt.Fprintf(n.out, "%s %s\n", n.style(green, who+"$"), n.style(bold, text))
}

func (n *narrator) note(format string, args ...any) {
	fmt.Fprintf(n.out, "  (%s)\n", fmt.Sprintf(format, args...))
}

func (n *narrator) stepDone() {
	if len(n.steps) > 0 {
		fmt.Fprintln(n.out, n.style(green, "  ✓"), "as expected, in", time.Since(n.begun).Round(100*time.Millisecond))
	}
}

func (n *narrator) failed(reason string) {
	fmt.Fprintln(n.out, n.style(red, "  ✗ "+reason))
}

func (n *narrator) summary(title string, took time.Duration) {
	fmt.Fprintf(n.out, "\n%s\nProven in %d steps, %s:\n", n.style(bold, title), len(n.steps), took.Round(100*time.Millisecond))
	for _, s := range n.steps {
		fmt.Fprintln(n.out, n.style(green, "  ✓ ")+s)
	}
}

// sumUp prints the summary of several stories.
func (n *narrator) sumUp(stories []Scenario, took time.Duration) {
	fmt.Fprintf(n.out, "\n%s\n", n.style(bold, fmt.Sprintf("%d stories, proven in %v:", len(stories), took.Round(100*time.Millisecond))))
	for _, s := range stories {
		fmt.Fprintln(n.out, n.style(green, "  ✓ ")+s.Name+": "+s.Title)
	}
}

// An outputWriter prints the output of one command, indented, while the command runs. Two goroutines write to
// it: one for standard output, one for standard error. If the output is a terminal, it shows the elapsed
// seconds while the command prints nothing.
type outputWriter struct {
	out   io.Writer
	begun time.Time
	quit  chan struct{}

	mu      sync.Mutex
	inLine  bool // the last line has no newline yet
	waiting bool // the line shows the elapsed seconds
}

func (n *narrator) outputWriter() *outputWriter {
	w := &outputWriter{out: n.out, begun: time.Now(), quit: make(chan struct{})}
	if n.colour {
		go w.runTicks()
	}
	return w
}

// runTicks prints the elapsed seconds until the method end is called. There is no progress bar of a library,
// because its goroutines would draw between the lines of the output.
func (w *outputWriter) runTicks() {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			w.tick(now)
		case <-w.quit:
			return
		}
	}
}

const clearLine = "\r\x1b[K"

func (w *outputWriter) tick(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.inLine {
		fmt.Fprintf(w.out, "%s  … %v", clearLine, now.Sub(w.begun).Round(time.Second))
		w.waiting = true
	}
}

func (w *outputWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clear()
	var b bytes.Buffer
	for line := range bytes.Lines(p) {
		if !w.inLine {
			b.WriteString("  ")
		}
		b.Write(line)
		w.inLine = line[len(line)-1] != '\n'
	}
	if _, err := w.out.Write(b.Bytes()); err != nil {
		return 0, err
	}
	return len(p), nil
}

// clear removes the elapsed seconds from the screen.
func (w *outputWriter) clear() {
	if w.waiting {
		io.WriteString(w.out, clearLine)
		w.waiting = false
	}
}

// end ends the last line if it has no newline yet. Nothing may be written after end.
func (w *outputWriter) end() {
	close(w.quit)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clear()
	if w.inLine {
		fmt.Fprintln(w.out)
	}
	w.inLine = true // a late tick prints nothing
}

// typed returns args as a person would type them in a shell.
func typed(args []string) string {
	words := make([]string, len(args))
	for i, a := range args {
		words[i] = a
		if a == "" || strings.ContainsAny(a, " \t\n'\"$&|;<>()*?[]{}\\`!#~") {
			words[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}
