package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"palisade/cluster"
	"palisade/ec2"
	"palisade/internal/instance"
	"palisade/switch/tap"
)

// bootsAtOnce bounds how many instances boot side by side; more only wait for the same
// processors.
const bootsAtOnce = 4

// device is an instance's NIC, as it sees it.
const device = "eth0"

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
}

// A machine is one instance of this node.
type machine struct {
	fleet *fleet
	id    ec2.InstanceID

	mu      sync.Mutex // held through a step
	lease   uint64     // epoch
	spec    instance.Spec
	running *instance.Instance
}

func newFleet(c Config, cl *cluster.Cluster, p *plane, log *slog.Logger) *fleet {
	return &fleet{
		config: c, cluster: cl, plane: p, log: log, slots: make(chan struct{}, bootsAtOnce),
		started: make(chan struct{}), machines: map[ec2.InstanceID]*machine{},
	}
}

// run lends its context to the machines and waits for them.
func (f *fleet) run(ctx context.Context) error {
	f.mu.Lock()
	f.ctx = ctx
	f.mu.Unlock()
	close(f.started)
	<-ctx.Done()
	f.mu.Lock() // what begin has let in is counted by now
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
	return nil
}

// notice starts a step of every machine whose instance a View changed.
func (f *fleet) notice(view *ec2.View) {
	for _, c := range view.Changes().Instances {
		if c.After == nil {
			f.forget(c.Before.ID)
			continue
		}
		if c.After.Node != f.config.Name {
			continue
		}
		m := f.machine(c.After.ID)
		f.begin(m.step)
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
		m = &machine{fleet: f, id: id}
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

// step takes the machine to where the View in force wants it, and reports.
func (m *machine) step(ctx context.Context) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.fleet
	view := f.plane.inForce()
	in, ok := view.Instance(m.id)
	if !ok || in.Node != f.config.Name || in.Interface == "" {
		return
	}
	lease, ok := view.Interface(in.Interface)
	if !ok {
		return
	}
	switch in.State {
	case ec2.Pending, ec2.Running:
		if lease.State == ec2.Active && m.running == nil {
			m.start(ctx, view, in, lease)
		}
	case ec2.ShuttingDown:
		m.stop(ctx, view, in, lease, ec2.Terminated, "")
	case ec2.Stopping:
		m.stop(ctx, view, in, lease, ec2.Stopped, "")
	}
}

// start adopts an instance that runs, or boots one that was launched.
func (m *machine) start(ctx context.Context, view *ec2.View, in *ec2.Instance, lease *ec2.Interface) {
	f := m.fleet
	m.spec = f.spec(view, in, lease)
	m.lease = lease.Epoch
	running, err := m.bringUp(ctx, in)
	if ctx.Err() != nil {
		return // the next daemon goes on
	}
	if err != nil {
		f.log.Error("an instance does not run", "instance", m.id, "err", err)
		end, reason := ec2.Terminated, "Server.InternalError: the instance did not start"
		if in.State == ec2.Running {
			end, reason = ec2.Stopped, "Server.InternalError: the machine went down"
		}
		m.stop(ctx, view, in, lease, end, reason)
		return
	}
	m.running = running
	f.begin(func(ctx context.Context) { m.runWatch(ctx, running) })
	if in.State == ec2.Pending {
		f.report(ctx, &ec2.ReportInstance{Instance: m.id, InterfaceEpoch: lease.Epoch, State: ec2.Running})
	}
}

func (m *machine) bringUp(ctx context.Context, in *ec2.Instance) (*instance.Instance, error) {
	f := m.fleet
	running, err := instance.Adopt(m.spec)
	if err != nil && !errors.Is(err, instance.ErrGone) {
		return nil, err
	}
	if err != nil {
		if in.State == ec2.Running {
			return nil, err
		}
		select {
		case f.slots <- struct{}{}:
			defer func() { <-f.slots }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if f.config.Lab.NamespacePrefix == "" {
			return nil, errors.New("this node runs no images: it was not started for a lab")
		}
		if err := instance.Prepare(m.spec); err != nil {
			return nil, err
		}
	}
	d, err := tap.Open(tap.Config{Name: device, Namespace: m.spec.Namespace})
	if err != nil {
		return nil, err
	}
	if err := f.plane.attach(m.lease, d); err != nil {
		return nil, err
	}
	if running != nil {
		return running, nil
	}
	return instance.Boot(ctx, m.spec)
}

// stop ends the instance and all that is left of it, then reports.
func (m *machine) stop(ctx context.Context, view *ec2.View, in *ec2.Instance, lease *ec2.Interface, end ec2.InstanceState, reason string) {
	f := m.fleet
	if lease.State == ec2.Active { // the state does not know yet: the other nodes shall
		f.plane.fail(lease)
		f.cluster.SetPresence(f.plane.presence())
	}
	if err := f.plane.detach(lease.Epoch); err != nil {
		f.log.Warn("a port did not close", "instance", m.id, "err", err)
	}
	if m.running != nil {
		if err := m.running.Kill(ctx); err != nil {
			f.log.Warn("an instance did not end", "instance", m.id, "err", err)
		}
		m.running = nil
	}
	m.spec = f.spec(view, in, lease)
	if err := instance.Remove(m.spec); err != nil {
		f.log.Warn("something of an instance is left", "instance", m.id, "err", err)
	}
	f.report(ctx, &ec2.ReportInstance{Instance: m.id, InterfaceEpoch: lease.Epoch, State: end, Reason: reason})
}

// runWatch notices an instance that ends by itself, as one does that its owner shuts
// down from inside.
func (m *machine) runWatch(ctx context.Context, running *instance.Instance) {
	select {
	case <-ctx.Done():
		return
	case <-running.Done():
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running != running {
		return // it was told to
	}
	f := m.fleet
	view := f.cluster.View()
	in, ok := view.Instance(m.id)
	if !ok || in.State != ec2.Running {
		return // the step of that state is on its way
	}
	if lease, ok := view.Interface(in.Interface); ok {
		m.stop(ctx, view, in, lease, ec2.Stopped, "Client.InstanceInitiatedShutdown: Instance initiated shutdown")
	}
}

// report tells the cluster, until it has heard or the node stops.
func (f *fleet) report(ctx context.Context, r *ec2.ReportInstance) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		_, _, err := f.cluster.Apply(ctx, ec2.Command{Request: r})
		if err == nil || ctx.Err() != nil {
			return
		}
		if _, refused := errors.AsType[*ec2.Error](err); refused {
			f.log.Error("a report was refused", "instance", r.Instance, "state", r.State, "err", err)
			return
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

func (f *fleet) spec(view *ec2.View, in *ec2.Instance, lease *ec2.Interface) instance.Spec {
	s := instance.Spec{
		Namespace: f.config.Lab.NamespacePrefix + string(in.ID), ID: string(in.ID), Hostname: hostname(lease.Private),
		Image: in.Image, Device: device, MAC: lease.MAC, MTU: f.plane.mtu, UserData: in.UserData,
		Dir: filepath.Join(f.config.Lab.InstanceDir, string(in.ID)), CgroupPrefix: f.config.Lab.CgroupPrefix,
	}
	if n, ok := view.Network(lease.VNI); ok {
		s.Address, s.Gateway = netip.PrefixFrom(lease.Private, n.Prefix.Bits()), n.Gateway
	}
	if key, ok := view.KeyPair(in.Account, in.Region, in.KeyName); ok {
		s.AuthorizedKeys = []string{key.PublicKey}
	}
	return s
}

// hostname is the private name EC2-Classic gives an address.
func hostname(a netip.Addr) string {
	b := a.As4()
	return fmt.Sprintf("ip-%d-%d-%d-%d", b[0], b[1], b[2], b[3])
}
