package traffic

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
)

// An Agent is a process at an endpoint that runs Serve. Several goroutines may call its
// methods; the process carries out one request at a time.
type Agent struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	replies *json.Decoder
	problem bytes.Buffer // read only after the process has ended

	mu   sync.Mutex // held for a request and its answer; guards dead
	dead error      // why the process has ended; nil while it runs
}

// NewAgent starts cmd, a program that calls Serve. The function start starts it in the
// endpoint's namespace.
func NewAgent(cmd *exec.Cmd, start func(*exec.Cmd) error) (*Agent, error) {
	a := &Agent{cmd: cmd}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	a.in, a.replies, cmd.Stderr = in, json.NewDecoder(out), &a.problem
	if err := start(cmd); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *Agent) Listen(ctx context.Context, l Listen) error {
	_, err := ask[struct{}](ctx, a, "listen", l)
	return err
}

func (a *Agent) Count(ctx context.Context) (Count, error) {
	return ask[Count](ctx, a, "count", struct{}{})
}

func (a *Agent) Send(ctx context.Context, s Send) (Sent, error) { return ask[Sent](ctx, a, "send", s) }

func (a *Agent) RoundTrips(ctx context.Context, r RoundTrips) (Latency, error) {
	return ask[Latency](ctx, a, "round-trips", r)
}

func (a *Agent) Connect(ctx context.Context, c Connect) (Connected, error) {
	return ask[Connected](ctx, a, "connect", c)
}

// Close ends the process.
func (a *Agent) Close() error {
	_ = a.cmd.Process.Kill() // an error means that it has ended
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.dead == nil {
		a.end(errors.New("closed"))
	}
	return nil
}

// end ends and reaps the process. Later requests fail with why. The caller holds mu.
func (a *Agent) end(why error) {
	_ = a.in.Close()
	_ = a.cmd.Process.Kill()
	_ = a.cmd.Wait() // the error says that it was killed
	if said := strings.TrimSpace(a.problem.String()); said != "" {
		why = fmt.Errorf("%w: %s", why, said)
	}
	a.dead = why
}

// ask makes one request. When ctx ends it kills the process, because the process may be in
// a system call that does not return.
func ask[R any](ctx context.Context, a *Agent, verb string, args any) (result R, err error) {
	raw, err := json.Marshal(args)
	if err != nil {
		return result, err
	}
	line, err := json.Marshal(request{Verb: verb, Args: raw})
	if err != nil {
		return result, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.dead != nil {
		return result, fmt.Errorf("%s: the process at the endpoint has ended: %w", verb, a.dead)
	}
	stop := context.AfterFunc(ctx, func() { _ = a.cmd.Process.Kill() })
	defer stop()
	var answer reply
	if _, err = a.in.Write(append(line, '\n')); err == nil {
		err = a.replies.Decode(&answer)
	}
	if err != nil {
		a.end(errors.Join(err, ctx.Err()))
		return result, fmt.Errorf("%s: %w", verb, a.dead)
	}
	if answer.Error != "" {
		return result, errors.New(answer.Error)
	}
	return result, json.Unmarshal(answer.Result, &result)
}
