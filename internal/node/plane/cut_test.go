package plane_test

import (
	"log/slog"
	"net/netip"
	"testing"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/node/plane"
	"palisade/internal/node/plane/planetest"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	vswitch "palisade/switch"
	"palisade/switch/tap/taptest"
)

// A cutTest has two interfaces of this node, web and db, of which db admits web.
type cutTest struct {
	*planetest.Fixture
	web, db *ec2.Interface
	devices map[*ec2.Interface]*taptest.Device
}

func newCutTest(t *testing.T) *cutTest {
	c := &cutTest{Fixture: planetest.New(t), devices: map[*ec2.Interface]*taptest.Device{}}
	group := c.Group("all", planetest.TCP(80, netip.MustParsePrefix("10.0.0.0/16")))
	for name, eni := range map[string]**ec2.Interface{"web": &c.web, "db": &c.db} {
		*eni = c.Do(&state.RegisterInterface{Account: planetest.Dev, Region: planetest.Region, Node: planetest.Node, External: ec2.ExternalDevice{Device: name},
			Spec: state.InterfaceSpec{Subnet: c.Public.ID, Groups: []ec2.GroupID{group}}}).Interface
		c.devices[*eni] = c.Device()
		if err := c.Plane.Attach((*eni).Epoch, c.devices[*eni]); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// connect opens a connection from web to db.
func (c *cutTest) connect(port uint16) {
	c.Helper()
	flow := packet.Flow{Src: c.web.Private, Dst: c.db.Private, SrcPort: port, DstPort: 80, Protocol: packet.ProtocolTCP}
	c.send(c.web, flow, packet.SYN)
	c.send(c.db, packettest.Reverse(flow), packet.SYN|packet.ACK)
}

func (c *cutTest) send(from *ec2.Interface, flow packet.Flow, flags uint8) {
	c.Helper()
	frame := packettest.Build(packettest.Frame{Flow: flow, SrcMAC: from.MAC, DstMAC: vswitch.GatewayMAC, TCPFlags: flags})
	if err := c.devices[from].Send(frame); err != nil {
		c.Fatal(err)
	}
	c.Switch.Step()
}

// expect checks how many entries with a client port there are, and how many of them are cut. Each
// connection has an entry at both interfaces.
func (c *cutTest) expect(what string, port uint16, cut int) {
	c.Helper()
	entries, ended := 0, 0
	for t := range c.Tracker.Connections(vswitch.Now()) {
		if t.Flow.SrcPort == port {
			entries++
			if t.Cut && t.Blocked {
				ended++
			}
		}
	}
	if entries != 2 || ended != cut {
		c.Errorf("%s: %d of %d entries with port %d are cut, want %d of 2", what, ended, entries, port, cut)
	}
}

func ends(eni *ec2.Interface) []ec2.End {
	return []ec2.End{{VNI: eni.VNI, Prefix: netip.PrefixFrom(eni.Private, 32)}}
}

// restart gives all rows to a Plane of another daemon, which has the tracker and the enforced index of
// the first.
func (c *cutTest) restart() {
	c.Helper()
	log := slog.New(slog.DiscardHandler)
	sw, err := vswitch.New(vswitch.Config{Tracker: c.Tracker, Logger: log})
	if err != nil {
		c.Fatal(err)
	}
	index, err := plane.OpenEnforcedIndex(c.EnforcedIndex.Path())
	if err != nil {
		c.Fatal(err)
	}
	p := plane.New(plane.Config{Node: planetest.Node, MTU: 1500, Switch: sw, Tracker: c.Tracker, EnforcedIndex: index, Logger: log})
	defer p.Close()
	if err := p.Apply(c.State.View()); err != nil {
		c.Fatal(err)
	}
}

func TestCutEndsTheConnectionsThatItSelects(t *testing.T) {
	c := newCutTest(t)
	c.connect(1000)
	elsewhere := ends(c.db)
	elsewhere[0].VNI++
	c.Do(&state.CutConnections{From: ends(c.web), To: elsewhere})
	c.expect("a cut in another network", 1000, 0)
	c.Do(&state.CutConnections{From: ends(c.web), To: ends(c.db)})
	c.expect("a cut", 1000, 2)
	c.connect(1001)
	var rule ec2.RuleID
	for g := range c.View.Groups() {
		for _, r := range g.Rules {
			if g.Name == "all" && r.Direction == ec2.Ingress {
				rule = r.ID
			}
		}
	}
	c.Do(&state.CutConnections{Rule: rule})
	c.expect("a cut of the ingress rule, on which the entry of db alone rests", 1001, 1)
	c.connect(1002)
	c.Group("another")
	c.expect("another change", 1002, 0)
}

// TestCutIsCarriedOutOnceByEachNode: a daemon carries out the cuts that were decided while it did not
// run, and no cut twice, so that connections that are opened after a cut stay.
func TestCutIsCarriedOutOnceByEachNode(t *testing.T) {
	c := newCutTest(t)
	c.connect(1000)
	c.Decide(&state.CutConnections{From: ends(c.web), To: ends(c.db)})
	c.Decide(&state.CreateSecurityGroup{Account: planetest.Dev, Region: planetest.Region, VPC: c.VPC.ID, Name: "later", Description: "later"})
	c.expect("a cut that this node has not heard of", 1000, 0)
	c.restart()
	c.expect("a daemon that starts after the cut", 1000, 2)
	c.connect(1001)
	c.restart()
	c.expect("the next daemon", 1001, 0)
}
