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
	steps  []string  // the first line of each step begun so far
	begun  time.Time // the last of them
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
	n.begun = time.Now()
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
		fmt.Fprintln(n.out, n.style(green, "  ✓"), "as told, in", time.Since(n.begun).Round(100*time.Millisecond))
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

// sumUp ends several stories.
func (n *narrator) sumUp(stories []Scenario, took time.Duration) {
	fmt.Fprintf(n.out, "\n%s\n", n.style(bold, fmt.Sprintf("%d stories, proven in %v:", len(stories), took.Round(100*time.Millisecond))))
	for _, s := range stories {
		fmt.Fprintln(n.out, n.style(green, "  ✓ ")+s.Name+": "+s.Title)
	}
}

// A shower shows the output of one command, set off from the commands and line by line as
// it comes. Its two streams are written by two goroutines. While nothing comes for a
// while, a terminal gets a sign of life.
type shower struct {
	out   io.Writer
	begun time.Time
	quit  chan struct{}

	mu      sync.Mutex
	inLine  bool
	waiting bool // the line holds a sign of life
}

func (n *narrator) shower() *shower {
	w := &shower{out: n.out, begun: time.Now(), quit: make(chan struct{})}
	if n.colour {
		go w.runTicks()
	}
	return w
}

// runTicks counts the seconds until end is called. A progress bar of the library draws
// from goroutines of its own, between the lines of the output.
func (w *shower) runTicks() {
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

func (w *shower) tick(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.inLine {
		fmt.Fprintf(w.out, "%s  … %v", clearLine, now.Sub(w.begun).Round(time.Second))
		w.waiting = true
	}
}

func (w *shower) Write(p []byte) (int, error) {
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

// clear takes the sign of life off the screen.
func (w *shower) clear() {
	if w.waiting {
		io.WriteString(w.out, clearLine)
		w.waiting = false
	}
}

// end closes a last line that had no end. Nothing is written afterwards.
func (w *shower) end() {
	close(w.quit)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clear()
	if w.inLine {
		fmt.Fprintln(w.out)
	}
	w.inLine = true // a late tick stays silent
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
