package overlay

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/firewall"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/peer"
	"palisade/internal/verdict"
	vswitch "palisade/switch"
	"palisade/switch/tap/taptest"
)

// patience is what a loaded machine may need for what takes milliseconds.
const patience = 20 * time.Second

// A cluster is two nodes whose switches run, joined by real tunnels and real peers over
// loopback:
//
//	node1, number 1                              node2, number 2
//	  web   10.10.0.4 = 198.18.0.4  epoch 1        app  10.10.0.5 = 198.18.0.5  epoch 3
//	  lone  10.10.0.6               epoch 2
//
// each in a group of its own name.
type cluster struct {
	t     testing.TB
	table *members
	nodes []*node // node1, node2
	rules groups
	form  Form
	// device makes an instance's; nil is one in memory.
	device func(host string) vswitch.Device
}

var hosts = []struct {
	name, private, public string
	epoch                 uint64
	node                  uint32
}{
	{"web", "10.10.0.4", "198.18.0.4", 1, 1},
	{"lone", "10.10.0.6", "", 2, 1},
	{"app", "10.10.0.5", "198.18.0.5", 3, 2},
}

const (
	vni        = 7
	networkMTU = 1500
	tunnelMTU  = 1406
)

// A node can be stopped and started again, with the same addresses.
type node struct {
	c        *cluster
	number   uint32
	name     string
	id       *peer.Identity
	peerAddr netip.AddrPort
	udpAddr  netip.AddrPort

	peer    *peer.Peer
	overlay *Overlay
	sw      *vswitch.Switch
	tunnel  *vswitch.Port
	ports   map[string]*vswitch.Port
	devices map[string]*taptest.Device
	stop    func()
}

// members is a peer.Directory.
type members struct {
	sync.Mutex
	keys      map[string][]byte
	addresses map[string]string
}

func (m *members) Check(name string, key []byte) error {
	m.Lock()
	defer m.Unlock()
	if !bytes.Equal(m.keys[name], key) {
		return fmt.Errorf("%s is no member with that key", name)
	}
	return nil
}

func (m *members) Address(name string) (string, bool) {
	m.Lock()
	defer m.Unlock()
	a, ok := m.addresses[name]
	return a, ok
}

func (m *members) add(name string, key []byte, at netip.AddrPort) {
	m.Lock()
	defer m.Unlock()
	m.keys[name], m.addresses[name] = key, at.String()
}

type groups map[ec2.GroupID]*ec2.Group

func (g groups) Group(id ec2.GroupID) (*ec2.Group, bool) { one, ok := g[id]; return one, ok }

func permit(serial uint64, protocol ec2.Protocol, from, to int, source string) ec2.Rule {
	r := ec2.Rule{ID: ec2.RuleID(fmt.Sprint("sgr-", serial)), Serial: serial, Protocol: protocol, From: from, To: to}
	if p, err := netip.ParsePrefix(source); err == nil {
		r.Source.Prefix = p
	} else {
		r.Source.Group = ec2.GroupRef{ID: ec2.GroupID(source)}
	}
	return r
}

// newCluster starts two nodes and waits for their session. The app admits the web group to
// TCP 8000 and UDP 53, pings from it, and TCP 22 from the web's public address alone.
func newCluster(t testing.TB) *cluster { return newClusterOn(t, Sealed, nil) }

func newClusterOn(t testing.TB, form Form, device func(host string) vswitch.Device) *cluster {
	t.Helper()
	c := &cluster{t: t, form: form, device: device, table: &members{keys: map[string][]byte{}, addresses: map[string]string{}}, rules: groups{
		"web":  {ID: "web", Name: "web"},
		"lone": {ID: "lone", Name: "lone"},
		"app": {ID: "app", Name: "app", Rules: []ec2.Rule{
			permit(1, ec2.TCP, 8000, 8000, "web"), permit(2, ec2.UDP, 53, 53, "web"), permit(3, ec2.ICMP, -1, -1, "web"),
			permit(4, ec2.TCP, 22, 22, "198.18.0.4/32"),
		}},
	}}
	for i, id := range identities(t, c.table) {
		n := &node{c: c, number: uint32(i + 1), name: id.Node(), id: id,
			peerAddr: netip.MustParseAddrPort("127.0.0.1:0"), udpAddr: netip.MustParseAddrPort("127.0.0.1:0")}
		if form == VXLAN { // where the address is all that tells nodes apart
			n.udpAddr = netip.MustParseAddrPort(fmt.Sprintf("127.0.0.%d:0", i+1))
		}
		c.nodes = append(c.nodes, n)
		n.start()
	}
	c.introduce()
	c.connected()
	return c
}

// identities founds a cluster and lets a second node join it, as operators do.
func identities(t testing.TB, table *members) []*peer.Identity {
	t.Helper()
	nominal := netip.MustParseAddrPort("127.0.0.1:7400")
	first, err := peer.Init(t.TempDir(), "node1", nominal)
	if err != nil {
		t.Fatal(err)
	}
	p, err := peer.New(peer.Config{Identity: first, Listen: netip.MustParseAddrPort("127.0.0.1:0"), Nodes: table, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	p.HandleJoin(func(context.Context, peer.JoinRequest) (peer.JoinAnswer, error) {
		return peer.JoinAnswer{Role: "nonvoter"}, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	token, err := peer.NewToken(first.RootPEM())
	if err != nil {
		t.Fatal(err)
	}
	second, err := peer.Join(ctx, peer.JoinConfig{Dir: t.TempDir(), Node: "node2", Address: nominal, Contacts: []string{p.Addr().String()}, Token: token.String()})
	cancel()
	if err := errors.Join(err, <-ended); err != nil {
		t.Fatal(err)
	}
	return []*peer.Identity{first, second}
}

// start makes the node's daemon, and opens its ports by what the cluster has decided.
func (n *node) start() {
	t := n.c.t
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	n.peer, err = peer.New(peer.Config{Identity: n.id, Listen: n.peerAddr, Nodes: n.c.table, Logger: slog.New(slog.DiscardHandler)})
	must(err)
	n.peerAddr = n.peer.Addr()
	n.c.table.add(n.name, n.id.PublicKey(), n.peerAddr)
	n.overlay, err = New(Config{Peer: n.peer, Node: n.name, Listen: n.udpAddr, Form: n.c.form})
	must(err)
	n.udpAddr = n.overlay.Addr()
	tracker, err := conntrack.Open(conntrack.Config{})
	must(err)
	n.sw, err = vswitch.New(vswitch.Config{Tracker: tracker, Pollers: 2})
	must(err)
	n.tunnel, err = n.sw.AddTunnel("tunnel", n.overlay.Device())
	must(err)

	n.ports, n.devices = map[string]*vswitch.Port{}, map[string]*taptest.Device{}
	compiler := firewall.NewCompiler()
	e := n.sw.Edit(1)
	e.Network(vswitch.Network{VNI: vni, Prefix: netip.MustParsePrefix("10.0.0.0/8"), Gateway: addr("10.0.0.1"), MTU: networkMTU})
	e.PublicPools([]netip.Prefix{netip.MustParsePrefix("198.18.0.0/16")})
	e.Tunnel(&vswitch.Tunnel{Port: n.tunnel, MTU: tunnelMTU})
	for _, h := range hosts {
		set := compiler.Acquire(n.c.rules, []ec2.GroupID{ec2.GroupID(h.name)}, 1)
		o := &vswitch.Endpoint{Epoch: h.epoch, Address: addr(h.private), MAC: macOf(h.name), Groups: set.Numbers}
		if h.public != "" {
			o.Public = addr(h.public)
		}
		if h.node != n.number {
			o.Node = h.node
			e.AddEndpoint(vni, o)
			continue
		}
		var device vswitch.Device
		if n.c.device != nil {
			device = n.c.device(h.name)
		} else {
			n.devices[h.name], err = taptest.New()
			must(err)
			device = n.devices[h.name]
		}
		o.Port, err = n.sw.AddPort(h.name, vswitch.InstancePort, device)
		must(err)
		n.ports[h.name] = o.Port
		e.AddEndpoint(vni, o)
		e.Attach(o.Port, vni, vswitch.Attachment{Endpoint: o, Zone: tracker.AddZone(h.epoch, conntrack.Timeouts{}), Rules: set})
	}
	n.sw.Publish(e)

	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 3)
	for _, run := range []func(context.Context) error{n.peer.Run, n.overlay.Run, n.sw.Run} {
		go func() { ended <- run(ctx) }()
	}
	n.stop = sync.OnceFunc(func() {
		e := n.sw.Edit(2)
		e.Tunnel(nil)
		n.sw.Publish(e)
		for _, p := range n.sw.Ports() {
			if err := n.sw.RemovePort(p); err != nil {
				t.Error(err)
			}
		}
		cancel()
		for range cap(ended) {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		if err := tracker.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(n.stop)
}

// remote is the node as the others know it.
func (n *node) remote() Remote {
	return Remote{Number: n.number, Node: n.name, Address: n.udpAddr, PublicKey: n.id.PublicKey()}
}

// introduce tells every node of the others.
func (c *cluster) introduce() {
	all := []Remote{c.nodes[0].remote(), c.nodes[1].remote()}
	for _, n := range c.nodes {
		n.overlay.SetPeers(all)
	}
}

// connected waits until each node can send to the other.
func (c *cluster) connected() {
	c.t.Helper()
	eventually(c.t, "a session", func() bool { return c.nodes[0].up() && c.nodes[1].up() })
}

func (n *node) up() bool { s := n.overlay.Status(); return len(s) == 1 && s[0].Up }

func eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(500 * time.Microsecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end); <-tick.C {
		if so() {
			return
		}
	}
	t.Fatalf("there is no %s after %v", what, patience)
}

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

func macOf(name string) ec2.MAC { return ec2.MAC{2, 0, 0, 1, 0, name[0]} }

// of builds a frame that an instance sends through its gateway.
func of(name string, protocol uint8, src, dst string, srcPort, dstPort uint16) packettest.Frame {
	return packettest.Frame{
		Flow:   packet.Flow{Src: addr(src), Dst: addr(dst), SrcPort: srcPort, DstPort: dstPort, Protocol: protocol},
		SrcMAC: macOf(name), DstMAC: vswitch.GatewayMAC, TCPFlags: packet.SYN, ICMPType: packet.ICMPEcho,
	}
}

func reply(f packettest.Frame, from string, flags uint8) packettest.Frame {
	f.Flow, f.TCPFlags, f.ICMPType, f.SrcMAC = packettest.Reverse(f.Flow), flags, packet.ICMPEchoReply, macOf(from)
	return f
}

// send lets an instance send, and waits for the frame's fate.
func (n *node) send(from string, frame []byte, fateOf *vswitch.Port, want verdict.Verdict) {
	n.c.t.Helper()
	before := fateOf.Counters().Verdicts
	if err := n.devices[from].Send(frame); err != nil {
		n.c.t.Fatal(err)
	}
	n.c.fate(fateOf, before, want)
}

// fate waits until something has befallen a frame at a port since before, and wants it to
// be a certain thing.
func (c *cluster) fate(at *vswitch.Port, before [verdict.Count]uint64, want verdict.Verdict) {
	c.t.Helper()
	eventually(c.t, fmt.Sprintf("fate at %s, where %v is wanted", at.Name(), want), func() bool { return at.Counters().Verdicts != before })
	after := at.Counters().Verdicts
	before[want]++
	if after != before {
		for v := range after {
			if after[v] != before[v] {
				c.t.Errorf("at %s: %d more of %v than wanted", at.Name(), int64(after[v]-before[v]), verdict.Verdict(v))
			}
		}
	}
}

// delivered waits for the next frame an instance is given.
func (n *node) delivered(to string) (packet.Packet, []byte) {
	n.c.t.Helper()
	d := n.devices[to]
	deadline := time.After(patience)
	for {
		if frames := d.Take(); len(frames) > 0 {
			var p packet.Packet
			ethernet := frames[len(frames)-1][packet.OffloadLen:]
			if v, ok := packet.NewDecoder().Decode(ethernet, &p); !ok {
				n.c.t.Fatalf("%s was given a frame that is %v", to, v)
			}
			return p, ethernet
		}
		select {
		case <-d.Arrived():
		case <-deadline:
			n.c.t.Fatalf("%s was given nothing", to)
		}
	}
}

func TestEachNodeAsksTheRulesOfItsOwn(t *testing.T) {
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
		src, dst string // as the app sees it
	}{
		{"TCP by group", "web", of("web", packet.ProtocolTCP, web, appIP, 1, 8000), verdict.Forward, web, appIP},
		{"UDP by group", "web", of("web", packet.ProtocolUDP, web, appIP, 1, 53), verdict.Forward, web, appIP},
		{"ping by group", "web", of("web", packet.ProtocolICMP, web, appIP, 1, 1), verdict.Forward, web, appIP},
		{"another port", "web", of("web", packet.ProtocolTCP, web, appIP, 1, 8001), verdict.NoRule, "", ""},
		{"no member", "lone", of("lone", packet.ProtocolTCP, lone, appIP, 1, 8000), verdict.NoRule, "", ""},
		{"by public address it is a CIDR", "web", of("web", packet.ProtocolTCP, web, appPublic, 1, 22), verdict.Forward, webPublic, appIP},
		{"and no member", "web", of("web", packet.ProtocolTCP, web, appPublic, 1, 8000), verdict.NoRule, "", ""},
		{"nor a CIDR by private address", "web", of("web", packet.ProtocolTCP, web, appIP, 1, 22), verdict.NoRule, "", ""},
	}
	for _, tt := range tests {
		n1.send(tt.from, packettest.Build(tt.frame), app, tt.want)
		if tt.want != verdict.Forward || t.Failed() {
			continue
		}
		p, _ := n2.delivered("app")
		if p.Flow.Src != addr(tt.src) || p.Flow.Dst != addr(tt.dst) || p.DstMAC != macOf("app") || p.SrcMAC != vswitch.GatewayMAC {
			t.Errorf("%s: the app was given %v from %v to %v", tt.name, p.Flow, p.SrcMAC, p.DstMAC)
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
			t.Errorf("%s: the web was given %v, want %v", tt.name, p.Flow, packettest.Reverse(tt.frame.Flow))
		}
	}
	if got := n1.tunnel.Counters(); got.TxFrames == 0 || got.RxFrames == 0 {
		t.Errorf("node1's tunnel port has %d frames sent, %d received", got.TxFrames, got.RxFrames)
	}
	for v, n := range n2.tunnel.Counters().Verdicts {
		if n > 0 {
			t.Errorf("%d honest frames ended as %v at the tunnel port", n, verdict.Verdict(v))
		}
	}
}

// altered is a frame with a change.
func altered(f packettest.Frame, change func(f *packettest.Frame)) []byte {
	change(&f)
	return packettest.Build(f)
}

// TestNoNodeSpeaksForWhatItDoesNotHave: node1 is broken into. It holds its keys and seals
// what it likes.
func TestNoNodeSpeaksForWhatItDoesNotHave(t *testing.T) {
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
		{"what it may send", origin, plain, n2.ports["app"], verdict.Forward},
		{"for an interface of the receiver", packet.Origin{VNI: vni, Epoch: 3}, packettest.Build(of("app", 6, app, app, 1, 8000)), n2.tunnel, verdict.TunnelForeign},
		{"for a lease that is over", packet.Origin{VNI: vni, Epoch: 9}, plain, n2.tunnel, verdict.TunnelForeign},
		{"for another of its own interfaces", packet.Origin{VNI: vni, Epoch: 2}, plain, n2.tunnel, verdict.TunnelForeign},
		{"from an address that its interface has not", origin, with(func(f *packettest.Frame) { f.Flow.Src = addr(lone) }), n2.tunnel, verdict.TunnelForeign},
		{"from an address that nobody has", origin, with(func(f *packettest.Frame) { f.Flow.Src = addr("10.10.9.9") }), n2.tunnel, verdict.TunnelForeign},
		{"from an address outside", origin, with(func(f *packettest.Frame) { f.Flow.Src = addr("203.0.113.25") }), n2.tunnel, verdict.TunnelForeign},
		{"from another's public address", origin, with(func(f *packettest.Frame) { f.Flow.Src = addr("198.18.0.5") }), n2.tunnel, verdict.TunnelForeign},
		{"from a MAC that its interface has not", origin, with(func(f *packettest.Frame) { f.SrcMAC = macOf("lone") }), n2.tunnel, verdict.TunnelForeign},
		{"in a network that there is not", packet.Origin{VNI: 8, Epoch: 1}, plain, n2.tunnel, verdict.TunnelForeign},
		{"to itself, in transit", origin, with(func(f *packettest.Frame) { f.Flow.Dst = addr(lone) }), n2.tunnel, verdict.NoRoute},
		{"to nobody", origin, with(func(f *packettest.Frame) { f.Flow.Dst = addr("10.10.9.9") }), n2.tunnel, verdict.NoRoute},
		{"to the world", origin, with(func(f *packettest.Frame) { f.Flow.Dst = addr("203.0.113.25") }), n2.tunnel, verdict.NoRoute},
		{"to a MAC that the receiver has not", origin, with(func(f *packettest.Frame) { f.DstMAC = macOf("lone") }), n2.tunnel, verdict.WrongMAC},
		{"to everybody", origin, with(func(f *packettest.Frame) { f.DstMAC = ec2.MAC{255, 255, 255, 255, 255, 255} }), n2.tunnel, verdict.WrongMAC},
		{"ARP", origin, packettest.ARP(1, macOf("web"), addr(web), addr(app)), n2.tunnel, verdict.ARPIgnored},
		{"no frame", origin, []byte{1, 2, 3}, n2.tunnel, verdict.Runt},
		{"what the rules refuse", origin, with(func(f *packettest.Frame) { f.Flow.DstPort = 8001 }), n2.ports["app"], verdict.NoRule},
	}
	for _, tt := range tests {
		before := tt.at.Counters().Verdicts
		p, b := one(tt.frame)
		if v, err := n1.overlay.device.Send(queues-1, 2, tt.origin, p, b); v != verdict.Forward || err != nil {
			t.Fatalf("%s: %v, %v", tt.name, v, err)
		}
		t.Log(tt.name)
		c.fate(tt.at, before, tt.want)
	}
	if got := n2.tunnel.Counters().TxFrames; got != 0 {
		t.Errorf("%d frames went on from node2", got)
	}
}

// TestWhatNoNodeSealed: the attacker is on the underlay, without keys.
func TestWhatNoNodeSealed(t *testing.T) {
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
		{"the same once more", wire, captured, n2.tunnel, verdict.TunnelReplayed},
		{"the first byte inside changed", wire, changed(headerLen, 1), n2.tunnel, verdict.TunnelForged},
		{"the last byte of the seal changed", wire, changed(-1, 0x80), n2.tunnel, verdict.TunnelForged},
		{"a new counter on an old seal", wire, changed(15, 0x40), n2.tunnel, verdict.TunnelForged},
		{"another queue", wire, changed(8, 1), n2.tunnel, verdict.TunnelForged},
		{"a queue that nobody has", wire, changed(8, 0x80), n2.tunnel, verdict.TunnelUnknown},
		{"another session", wire, changed(4, 1), n2.tunnel, verdict.TunnelUnknown},
		{"another version", wire, changed(0, 2), n2.tunnel, verdict.TunnelUnknown},
		{"reserved bits", wire, changed(2, 1), n2.tunnel, verdict.TunnelUnknown},
		{"cut short", wire, sealed()[:50], n2.tunnel, verdict.TunnelUnknown},
		{"without its end", wire, sealed()[:80], n2.tunnel, verdict.TunnelForged},
		{"nothing", wire, []byte{}, n2.tunnel, verdict.TunnelUnknown},
		{"well sealed, from elsewhere", stranger, sealed(), n2.tunnel, verdict.TunnelUnknown},
		{"a plain frame", stranger, packettest.Build(of("web", 6, "10.10.0.4", "10.10.0.5", 1, 8000)), n2.tunnel, verdict.TunnelUnknown},
	}
	for _, tt := range tests {
		before := tt.at.Counters().Verdicts
		if err := tt.send(tt.b); err != nil {
			t.Fatal(err)
		}
		t.Log(tt.name)
		c.fate(tt.at, before, tt.want)
	}
}

func (n *node) association(to uint32) *association { return n.overlay.table.Load().send[to] }

func dontFragment(frame []byte) []byte {
	frame[20] |= 0x40
	return frame
}

func TestTooBigForTheTunnel(t *testing.T) {
	c := newCluster(t)
	n1, n2 := c.nodes[0], c.nodes[1]
	big := of("web", packet.ProtocolUDP, "10.10.0.4", "10.10.0.5", 1, 53)
	big.FragID = 77

	// What fills the tunnel fits, to the byte.
	big.Payload = make([]byte, tunnelMTU-28)
	n1.send("web", dontFragment(packettest.Build(big)), n2.ports["app"], verdict.Forward)
	n2.delivered("app")

	big.Payload = make([]byte, tunnelMTU-28+1)
	for i := range big.Payload {
		big.Payload[i] = byte(i)
	}
	for _, dst := range []string{"10.10.0.5", "198.18.0.5"} {
		big.Flow.Dst = addr(dst)
		frame := dontFragment(packettest.Build(big))
		n1.send("web", frame, n1.ports["web"], verdict.TooBig)
		p, told := n1.delivered("web")
		quoted := packet.Flow{Src: addr("10.10.0.4"), Dst: addr(dst), SrcPort: 1, DstPort: 53, Protocol: packet.ProtocolUDP}
		if p.Flow.Src != addr("10.0.0.1") || p.ICMPType != 3 || p.ICMPCode != 4 || p.Quoted != quoted ||
			binary.BigEndian.Uint16(told[p.L4+6:]) != tunnelMTU || p.SrcMAC != vswitch.GatewayMAC || p.DstMAC != macOf("web") {
			t.Errorf("to %s: the web was told %v type %d code %d about %v", dst, p.Flow, p.ICMPType, p.ICMPCode, p.Quoted)
		}
		if !checksums(told, &p) {
			t.Errorf("to %s: wrong checksums in % x", dst, told)
		}
	}

	// May it be cut, it is, and the receiver puts it together again.
	big.Flow.Dst = addr("10.10.0.5")
	before := n2.ports["app"].Counters().Verdicts[verdict.Forward]
	if err := n1.devices["web"].Send(packettest.Build(big)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "second fragment", func() bool { return n2.ports["app"].Counters().Verdicts[verdict.Forward] == before+2 })
	var whole []byte
	for _, f := range n2.devices["app"].Take() {
		var p packet.Packet
		if v, ok := packet.NewDecoder().Decode(f[packet.OffloadLen:], &p); !ok || p.FragOffset != len(whole) || p.Len-p.L3 > tunnelMTU {
			t.Fatalf("a fragment of %d bytes at %d is %v", p.Len-p.L3, p.FragOffset, v)
		}
		whole = append(whole, f[packet.OffloadLen+p.L4:packet.OffloadLen+p.Len]...)
	}
	if len(whole) < 8 || !bytes.Equal(whole[8:], big.Payload) {
		t.Errorf("%d bytes arrived, or other ones", len(whole))
	}
}

// checksums verifies those of the IP header and of the ICMP message.
func checksums(frame []byte, p *packet.Packet) bool {
	sum := func(b []byte) (s uint32) {
		for i := 0; i+1 < len(b); i += 2 {
			s += uint32(b[i])<<8 | uint32(b[i+1])
		}
		if len(b)%2 == 1 {
			s += uint32(b[len(b)-1]) << 8
		}
		for s>>16 != 0 {
			s = s&0xffff + s>>16
		}
		return s
	}
	return sum(frame[p.L3:p.L4]) == 0xffff && sum(frame[p.L4:p.Len]) == 0xffff
}

func superframe(size, payload int) (offload, frame []byte) {
	f := of("web", packet.ProtocolTCP, "10.10.0.4", "10.10.0.5", 1, 8000)
	f.TCPFlags, f.Payload = packet.ACK, make([]byte, payload)
	offload = make([]byte, packet.OffloadLen)
	offload[0], offload[1] = 1, 1
	binary.NativeEndian.PutUint16(offload[4:], uint16(size))
	binary.NativeEndian.PutUint16(offload[6:], 34)
	binary.NativeEndian.PutUint16(offload[8:], 16)
	return offload, dontFragment(packettest.Build(f))
}

func TestSuperframeIsCutAndSealed(t *testing.T) {
	c := newCluster(t)
	n1, n2 := c.nodes[0], c.nodes[1]
	n1.send("web", packettest.Build(of("web", packet.ProtocolTCP, "10.10.0.4", "10.10.0.5", 1, 8000)), n2.ports["app"], verdict.Forward)

	// Its length does not matter, that of its packets does.
	offload, frame := superframe(tunnelMTU-40, 4*(tunnelMTU-40)+100)
	if err := n1.devices["web"].SendOffload(offload, frame); err != nil {
		t.Fatal(err)
	}
	eventually(t, "fifth segment", func() bool { return n2.ports["app"].Counters().Verdicts[verdict.Forward] == 6 })

	offload, frame = superframe(tunnelMTU-40+1, 4*(tunnelMTU-40)+100)
	if err := n1.devices["web"].SendOffload(offload, frame); err != nil {
		t.Fatal(err)
	}
	eventually(t, "refusal of five packets", func() bool { return n1.ports["web"].Counters().Verdicts[verdict.TooBig] == 5 })
	if got := n2.ports["app"].Counters().Verdicts[verdict.Forward]; got != 6 {
		t.Errorf("the app was given %d packets", got)
	}
}

// TestRekeyLosesNothing: both nodes change their keys again and again under traffic.
func TestRekeyLosesNothing(t *testing.T) {
	c := newCluster(t)
	n1, n2 := c.nodes[0], c.nodes[1]
	frame := packettest.Build(of("web", packet.ProtocolUDP, "10.10.0.4", "10.10.0.5", 1, 53))
	app := n2.ports["app"]
	sent, keys := uint64(0), map[*association]bool{}
	for deadline := time.Now().Add(patience); len(keys) < 5; {
		if time.Now().After(deadline) {
			t.Fatalf("there were %d sessions", len(keys))
		}
		s := n1.association(2)
		if !keys[s] {
			keys[s] = true
			c.nodes[len(keys)%2].overlay.rekey() // either may ask
		}
		for range 20 { // and no more before they have arrived: the socket's buffer is no part of this
			if err := n1.devices["web"].Send(frame); err != nil {
				t.Fatal(err)
			}
			sent++
		}
		eventually(t, fmt.Sprintf("frame number %d", sent), func() bool { return app.Counters().Verdicts[verdict.Forward] == sent })
		n2.devices["app"].Take()
	}
	if s := n2.overlay.Status()[0]; !s.Up || len(n2.overlay.peers["node1"].associations) > maxAssociations {
		t.Errorf("node2 keeps %d sessions; %+v", len(n2.overlay.peers["node1"].associations), s)
	}
}

// TestReplacedSessionReceivesForAMinute, and no longer.
func TestReplacedSessionReceivesForAMinute(t *testing.T) {
	c := newCluster(t)
	n1, n2 := c.nodes[0], c.nodes[1]
	old := n1.association(2)
	n1.overlay.rekey()
	eventually(t, "other session", func() bool { return n1.association(2) != old && n2.association(1).index != old.remoteIndex })
	send := func(at *vswitch.Port, want verdict.Verdict) {
		t.Helper()
		f := packettest.Build(of("web", packet.ProtocolUDP, "10.10.0.4", "10.10.0.5", 1, 53))
		before := at.Counters().Verdicts
		if err := n1.overlay.device.sendTo(old.sealed(0, packet.Origin{VNI: vni, Epoch: 1}, f), &old.to); err != nil {
			t.Fatal(err)
		}
		c.fate(at, before, want)
	}
	n2.overlay.retire(time.Now().Add(retireAfter - 10*time.Second))
	send(n2.ports["app"], verdict.Forward)
	n2.overlay.retire(time.Now().Add(retireAfter + time.Second))
	send(n2.tunnel, verdict.TunnelUnknown)
}

// TestRestartHeals: a node that comes back, whichever asks for the session, is reached again
// within seconds; until then the other goes on sending to nobody.
func TestRestartHeals(t *testing.T) {
	c := newCluster(t)
	for i, n := range c.nodes {
		other := c.nodes[1-i]
		before := other.association(n.number)
		n.stop()
		if other.association(n.number) != before {
			t.Errorf("%s has given up its session with %s, which has only stopped", other.name, n.name)
		}
		began := time.Now()
		n.start()
		c.introduce()
		eventually(t, "new session with "+n.name, func() bool { return n.up() && other.association(n.number) != before })
		t.Logf("%s was reached again after %v", n.name, time.Since(began))
		n1, n2 := c.nodes[0], c.nodes[1]
		n1.send("web", packettest.Build(of("web", packet.ProtocolUDP, "10.10.0.4", "10.10.0.5", 1, 53)), n2.ports["app"], verdict.Forward)
	}
}

// TestSessionOutlivesItsPeers: the streams between nodes are gone for good, the tunnels
// are not.
func TestSessionOutlivesItsPeers(t *testing.T) {
	c := newCluster(t)
	n1, n2 := c.nodes[0], c.nodes[1]
	c.table.Lock()
	clear(c.table.keys)
	c.table.Unlock()
	n1.peer.Drop("node2")
	n2.peer.Drop("node1")
	eventually(t, "problem", func() bool { return n1.overlay.Status()[0].Problem != "" })
	n1.send("web", packettest.Build(of("web", packet.ProtocolUDP, "10.10.0.4", "10.10.0.5", 1, 53)), n2.ports["app"], verdict.Forward)
}

// TestOtherIdentityHasNoSession: what was a peer and is one no more, or is another under the
// same name, is out at once, and in again only as itself.
func TestOtherIdentityHasNoSession(t *testing.T) {
	c := newCluster(t)
	n1, n2 := c.nodes[0], c.nodes[1]
	p, frame := one(packettest.Build(of("web", packet.ProtocolUDP, "10.10.0.4", "10.10.0.5", 1, 53)))
	changes := map[string]func(r *Remote){
		"number":  func(r *Remote) { r.Number = 9 },
		"address": func(r *Remote) { r.Address = netip.MustParseAddrPort("127.0.0.1:9") },
		"key":     func(r *Remote) { r.PublicKey = []byte("another") },
		"gone":    func(r *Remote) { *r = Remote{} },
	}
	for name, change := range changes {
		r := n1.remote()
		change(&r)
		n2.overlay.SetPeers([]Remote{r})
		if n2.association(1) != nil {
			t.Errorf("%s: node2 still has a session to send on", name)
		}
		before := n2.tunnel.Counters().Verdicts
		if _, err := n1.overlay.device.Send(queues-1, 2, packet.Origin{VNI: vni, Epoch: 1}, p, frame); err != nil {
			t.Fatal(err)
		}
		t.Log(name)
		c.fate(n2.tunnel, before, verdict.TunnelUnknown)
		if name == "key" {
			eventually(t, "refusal", func() bool { return strings.HasPrefix(n1.overlay.Status()[0].Problem, "exchange keys with node2") })
			if n2.association(1) != nil {
				t.Error("node2 made a session with another key than it was told")
			}
		}
		n2.send("app", packettest.Build(of("app", packet.ProtocolUDP, "10.10.0.5", "10.10.0.4", 1, 53)), n2.ports["app"], verdict.TunnelDown)
		old := n1.association(2) // before it may have another
		c.introduce()
		eventually(t, "session again", func() bool { return n2.up() && n1.association(2) != old })
	}
}

// TestTraceAcrossNodes: two dry runs, joined as two nodes' daemons join them.
func TestTraceAcrossNodes(t *testing.T) {
	c := newCluster(t)
	n1, n2 := c.nodes[0], c.nodes[1]
	for _, tt := range []struct {
		dst  string
		port uint16
		want verdict.Verdict
	}{{"10.10.0.5", 8000, verdict.Forward}, {"10.10.0.5", 22, verdict.NoRule}, {"198.18.0.5", 22, verdict.Forward}} {
		first := n1.sw.Trace(n1.ports["web"], packettest.Build(of("web", packet.ProtocolTCP, "10.10.0.4", tt.dst, 1, tt.port)))
		if first.Verdict != verdict.Forward || first.Onward == nil || first.Onward.Node != 2 {
			t.Fatalf("%s:%d on node1: %+v", tt.dst, tt.port, first)
		}
		from := first.Onward.Origin
		from.Node = 1 // who asks
		second, ok := n2.sw.TraceTunnel(from, first.Onward.Frame)
		if !ok || second.Verdict != tt.want || second.At != n2.ports["app"] || second.Onward != nil || len(second.Steps) != 1 {
			t.Errorf("%s:%d on node2: %+v", tt.dst, tt.port, second)
		}
		from.Node = 3
		if second, _ := n2.sw.TraceTunnel(from, first.Onward.Frame); second.Verdict != verdict.TunnelForeign {
			t.Errorf("asked by another node: %v", second.Verdict)
		}
	}
	if n1.tunnel.Counters().TxFrames != 0 || len(n2.devices["app"].Take()) != 0 {
		t.Error("a trace was sent")
	}
}

func TestMTU(t *testing.T) {
	if got := Sealed.MTU(1500); got != 1406 {
		t.Errorf("Sealed.MTU(1500) = %d", got)
	}
}
