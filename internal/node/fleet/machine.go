package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/instance"
)

// A machine is one instance of this node.
//
// The fleet owns it. Its mutex is held through a step; Fleet.mu and the plane's mutex are taken
// under it.
type machine struct {
	fleet *Fleet
	id    ec2.InstanceID

	mu      sync.Mutex
	spec    instance.Spec
	running *instance.Instance      // nil if it does not run
	nics    map[uint64]instance.NIC // plugged in, by the epoch of their lease
}

// step boots, changes or ends the instance as the View in force says, and reports what it did to the
// cluster.
func (m *machine) step(ctx context.Context) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.fleet
	view := f.Plane.View()
	in, ok := view.Instance(m.id)
	if !ok || in.Node != f.Node || in.Interface == "" {
		return
	}
	primary, ok := view.Interface(in.Interface)
	if !ok {
		return
	}
	switch in.State {
	case ec2.Pending, ec2.Running:
		if primary.State == ec2.Active && m.running == nil {
			m.start(ctx, view, in, primary)
		}
		if m.running != nil && ctx.Err() == nil {
			m.rewire(ctx, view)
			m.reboot(ctx, view, in, primary)
		}
	case ec2.ShuttingDown:
		m.stop(ctx, view, in, primary, ec2.Terminated, "")
	case ec2.Stopping:
		m.stop(ctx, view, in, primary, ec2.Stopped, "")
	}
}

// start adopts an instance that runs, or boots one that is pending.
func (m *machine) start(ctx context.Context, view *state.View, in *ec2.Instance, primary *ec2.Interface) {
	f := m.fleet
	m.spec = f.spec(view, in)
	running, err := m.bringUp(ctx, view, in)
	if ctx.Err() != nil {
		return // the next daemon starts the instance
	}
	if err != nil {
		f.Logger.Error("instance not started", "instance", m.id, "err", err)
		end, reason := ec2.Terminated, "Server.InternalError: the instance did not start"
		if in.State == ec2.Running {
			end, reason = ec2.Stopped, "Server.InternalError: the machine went down"
		}
		m.stop(ctx, view, in, primary, end, reason)
		return
	}
	m.watch(running)
	if in.State == ec2.Pending {
		f.report(ctx, &state.ReportInstance{Instance: m.id, InterfaceEpoch: primary.Epoch, State: ec2.Running})
	}
}

func (m *machine) watch(running *instance.Instance) {
	m.running = running
	m.fleet.begin(func(ctx context.Context) { m.runWatch(ctx, running) })
}

// bringUp adopts or boots the instance and plugs its interfaces in.
func (m *machine) bringUp(ctx context.Context, view *state.View, in *ec2.Instance) (*instance.Instance, error) {
	f := m.fleet
	running, err := instance.Adopt(m.spec)
	if err != nil && !errors.Is(err, instance.ErrGone) {
		return nil, err
	}
	if err != nil {
		if in.State == ec2.Running {
			return nil, err
		}
		release, err := f.slot(ctx)
		if err != nil {
			return nil, err
		}
		defer release()
		if f.NamespacePrefix == "" {
			return nil, errors.New("this node boots no instances: its configuration has no lab.namespace_prefix")
		}
		if err := instance.Prepare(m.spec); err != nil {
			return nil, err
		}
	}
	if err := m.plugAll(view); err != nil {
		return nil, err
	}
	if running != nil {
		return running, m.unplugStrays()
	}
	return instance.Boot(ctx, m.spec)
}

func (m *machine) plugAll(view *state.View) error {
	for _, eni := range m.fleet.interfaces(view, m.id) {
		if err := m.plug(view, eni); err != nil {
			return err
		}
	}
	return nil
}

// slot waits until fewer than bootsAtOnce instances are booting. The caller calls release after its
// boot.
func (f *Fleet) slot(ctx context.Context) (release func(), err error) {
	select {
	case f.slots <- struct{}{}:
		return func() { <-f.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// reboot ends the instance and boots it on the same devices, if a reboot was requested.
func (m *machine) reboot(ctx context.Context, view *state.View, in *ec2.Instance, primary *ec2.Interface) {
	if m.running == nil || m.running.Booted() == in.Boot {
		return
	}
	f := m.fleet
	release, err := f.slot(ctx)
	if err != nil {
		return
	}
	defer release()
	old := m.running
	m.running = nil // so that runWatch ignores the end of old
	if err = old.Kill(ctx); err == nil {
		m.spec = f.spec(view, in)
		var again *instance.Instance
		if again, err = m.bootAgain(ctx, view); err == nil {
			m.watch(again)
			return
		}
	}
	if ctx.Err() == nil {
		f.Logger.Error("instance not rebooted", "instance", m.id, "err", err)
		m.stop(ctx, view, in, primary, ec2.Stopped, "Server.InternalError: the instance did not boot again")
	}
}

// bootAgain boots the instance on the devices that it has. If an earlier release made its namespace,
// with the node's user ids, the instance gets a new namespace with its own ids, and new devices.
func (m *machine) bootAgain(ctx context.Context, view *state.View) (*instance.Instance, error) {
	running, err := instance.Boot(ctx, m.spec)
	if !errors.Is(err, instance.ErrSharedIDs) {
		return running, err
	}
	m.detachAll()
	if err := instance.Prepare(m.spec); err != nil {
		return nil, err
	}
	if err := m.plugAll(view); err != nil {
		return nil, err
	}
	return instance.Boot(ctx, m.spec)
}

// detachAll removes the ports of the instance.
func (m *machine) detachAll() {
	for epoch := range m.nics {
		if err := m.fleet.Plane.Detach(epoch); err != nil {
			m.fleet.Logger.Warn("port not closed", "instance", m.id, "epoch", epoch, "err", err)
		}
	}
	clear(m.nics)
}

// stop ends the instance, removes its namespace, processes and files, and reports its end.
func (m *machine) stop(ctx context.Context, view *state.View, in *ec2.Instance, primary *ec2.Interface, end ec2.InstanceState, reason string) {
	f := m.fleet
	if active := f.interfaces(view, m.id); len(active) > 0 { // gossip tells the other nodes before the state does
		for _, eni := range active {
			f.Plane.Fail(eni)
		}
		f.Announce()
	}
	m.detachAll()
	if m.running != nil {
		if err := m.running.Kill(ctx); err != nil {
			f.Logger.Warn("instance not ended", "instance", m.id, "err", err)
		}
		m.running = nil
	}
	m.spec = f.spec(view, in)
	if err := instance.Remove(m.spec); err != nil {
		f.Logger.Warn("namespace or files of an instance not removed", "instance", m.id, "err", err)
	}
	f.report(ctx, &state.ReportInstance{Instance: m.id, InterfaceEpoch: primary.Epoch, State: end, Reason: reason})
}

// runWatch waits for the end of an instance that the fleet did not end: it was shut down from inside,
// or killed. It then stops the machine.
func (m *machine) runWatch(ctx context.Context, running *instance.Instance) {
	select {
	case <-ctx.Done():
		return
	case <-running.Done():
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running != running {
		return // the fleet ended the instance
	}
	f := m.fleet
	view := f.Cluster.View()
	in, ok := view.Instance(m.id)
	if !ok || in.State != ec2.Running {
		return // the step for the new state ends it
	}
	reason := "Client.InstanceInitiatedShutdown: Instance initiated shutdown"
	if why := running.EndedBecause(); why != "" {
		f.Logger.Warn("instance ended by the node", "instance", m.id, "reason", why)
		reason = "Server.InternalError: " + why
	}
	if primary, ok := view.Interface(in.Interface); ok {
		m.stop(ctx, view, in, primary, ec2.Stopped, reason)
	}
}

func (f *Fleet) spec(view *state.View, in *ec2.Instance) instance.Spec {
	s := instance.Spec{
		Namespace: f.NamespacePrefix + string(in.ID), ID: string(in.ID), Image: in.Image, UserData: in.UserData, Boot: in.Boot,
		Dir: filepath.Join(f.InstanceDir, string(in.ID)), CgroupPrefix: f.CgroupPrefix,
	}
	for _, eni := range f.interfaces(view, in.ID) {
		if s.Hostname == "" {
			s.Hostname = hostname(eni.Private)
		}
		s.NICs = append(s.NICs, f.nic(view, eni))
	}
	if key, ok := view.KeyPair(in.Account, in.Region, in.KeyName); ok {
		s.AuthorizedKeys = []string{key.PublicKey}
	}
	return s
}

// interfaces returns the interfaces of an instance with an active lease on this node, by device index.
func (f *Fleet) interfaces(view *state.View, id ec2.InstanceID) []*ec2.Interface {
	var active []*ec2.Interface
	for eni := range view.InterfacesAt(id) {
		if eni.State == ec2.Active && eni.Node == f.Node {
			active = append(active, eni)
		}
	}
	slices.SortFunc(active, func(a, b *ec2.Interface) int { return deviceIndex(a) - deviceIndex(b) })
	return active
}

// deviceIndex returns the index of an interface in its instance. In EC2-Classic it is 0.
func deviceIndex(eni *ec2.Interface) int {
	if eni.Attachment == nil {
		return 0
	}
	return eni.Attachment.DeviceIndex
}

// hostname returns the private host name that EC2 derives from an address.
func hostname(a netip.Addr) string {
	b := a.As4()
	return fmt.Sprintf("ip-%d-%d-%d-%d", b[0], b[1], b[2], b[3])
}
