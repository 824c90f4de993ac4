package vswitch

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// received is what a pipe returns from Receive.
type received struct {
	frame []byte // with virtio header
	from  packet.Origin
	v     verdict.Verdict
	err   error
	lost  int // if it is not 0, Receive panics, and Discard reports so many datagrams
}

// sent is what a pipe was given to send.
type sent struct {
	p packet.Packet
	b []byte // with virtio header
}

// A pipe is a TunnelDevice that keeps the last frame sent.
type pipe struct {
	fd    int
	queue []received
	down  bool
	to    uint32
	from  packet.Origin
	n     int
	last  [2048]byte
	sent  int
	// What Discard reports of the last Receive.
	discarded received
	room      int    // in bytes, of the last Receive
	tried     int    // how often Send was called
	fails     error  // of each Send
	mtu       int    // of the remote node; 0: it named none
	all       []sent // all that was sent, if it is not nil
}

func (p *pipe) FD() int        { return p.fd }
func (p *pipe) MTU(uint32) int { return p.mtu }
func (p *pipe) Close() error   { return unix.Close(p.fd) }
func (p *pipe) Receive(b []byte) (int, packet.Origin, verdict.Verdict, error) {
	if len(p.queue) == 0 {
		return 0, packet.Origin{}, verdict.Unset, unix.EAGAIN
	}
	r := p.queue[0]
	p.queue, p.discarded, p.room = p.queue[1:], r, len(b)
	if r.lost != 0 {
		panic("planted")
	}
	return copy(b, r.frame), r.from, r.v, r.err
}
func (p *pipe) Discard() (int, packet.Origin) {
	return max(1, p.discarded.lost), p.discarded.from
}
func (p *pipe) Send(_ int, to uint32, from packet.Origin, described *packet.Packet, frame []byte) (verdict.Verdict, error) {
	p.tried++
	if p.down {
		return verdict.TunnelDown, nil
	}
	if p.fails != nil {
		return verdict.Forward, p.fails
	}
	if v, ok := packet.Fits(described, cmp.Or(p.mtu, 65535)); !ok {
		return v, nil
	}
	p.to, p.from, p.n = to, from, copy(p.last[:], frame[packet.OffloadLen:])
	p.sent++
	if p.all != nil {
		p.all = append(p.all, sent{*described, bytes.Clone(frame)})
	}
	return verdict.Forward, nil
}

// tunnel adds a tunnel port to the testbed, and on node 2 the instance far, 10.10.0.7 = 198.18.0.7,
// in the web's group.
func (b *testbed) tunnel(mtu int) *pipe {
	b.t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		b.t.Fatal(err)
	}
	device := &pipe{fd: fd}
	if b.ports["tunnel"], err = b.sw.AddTunnel("tunnel", device); err != nil {
		b.t.Fatal(err)
	}
	e := b.sw.Edit(b.generation)
	e.Tunnel(&Tunnel{Port: b.ports["tunnel"], MTU: mtu})
	e.AddEndpoint(1, &Endpoint{Epoch: 7, Address: addr("10.10.0.7"), Public: addr("198.18.0.7"), MAC: macOf("far"), Groups: b.sets["web"].Numbers, Node: 2})
	b.sw.Publish(e)
	return device
}

// come passes a frame to the switch as if received from another node.
func (b *testbed) come(from packet.Origin, ethernet []byte) (string, verdict.Verdict) {
	b.frame.origin = from
	return b.send("tunnel", ethernet)
}

func TestOnlyLocalInstancesSendThroughTunnel(t *testing.T) {
	b := newTestbed(t)
	device := b.tunnel(1406)
	far := packet.Origin{Node: 2, VNI: 1, Epoch: 7}
	b.expect("uplink", outside(template(6, laptop, addr("198.18.0.7"), 1, 22)), "uplink", verdict.NoRoute)
	hop := template(6, addr("10.10.0.7"), addr("10.10.0.7"), 1, 22)
	hop.SrcMAC, hop.DstMAC = macOf("far"), GatewayMAC
	if at, v := b.come(far, packettest.Build(hop)); at != "tunnel" || v != verdict.NoRoute {
		t.Errorf("a frame from another node to itself: %v at %s, want %v at tunnel", v, at, verdict.NoRoute)
	}
	out := template(6, addr("10.10.0.7"), laptop, 1, 22)
	out.SrcMAC, out.DstMAC = macOf("far"), GatewayMAC
	if at, v := b.come(far, packettest.Build(out)); at != "tunnel" || v != verdict.NoRoute {
		t.Errorf("a frame from another node to the internet: %v at %s, want %v at tunnel", v, at, verdict.NoRoute)
	}
	if device.sent+b.devices["uplink"].count != 0 {
		t.Error("a frame from another node was sent to the tunnel or the uplink")
	}
	own := template(6, addr("10.10.0.4"), addr("10.10.0.5"), 1, 22)
	own.SrcMAC, own.DstMAC = macOf("web"), GatewayMAC
	if _, v := b.come(packet.Origin{VNI: 1, Epoch: 1}, packettest.Build(own)); v != verdict.TunnelForeign {
		t.Errorf("a frame that names an interface of this node as sender: %v, want %v", v, verdict.TunnelForeign)
	}
	e := b.sw.Edit(b.generation)
	e.Tunnel(nil)
	b.sw.Publish(e)
	if at, v := b.come(far, packettest.Build(out)); at != "tunnel" || v != verdict.NotReady {
		t.Errorf("a frame through a former tunnel port: %v at %s, want %v at tunnel", v, at, verdict.NotReady)
	}
	b.expect("web", b.of("web", template(6, addr("10.10.0.4"), addr("10.10.0.7"), 1, 22)), "web", verdict.NoRoute)
}

// TestAnotherNetworkIsReachedByPublicAddress: the datagram names the receiver's network, not the
// sender's.
func TestAnotherNetworkIsReachedByPublicAddress(t *testing.T) {
	b := newTestbed(t)
	device := b.tunnel(1406)
	e := b.sw.Edit(b.generation)
	e.Network(Network{VNI: 2, Prefix: b.sw.Snapshot().networks[1].Prefix, Gateway: addr("10.0.0.1"), MTU: 1500})
	e.AddEndpoint(2, &Endpoint{Epoch: 8, Address: addr("10.10.0.4"), Public: addr("198.18.0.8"), MAC: macOf("xen"), Node: 3})
	b.sw.Publish(e)
	b.expect("web", b.of("web", template(6, addr("10.10.0.4"), addr("198.18.0.8"), 1, 22)), "web", verdict.Forward)
	if want := (packet.Origin{VNI: 2, Epoch: 1}); device.to != 3 || device.from != want {
		t.Errorf("sent to node %d with origin %+v, want node 3 and %+v", device.to, device.from, want)
	}
}

// TestPublicSourceReachesPublicAddressesOnly: the sender's node has rewritten both addresses, so a
// packet from a public address may only go to an interface that has a public address.
func TestPublicSourceReachesPublicAddressesOnly(t *testing.T) {
	b := newTestbed(t)
	b.tunnel(1406)
	b.rules("app", permit(ec2.TCP, 22, 22, "198.18.0.7/32"))
	far := packet.Origin{Node: 2, VNI: 1, Epoch: 7}
	for dst, want := range map[string]verdict.Verdict{"10.10.0.5": verdict.Forward, "10.10.0.6": verdict.NoRoute} {
		f := template(6, addr("198.18.0.7"), addr(dst), 1, 22)
		f.SrcMAC, f.DstMAC = macOf("far"), GatewayMAC
		if at, v := b.come(far, packettest.Build(f)); v != want {
			t.Errorf("a packet from a public address to %s: %v at %s, want %v", dst, v, at, want)
		}
	}
}

func TestTunnelDownIsCountedAtTheSender(t *testing.T) {
	b := newTestbed(t)
	b.tunnel(1406).down = true
	b.expect("web", b.of("web", template(6, addr("10.10.0.4"), addr("10.10.0.7"), 1, 22)), "web", verdict.TunnelDown)
}

// TestSenderOfTooLargePacketLearnsMTU: the honest sender of a packet that may not be fragmented
// gets an ICMP error if the rules admit the packet and it exceeds the MTU of its exit.
func TestSenderOfTooLargePacketLearnsMTU(t *testing.T) {
	b := newTestbed(t)
	b.tunnel(1000)
	b.rules("app", permit(ec2.UDP, 53, 53, "web"))
	big := template(17, addr("10.10.0.4"), addr("10.10.0.5"), 1, 53)
	big.Payload = make([]byte, 1501-28)
	told := func(want bool, what string, frame []byte, at string, v verdict.Verdict) {
		t.Helper()
		before := b.devices["web"].count
		b.expect("web", frame, at, v)
		if got := b.devices["web"].count > before; got != want {
			t.Errorf("%s: an ICMP error was sent: %v, want %v", what, got, want)
		}
	}
	df := func(frame []byte) []byte { frame[20] |= 0x40; return frame }
	told(true, "to a neighbour", df(b.of("web", big)), "app", verdict.TooBig)
	if p := b.delivered("web"); p.ICMPCode != 4 || p.Quoted.Dst != addr("10.10.0.5") {
		t.Errorf("the ICMP error is %+v, want code 4 about a packet to 10.10.0.5", p)
	}
	told(false, "what may be cut", b.of("web", big), "app", verdict.Forward)
	closed := big
	closed.Flow.DstPort = 54
	told(false, "what no rule admits", df(b.of("web", closed)), "app", verdict.NoRule)
	forged := big
	forged.Flow.Src = addr("10.10.0.6")
	told(false, "in another's name", df(b.of("web", forged)), "web", verdict.SpoofedIP)
	big.Flow.Dst = addr("10.10.0.7")
	big.Payload = make([]byte, 1000)
	told(true, "to another node", df(b.of("web", big)), "web", verdict.TooBig)
	first, late := big, big
	first.MoreFollow, first.Payload = true, make([]byte, 800)
	told(false, "a first fragment that fits", b.of("web", first), "web", verdict.Forward)
	late.FragOffset, late.Payload = 808, make([]byte, 1600)
	told(false, "about a later fragment", df(b.of("web", late)), "web", verdict.TooBig)
	quoting := packettest.ICMPError(3, 3, addr("10.10.0.4"), addr("10.10.0.7"), b.of("web", big), macOf("web"), GatewayMAC)
	quoting = append(quoting, make([]byte, 1600)...)
	binary.BigEndian.PutUint16(quoting[16:], uint16(len(quoting)-14))
	told(false, "about an error", df(quoting), "web", verdict.NoConnection)
}

func TestForwardingThroughTunnelAllocatesNothing(t *testing.T) {
	b := newTestbed(t)
	device := b.tunnel(1406)
	b.rules("app", permit(ec2.TCP, 80, 80, "web"), permit(ec2.UDP, 53, 53, "198.18.0.7/32"))
	far := packet.Origin{Node: 2, VNI: 1, Epoch: 7}
	from := func(f packettest.Frame) []byte {
		f.SrcMAC, f.DstMAC = macOf("far"), GatewayMAC
		return packettest.Build(f)
	}
	syn := template(6, addr("10.10.0.4"), addr("10.10.0.7"), 1, 80)
	large := template(17, addr("10.10.0.4"), addr("10.10.0.7"), 1, 80)
	large.Payload = make([]byte, 1450)
	uncut := b.of("web", large)
	uncut[20] |= 0x40
	cases := []struct {
		name, from string
		frame      []byte
		at         string
		want       verdict.Verdict
	}{
		{"sent", "web", b.of("web", syn), "web", verdict.Forward},
		{"sent by public address", "web", b.of("web", template(6, addr("10.10.0.4"), addr("198.18.0.7"), 1, 80)), "web", verdict.Forward},
		{"cut", "web", b.of("web", large), "web", verdict.Forward},
		{"too big", "web", uncut, "web", verdict.TooBig},
		{"received", "tunnel", from(template(6, addr("10.10.0.7"), addr("10.10.0.5"), 1, 80)), "app", verdict.Forward},
		{"received by public address", "tunnel", from(template(17, addr("198.18.0.7"), addr("10.10.0.5"), 1, 53)), "app", verdict.Forward},
		{"foreign", "tunnel", from(template(6, addr("10.10.0.6"), addr("10.10.0.5"), 1, 80)), "tunnel", verdict.TunnelForeign},
	}
	for _, c := range cases {
		b.frame.origin = far
		b.expect(c.from, c.frame, c.at, c.want)
		if n := testing.AllocsPerRun(200, func() {
			copy(b.frame.buffer[offloadLen:], c.frame)
			clear(b.frame.buffer[:offloadLen])
			b.frame.snapshot, b.frame.origin = b.sw.Snapshot(), far
			b.frame.receive(b.ports[c.from], offloadLen+len(c.frame))
		}); n != 0 {
			t.Errorf("%s: %v allocations, want 0", c.name, n)
		}
	}
	if device.sent == 0 {
		t.Error("no frame was sent through the tunnel")
	}
}
