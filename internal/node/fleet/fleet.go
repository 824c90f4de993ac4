// Package fleet runs what is connected to the ports of one node's switch: instances, which it
// boots, and network namespaces and devices of the host that interfaces are attached to.
//
// Fleet owns a machine for each instance (machine.go, nic.go) and an outsider for each interface
// that is attached to something else (host_attachment.go). It knows the switch and the cluster by
// the interfaces Plane and Cluster alone.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/instance"
	vswitch "palisade/switch"
)

// bootsAtOnce bounds how many instances boot side by side; more only wait for the same
// processors.
const bootsAtOnce = 4

// Config is what a Fleet works with. All fields are needed, but those of the lab.
type Config struct {
	Node    ec2.NodeID // this one
	MTU     int        // of every interface, in bytes of an IP packet
	Plane   Plane
	Cluster Cluster
	// Announce tells the other nodes which leases of this node have failed. It does not block.
	Announce func()
	Logger   *slog.Logger

	// Where and under which names instances are made: see Lab in the configuration of a node.
	NamespacePrefix string // "" if this node runs no images
	InstanceDir     string
	CgroupPrefix    string
}

// A Plane gives leases their ports.
type Plane interface {
	// View is the state that the switch enforces.
	View() *state.View
	// Attach makes d the port of an active lease. It closes d if it cannot.
	Attach(epoch uint64, d vswitch.Device) error
	Detach(epoch uint64) error
	// Fail reports that nothing answers at an active lease any more.
	Fail(lease *ec2.Interface)
}

// A Cluster has the newest state, and changes it.
type Cluster interface {
	View() *state.View
	Apply(context.Context, state.Command) (state.Result, uint64, error)
}

// Fleet makes the instances of this node what the state says they are. Each has a
// machine, which works on one step at a time and always towards the View that the switch
// goes by: of a newer one's leases the switch knows nothing yet.
type Fleet struct {
	Config
	slots chan struct{}

	work     sync.WaitGroup
	mu       sync.Mutex
	ctx      context.Context // of Run; nil before
	started  chan struct{}
	machines map[ec2.InstanceID]*machine

	outsiders map[ec2.InterfaceID]*outsider
}

// New makes a Fleet, which begins to work when it runs.
func New(c Config) *Fleet {
	return &Fleet{
		Config: c, slots: make(chan struct{}, bootsAtOnce),
		started: make(chan struct{}), machines: map[ec2.InstanceID]*machine{}, outsiders: map[ec2.InterfaceID]*outsider{},
	}
}

// Run lends its context to the machines and waits for them.
func (f *Fleet) Run(ctx context.Context) error {
	f.mu.Lock()
	f.ctx = ctx
	f.mu.Unlock()
	close(f.started)
	<-ctx.Done()
	f.mu.Lock()
	//lint:ignore SA2001 what begin let in before ctx ended is counted once it gives the lock back
	f.mu.Unlock()
	f.work.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for _, m := range f.machines {
		if m.running != nil {
			errs = append(errs, m.running.Close())
		}
	}
	return errors.Join(errs...)
}

// Adopt looks after every instance this node had before it went down, and returns when
// each that still runs has its port back.
func (f *Fleet) Adopt(ctx context.Context, view *state.View) error {
	select {
	case <-f.started:
	case <-ctx.Done():
		return ctx.Err()
	}
	var wg sync.WaitGroup
	for in := range view.Instances() {
		if in.Node != f.Node || in.Interface == "" {
			continue
		}
		m := f.machine(in.ID)
		if in.State == ec2.Running {
			wg.Go(func() { m.step(ctx) })
		} else {
			f.begin(m.step)
		}
	}
	wg.Wait()
	f.adoptOutside(ctx, view)
	return nil
}

// Notice starts a step of every machine whose instance, or an interface of whose, a View
// changed.
func (f *Fleet) Notice(view *state.View) {
	changes := view.Changes()
	due := map[ec2.InstanceID]bool{}
	for _, c := range changes.Instances {
		if c.After == nil {
			f.forget(c.Before.ID)
		} else if c.After.Node == f.Node {
			due[c.After.ID] = true
		}
	}
	f.noticeOutside(changes.Interfaces)
	for _, c := range changes.Interfaces {
		for _, eni := range []*ec2.Interface{c.Before, c.After} {
			if eni != nil && eni.Node == f.Node && eni.Instance != "" {
				due[eni.Instance] = true
			}
		}
	}
	for id := range due {
		if _, ok := view.Instance(id); ok {
			f.begin(f.machine(id).step)
		}
	}
}

// begin does work beside whoever calls, unless the fleet is stopping already.
func (f *Fleet) begin(work func(context.Context)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx := f.ctx; ctx.Err() == nil {
		f.work.Go(func() { work(ctx) })
	}
}

func (f *Fleet) machine(id ec2.InstanceID) *machine {
	f.mu.Lock()
	defer f.mu.Unlock()
	m, ok := f.machines[id]
	if !ok {
		m = &machine{fleet: f, id: id, nics: map[uint64]instance.NIC{}}
		f.machines[id] = m
	}
	return m
}

// forget lets go of an instance that nobody can ask about any more.
func (f *Fleet) forget(id ec2.InstanceID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.machines, id)
}

// report tells the cluster, until it has heard or the node stops.
func (f *Fleet) report(ctx context.Context, r state.Request) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		_, _, err := f.Cluster.Apply(ctx, state.Command{Request: r})
		if err == nil || ctx.Err() != nil {
			return
		}
		if _, refused := errors.AsType[*ec2.Error](err); refused {
			f.Logger.Error("a report was refused", "report", fmt.Sprintf("%+v", r), "err", err)
			return
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}
