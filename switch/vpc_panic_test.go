//go:build failpoints

package vswitch

import (
	"net/netip"
	"strings"
	"testing"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/firewall"
	"palisade/internal/failpoint"
	"palisade/internal/failpoint/pointtest"
	"palisade/internal/packet"
	"palisade/internal/verdict"
	"palisade/nat"
)

// newPanicVPC returns a routed testbed with a network ACL, a rule for a prefix list, a NAT gateway, routes of each
// kind, and an interface of a peer at another node.
func newPanicVPC(t *testing.T) (*testbed, *pipe) {
	t.Helper()
	b := newRoutedBed(t)
	far := b.tunnel(1406)
	list := permit(ec2.TCP, 22, 22, "0.0.0.0/0")
	list.Source = ec2.Source{PrefixList: "pl-1"}
	b.compiler.SetList(&ec2.PrefixList{ID: "pl-1", Entries: []ec2.PrefixEntry{{CIDR: netip.MustParsePrefix("10.1.0.0/16")}}}, b.generation)
	b.rules("other", list, anyOut())
	table, err := nat.Open(nat.Config{Capacity: 64})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	b.generation++
	e := b.sw.Edit(b.generation)
	e.Lists(b.compiler.Lists())
	e.AddEndpoint(hub, &Endpoint{Epoch: 900, Address: addr("10.1.3.99"), MAC: macOf("gateway"), Unchecked: true, IsNAT: true,
		NAT: &NATGateway{Gateway: table.Gateway(900), Zone: b.tracker.AddZone(900, conntrack.Timeouts{})}})
	e.AddEndpoint(twin, &Endpoint{Epoch: 401, Address: addr("10.2.1.40"), MAC: macOf("8far"), Groups: b.sets["5twin"].Numbers, Node: 2})
	b.sw.Publish(e)
	b.routes(hub, 0, route("10.1.2.0/24", via("10.1.3.10")), route("10.2.0.0/16", toPeer(twin)))
	b.routes(hub, 1, route("10.2.0.0/16", Target{Kind: NAT, Via: addr("10.1.3.99")}))
	b.network(hub, func(n *Network) {
		s := &n.Subnets[2]
		s.Routes = append(s.Routes, route("10.2.0.0/16", toPeer(twin)))
		deny := ec2.ACLEntry{Number: 1, CIDR: everywhere, Traffic: ec2.ACLTraffic{One: true, Protocol: ec2.TCP, From: 81, To: 81}}
		s.ACL = firewall.CompileACL(&ec2.NetworkACL{ID: "acl-1", Entries: append(ec2.OpenEntries(), deny)})
	})
	return b, far
}

// crossVPCs sends frames that reach every function which only frames of VPCs reach.
func (b *testbed) crossVPCs(far *pipe) {
	b.turns("1front", frameBehind(syn("1front", "10.1.1.10", "10.1.2.10", 22)), frameBehind(syn("1front", "10.1.1.10", "10.2.1.10", 22)))
	b.turns("2back", frameBehind(syn("2back", "10.1.2.10", "10.2.1.10", 22)))
	b.turns("uplink", frameBehind(outside(template(packet.ProtocolTCP, laptop, addr("198.18.1.30"), 7, 81))))
	here := to("8far", GatewayMAC, template(packet.ProtocolTCP, addr("10.2.1.40"), addr("10.1.1.10"), 7, 22))
	far.queue = []received{{frame: frameBehind(here), from: packet.Origin{Node: 2, VNI: uint32(hub), Epoch: 401}, v: verdict.Forward}}
	tunnel := b.ports["tunnel"]
	tunnel.poller.turn(tunnel, b.sw.Snapshot(), monotonic())
}

func TestPanicInVPCsIsContained(t *testing.T) {
	defer failpoint.Set(nil)
	for _, function := range pointtest.InVPCs(t, "..") {
		t.Run(strings.TrimPrefix(function, "palisade/"), func(t *testing.T) {
			b, far := newPanicVPC(t)
			planted := false
			failpoint.Set(func(reached string) {
				if reached == function && !planted {
					planted = true
					panic("planted in " + function)
				}
			})
			b.crossVPCs(far)
			failpoint.Set(nil)
			if panics, last := b.sw.Panics(); panics != 1 || last.Cause != "planted in "+function {
				t.Errorf("%d panics, the last %q, want 1: no frame reaches the function, or it was not counted", panics, last.Cause)
			}
			b.crossVPCs(far)
			if panics, _ := b.sw.Panics(); panics != 1 || b.devices["5twin"].last == nil || b.devices["1front"].last == nil {
				t.Errorf("%d panics; after one, frames do not reach a peer and come from one", panics)
			}
		})
	}
}
