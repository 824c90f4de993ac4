package overlay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	"palisade/switch/switchtest"
	"palisade/switch/tap/taptest"
)

// patience is the longest time that a test waits for something, even on a loaded machine.
const patience = 20 * time.Second

// A cluster is two nodes with running switches, connected by tunnels and streams over loopback:
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
	// device opens the device of an instance. If it is nil, the devices are in memory.
	device func(host string) vswitch.Device
	mtu    map[string]int // that nodes tell each other, by name; 0: none
	ports  map[string]int // MTU of the devices of instances, by name; 0: the network's
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

// A node can be stopped, and started again with the same addresses.
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

// newCluster starts two nodes and waits for their association. The app admits the web group to TCP
// 8000 and UDP 53, pings from that group, and TCP 22 from the web's public address only.
func newCluster(t testing.TB) *cluster { return newClusterOn(t, Sealed, nil) }

func newClusterOn(t testing.TB, form Form, device func(host string) vswitch.Device) *cluster {
	t.Helper()
	return (&cluster{form: form, device: device}).begin(t)
}

// begin starts the nodes of a cluster whose form, device and MTUs are set.
func (c *cluster) begin(t testing.TB) *cluster {
	t.Helper()
	c.t, c.table, c.rules = t, &members{keys: map[string][]byte{}, addresses: map[string]string{}}, groups{
		"web":  {ID: "web", Name: "web"},
		"lone": {ID: "lone", Name: "lone"},
		"app": {ID: "app", Name: "app", Rules: []ec2.Rule{
			permit(1, ec2.TCP, 8000, 8000, "web"), permit(2, ec2.UDP, 53, 53, "web"), permit(3, ec2.ICMP, -1, -1, "web"),
			permit(4, ec2.TCP, 22, 22, "198.18.0.4/32"),
		}},
	}
	for i, id := range identities(t, c.table) {
		n := &node{c: c, number: uint32(i + 1), name: id.Node(), id: id,
			peerAddr: netip.MustParseAddrPort("127.0.0.1:0"), udpAddr: netip.MustParseAddrPort("127.0.0.1:0")}
		if c.form == VXLAN { // VXLAN tells nodes apart by their IP addresses
			n.udpAddr = netip.MustParseAddrPort(fmt.Sprintf("127.0.0.%d:0", i+1))
		}
		c.nodes = append(c.nodes, n)
		n.start()
	}
	switchtest.ReportFailure(t, c.describe)
	c.introduce()
	c.connected()
	return c
}

// describe returns the state of both nodes' tunnels and switches.
func (c *cluster) describe() string {
	var b strings.Builder
	for _, n := range c.nodes {
		fmt.Fprintf(&b, "%s: tunnels %+v\n%s\n", n.name, n.overlay.Status(), n.sw.Describe(vswitch.Now()))
	}
	return b.String()
}

// identities creates a cluster and lets a second node join it, as operators do.
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

// start starts the node's daemon, and opens its ports with the rules of the cluster.
func (n *node) start() {
	t := n.c.t
	t.Helper()
	var err error
	n.peer, err = peer.New(peer.Config{Identity: n.id, Listen: n.peerAddr, Nodes: n.c.table, Logger: slog.New(slog.DiscardHandler)})
	n.must(err)
	n.peerAddr = n.peer.Addr()
	n.c.table.add(n.name, n.id.PublicKey(), n.peerAddr)
	n.overlay, err = New(Config{Peer: n.peer, Node: n.name, Listen: n.udpAddr, Form: n.c.form, MTU: n.c.mtu[n.name]})
	n.must(err)
	n.udpAddr = n.overlay.Addr()
	tracker, err := conntrack.Open(conntrack.Config{})
	n.must(err)
	n.sw, err = vswitch.New(vswitch.Config{Tracker: tracker, Pollers: 2})
	n.must(err)
	n.tunnel, err = n.sw.AddTunnel("tunnel", n.overlay.Device())
	n.must(err)
	n.openPorts(tracker)

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

func (n *node) must(err error) {
	n.c.t.Helper()
	if err != nil {
		n.c.t.Fatal(err)
	}
}

// openPorts publishes a Snapshot with the node's own interfaces and those of the other node.
func (n *node) openPorts(tracker *conntrack.Tracker) {
	n.c.t.Helper()
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
		var err error
		o.Port, err = n.sw.AddPort(h.name, vswitch.InstancePort, n.newDevice(h.name))
		n.must(err)
		n.ports[h.name] = o.Port
		e.AddEndpoint(vni, o)
		e.Attach(o.Port, vni, vswitch.Attachment{Endpoint: o, Zone: tracker.AddZone(h.epoch, conntrack.Timeouts{}), Rules: set, MTU: n.c.ports[h.name]})
	}
	n.sw.Publish(e)
}

func (n *node) newDevice(host string) vswitch.Device {
	if n.c.device != nil {
		return n.c.device(host)
	}
	d, err := taptest.New()
	n.must(err)
	n.devices[host] = d
	return d
}

// remote returns the node as the others know it.
func (n *node) remote() Remote {
	return Remote{Number: n.number, Node: n.name, Address: n.udpAddr, PublicKey: n.id.PublicKey()}
}

// introduce tells the overlay of each node about both nodes.
func (c *cluster) introduce() {
	all := []Remote{c.nodes[0].remote(), c.nodes[1].remote()}
	for _, n := range c.nodes {
		n.overlay.SetPeers(all)
	}
}

// connected waits until each node can send to the other.
func (c *cluster) connected() {
	c.t.Helper()
	eventually(c.t, "association", func() bool { return c.nodes[0].up() && c.nodes[1].up() })
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
	t.Fatalf("%s: not seen within %v", what, patience)
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

// send lets an instance send a frame, and waits for its verdict at a port.
func (n *node) send(from string, frame []byte, fateOf *vswitch.Port, want verdict.Verdict) {
	n.c.t.Helper()
	before := fateOf.Counters().Verdicts
	if err := n.devices[from].Send(frame); err != nil {
		n.c.t.Fatal(err)
	}
	n.c.fate(fateOf, before, want)
}

// fate waits until one frame has a verdict at a port, and fails unless it is want. before has the
// port's counters from before the frame was sent.
func (c *cluster) fate(at *vswitch.Port, before [verdict.Count]uint64, want verdict.Verdict) {
	c.t.Helper()
	eventually(c.t, fmt.Sprintf("verdict at %s, want %v", at.Name(), want), func() bool { return at.Counters().Verdicts != before })
	after := at.Counters().Verdicts
	before[want]++
	if after != before {
		for v := range after {
			if after[v] != before[v] {
				c.t.Errorf("at port %s: %+d frames with verdict %v compared with what is wanted", at.Name(), int64(after[v]-before[v]), verdict.Verdict(v))
			}
		}
	}
}

// delivered waits for the next frame that an instance receives, and returns it decoded and as
// bytes.
func (n *node) delivered(to string) (packet.Packet, []byte) {
	n.c.t.Helper()
	d := n.devices[to]
	deadline := time.After(patience)
	for {
		if frames := d.Take(); len(frames) > 0 {
			var p packet.Packet
			ethernet := frames[len(frames)-1][packet.OffloadLen:]
			if v, ok := packet.NewDecoder().Decode(ethernet, &p); !ok {
				n.c.t.Fatalf("%s received a frame that Decode refuses as %v", to, v)
			}
			return p, ethernet
		}
		select {
		case <-d.Arrived():
		case <-deadline:
			n.c.t.Fatalf("%s received nothing within %v", to, patience)
		}
	}
}

func (n *node) association(to uint32) *association { return n.overlay.table.Load().send[to] }
