package plane_test

import (
	"net/netip"
	"slices"
	"testing"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/node/plane/planetest"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	vswitch "palisade/switch"
	"palisade/switch/tap/taptest"
)

// A world is a Fixture whose interfaces send real frames.
type world struct{ *planetest.Fixture }

func newWorld(t *testing.T) *world { return &world{planetest.New(t)} }

// An end is an interface of this node with its device.
type end struct {
	*ec2.Interface
	device *taptest.Device
}

// register makes an interface of this node with a device of its own.
func (w *world) register(device string, subnet *ec2.Subnet, groups ...ec2.GroupID) *end {
	w.Helper()
	eni := w.Do(&state.RegisterInterface{Account: planetest.Dev, Region: planetest.Region, Node: planetest.Node, External: ec2.ExternalDevice{Device: device},
		Spec: state.InterfaceSpec{Subnet: subnet.ID, Groups: groups}}).Interface
	return w.attach(eni)
}

func (w *world) attach(eni *ec2.Interface) *end {
	w.Helper()
	e := &end{eni, w.Device()}
	if err := w.Plane.Attach(eni.Epoch, e.device); err != nil {
		w.Fatal(err)
	}
	return e
}

// udp is a flow from port 40000 of an address to a port of another.
func udp(from, to netip.Addr, port uint16) packet.Flow { return udpFrom(40000, from, to, port) }

func udpFrom(source uint16, from, to netip.Addr, port uint16) packet.Flow {
	return packet.Flow{Src: from, Dst: to, SrcPort: source, DstPort: port, Protocol: packet.ProtocolUDP}
}

// passes sends a packet from one end and reports whether the device of the other gets one.
func (w *world) passes(from *end, f packet.Flow, to *taptest.Device) bool {
	w.Helper()
	to.Take()
	frame := packettest.Build(packettest.Frame{Flow: f, SrcMAC: from.MAC, DstMAC: vswitch.GatewayMAC, TCPFlags: packet.SYN})
	if err := from.device.Send(frame); err != nil {
		w.Fatal(err)
	}
	w.Switch.Step()
	return len(to.Take()) > 0
}

// fromOutside sends a packet from beyond the uplink and reports whether the device gets one.
func (w *world) fromOutside(f packet.Flow, to *taptest.Device) bool {
	w.Helper()
	to.Take()
	up := w.Switch.Snapshot().UplinkPort()
	if up == nil {
		return false
	}
	if err := w.Uplink.Send(packettest.Build(packettest.Frame{Flow: f, SrcMAC: up.NextHop, DstMAC: up.MAC, TCPFlags: packet.SYN})); err != nil {
		w.Fatal(err)
	}
	w.Switch.Step()
	return len(to.Take()) > 0
}

// connections returns the remote addresses of an end's connections, in order.
func (w *world) connections(e *end) (remote []netip.Addr) {
	for c := range w.Tracker.Connections(vswitch.Now()) {
		if c.Epoch == e.Epoch {
			if c.Outside {
				remote = append(remote, c.Flow.Src)
			} else {
				remote = append(remote, c.Flow.Dst)
			}
		}
	}
	slices.SortFunc(remote, netip.Addr.Compare)
	return remote
}

// announced returns the addresses that the uplink was told about since the last call.
func (w *world) announced() (all []netip.Addr) {
	for _, b := range w.Uplink.Take() {
		var p packet.Packet
		if _, ok := packet.NewDecoder().Decode(b[packet.OffloadLen:], &p); ok && p.EtherType == packet.EtherTypeARP {
			all = append(all, p.ARPTargetIP)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

func (w *world) network(v ec2.VNI) *vswitch.Network {
	w.Helper()
	n, ok := w.Switch.Snapshot().Network(vswitch.VNI(v))
	if !ok {
		w.Fatalf("the switch has no network %d", v)
	}
	return n
}

// strict sets the mode of the VPC's network.
func (w *world) strict() {
	w.Helper()
	w.Do(&state.SetTracking{VPC: w.VPC.ID, Mode: ec2.TrackStrict})
}

func (w *world) modify(e *ec2.Interface, r state.ModifyNetworkInterface) {
	w.Helper()
	r.Account, r.Region, r.Interface = planetest.Dev, planetest.Region, e.ID
	w.Do(&r)
}

func (w *world) unregister(e *ec2.Interface) {
	w.Helper()
	w.Do(&state.UnregisterInterface{Account: planetest.Dev, Region: planetest.Region, Interface: e.ID})
}
