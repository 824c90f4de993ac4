// Package fleet runs what is connected to the ports of one node's switch: instances, which it
// boots, and the namespaces and devices of the host that interfaces are attached to.
//
// Fleet has a machine for each instance (machine.go, nic.go) and a hostAttachment for each
// interface that is attached to something else (host_attachment.go). It uses the switch and the
// cluster through the interfaces Plane and Cluster.
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

// bootsAtOnce is how many instances may boot at the same time. More would not be faster, because
// they compete for the processors.
const bootsAtOnce = 4

// Config has the settings of a Fleet and the parts of the node that it uses. All fields but the
// last three are required.
type Config struct {
	Node    ec2.NodeID // the id of this node; with a wrong one the node's instances do not run
	MTU     int        // of every interface, in bytes of an IP packet; larger packets than the plane's MTU are lost
	Plane   Plane      // attaches the ports
	Cluster Cluster    // gets the reports about instances
	// Announce reports to the other nodes which leases of this node are up. It must not block.
	Announce func()
	Logger   *slog.Logger // gets failures of instances, ports and devices

	// NamespacePrefix begins the name of each instance's namespace. Default "": the fleet boots no
	// instances. This and the next two fields have the values of node.Lab.
	NamespacePrefix string
	InstanceDir     string // directory of the instances' files; if it is lost, running instances cannot be adopted
	CgroupPrefix    string // cgroup below which each instance has its own; labs that share one share its limits
}

// A Plane gives leases their ports. Its methods may be called at any time.
type Plane interface {
	// View is the state that the switch enforces; nil before the first.
	View() *state.View
	// Attach makes d the port of an active lease. It closes d on an error.
	Attach(epoch uint64, d vswitch.Device) error
	Detach(epoch uint64) error
	// SetMTU tells the switch the MTU of a lease's device.
	SetMTU(epoch uint64, mtu int)
	// ReadUplinkMTU tells the switch the MTU of the uplink's device.
	ReadUplinkMTU() error
	// Fail marks an active lease as down, until it has a port again.
	Fail(eni *ec2.Interface)
}

// A Cluster has the newest state that this node knows, and changes it.
type Cluster interface {
	View() *state.View
	Apply(context.Context, state.Command) (state.Result, uint64, error)
}

// Fleet boots, changes and ends the instances of this node, and attaches interfaces to the host's
// devices, as the state says. Each machine and hostAttachment works on one step at a time, towards
// the View that the switch enforces: the switch does not know the leases of a newer View yet.
//
// The node owns it. The method begin starts all goroutines, and Run waits for them. mu guards the
// fields below it and is a leaf, except that it is taken under the mutex of a machine or a
// hostAttachment.
type Fleet struct {
	Config
	slots   chan struct{} // holds one element for each booting instance
	work    sync.WaitGroup
	started chan struct{} // closed when Run has set ctx

	mu          sync.Mutex
	ctx         context.Context // of Run; nil before
	machines    map[ec2.InstanceID]*machine
	attachments map[ec2.InterfaceID]*hostAttachment
}

// New makes a Fleet. It starts nothing.
func New(c Config) *Fleet {
	return &Fleet{
		Config: c, slots: make(chan struct{}, bootsAtOnce),
		started: make(chan struct{}), machines: map[ec2.InstanceID]*machine{}, attachments: map[ec2.InterfaceID]*hostAttachment{},
	}
}

// Run waits until ctx ends, and then until every step has ended. Instances keep running.
func (f *Fleet) Run(ctx context.Context) error {
	f.mu.Lock()
	f.ctx = ctx
	f.mu.Unlock()
	close(f.started)
	<-ctx.Done()
	f.mu.Lock()
	//lint:ignore SA2001 once the lock is free, work counts every goroutine that begin() started before ctx ended
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

// Adopt is called with the first View after the daemon has started. It starts a step of every
// instance of this node, and returns when each instance that still runs has its ports again.
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
	f.adoptAttachments(ctx, view)
	return nil
}

// Notice starts a step of every machine whose instance or interfaces a View changed. It does not
// block.
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
	f.noticeAttachments(changes.Interfaces)
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

// begin starts a goroutine that does work, unless Run is ending.
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

// forget drops the machine of an instance that the state no longer has.
func (f *Fleet) forget(id ec2.InstanceID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.machines, id)
}

// report proposes a request until the cluster accepts or refuses it, or ctx ends.
func (f *Fleet) report(ctx context.Context, r state.Request) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		_, _, err := f.Cluster.Apply(ctx, state.Command{Request: r})
		if err == nil || ctx.Err() != nil {
			return
		}
		if _, refused := errors.AsType[*ec2.Error](err); refused {
			f.Logger.Error("cluster refused a report of this node", "report", fmt.Sprintf("%+v", r), "err", err)
			return
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}
