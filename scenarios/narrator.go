package scenarios

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// A narrator writes the story: what a step is about, each command as it would be typed,
// what it prints while it prints it, and at the end what was proven.
type narrator struct {
	out    io.Writer
	colour bool
	steps  []string // the first line of each step begun so far
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

// step begins a step, and with that ends the one before.
func (n *narrator) step(text string) {
	n.stepDone()
	n.steps = append(n.steps, text)
	fmt.Fprintf(n.out, "\n%s\n", n.style(bold, "# "+text))
}

func (n *narrator) say(text string) {
	fmt.Fprintln(n.out, n.style(bold, "# "+text))
}

// command shows a command at the prompt of whoever types it.
func (n *narrator) command(who, text string) {
	fmt.Fprintf(n.out, "%s %s\n", n.style(green, who+"$"), n.style(bold, text))
}

func (n *narrator) note(format string, args ...any) {
	fmt.Fprintf(n.out, "  (%s)\n", fmt.Sprintf(format, args...))
}

func (n *narrator) stepDone() {
	if len(n.steps) > 0 {
		fmt.Fprintln(n.out, n.style(green, "  ✓ as the script says"))
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

// An indenter sets output off from the commands, line by line as it comes. A command's
// stdout and stderr are copied to it by two goroutines.
type indenter struct {
	out io.Writer

	mu     sync.Mutex
	inLine bool
}

func (w *indenter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
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

// end closes a last line that had no end.
func (w *indenter) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.inLine {
		fmt.Fprintln(w.out)
		w.inLine = false
	}
}

// typed returns args as a person would type them into a shell.
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
