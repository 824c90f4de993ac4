package scenarios

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// A heldCommand runs in the background and keeps a connection open while the script goes on. The
// remote end of the connection either echoes each line, or prints lines without being asked.
type heldCommand struct {
	who   string
	cmd   *exec.Cmd
	stop  context.CancelFunc
	stdin io.WriteCloser
	lines int // number of lines sent to it so far

	stdout, stderr tail
}

// A tail keeps the last bytes that a held command printed. The goroutine that copies the command's output
// writes to the tail, and the goroutine of the script reads it.
type tail struct {
	mu   sync.Mutex
	text []byte        // the last tailBytes of the output
	more chan struct{} // the next write closes it
}

// tailBytes bounds a tail. It is enough, because an answer is a short line.
const tailBytes = 64 << 10

func (h *tail) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.text = append(h.text, p...)
	if extra := len(h.text) - tailBytes; extra > 0 {
		h.text = slices.Delete(h.text, 0, extra)
	}
	if h.more != nil {
		close(h.more)
		h.more = nil
	}
	return len(p), nil
}

// next reports whether the tail contains text, and returns a channel that closes when there is more
// output.
func (h *tail) next(text string) (bool, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.more == nil {
		h.more = make(chan struct{})
	}
	return bytes.Contains(h.text, []byte(text)), h.more
}

const (
	// answerWithin bounds the wait for an answer on a connection that works. The wait for the first
	// answer includes the time to connect.
	answerWithin = 15 * time.Second

	// silentFor is how long a cut connection must deliver nothing. Either end retransmits several times
	// within it.
	silentFor = 3 * time.Second

	// inFlight is how long a connection that was just cut may still deliver data that the programs
	// at its ends have buffered.
	inFlight = time.Second
)

// cmdHold starts a command in the background and keeps it under a name.
func (p *player) cmdHold(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: hold NAME on|run CMD...")
	}
	name := args[0]
	if p.held[name] != nil {
		ts.Fatalf("a held command has the name %s already", name)
	}
	run := p.prepare(ts, args[1:])
	p.narrator.command(run.who, run.text+" &")

	ctx, stop := context.WithCancel(p.ctx)
	h := &heldCommand{who: run.who, cmd: p.start(ctx, run), stop: stop}
	stdin, err := h.cmd.StdinPipe()
	ts.Check(err)
	h.stdin = stdin
	h.cmd.Stdout, h.cmd.Stderr = &h.stdout, &h.stderr
	if err := h.cmd.Start(); err != nil {
		stop()
		ts.Fatalf("%s: %v", run.text, err)
	}
	p.held[name] = h
}

// cmdAlive sends a line to a held command and waits for its echo.
func (p *player) cmdAlive(ts *testscript.TestScript, neg bool, args []string) {
	h := p.heldNamed(ts, "alive", neg, args)
	line := h.typeLine(args[0])
	begin := time.Now()
	deadline := time.After(answerWithin)
	for {
		back, more := h.stdout.next(line + "\n")
		if back {
			break
		}
		select {
		case <-more:
		case <-deadline:
			ts.Fatalf("connection %q: no echo of %q within %v", args[0], line, answerWithin)
		case <-p.ctx.Done():
			ts.Fatalf("the play was cancelled")
		}
	}
	p.narrator.note("connection %q: sent %q, echoed after %v", args[0], line, time.Since(begin).Round(time.Millisecond))
}

// cmdTalks waits until a held command prints something without being asked.
func (p *player) cmdTalks(ts *testscript.TestScript, neg bool, args []string) {
	h := p.heldNamed(ts, "talks", neg, args)
	_, more := h.stdout.next("")
	select {
	case <-more:
		p.narrator.note("connection %q: the remote end sends", args[0])
	case <-time.After(answerWithin):
		ts.Fatalf("connection %q: nothing received for %v", args[0], answerWithin)
	case <-p.ctx.Done():
		ts.Fatalf("the play was cancelled")
	}
}

// cmdDead sends a line to a held command and fails if the command prints anything after that, an echo or
// not.
func (p *player) cmdDead(ts *testscript.TestScript, neg bool, args []string) {
	h := p.heldNamed(ts, "dead", neg, args)
	p.wait(ts, inFlight)
	_, more := h.stdout.next("")
	line := h.typeLine(args[0])
	select {
	case <-more:
		ts.Fatalf("connection %q still delivers data, want none", args[0])
	case <-time.After(silentFor):
		p.narrator.note("connection %q: sent %q, nothing received for %v", args[0], line, silentFor)
	case <-p.ctx.Done():
		ts.Fatalf("the play was cancelled")
	}
}

// cmdEnds waits until a held command ends, and shows its output. It fails if the command failed. The stdout
// matchers of the next lines check that output.
func (p *player) cmdEnds(ts *testscript.TestScript, neg bool, args []string) {
	h := p.heldNamed(ts, "ends", neg, args)
	delete(p.held, args[0])
	defer h.stop()
	limit := time.AfterFunc(p.config.Limit, h.stop)
	err := h.cmd.Wait()
	if !limit.Stop() {
		err = fmt.Errorf("did not end within %v", p.config.Limit)
	}
	p.narrator.note("output of %q:", args[0])
	shown := p.narrator.outputWriter()
	io.MultiWriter(shown, ts.Stdout()).Write(h.stdout.text)
	io.MultiWriter(shown, ts.Stderr()).Write(h.stderr.text)
	shown.end()
	if err != nil {
		ts.Fatalf("%s: %v", args[0], err)
	}
}

func (p *player) heldNamed(ts *testscript.TestScript, verb string, neg bool, args []string) *heldCommand {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: %s NAME", verb)
	}
	h := p.held[args[0]]
	if h == nil {
		ts.Fatalf("no held command has the name %s", args[0])
	}
	return h
}

// typeLine sends a line to the command and returns it: first "NAME 1", then "NAME 2" and so on. It ignores
// an error, because a command that has ended does not read the line.
func (h *heldCommand) typeLine(name string) string {
	h.lines++
	line := fmt.Sprintf("%s %d", name, h.lines)
	fmt.Fprintln(h.stdin, line)
	return line
}

// release kills all held commands.
func (p *player) release() {
	for _, h := range p.held {
		h.stop()
		h.stdin.Close()
		h.cmd.Wait()
	}
}
