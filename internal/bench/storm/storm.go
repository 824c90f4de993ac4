// Package storm is the program of a hostile instance: it sends whatever may hurt the network
// that carries it, and holds and burns what it is given of the machine. Its bounds are in
// time and in counts. The soak test of the same name runs it inside an instance of a lab, and
// behind a Linux bridge for comparison, with the same requests.
//
// Serve is its body: it reads requests as lines of JSON and answers each with a line. The
// requests, in the order of use:
//
//	Hold   open sockets that are slow or are never read from; they stay until the process ends
//	Blow   send everything at once, and run busy loops, for a while
//	Probe  send what no rule admits, fast and in known number; for other processes than a storm's
//
// Read Host, Serve, Blow (blow.go), Hold (hold.go), Probe (probe.go), Corpus (corpus.go).
package storm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"sync"
)

// A Host is one that frames are sent to or from.
type Host struct {
	Address netip.Addr `json:"address"`
	MAC     [6]byte    `json:"mac"` // of a receiver: whom frames for it are addressed to
}

// A request is one line of Serve's input: one of its fields is set.
type request struct {
	Hold  *Hold  `json:"hold,omitempty"`
	Blow  *Blow  `json:"blow,omitempty"`
	Probe *Probe `json:"probe,omitempty"`
}

// A reply is one line of its output.
type reply struct {
	Held   *Held   `json:"held,omitempty"`
	Blown  *Blown  `json:"blown,omitempty"`
	Probed *Probed `json:"probed,omitempty"`
	Error  string  `json:"error,omitempty"`
}

// Serve carries out requests until its input ends.
func Serve(in io.Reader, out io.Writer) error {
	requests, replies := json.NewDecoder(in), json.NewEncoder(out)
	var held holding
	for {
		var q request
		if err := requests.Decode(&q); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read a request: %w", err)
		}
		var r reply
		var err error
		switch {
		case q.Hold != nil:
			r.Held, err = held.hold(*q.Hold)
		case q.Blow != nil:
			r.Blown, err = blow(*q.Blow)
		case q.Probe != nil:
			r.Probed, err = probe(*q.Probe)
		default:
			err = errors.New("a request without anything to do")
		}
		if err != nil {
			r.Error = err.Error()
		}
		if err := replies.Encode(r); err != nil {
			return err
		}
	}
}

// A Process runs Serve elsewhere. Its methods may be called by several goroutines; the
// process does one thing at a time.
type Process struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	problem *tail

	mu      sync.Mutex
	replies *json.Decoder
}

// Start starts cmd, whose body is Serve, by start, which knows in which namespaces.
func Start(cmd *exec.Cmd, start func(*exec.Cmd) error) (*Process, error) {
	p := &Process{cmd: cmd, problem: new(tail)}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.in, p.replies, cmd.Stderr = in, json.NewDecoder(out), p.problem
	if err := start(cmd); err != nil {
		return nil, err
	}
	return p, nil
}

// Kill ends the process. What it holds may take the kernel long to let go of: nobody waits for
// that.
func (p *Process) Kill() {
	_ = p.in.Close()
	_ = p.cmd.Process.Kill()
	go p.cmd.Wait()
}

func (p *Process) Hold(h Hold) (Held, error) {
	r, err := p.ask(request{Hold: &h})
	if err != nil {
		return Held{}, err
	}
	return *r.Held, nil
}

func (p *Process) Blow(b Blow) (Blown, error) {
	r, err := p.ask(request{Blow: &b})
	if err != nil {
		return Blown{}, err
	}
	return *r.Blown, nil
}

func (p *Process) Probe(q Probe) (Probed, error) {
	r, err := p.ask(request{Probe: &q})
	if err != nil {
		return Probed{}, err
	}
	return *r.Probed, nil
}

func (p *Process) ask(q request) (reply, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var r reply
	err := json.NewEncoder(p.in).Encode(q)
	if err == nil {
		err = p.replies.Decode(&r)
	}
	if err != nil {
		return r, fmt.Errorf("the storm's process: %w: %s", err, p.problem)
	}
	if r.Error != "" {
		return r, errors.New(r.Error)
	}
	return r, nil
}

// A tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	t.b = t.b[max(0, len(t.b)-4000):]
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}
