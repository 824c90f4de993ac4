package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"palisade/cluster"
	"palisade/ec2"
	"palisade/internal/instance"
)

// bootsAtOnce bounds how many instances boot side by side; more only wait for the same
// processors.
const bootsAtOnce = 4

// fleet makes the instances of this node what the state says they are. Each has a
// machine, which works on one step at a time and always towards the View that the switch
// goes by: of a newer one's leases the switch knows nothing yet.
type fleet struct {
	config  Config
	cluster *cluster.Cluster
	plane   *plane
	log     *slog.Logger
	slots   chan struct{}

	work     sync.WaitGroup
	mu       sync.Mutex
	ctx      context.Context // of run; nil before
	started  chan struct{}
	machines map[ec2.InstanceID]*machine

	outsiders map[ec2.InterfaceID]*outsider
}

func newFleet(c Config, cl *cluster.Cluster, p *plane, log *slog.Logger) *fleet {
	return &fleet{
		config: c, cluster: cl, plane: p, log: log, slots: make(chan struct{}, bootsAtOnce),
		started: make(chan struct{}), machines: map[ec2.InstanceID]*machine{}, outsiders: map[ec2.InterfaceID]*outsider{},
	}
}

// run lends its context to the machines and waits for them.
func (f *fleet) run(ctx context.Context) error {
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

// adopt looks after every instance this node had before it went down, and returns when
// each that still runs has its port back.
func (f *fleet) adopt(ctx context.Context, view *ec2.View) error {
	select {
	case <-f.started:
	case <-ctx.Done():
		return ctx.Err()
	}
	var wg sync.WaitGroup
	for in := range view.Instances() {
		if in.Node != f.config.Name || in.Interface == "" {
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

// notice starts a step of every machine whose instance, or an interface of whose, a View
// changed.
func (f *fleet) notice(view *ec2.View) {
	changes := view.Changes()
	due := map[ec2.InstanceID]bool{}
	for _, c := range changes.Instances {
		if c.After == nil {
			f.forget(c.Before.ID)
		} else if c.After.Node == f.config.Name {
			due[c.After.ID] = true
		}
	}
	f.noticeOutside(changes.Interfaces)
	for _, c := range changes.Interfaces {
		for _, eni := range []*ec2.Interface{c.Before, c.After} {
			if eni != nil && eni.Node == f.config.Name && eni.Instance != "" {
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
func (f *fleet) begin(work func(context.Context)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx := f.ctx; ctx.Err() == nil {
		f.work.Go(func() { work(ctx) })
	}
}

func (f *fleet) machine(id ec2.InstanceID) *machine {
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
func (f *fleet) forget(id ec2.InstanceID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.machines, id)
}

// report tells the cluster, until it has heard or the node stops.
func (f *fleet) report(ctx context.Context, r ec2.Request) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		_, _, err := f.cluster.Apply(ctx, ec2.Command{Request: r})
		if err == nil || ctx.Err() != nil {
			return
		}
		if _, refused := errors.AsType[*ec2.Error](err); refused {
			f.log.Error("a report was refused", "report", fmt.Sprintf("%+v", r), "err", err)
			return
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}
