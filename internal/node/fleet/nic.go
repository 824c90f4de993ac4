package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/instance"
	"palisade/switch/tap"
)

// This file puts the interfaces of an instance into it and takes them out, while it runs.

// nic is how an instance's kernel is to know a lease: eth0, eth1 and so on by its place. The
// first has the default route; replies from the others leave by the interface that the
// question came in by.
func (f *Fleet) nic(view *state.View, lease *ec2.Interface) instance.NIC {
	index := deviceIndex(lease)
	n := instance.NIC{Device: deviceName(index), MAC: lease.MAC, MTU: f.MTU, Table: instance.TableOf(index)}
	n.Addresses, n.Gateway = f.Link(view, lease)
	return n
}

// Link are a lease's addresses with the length of its link, and the router there.
func (*Fleet) Link(view *state.View, lease *ec2.Interface) (addresses []netip.Prefix, gateway netip.Addr) {
	bits := 32
	if s, ok := view.Subnet(lease.Subnet); ok {
		bits, gateway = s.CIDR.Bits(), s.Gateway()
	} else if n, ok := view.Network(lease.VNI); ok {
		bits, gateway = n.Prefix.Bits(), n.Gateway
	}
	for _, a := range lease.Addresses() {
		addresses = append(addresses, netip.PrefixFrom(a.Private, bits))
	}
	return addresses, gateway
}

// plug opens the device of a lease, making it if need be, and gives it its port. One that
// runs has it at once; one that does not is told of it when it boots.
func (m *machine) plug(view *state.View, lease *ec2.Interface) error {
	n := m.fleet.nic(view, lease)
	d, err := tap.Open(tap.Config{Name: n.Device, Namespace: m.spec.Namespace})
	if err != nil {
		return err
	}
	if err := m.fleet.Plane.Attach(lease.Epoch, d); err != nil {
		return err
	}
	m.nics[lease.Epoch] = n
	return instance.Configure(m.spec.Namespace, n)
}

// unplugStrays removes what earlier daemons have left in an instance that runs: an
// interface may have been detached by force meanwhile.
func (m *machine) unplugStrays() error {
	devices, err := instance.Devices(m.spec.Namespace)
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range devices {
		index := 0
		if _, err := fmt.Sscanf(d, "eth%d", &index); err != nil || m.has(d) {
			continue
		}
		errs = append(errs, instance.Unplug(m.spec.Namespace, instance.NIC{Device: d, Table: instance.TableOf(index)}))
	}
	return errors.Join(errs...)
}

func (m *machine) has(device string) bool {
	for _, n := range m.nics {
		if n.Device == device {
			return true
		}
	}
	return false
}

func deviceName(index int) string { return fmt.Sprintf("eth%d", index) }

// rewire plugs, changes and unplugs what a running instance has more, otherwise or less
// than the View wants, and reports what is detached.
func (m *machine) rewire(ctx context.Context, view *state.View) {
	f := m.fleet
	wanted := map[uint64]bool{}
	leases := f.leases(view, m.id)
	for _, lease := range leases {
		wanted[lease.Epoch] = true
	}
	for epoch, n := range m.nics {
		if !wanted[epoch] {
			m.unplug(epoch, n)
		}
	}
	for lease := range view.InterfacesAt(m.id) {
		if lease.State == ec2.Draining && lease.Attachment != nil && lease.Attachment.Detaching && lease.Node == f.Node {
			m.unplug(lease.Epoch, f.nic(view, lease)) // of an earlier daemon
			f.report(ctx, &state.ReportInterface{Interface: lease.ID, Epoch: lease.Epoch})
		}
	}
	for _, lease := range leases {
		n, plugged := m.nics[lease.Epoch]
		var err error
		switch now := f.nic(view, lease); {
		case !plugged:
			err = m.plug(view, lease)
		case !reflect.DeepEqual(n, now):
			if err = instance.Configure(m.spec.Namespace, now); err == nil {
				m.nics[lease.Epoch] = now
			}
		}
		if err != nil {
			f.Logger.Error("an interface does not work", "instance", m.id, "interface", lease.ID, "err", err)
		}
	}
}

func (m *machine) unplug(epoch uint64, n instance.NIC) {
	if err := m.fleet.Plane.Detach(epoch); err != nil {
		m.fleet.Logger.Warn("a port did not close", "instance", m.id, "err", err)
	}
	delete(m.nics, epoch)
	if err := instance.Unplug(m.spec.Namespace, n); err != nil {
		m.fleet.Logger.Warn("a device is left in an instance", "instance", m.id, "device", n.Device, "err", err)
	}
}
