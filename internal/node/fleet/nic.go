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

// nic returns the configuration of an interface in its instance: device eth0, eth1 and so on, by
// device index. eth0 has the default route. Each other device has its own routing table, so that a
// reply leaves by the interface on which the request came in.
func (f *Fleet) nic(view *state.View, eni *ec2.Interface) instance.NIC {
	index := deviceIndex(eni)
	n := instance.NIC{Device: deviceName(index), MAC: eni.MAC, MTU: f.MTU, Table: instance.TableOf(index)}
	n.Addresses, n.Gateway = f.Link(view, eni)
	return n
}

// Link returns an interface's private addresses, each with the prefix length of its subnet, and the
// subnet's gateway.
func (*Fleet) Link(view *state.View, eni *ec2.Interface) (addresses []netip.Prefix, gateway netip.Addr) {
	bits := 32
	if s, ok := view.Subnet(eni.Subnet); ok {
		bits, gateway = s.CIDR.Bits(), s.Gateway()
	} else if n, ok := view.Network(eni.VNI); ok {
		bits, gateway = n.Prefix.Bits(), n.Gateway
	}
	for _, a := range eni.Addresses() {
		addresses = append(addresses, netip.PrefixFrom(a.Private, bits))
	}
	return addresses, gateway
}

// plug opens the device of an interface, or makes it if it is missing, and attaches it to the
// switch. An instance that does not run yet configures the device when it boots.
func (m *machine) plug(view *state.View, eni *ec2.Interface) error {
	n := m.fleet.nic(view, eni)
	d, err := tap.Open(tap.Config{Name: n.Device, Namespace: m.spec.Namespace})
	if err != nil {
		return err
	}
	if err := m.fleet.Plane.Attach(eni.Epoch, d); err != nil {
		return err
	}
	m.nics[eni.Epoch] = n
	return instance.Configure(m.spec.Namespace, n)
}

// unplugStrays removes those devices of a running instance whose interfaces were detached while no
// daemon ran.
func (m *machine) unplugStrays() error {
	devices, err := instance.Devices(m.spec.Namespace)
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range devices {
		index := 0
		if _, err := fmt.Sscanf(d, "eth%d", &index); err != nil || m.hasDevice(d) {
			continue
		}
		errs = append(errs, instance.Unplug(m.spec.Namespace, instance.NIC{Device: d, Table: instance.TableOf(index)}))
	}
	return errors.Join(errs...)
}

func (m *machine) hasDevice(device string) bool {
	for _, n := range m.nics {
		if n.Device == device {
			return true
		}
	}
	return false
}

func deviceName(index int) string { return fmt.Sprintf("eth%d", index) }

// rewire plugs in, configures and unplugs the interfaces of a running instance as the View says, and
// reports the detached ones to the cluster.
func (m *machine) rewire(ctx context.Context, view *state.View) {
	f := m.fleet
	wanted := map[uint64]bool{}
	interfaces := f.interfaces(view, m.id)
	for _, eni := range interfaces {
		wanted[eni.Epoch] = true
	}
	for epoch, n := range m.nics {
		if !wanted[epoch] {
			m.unplug(epoch, n)
		}
	}
	for eni := range view.InterfacesAt(m.id) {
		if eni.State == ec2.Draining && eni.Attachment != nil && eni.Attachment.Detaching && eni.Node == f.Node {
			m.unplug(eni.Epoch, f.nic(view, eni)) // the previous daemon may have plugged it in
			f.report(ctx, &state.ReportInterface{Interface: eni.ID, Epoch: eni.Epoch})
		}
	}
	for _, eni := range interfaces {
		n, plugged := m.nics[eni.Epoch]
		var err error
		switch now := f.nic(view, eni); {
		case !plugged:
			err = m.plug(view, eni)
		case !reflect.DeepEqual(n, now):
			if err = instance.Configure(m.spec.Namespace, now); err == nil {
				m.nics[eni.Epoch] = now
			}
		}
		if err != nil {
			f.Logger.Error("interface of an instance not plugged in or configured", "instance", m.id, "interface", eni.ID, "err", err)
		}
	}
}

func (m *machine) unplug(epoch uint64, n instance.NIC) {
	if err := m.fleet.Plane.Detach(epoch); err != nil {
		m.fleet.Logger.Warn("port not closed", "instance", m.id, "device", n.Device, "err", err)
	}
	delete(m.nics, epoch)
	if err := instance.Unplug(m.spec.Namespace, n); err != nil {
		m.fleet.Logger.Warn("device not removed from an instance", "instance", m.id, "device", n.Device, "err", err)
	}
}
