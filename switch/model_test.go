package vswitch

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// TestForwardingMatchesTheModel compares the pipeline, with rules that admit all packets, with a
// short model of a VPC.
func TestForwardingMatchesTheModel(t *testing.T) {
	b := newVPCBed(t)
	b.open()
	var addresses []netip.Addr
	macs := []ec2.MAC{GatewayMAC, routerMAC}
	for _, h := range vpcHosts {
		macs = append(macs, macOf(h.name))
		for _, p := range b.owners[h.name].pairs() {
			addresses = append(addresses, p.Private)
			if p.Public.IsValid() {
				addresses = append(addresses, p.Public)
			}
		}
	}
	addresses = append(addresses, laptop, stranger, addr("10.0.1.1"), addr("10.0.2.1"), addr("10.0.1.99"), addr("10.0.9.9"), addr("198.18.1.99"), addr("10.10.0.4"))
	r := rand.New(rand.NewPCG(4, 4))
	delivered := map[string]int{}
	for range 20000 {
		from := vpcHosts[r.IntN(len(vpcHosts))]
		src, dst, mac := addresses[r.IntN(len(addresses))], addresses[r.IntN(len(addresses))], macs[r.IntN(len(macs))]
		if r.IntN(2) == 0 {
			src = addr(from.private)
		}
		if r.IntN(2) == 0 {
			mac = GatewayMAC
		}
		want := b.model(from, src, dst, mac)
		at, v := b.send(from.name, to(from.name, mac, template(17, src, dst, uint16(r.Uint32()), 53)))
		got := at
		if v != verdict.Forward {
			got = ""
		}
		if got != want {
			t.Fatalf("%s sends a packet %s > %s to MAC address %v: %v at %s, want it delivered at %q", from.name, src, dst, mac, v, at, want)
		}
		delivered[want]++
	}
	if len(delivered) != len(vpcHosts)+2 { // the hosts, the uplink, and "" for dropped packets
		t.Errorf("packets were delivered at %d destinations, want %d: %v", len(delivered), len(vpcHosts)+2, delivered)
	}
}

// model returns where a packet goes if all rules admit it; "" if it is dropped.
func (b *testbed) model(from vpcHost, src, dst netip.Addr, mac ec2.MAC) string {
	own := func(h vpcHost, a netip.Addr) bool {
		return slices.ContainsFunc(b.owners[h.name].pairs(), func(p Pair) bool { return p.Private == a })
	}
	public := func(h vpcHost, a netip.Addr) bool {
		return slices.ContainsFunc(b.owners[h.name].pairs(), func(p Pair) bool { return p.Private == a && p.Public.IsValid() })
	}
	subnet := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, 24).Masked() }
	routed := func(h vpcHost, far netip.Addr) bool {
		return subnet(addr(h.private)) == subnet(addr("10.0.1.0")) && subnet(far) != subnet(stranger)
	}
	if !own(from, src) && !from.unchecked {
		return ""
	}
	near := func(h vpcHost) bool {
		return h.vni == from.vni && subnet(addr(h.private)) == subnet(addr(from.private))
	}
	for _, h := range vpcHosts {
		if h.unchecked && near(h) && mac == macOf(h.name) {
			return h.name
		}
	}
	for _, h := range vpcHosts {
		if h.vni == from.vni && own(h, dst) {
			meant := func(k vpcHost) bool { return k.unchecked && k.vni == from.vni && mac == macOf(k.name) }
			if mac == GatewayMAC || near(h) && !slices.ContainsFunc(vpcHosts, meant) {
				return h.name
			}
			return ""
		}
	}
	if mac != GatewayMAC || vpcNetwork(ours).Prefix.Contains(dst) || !public(from, src) || !routed(from, dst) {
		return ""
	}
	for _, h := range vpcHosts {
		if i := slices.IndexFunc(b.owners[h.name].pairs(), func(p Pair) bool { return p.Public == dst }); i >= 0 {
			if routed(h, src) {
				return h.name
			}
			return ""
		}
	}
	if slices.ContainsFunc(b.sw.Snapshot().publicPools, func(p netip.Prefix) bool { return p.Contains(dst) }) {
		return ""
	}
	return "uplink"
}

// FuzzForward sends any bytes from an interface of each VPC, an interface that forwards for others,
// another node and the uplink. Nothing panics, and a packet of one network reaches another only if
// it is addressed to a public address.
func FuzzForward(f *testing.F) {
	b := newVPCBed(f)
	b.open()
	b.tunnel(1406)
	senders := []string{"1web", "3nat", "5web", "web", "uplink", "tunnel"}
	for i, from := range senders[:4] {
		f.Add(uint8(i), to(from, GatewayMAC, template(6, b.owners[from].Address, addr("198.18.1.20"), 1, 22)))
		f.Add(uint8(i), to(from, macOf("3nat"), template(17, b.owners[from].Address, laptop, 1, 53)))
	}
	f.Add(uint8(4), outside(template(6, laptop, addr("198.18.1.10"), 1, 22)))
	f.Add(uint8(5), to("far", GatewayMAC, template(6, addr("10.10.0.7"), addr("10.10.0.5"), 1, 22)))
	f.Fuzz(func(t *testing.T, sender uint8, ethernet []byte) {
		from := senders[int(sender)%len(senders)]
		if len(ethernet) > frameSize-offloadLen {
			return
		}
		b.t, b.frame.origin = t, packet.Origin{Node: 2, VNI: 1, Epoch: 7}
		at, v := b.send(from, ethernet)
		receiver, source := b.owners[at], b.owners[from]
		if v != verdict.Forward || receiver == nil || source == nil || receiver.network == source.network {
			return
		}
		if p := b.delivered(at); receiver.PublicOf(p.Flow.Dst) == (netip.Addr{}) || b.sw.Snapshot().Public(p.Flow.Src) != source {
			t.Errorf("a packet of network %d, %v, reached %s in network %d", source.network, p.Flow, at, receiver.network)
		}
	})
}
