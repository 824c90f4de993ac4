package vswitch

import (
	"testing"

	"palisade/ec2"
	"palisade/firewall"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// setACL publishes our network with a network ACL that drops all packets into or out of 10.0.1.0/24.
func (b *testbed) setACL(in, out bool) {
	n := vpcNetwork(ours)
	acl := &ec2.NetworkACL{ID: "acl-1"}
	for _, e := range ec2.OpenEntries() {
		if drops := in && !e.Egress || out && e.Egress; !drops {
			acl.Entries = append(acl.Entries, e)
		}
	}
	n.Subnets[0].ACL = firewall.CompileACL(acl)
	b.generation++
	e := b.sw.Edit(b.generation)
	e.Network(n)
	b.sw.Publish(e)
}

// TestNetworkACLDropsWhatCrossesItsSubnet: packets of one subnet pass, whatever their source address
// and gateway; all others are dropped, also those of connections.
func TestNetworkACLDropsWhatCrossesItsSubnet(t *testing.T) {
	b := newVPCBed(t)
	b.open()
	b.tunnel(1406)
	e := b.sw.Edit(b.generation)
	e.AddEndpoint(ours, &Endpoint{Epoch: 200, Address: addr("10.0.1.70"), Public: addr("198.18.1.70"), MAC: macOf("7fwd"), Groups: b.sets["1web"].Numbers, Node: 2, Unchecked: true})
	e.AddEndpoint(ours, &Endpoint{Epoch: 201, Address: addr("10.0.2.80"), Public: addr("198.18.1.80"), MAC: macOf("8far"), Groups: b.sets["1web"].Numbers, Node: 2})
	b.sw.Publish(e)
	packetOf := func(name string, mac ec2.MAC, src, dst string) []byte {
		return to(name, mac, template(17, addr(src), addr(dst), 9, 53))
	}
	ingress := func(crossing verdict.Verdict) {
		t.Helper()
		b.expect("4db", packetOf("4db", GatewayMAC, "10.0.2.10", "10.0.1.10"), "1web", crossing)
		b.expect("uplink", outside(template(17, laptop, addr("198.18.1.10"), 9, 53)), "1web", crossing)
		b.expect("5web", packetOf("5web", GatewayMAC, "10.0.1.10", "198.18.1.10"), "1web", crossing) // from another VPC
		far, fwd := packet.Origin{Node: 2, VNI: uint32(ours), Epoch: 201}, packet.Origin{Node: 2, VNI: uint32(ours), Epoch: 200}
		for _, tt := range []struct {
			from  packet.Origin
			frame []byte
			want  verdict.Verdict
		}{
			{far, packetOf("8far", GatewayMAC, "10.0.2.80", "10.0.1.10"), crossing},
			{far, packetOf("8far", GatewayMAC, "198.18.1.80", "10.0.1.10"), crossing},
			{fwd, packetOf("7fwd", macOf("1web"), "10.0.1.70", "10.0.1.10"), verdict.Forward},
			{fwd, packetOf("7fwd", macOf("1web"), "192.0.2.9", "10.0.1.10"), verdict.Forward},
		} {
			if got, v := b.come(tt.from, tt.frame); got != "1web" || v != tt.want {
				t.Errorf("a frame from origin %+v: %v at %s, want %v at 1web", tt.from, v, got, tt.want)
			}
		}
		b.expect("2app", packetOf("2app", macOf("1web"), "10.0.1.20", "10.0.1.10"), "1web", verdict.Forward)
		b.expect("2app", packetOf("2app", GatewayMAC, "10.0.1.20", "10.0.1.10"), "1web", verdict.Forward)
		b.expect("3nat", packetOf("3nat", macOf("1web"), "192.0.2.9", "10.0.1.10"), "1web", verdict.Forward)
	}
	egress := func(crossing verdict.Verdict) {
		t.Helper()
		at := func(receiver string) string {
			if crossing == verdict.Forward {
				return receiver
			}
			return "1web"
		}
		b.expect("1web", packetOf("1web", GatewayMAC, "10.0.1.10", "10.0.2.10"), at("4db"), crossing)
		b.expect("1web", packetOf("1web", GatewayMAC, "10.0.1.10", "203.0.113.25"), at("uplink"), crossing)
		b.expect("1web", packetOf("1web", GatewayMAC, "10.0.1.10", "198.18.1.50"), at("5web"), crossing)
		b.expect("1web", packetOf("1web", GatewayMAC, "10.0.1.10", "10.0.2.80"), "1web", crossing)
		b.expect("1web", packetOf("1web", macOf("2app"), "10.0.1.10", "10.0.1.20"), "2app", verdict.Forward)
		b.expect("1web", packetOf("1web", macOf("3nat"), "10.0.1.10", "192.0.2.9"), "3nat", verdict.Forward)
	}
	ingress(verdict.Forward)
	egress(verdict.Forward)
	b.setACL(true, false)
	ingress(verdict.ACLDenied)
	egress(verdict.Forward)
	b.setACL(false, true)
	ingress(verdict.Forward)
	egress(verdict.ACLDenied)
	tr := b.sw.Trace(b.ports["1web"], packetOf("1web", GatewayMAC, "10.0.1.10", "10.0.2.10"))
	if last := tr.Steps[len(tr.Steps)-1]; tr.Verdict != verdict.ACLDenied || last.Verdict != verdict.ACLDenied || last.Endpoint != b.owners["1web"] {
		t.Errorf("the trace ends with %v and the step %+v, want %v at 1web", tr.Verdict, last, verdict.ACLDenied)
	}
}
