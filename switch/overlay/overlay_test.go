package overlay

import (
	"net"
	"testing"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
	vswitch "palisade/switch"
)

func TestEachNodeChecksRulesOfItsOwnInstances(t *testing.T) {
	for _, form := range []Form{Sealed, VXLAN} {
		t.Run(form.String(), func(t *testing.T) { eachNodeAsks(t, newClusterOn(t, form, nil)) })
	}
}

func eachNodeAsks(t *testing.T, c *cluster) {
	t.Helper()
	n1, n2 := c.nodes[0], c.nodes[1]
	app := n2.ports["app"]
	const web, lone, appIP, webPublic, appPublic = "10.10.0.4", "10.10.0.6", "10.10.0.5", "198.18.0.4", "198.18.0.5"
	tests := []struct {
		name     string
		from     string
		frame    packettest.Frame
		want     verdict.Verdict
		src, dst string // as the app sees them
	}{
		{"TCP by group", "web", of("web", packet.ProtocolTCP, web, appIP, 1, 8000), verdict.Forward, web, appIP},
		{"UDP by group", "web", of("web", packet.ProtocolUDP, web, appIP, 1, 53), verdict.Forward, web, appIP},
		{"ping by group", "web", of("web", packet.ProtocolICMP, web, appIP, 1, 1), verdict.Forward, web, appIP},
		{"another port", "web", of("web", packet.ProtocolTCP, web, appIP, 1, 8001), verdict.NoRule, "", ""},
		{"no member", "lone", of("lone", packet.ProtocolTCP, lone, appIP, 1, 8000), verdict.NoRule, "", ""},
		{"to a public address, by CIDR", "web", of("web", packet.ProtocolTCP, web, appPublic, 1, 22), verdict.Forward, webPublic, appIP},
		{"to a public address, as no member", "web", of("web", packet.ProtocolTCP, web, appPublic, 1, 8000), verdict.NoRule, "", ""},
		{"to a private address, not by public CIDR", "web", of("web", packet.ProtocolTCP, web, appIP, 1, 22), verdict.NoRule, "", ""},
	}
	for _, tt := range tests {
		n1.send(tt.from, packettest.Build(tt.frame), app, tt.want)
		if tt.want != verdict.Forward || t.Failed() {
			continue
		}
		p, _ := n2.delivered("app")
		if p.Flow.Src != addr(tt.src) || p.Flow.Dst != addr(tt.dst) || p.DstMAC != macOf("app") || p.SrcMAC != vswitch.GatewayMAC {
			t.Errorf("%s: the app received flow %v from MAC %v to MAC %v, want %s > %s from the gateway to the app", tt.name, p.Flow, p.SrcMAC, p.DstMAC, tt.src, tt.dst)
		}
		answer := tt.frame
		answer.Flow.Src = addr(tt.src)
		if tt.src == webPublic {
			answer.Flow.Dst = addr(appIP)
		}
		before := n1.ports["web"].Counters().Verdicts[verdict.Forward]
		if err := n2.devices["app"].Send(packettest.Build(reply(answer, "app", packet.SYN|packet.ACK))); err != nil {
			t.Fatal(err)
		}
		eventually(t, tt.name+": answer", func() bool { return n1.ports["web"].Counters().Verdicts[verdict.Forward] > before })
		if p, _ := n1.delivered("web"); p.Flow != packettest.Reverse(tt.frame.Flow) {
			t.Errorf("%s: the web received flow %v, want %v", tt.name, p.Flow, packettest.Reverse(tt.frame.Flow))
		}
	}
	if got := n1.tunnel.Counters(); got.TxFrames == 0 || got.RxFrames == 0 {
		t.Errorf("node1's tunnel port has sent %d frames and received %d, want more than 0 of each", got.TxFrames, got.RxFrames)
	}
	for v, n := range n2.tunnel.Counters().Verdicts {
		if n > 0 {
			t.Errorf("%d frames of an honest node have the verdict %v at the tunnel port, want none dropped there", n, verdict.Verdict(v))
		}
	}
}

// altered builds the frame f after change has altered it.
func altered(f packettest.Frame, change func(f *packettest.Frame)) []byte {
	change(&f)
	return packettest.Build(f)
}

// node1 was taken over: it has its keys and seals anything.
func TestNodeCannotSendForInterfacesOfAnotherNode(t *testing.T) {
	c := newCluster(t)
	n1, n2 := c.nodes[0], c.nodes[1]
	const web, lone, app = "10.10.0.4", "10.10.0.6", "10.10.0.5"
	honest := of("web", packet.ProtocolTCP, web, app, 1, 8000)
	with := func(change func(f *packettest.Frame)) []byte { return altered(honest, change) }
	plain := packettest.Build(honest)
	origin := packet.Origin{VNI: vni, Epoch: 1}
	tests := []struct {
		name   string
		origin packet.Origin
		frame  []byte
		at     *vswitch.Port
		want   verdict.Verdict
	}{
		{"an allowed frame", origin, plain, n2.ports["app"], verdict.Forward},
		{"as an interface of the receiver", packet.Origin{VNI: vni, Epoch: 3}, packettest.Build(of("app", 6, app, app, 1, 8000)), n2.tunnel, verdict.TunnelForeign},
		{"with a lease that has ended", packet.Origin{VNI: vni, Epoch: 9}, plain, n2.tunnel, verdict.TunnelForeign},
		{"as another of its own interfaces", packet.Origin{VNI: vni, Epoch: 2}, plain, n2.tunnel, verdict.TunnelForeign},
		{"from an address of another interface", origin, with(func(f *packettest.Frame) { f.Flow.Src = addr(lone) }), n2.tunnel, verdict.TunnelForeign},
		{"from an unused address", origin, with(func(f *packettest.Frame) { f.Flow.Src = addr("10.10.9.9") }), n2.tunnel, verdict.TunnelForeign},
		{"from an address of the internet", origin, with(func(f *packettest.Frame) { f.Flow.Src = addr("203.0.113.25") }), n2.tunnel, verdict.TunnelForeign},
		{"from another's public address", origin, with(func(f *packettest.Frame) { f.Flow.Src = addr("198.18.0.5") }), n2.tunnel, verdict.TunnelForeign},
		{"from the MAC of another interface", origin, with(func(f *packettest.Frame) { f.SrcMAC = macOf("lone") }), n2.tunnel, verdict.TunnelForeign},
		{"in an unknown network", packet.Origin{VNI: 8, Epoch: 1}, plain, n2.tunnel, verdict.TunnelForeign},
		{"to the sending node, in transit", origin, with(func(f *packettest.Frame) { f.Flow.Dst = addr(lone) }), n2.tunnel, verdict.NoRoute},
		{"to an unused address", origin, with(func(f *packettest.Frame) { f.Flow.Dst = addr("10.10.9.9") }), n2.tunnel, verdict.NoRoute},
		{"to the internet", origin, with(func(f *packettest.Frame) { f.Flow.Dst = addr("203.0.113.25") }), n2.tunnel, verdict.NoRoute},
		{"to the MAC of another interface", origin, with(func(f *packettest.Frame) { f.DstMAC = macOf("lone") }), n2.tunnel, verdict.WrongMAC},
		{"to the broadcast MAC", origin, with(func(f *packettest.Frame) { f.DstMAC = ec2.MAC{255, 255, 255, 255, 255, 255} }), n2.tunnel, verdict.WrongMAC},
		{"ARP", origin, packettest.ARP(1, macOf("web"), addr(web), addr(app)), n2.tunnel, verdict.ARPIgnored},
		{"no frame", origin, []byte{1, 2, 3}, n2.tunnel, verdict.Runt},
		{"what the rules refuse", origin, with(func(f *packettest.Frame) { f.Flow.DstPort = 8001 }), n2.ports["app"], verdict.NoRule},
	}
	for _, tt := range tests {
		before := tt.at.Counters().Verdicts
		p, b := one(tt.frame)
		if v, err := n1.overlay.device.Send(queues-1, 2, tt.origin, p, b); v != verdict.Forward || err != nil {
			t.Fatalf("%s: Send returned verdict %v, error %v", tt.name, v, err)
		}
		t.Log("case:", tt.name)
		c.fate(tt.at, before, tt.want)
	}
	if got := n2.tunnel.Counters().TxFrames; got != 0 {
		t.Errorf("node2 sent %d frames on to other nodes, want 0", got)
	}
}

// The attacker is on the underlay and has no keys.
func TestForgedDatagramsAreDropped(t *testing.T) {
	c := newCluster(t)
	n1, n2 := c.nodes[0], c.nodes[1]
	s := n1.association(2)
	sealed := func() []byte {
		f := packettest.Build(of("web", packet.ProtocolTCP, "10.10.0.4", "10.10.0.5", 1, 8000))
		return s.sealed(queues-1, packet.Origin{VNI: vni, Epoch: 1}, f)
	}
	changed := func(at int, bits byte) []byte {
		b := sealed()
		b[(at+len(b))%len(b)] ^= bits
		return b
	}
	elsewhere, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(n2.udpAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Close()
	wire := func(b []byte) error { return n1.overlay.device.sendTo(b, &s.to) }
	stranger := func(b []byte) error { _, err := elsewhere.Write(b); return err }

	captured := sealed()
	tests := []struct {
		name string
		send func([]byte) error
		b    []byte
		at   *vswitch.Port
		want verdict.Verdict
	}{
		{"what node1 sealed", wire, captured, n2.ports["app"], verdict.Forward},
		{"the same again", wire, captured, n2.tunnel, verdict.TunnelReplayed},
		{"the first byte inside changed", wire, changed(headerLen, 1), n2.tunnel, verdict.TunnelForged},
		{"the last byte of the seal changed", wire, changed(-1, 0x80), n2.tunnel, verdict.TunnelForged},
		{"a new counter on an old seal", wire, changed(15, 0x40), n2.tunnel, verdict.TunnelForged},
		{"another queue", wire, changed(8, 1), n2.tunnel, verdict.TunnelForged},
		{"an unused queue", wire, changed(8, 0x80), n2.tunnel, verdict.TunnelUnknown},
		{"another association", wire, changed(4, 1), n2.tunnel, verdict.TunnelUnknown},
		{"another version", wire, changed(0, 2), n2.tunnel, verdict.TunnelUnknown},
		{"reserved bits", wire, changed(2, 1), n2.tunnel, verdict.TunnelUnknown},
		{"cut short", wire, sealed()[:50], n2.tunnel, verdict.TunnelUnknown},
		{"without its end", wire, sealed()[:80], n2.tunnel, verdict.TunnelForged},
		{"nothing", wire, []byte{}, n2.tunnel, verdict.TunnelUnknown},
		{"sealed correctly, from another address", stranger, sealed(), n2.tunnel, verdict.TunnelUnknown},
		{"a plain frame", stranger, packettest.Build(of("web", 6, "10.10.0.4", "10.10.0.5", 1, 8000)), n2.tunnel, verdict.TunnelUnknown},
	}
	for _, tt := range tests {
		before := tt.at.Counters().Verdicts
		if err := tt.send(tt.b); err != nil {
			t.Fatal(err)
		}
		t.Log("case:", tt.name)
		c.fate(tt.at, before, tt.want)
	}
}

// The test joins the traces of two nodes as their daemons do.
func TestTraceContinuesOnTheReceivingNode(t *testing.T) {
	c := newCluster(t)
	n1, n2 := c.nodes[0], c.nodes[1]
	for _, tt := range []struct {
		dst  string
		port uint16
		want verdict.Verdict
	}{{"10.10.0.5", 8000, verdict.Forward}, {"10.10.0.5", 22, verdict.NoRule}, {"198.18.0.5", 22, verdict.Forward}} {
		first := n1.sw.Trace(n1.ports["web"], packettest.Build(of("web", packet.ProtocolTCP, "10.10.0.4", tt.dst, 1, tt.port)))
		if first.Verdict != verdict.Forward || first.Onward == nil || first.Onward.Node != 2 {
			t.Fatalf("trace to %s:%d on node1: %+v, want it forwarded to node 2", tt.dst, tt.port, first)
		}
		from := first.Onward.Origin
		from.Node = 1 // number of the node that asks for the second trace
		second, ok := n2.sw.TraceTunnel(from, first.Onward.Frame)
		if !ok || second.Verdict != tt.want || second.At != n2.ports["app"] || second.Onward != nil || len(second.Steps) != 1 {
			t.Errorf("trace to %s:%d on node2: %+v, want verdict %v at the app's port", tt.dst, tt.port, second, tt.want)
		}
		from.Node = 3
		if second, _ := n2.sw.TraceTunnel(from, first.Onward.Frame); second.Verdict != verdict.TunnelForeign {
			t.Errorf("trace that another node asks for: verdict %v, want %v", second.Verdict, verdict.TunnelForeign)
		}
	}
	if n1.tunnel.Counters().TxFrames != 0 || len(n2.devices["app"].Take()) != 0 {
		t.Error("a traced frame was sent, want 0 frames")
	}
}
