package overlay

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
	vswitch "palisade/switch"
)

// vxlanEnds returns the data paths of two nodes, numbers 1 and 2, with VXLAN.
func vxlanEnds(t testing.TB) (a, b *Device) {
	t.Helper()
	open := func(address string) (*Device, *atomic.Pointer[table]) {
		p := new(atomic.Pointer[table])
		d, err := openDevice(VXLAN, netip.MustParseAddrPort(address), p)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		return d, p
	}
	a, at := open("127.0.0.1:0")
	b, bt := open("127.0.0.2:0")
	join := func(p *atomic.Pointer[table], to *Device, number uint32) {
		s := &association{node: number, address: to.addr, to: newSockaddr(to.addr)}
		p.Store(&table{send: map[uint32]*association{number: s}, vtep: map[netip.Addr]*association{to.addr.Addr(): s}})
	}
	join(at, b, 2)
	join(bt, a, 1)
	return a, b
}

// A datagram is a header of RFC 7348 and a frame with every checksum, which any VTEP can read.
func TestVXLANDatagramFollowsRFC7348(t *testing.T) {
	a, _ := vxlanEnds(t)
	sniffer, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 3)})
	if err != nil {
		t.Fatal(err)
	}
	defer sniffer.Close()
	to := sniffer.LocalAddr().(*net.UDPAddr).AddrPort()
	a.table.Store(&table{send: map[uint32]*association{2: {node: 2, address: to, to: newSockaddr(to)}}})
	p, sent := offloaded(t, packet.ProtocolTCP, 2_500, 1000)
	want := packets(t, sent)
	if v, err := a.Send(0, 2, from, p, sent); v != verdict.Forward || err != nil {
		t.Fatalf("Send returned verdict %v, error %v", v, err)
	}
	b := make([]byte, 2048)
	for i, frame := range want {
		n, err := sniffer.Read(b)
		if header := []byte{8, 0, 0, 0, 0xab, 0xcd, 0xef, 0}; err != nil || !bytes.Equal(b[:n], append(header, frame...)) {
			t.Errorf("datagram %d: % x, error %v; want % x and the packet % x", i, b[:n], err, []byte{8, 0, 0, 0, 0xab, 0xcd, 0xef, 0}, frame)
		}
	}
}

func TestVXLANLargeFrameArrivesWhole(t *testing.T) {
	a, b := vxlanEnds(t)
	buffer := make([]byte, 70_000)
	p, sent := offloaded(t, packet.ProtocolTCP, 64_992, 1354)
	want := packets(t, sent)
	if v, err := a.Send(3, 2, from, p, sent); v != verdict.Forward || err != nil {
		t.Fatalf("Send returned verdict %v, error %v", v, err)
	}
	n, origin, v, err := b.Receive(buffer)
	if err != nil || v != verdict.Forward || origin != (packet.Origin{Node: 1, VNI: from.VNI, Unnamed: true}) {
		t.Fatalf("Receive returned sender %+v, verdict %v, error %v", origin, v, err)
	}
	if got := packets(t, buffer[:n]); !equal(got, want) {
		t.Errorf("one frame of %d packets arrived, want the %d packets that were sent", len(got), len(want))
	}
	// A packet with a wrong checksum arrives unchanged, so that the receiver can drop it.
	_, other := offloaded(t, packet.ProtocolTCP, 2_000, 1000)
	whole := packets(t, other)
	whole[0][200]++
	for _, frame := range whole {
		p, b := one(frame)
		if _, err := a.Send(3, 2, from, p, b); err != nil {
			t.Fatal(err)
		}
	}
	for i, frame := range whole {
		n, _, v, err := receive(b, buffer)
		if err != nil || v != verdict.Forward || (buffer[0] == 0) != (i == 0) || i == 0 && !bytes.Equal(buffer[packet.OffloadLen:n], frame) {
			t.Errorf("packet %d: Receive = %d bytes, virtio header % x, verdict %v, error %v; want packet 0 unchanged and packet 1 with its checksum left out", i, n, buffer[:packet.OffloadLen], v, err)
		}
	}
}

// A datagram from a node's address counts as that node's, and the node may send from its own
// interfaces only.
func TestVXLANTrustsSenderAddressesOnly(t *testing.T) {
	c := newClusterOn(t, VXLAN, nil)
	n1, n2 := c.nodes[0], c.nodes[1]
	const web, lone, app = "10.10.0.4", "10.10.0.6", "10.10.0.5"
	honest := of("web", packet.ProtocolTCP, web, app, 1, 8000)
	with := func(change func(f *packettest.Frame)) []byte { return altered(honest, change) }
	datagram := func(vni uint32, frame []byte) []byte {
		b := binary.BigEndian.AppendUint32([]byte{8, 0, 0, 0}, vni<<8)
		return append(b, frame...)
	}
	node1 := func(b []byte) error { return n1.overlay.device.sendTo(b, &n1.association(2).to) }
	from := func(address string) func(b []byte) error {
		return func(b []byte) error {
			conn, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(address)}, net.UDPAddrFromAddrPort(n2.udpAddr))
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write(b)
			return err
		}
	}
	plain := datagram(vni, packettest.Build(honest))
	tests := []struct {
		name string
		send func(b []byte) error
		b    []byte
		at   *vswitch.Port
		want verdict.Verdict
	}{
		{"what it may send", node1, plain, n2.ports["app"], verdict.Forward},
		{"from another port of its address", from("127.0.0.1"), plain, n2.ports["app"], verdict.Forward},
		{"from an address of no node", from("127.0.0.9"), plain, n2.tunnel, verdict.TunnelUnknown},
		{"from the receiver's own address", from("127.0.0.2"), plain, n2.tunnel, verdict.TunnelUnknown},
		{"for an interface of the receiver", node1, datagram(vni, packettest.Build(of("app", 6, app, app, 1, 8000))), n2.tunnel, verdict.TunnelForeign},
		{"from an unused address", node1, datagram(vni, with(func(f *packettest.Frame) { f.Flow.Src = addr("10.10.9.9") })), n2.tunnel, verdict.TunnelForeign},
		{"from the MAC of another interface", node1, datagram(vni, with(func(f *packettest.Frame) { f.SrcMAC = macOf("lone") })), n2.tunnel, verdict.TunnelForeign},
		{"in an unknown network", node1, datagram(8, packettest.Build(honest)), n2.tunnel, verdict.TunnelForeign},
		{"from an interface that the rules refuse", node1, datagram(vni, with(func(f *packettest.Frame) { f.Flow.Src, f.SrcMAC = addr(lone), macOf("lone") })), n2.ports["app"], verdict.NoRule},
		{"to the sending node, in transit", node1, datagram(vni, with(func(f *packettest.Frame) { f.Flow.Dst = addr(lone) })), n2.tunnel, verdict.NoRoute},
		{"without the I flag", node1, append([]byte{0}, plain[1:]...), n2.tunnel, verdict.TunnelUnknown},
		{"with reserved bits", node1, append([]byte{0xff, 1, 2, 3}, plain[4:]...), n2.ports["app"], verdict.Forward},
		{"no header", node1, plain[:7], n2.tunnel, verdict.TunnelUnknown},
		{"no frame", node1, plain[:8], n2.tunnel, verdict.Runt},
		{"nothing", node1, nil, n2.tunnel, verdict.TunnelUnknown},
	}
	for _, tt := range tests {
		t.Log("case:", tt.name)
		before := tt.at.Counters().Verdicts
		if err := tt.send(tt.b); err != nil {
			t.Fatal(err)
		}
		c.fate(tt.at, before, tt.want)
	}
}

// Both nodes report why they exchange no keys.
func TestNodesWithDifferentFormsExchangeNoKeys(t *testing.T) {
	c := newCluster(t)
	for i, other := range c.nodes {
		other.stop()
		c.form = VXLAN
		other.udpAddr = netip.MustParseAddrPort("127.0.0.2:0")
		other.start()
		c.introduce()
		for _, n := range c.nodes {
			eventually(t, "problem at "+n.name, func() bool {
				return strings.Contains(n.overlay.Status()[0].Problem, "all nodes of a cluster must have the same")
			})
			if n.up() {
				t.Errorf("%s has an association with a node of another form, want none", n.name)
			}
		}
		c.form = Sealed
		if i == 0 {
			other.stop()
			other.udpAddr = netip.MustParseAddrPort("127.0.0.1:0")
			other.start()
			c.introduce()
			c.connected()
		}
	}
}

// FuzzVXLAN receives any bytes from a node's address. They give a frame or a verdict that drops.
func FuzzVXLAN(f *testing.F) {
	local := netip.MustParseAddrPort("127.0.0.1:4789")
	f.Add([]byte{8, 0, 0, 0, 0, 0, 7, 0, 1, 2, 3})
	f.Add([]byte{})
	d := &Device{form: VXLAN, socket: -1, table: new(atomic.Pointer[table])}
	d.table.Store(&table{vtep: map[netip.Addr]*association{local.Addr(): {node: 9}}})
	buffer := make([]byte, 70_000)
	f.Fuzz(func(t *testing.T, b []byte) {
		b = b[:min(len(b), 60_000)]
		n, o, _, v := d.openDatagram(b, local, buffer)
		if v == verdict.Unset || v == verdict.Forward && (n != packet.OffloadLen+len(b)-vxlanLen || o.Node != 9 || !o.Unnamed || o.VNI >= 1<<24) {
			t.Errorf("datagram % x: verdict %v, %d bytes from %+v; want the whole frame from node 9, or a verdict that drops", b, v, n, o)
		}
	})
}
