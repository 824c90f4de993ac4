package bench

import (
	"context"
	"errors"
	"os/exec"
	"strconv"

	"palisade/internal/bench/traffic"
	"palisade/internal/bench/world"
)

// The server's ports. The rules of every contestant admit them.
const (
	iperfPort  = world.FirstPort
	echoPort   = world.FirstPort + 1
	acceptPort = world.FirstPort + 2
	sinkPort   = world.FirstPort + 10
	sinkPorts  = 20 // for a million flows
)

// A place is two endpoints and the path between them: a world.World, or a pair.
type place interface {
	Client() world.Endpoint
	Server() world.Endpoint
	Start(at world.Endpoint, cmd *exec.Cmd) error
	Serve(ctx context.Context, at world.Endpoint, port int, argv ...string) error
}

// A rig is a place with the traffic programs at its endpoints.
type rig struct {
	place
	label, about string
	flows        int // replaces the number of flows of a task, if not 0

	client, server *traffic.Agent
	memory         func() (int64, error) // bytes that a World uses
	verify         func() error
	closeWorld     func() error
}

// newRig starts the traffic programs. If it returns an error, the caller must close the
// place.
func newRig(ctx context.Context, p place, command []string) (*rig, error) {
	r := &rig{place: p, verify: func() error { return nil }, closeWorld: func() error { return nil }}
	err := func() (err error) {
		if r.server, err = r.agent(p.Server(), command); err != nil {
			return err
		}
		if r.client, err = r.agent(p.Client(), command); err != nil {
			return err
		}
		address := p.Server().Address
		if err := r.server.Listen(ctx, traffic.Listen{Address: address, Sink: sinkPort, SinkPorts: sinkPorts, Echo: echoPort, Accept: acceptPort}); err != nil {
			return err
		}
		return p.Serve(ctx, p.Server(), iperfPort, "iperf3", "-4", "-s", "-B", address.String(), "-p", strconv.Itoa(iperfPort))
	}()
	if err != nil {
		return nil, errors.Join(err, r.closeAgents())
	}
	return r, nil
}

func (r *rig) agent(at world.Endpoint, command []string) (*traffic.Agent, error) {
	return traffic.NewAgent(exec.Command(command[0], command[1:]...), func(cmd *exec.Cmd) error { return r.Start(at, cmd) })
}

// processorSeconds returns how many seconds all processors of the machine together work
// while the function do runs.
func processorSeconds(do func() error) (float64, error) {
	before, err := world.CPU()
	if err != nil {
		return 0, err
	}
	if err := do(); err != nil {
		return 0, err
	}
	after, err := world.CPU()
	return after - before, err
}

func (r *rig) close() error { return errors.Join(r.closeAgents(), r.closeWorld()) }

func (r *rig) closeAgents() error {
	var errs []error
	for _, a := range []*traffic.Agent{r.client, r.server} {
		if a != nil {
			errs = append(errs, a.Close())
		}
	}
	return errors.Join(errs...)
}
