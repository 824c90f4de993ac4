package vswitch

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// newMTUBed is a testbed whose exits all have another MTU: the app 1280, the web 1320, the uplink 1400, and
// the tunnel 1300 of this node and 1200 of node 2.
func newMTUBed(t testing.TB) (*testbed, *pipe) {
	t.Helper()
	b := newTestbed(t)
	device := b.tunnel(1300)
	device.mtu = 1200
	any := permit(ec2.UDP, 0, 65535, "0.0.0.0/0")
	b.rules("app", any)
	b.rules("web", any)
	e := b.sw.Edit(b.generation)
	for name, mtu := range map[string]int{"app": 1280, "web": 1320} {
		e.Attach(b.ports[name], 1, Attachment{Endpoint: b.owners[name], Zone: b.zones[name], Rules: b.sets[name], MTU: mtu})
	}
	e.Uplink(&Uplink{Port: b.ports["uplink"], MAC: upMAC, NextHop: routerMAC, MTU: 1400})
	b.sw.Publish(e)
	return b, device
}

// written starts to note what leaves by an exit, and returns a function that returns it.
func (b *testbed) written(exit string, tunnel *pipe) func() [][]byte {
	if exit == "tunnel" {
		tunnel.all = []sent{}
		return func() (all [][]byte) {
			for _, s := range tunnel.all {
				all = append(all, s.b[offloadLen:])
			}
			return all
		}
	}
	b.devices[exit].all = [][]byte{}
	return func() (all [][]byte) {
		for _, f := range b.devices[exit].all {
			all = append(all, f[offloadLen:])
		}
		return all
	}
}

// A crossing is a way from a port to an exit.
type crossing struct {
	name         string
	in, src, dst string // where the packet comes in, and its addresses
	exit         string
	mtu          int
	at           string // the port of the verdict TooBig
	told         string // source of the error
}

// crossings has every kind of exit, from every kind of port.
var crossings = []crossing{
	{name: "to a neighbour", in: "web", src: "10.10.0.4", dst: "10.10.0.5", exit: "app", mtu: 1280, at: "app", told: "10.0.0.1"},
	{name: "to a neighbour's public address", in: "web", src: "10.10.0.4", dst: "198.18.0.5", exit: "app", mtu: 1280, at: "app", told: "10.0.0.1"},
	{name: "to the outside", in: "web", src: "10.10.0.4", dst: "203.0.113.25", exit: "uplink", mtu: 1400, at: "uplink", told: "10.0.0.1"},
	{name: "to another node", in: "web", src: "10.10.0.4", dst: "10.10.0.7", exit: "tunnel", mtu: 1200, at: "web", told: "10.0.0.1"},
	{name: "to a public address at another node", in: "web", src: "10.10.0.4", dst: "198.18.0.7", exit: "tunnel", mtu: 1200, at: "web", told: "10.0.0.1"},
	{name: "from the outside", in: "uplink", src: "203.0.113.25", dst: "198.18.0.5", exit: "app", mtu: 1280, at: "app", told: "198.18.0.5"},
	{name: "from another node", in: "tunnel", src: "10.10.0.7", dst: "10.10.0.5", exit: "app", mtu: 1280, at: "app", told: "10.10.0.5"},
	{name: "from another node to a public address", in: "tunnel", src: "198.18.0.7", dst: "10.10.0.5", exit: "app", mtu: 1280, at: "app", told: "198.18.0.5"},
}

// frame builds a UDP packet of size bytes for the crossing.
func (c *crossing) frame(size int, df bool) packettest.Frame {
	f := template(17, addr(c.src), addr(c.dst), 1000, 53)
	f.DontFragment, f.FragID, f.Payload = df, 77, make([]byte, size-28)
	for i := range f.Payload {
		f.Payload[i] = byte(i * 7)
	}
	switch c.in {
	case "uplink":
		f.SrcMAC, f.DstMAC = routerMAC, upMAC
	case "tunnel":
		f.SrcMAC, f.DstMAC = macOf("far"), GatewayMAC
	default:
		f.SrcMAC, f.DstMAC = macOf(c.in), GatewayMAC
	}
	return f
}

// TestPacketTooLargeForItsExitIsAnsweredOrFragmented: one byte above the MTU of the port that a packet leaves by,
// with and without DF, at every kind of exit. The error quotes the packet as its sender sent it.
func TestPacketTooLargeForItsExitIsAnsweredOrFragmented(t *testing.T) {
	for _, c := range crossings {
		t.Run(c.name, func(t *testing.T) {
			b, tunnel := newMTUBed(t)
			b.frame.origin = packet.Origin{Node: 2, VNI: 1, Epoch: 7}
			wire := c.exit
			if c.exit == "tunnel" {
				wire = c.in // the verdict of what a tunnel takes is counted where it came in
			}
			passed := b.written(c.exit, tunnel)
			b.expect(c.in, packettest.Build(c.frame(c.mtu, true)), wire, verdict.Forward)
			if got := passed(); len(got) != 1 || len(got[0]) != 14+c.mtu {
				t.Errorf("a packet of the MTU leaves as %d frames, want 1", len(got))
			}

			passed, answers := b.written(c.exit, tunnel), b.written(c.in, tunnel)
			b.expect(c.in, packettest.Build(c.frame(c.mtu+1, true)), c.at, verdict.TooBig)
			if got := passed(); c.in != c.exit && len(got) != 0 {
				t.Errorf("%d frames of a packet that is too large left, want none", len(got))
			}
			b.checkTooBig(&c, answers(), tunnel)

			passed, answers = b.written(c.exit, tunnel), b.written(c.in, tunnel)
			whole := c.frame(c.mtu+1, false)
			b.expect(c.in, packettest.Build(whole), wire, verdict.Forward)
			pieces := passed()
			_, data, err := packettest.Reassemble(pieces)
			if err != nil || len(pieces) != 2 || !bytes.Equal(data[8:], whole.Payload) || len(pieces[0]) > 14+c.mtu {
				t.Errorf("without DF: %d frames, error %v; want two fragments of the datagram", len(pieces), err)
			}
			if c.in != c.exit && len(answers()) != 0 {
				t.Error("without DF: the sender got an error")
			}
		})
	}
}

// checkTooBig checks the only answer to a packet of a crossing that was too large.
func (b *testbed) checkTooBig(c *crossing, answers [][]byte, tunnel *pipe) {
	b.t.Helper()
	if len(answers) != 1 {
		b.t.Fatalf("the sender got %d answers, want 1", len(answers))
	}
	var p packet.Packet
	if v, ok := packet.NewDecoder().Decode(answers[0], &p); !ok {
		b.t.Fatalf("Decode refuses the error as %v", v)
	}
	sender, quoted := addr(c.src), packet.Flow{Src: addr(c.src), Dst: addr(c.dst), SrcPort: 1000, DstPort: 53, Protocol: 17}
	hop := [2]ec2.MAC{macOf("web"), GatewayMAC}
	switch c.in {
	case "uplink":
		hop = [2]ec2.MAC{routerMAC, upMAC}
	case "tunnel":
		hop = [2]ec2.MAC{GatewayMAC, macOf("app")}
		sender, quoted.Src = addr("10.10.0.7"), addr("10.10.0.7") // as it was before the sender's node translated it
		if c.told == "198.18.0.5" {
			quoted.Dst = addr(c.told)
		}
		if want := (packet.Origin{VNI: 1, Epoch: 2}); tunnel.to != 2 || tunnel.from != want {
			b.t.Errorf("the error goes to node %d as %+v, want 2 and %+v", tunnel.to, tunnel.from, want)
		}
	}
	mtu := int(binary.BigEndian.Uint16(answers[0][p.L4+6:]))
	if p.Flow.Src != addr(c.told) || p.Flow.Dst != sender || p.Quoted != quoted || p.ICMPType != 3 || p.ICMPCode != 4 || mtu != c.mtu || [2]ec2.MAC{p.DstMAC, p.SrcMAC} != hop {
		b.t.Errorf("the answer is %v from %v to %v with MTU %d about %v, want type 3 code 4 from %s to %v with %d about %v and MACs %v", p.Flow, p.SrcMAC, p.DstMAC, mtu, p.Quoted, c.told, sender, c.mtu, quoted, hop)
	}
	if packettest.OnesSum(answers[0][p.L3:p.L4]) != 0xffff || packettest.OnesSum(answers[0][p.L4:p.Len]) != 0xffff || packettest.OnesSum(answers[0][p.QuotedL3:p.QuotedL3+20]) != 0xffff {
		b.t.Errorf("the error has wrong checksums: % x", answers[0])
	}
}

// TestErrorAboutASuperframeQuotesItsFirstPacket: what the sender's kernel left to offloads it must see as packets.
func TestErrorAboutASuperframeQuotesItsFirstPacket(t *testing.T) {
	b, _ := newMTUBed(t)
	f := template(17, addr("10.10.0.4"), addr("10.10.0.5"), 1, 53)
	f.DontFragment, f.Payload = true, make([]byte, 3*1400)
	header := make([]byte, offloadLen)
	header[0], header[1] = 1, 5
	binary.NativeEndian.PutUint16(header[4:], 1400)
	binary.NativeEndian.PutUint16(header[6:], 34)
	binary.NativeEndian.PutUint16(header[8:], 6)
	if at, v := b.sendOffload("web", header, b.of("web", f)); at != "app" || v != verdict.TooBig {
		t.Fatalf("three datagrams of 1400 bytes: %v at %s, want %v at app", v, at, verdict.TooBig)
	}
	p := b.delivered("web")
	quoted := b.devices["web"].last[offloadLen+p.QuotedL3:]
	if length, udp := binary.BigEndian.Uint16(quoted[2:]), binary.BigEndian.Uint16(quoted[24:]); length != 1428 || udp != 1408 || packettest.OnesSum(quoted[:20]) != 0xffff {
		t.Errorf("the quoted packet has %d bytes, its datagram %d, want 1428 and 1408 with a right checksum", length, udp)
	}
}

// TestErrorsToOneSenderAreLimited: 200 at once and 1000 in a second. Each instance has a budget of its own,
// and so have addresses at other nodes and outside that do not share a hash.
func TestErrorsToOneSenderAreLimited(t *testing.T) {
	b, _ := newMTUBed(t)
	allowed := func(port, from string, now time.Duration) (n int) {
		f := b.frame
		f.in, f.pkt.Flow.Src = b.ports[port], addr(from)
		for range 1000 {
			if f.errors.of(f).allow(now) {
				n++
			}
		}
		return n
	}
	b.frame.errors.seed = 1<<22 + 1
	for _, tt := range []struct {
		port, from string
		now        time.Duration
		low, high  int
	}{
		{"web", "10.10.0.4", time.Second, 200, 202},
		{"web", "10.10.0.4", time.Second, 0, 0},
		{"web", "10.10.0.99", time.Second, 0, 0}, // another address of the same instance
		{"app", "10.10.0.4", time.Second, 200, 202},
		{"web", "10.10.0.4", time.Second + 50*time.Millisecond, 49, 51},
		{"web", "10.10.0.4", time.Hour, 200, 202},
		{"uplink", "203.0.113.25", time.Second, 200, 202},
		{"uplink", "203.0.113.25", time.Second, 0, 0},
		{"uplink", "203.0.113.26", time.Second, 200, 202},
		{"tunnel", "10.10.0.8", time.Second, 200, 202},
	} {
		if n := allowed(tt.port, tt.from, tt.now); n < tt.low || n > tt.high {
			t.Errorf("%d errors to %s behind %s at %v, want %d to %d", n, tt.from, tt.port, tt.now, tt.low, tt.high)
		}
	}
	b, _ = newMTUBed(t)
	c := crossings[0]
	frame := packettest.Build(c.frame(1400, true))
	for range 300 {
		b.expect("web", frame, "app", verdict.TooBig)
	}
	if n := b.devices["web"].count; n < 200 || n > 202 {
		t.Errorf("300 packets at once get %d errors, want 200", n)
	}
}

// TestPacketIsTrackedOnceBeforeItIsFragmented.
func TestPacketIsTrackedOnceBeforeItIsFragmented(t *testing.T) {
	b := newTestbed(t)
	b.rules("app", permit(ec2.UDP, 53, 53, "web"))
	e := b.sw.Edit(b.generation)
	e.Attach(b.ports["app"], 1, Attachment{Endpoint: b.owners["app"], Zone: b.zones["app"], Rules: b.sets["app"], MTU: 600})
	b.sw.Publish(e)
	f := template(17, addr("10.10.0.4"), addr("10.10.0.5"), 1000, 53)
	f.Payload = make([]byte, 1400)
	b.expect("web", b.of("web", f), "app", verdict.Forward)
	if got := b.devices["app"].count; got != 3 {
		t.Fatalf("a packet of 1428 bytes leaves as %d fragments, want 3", got)
	}
	for flow := range b.tracker.Connections(b.frame.now) {
		if flow.Packets != [2]uint32{1, 0} {
			t.Errorf("connection %v has %v packets, want one", flow.Flow, flow.Packets)
		}
	}
	if u := b.tracker.Usage(); u.Tracked != 2 {
		t.Errorf("%d connections are tracked, want one for each interface", u.Tracked)
	}
}

// TestFragmentingAllocatesNothing: nor does an error about a packet that is too large.
func TestFragmentingAllocatesNothing(t *testing.T) {
	b, tunnel := newMTUBed(t)
	for _, c := range crossings {
		for _, df := range []bool{false, true} {
			frame := packettest.Build(c.frame(1450, df))
			tunnel.all = nil
			if n := testing.AllocsPerRun(100, func() {
				copy(b.frame.buffer[offloadLen:], frame)
				clear(b.frame.buffer[:offloadLen])
				b.frame.snapshot, b.frame.origin = b.sw.Snapshot(), packet.Origin{Node: 2, VNI: 1, Epoch: 7}
				b.frame.receive(b.ports[c.in], offloadLen+len(frame))
			}); n != 0 {
				t.Errorf("%s, DF %v: %v allocations, want 0", c.name, df, n)
			}
		}
	}
}
