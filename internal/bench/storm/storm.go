// Package storm is the program of a hostile instance. It sends every kind of frame that may
// hurt the network, and uses all the sockets and processor time that it is allowed. Each
// attack ends after a time or a count. TestSoakStormSparesNeighbours runs it inside an instance of a lab and,
// for comparison, behind a Linux bridge, with the same requests.
//
// Serve reads requests as lines of JSON and answers each with a line. The requests, in the
// order of use:
//
//	Hold   open sockets that are slow or are never read from; they stay until the process ends
//	Attack run all senders and busy loops at the same time, for a while
//	Probe  send a known number of frames that no rule admits; in a process of its own
//
// Read Host, Serve, Attack (attack.go), Hold (hold.go), Probe (probe.go), Corpus (corpus.go).
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

// A Host is the sender or the receiver of frames.
type Host struct {
	Address netip.Addr `json:"address"`
	MAC     [6]byte    `json:"mac"` // of a receiver: the destination MAC of frames for it
}

// A request is one line of Serve's input. Exactly one field is set.
type request struct {
	Hold   *Hold   `json:"hold,omitempty"`
	Attack *Attack `json:"blow,omitempty"`
	Probe  *Probe  `json:"probe,omitempty"`
}

// A reply is one line of Serve's output.
type reply struct {
	Held     *Held         `json:"held,omitempty"`
	Attacked *AttackResult `json:"blown,omitempty"`
	Probed   *Probed       `json:"probed,omitempty"`
	Error    string        `json:"error,omitempty"`
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
		case q.Attack != nil:
			r.Attacked, err = attack(*q.Attack)
		case q.Probe != nil:
			r.Probed, err = probe(*q.Probe)
		default:
			err = errors.New("the request has no field")
		}
		if err != nil {
			r.Error = err.Error()
		}
		if err := replies.Encode(r); err != nil {
			return err
		}
	}
}

// A Process is another process that runs Serve. Several goroutines may call its methods; the
// process carries out one request at a time.
type Process struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	problem *tail

	mu      sync.Mutex // held for a request and its reply
	replies *json.Decoder
}

// Start starts cmd, a program that calls Serve. The function start starts it in the right
// namespaces.
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

// Kill kills the process. It does not wait for the end, because the kernel may take long to
// release the process's sockets.
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

func (p *Process) Attack(a Attack) (AttackResult, error) {
	r, err := p.ask(request{Attack: &a})
	if err != nil {
		return AttackResult{}, err
	}
	return *r.Attacked, nil
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
		return r, fmt.Errorf("process of the storm: %w: %s", err, p.problem)
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
