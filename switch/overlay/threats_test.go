package overlay

import (
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/firewall"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
	vswitch "palisade/switch"
)

// only replaces the rules of an interface of the node by a single rule.
func (n *node) only(name string, rule ec2.Rule) {
	n.c.t.Helper()
	set := firewall.NewCompiler().Acquire(groups{"only": {ID: "only", Name: "only", Rules: []ec2.Rule{rule}}}, []ec2.GroupID{"only"}, 2)
	a := *n.sw.Snapshot().Attachment(n.ports[name])
	a.Rules = set
	e := n.sw.Edit(2)
	e.Attach(n.ports[name], vni, a)
	n.sw.Publish(e)
	eventually(n.c.t, "enforcement", func() bool { return n.sw.Enforced() == 2 })
}

// verdictOf returns the verdict that has a name.
func verdictOf(t *testing.T, name string) verdict.Verdict {
	t.Helper()
	for v := range verdict.Count {
		if v.String() == name {
			return v
		}
	}
	t.Fatalf("there is no verdict %s", name)
	return verdict.Unset
}

// TestThreatsAreDroppedBetweenNodes sends each frame of the corpus from node1 to an instance of
// node2, through real tunnels. It sends each first from an instance, whose port node1 checks, and
// then from node1 itself, as if node1 was taken over and sealed anything. The instance of node2
// receives no frame.
func TestThreatsAreDroppedBetweenNodes(t *testing.T) {
	for _, form := range []Form{Sealed, VXLAN} {
		t.Run(form.String(), func(t *testing.T) { threatsEnd(t, newClusterOn(t, form, nil)) })
	}
}

func threatsEnd(t *testing.T, c *cluster) {
	t.Helper()
	n1, n2 := c.nodes[0], c.nodes[1]
	n2.only("app", permit(9, ec2.TCP, 22, 22, "0.0.0.0/0"))
	host := func(name, ip string) packettest.Host { return packettest.Host{MAC: macOf(name), Addr: addr(ip)} }
	all := packettest.Threats(packettest.Field{
		Attacker: host("web", "10.10.0.4"), Victim: host("app", "10.10.0.5"), Member: host("lone", "10.10.0.6"),
		Gateway: packettest.Host{MAC: vswitch.GatewayMAC, Addr: addr("10.0.0.1")}, Unused: addr("10.10.9.9"), Open: 22,
	})
	app := n2.ports["app"]
	for _, threat := range all {
		name, place, _ := strings.Cut(threat.SameNode, " at ")
		at := n1.ports["web"]
		if place == "victim" {
			at = app
		}
		n1.send("web", threat.Frame, at, verdictOf(t, name))
		if t.Failed() {
			t.Fatalf("wrong verdict for threat %s, %s, sent by an instance", threat.ID, threat.Name)
		}
	}
	if c.form == VXLAN {
		all = nil // a VXLAN node that was taken over may send as any of its own interfaces
	}
	for _, threat := range all {
		name, place, _ := strings.Cut(threat.OtherNode, " at ")
		at := n2.tunnel
		if place == "victim" {
			at = app
		}
		before := at.Counters().Verdicts
		p, b := one(threat.Frame)
		if v, err := n1.overlay.device.Send(queues-1, 2, packet.Origin{VNI: vni, Epoch: 1}, p, b); v != verdict.Forward || err != nil {
			t.Fatalf("Send returned verdict %v, error %v", v, err)
		}
		c.fate(at, before, verdictOf(t, name))
		if t.Failed() {
			t.Fatalf("wrong verdict for threat %s, %s, sent by a node", threat.ID, threat.Name)
		}
	}
	if frames := n2.devices["app"].Take(); len(frames) > 0 {
		t.Errorf("the victim received %d frames, want 0; the first is % x", len(frames), frames[0])
	}
	n1.send("web", packettest.Build(of("web", packet.ProtocolTCP, "10.10.0.4", "10.10.0.5", 1, 22)), app, verdict.Forward)
	n2.delivered("app")
}
