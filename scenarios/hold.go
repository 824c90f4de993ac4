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

// A heldConn is a command that keeps a connection open while the script goes on. Its far
// end sends back what it is sent, or talks by itself.
type heldConn struct {
	who   string
	cmd   *exec.Cmd
	stop  context.CancelFunc
	stdin io.WriteCloser
	lines int // typed into it so far

	out, errs heard
}

// heard is the output of a held command. Its writer is the command's, its reader the
// script's.
type heard struct {
	mu   sync.Mutex
	tail []byte        // the last tailBytes of it
	more chan struct{} // closed and replaced by each write
}

// tailBytes bounds what is remembered of an output; an answer is a short line.
const tailBytes = 64 << 10

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tail = append(h.tail, p...)
	if extra := len(h.tail) - tailBytes; extra > 0 {
		h.tail = slices.Delete(h.tail, 0, extra)
	}
	if h.more != nil {
		close(h.more)
		h.more = nil
	}
	return len(p), nil
}

// next reports whether text is in what was heard so far, and returns a channel that
// closes when more is.
func (h *heard) next(text string) (bool, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.more == nil {
		h.more = make(chan struct{})
	}
	return bytes.Contains(h.tail, []byte(text)), h.more
}

const (
	// answerWithin is how long a living connection may take to say something. The
	// first answer includes the making of the connection.
	answerWithin = 15 * time.Second

	// silentFor is how long a dead one must say nothing: long enough for several
	// retransmissions by either end.
	silentFor = 3 * time.Second

	// inFlight is how long a connection that was just cut may still deliver what the
	// programs at its ends have on the way.
	inFlight = time.Second
)

// cmdHold starts a command in the background.
func (p *player) cmdHold(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: hold NAME on|run CMD...")
	}
	name := args[0]
	if p.held[name] != nil {
		ts.Fatalf("%s is held already", name)
	}
	run := p.prepare(ts, args[1:])
	p.narrator.command(run.who, run.text+" &")

	ctx, stop := context.WithCancel(p.ctx)
	h := &heldConn{who: run.who, cmd: p.start(ctx, run), stop: stop}
	stdin, err := h.cmd.StdinPipe()
	ts.Check(err)
	h.stdin = stdin
	h.cmd.Stdout, h.cmd.Stderr = &h.out, &h.errs
	if err := h.cmd.Start(); err != nil {
		stop()
		ts.Fatalf("%s: %v", run.text, err)
	}
	p.held[name] = h
}

// cmdAlive types a line into a held connection and waits for it to come back.
func (p *player) cmdAlive(ts *testscript.TestScript, neg bool, args []string) {
	h := p.heldConn(ts, "alive", neg, args)
	line := h.typeLine(args[0])
	begin := time.Now()
	deadline := time.After(answerWithin)
	for {
		back, more := h.out.next(line + "\n")
		if back {
			break
		}
		select {
		case <-more:
		case <-deadline:
			ts.Fatalf("connection %q: %q did not come back within %v", args[0], line, answerWithin)
		case <-p.ctx.Done():
			ts.Fatalf("called off")
		}
	}
	p.narrator.note("connection %q: typed %q, back after %v", args[0], line, time.Since(begin).Round(time.Millisecond))
}

// cmdTalks waits for a held connection to say something by itself.
func (p *player) cmdTalks(ts *testscript.TestScript, neg bool, args []string) {
	h := p.heldConn(ts, "talks", neg, args)
	_, more := h.out.next("")
	select {
	case <-more:
		p.narrator.note("connection %q: the far end talks", args[0])
	case <-time.After(answerWithin):
		ts.Fatalf("connection %q: silent for %v", args[0], answerWithin)
	case <-p.ctx.Done():
		ts.Fatalf("called off")
	}
}

// cmdDead types a line into a held connection and makes sure that nothing comes back,
// neither in answer nor by itself.
func (p *player) cmdDead(ts *testscript.TestScript, neg bool, args []string) {
	h := p.heldConn(ts, "dead", neg, args)
	p.wait(ts, inFlight)
	_, more := h.out.next("")
	line := h.typeLine(args[0])
	select {
	case <-more:
		ts.Fatalf("connection %q: it still talks", args[0])
	case <-time.After(silentFor):
		p.narrator.note("connection %q: typed %q, silent for %v", args[0], line, silentFor)
	case <-p.ctx.Done():
		ts.Fatalf("called off")
	}
}

// cmdEnds waits for a held command to end by itself, which it must do well, and shows
// what it printed. The stdout matchers of the lines below see it.
func (p *player) cmdEnds(ts *testscript.TestScript, neg bool, args []string) {
	h := p.heldConn(ts, "ends", neg, args)
	delete(p.held, args[0])
	defer h.stop()
	limit := time.AfterFunc(p.config.Limit, h.stop)
	err := h.cmd.Wait()
	if !limit.Stop() {
		err = fmt.Errorf("did not end within %v", p.config.Limit)
	}
	p.narrator.note("what %q printed:", args[0])
	shown := p.narrator.shower()
	io.MultiWriter(shown, ts.Stdout()).Write(h.out.tail)
	io.MultiWriter(shown, ts.Stderr()).Write(h.errs.tail)
	shown.end()
	if err != nil {
		ts.Fatalf("%s: %v", args[0], err)
	}
}

func (p *player) heldConn(ts *testscript.TestScript, verb string, neg bool, args []string) *heldConn {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: %s NAME", verb)
	}
	h := p.held[args[0]]
	if h == nil {
		ts.Fatalf("nothing is held as %s", args[0])
	}
	return h
}

// typeLine sends the next line, "NAME 1", "NAME 2" and so on, and returns it. A
// connection that has ended takes none, and says nothing either.
func (h *heldConn) typeLine(name string) string {
	h.lines++
	line := fmt.Sprintf("%s %d", name, h.lines)
	fmt.Fprintln(h.stdin, line)
	return line
}

// release ends every held command.
func (p *player) release() {
	for _, h := range p.held {
		h.stop()
		h.stdin.Close()
		h.cmd.Wait()
	}
}
