package vswitch

import (
	"net/netip"
	"testing"

	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// Addresses of a further block are private ones of the network: its subnets and those of the first
// block reach each other by their gateways, and none of them is reached by the internet gateway.
func TestFurtherBlocksAreLocal(t *testing.T) {
	b := newVPCBed(t)
	b.open()
	web, app, none := addr("10.0.1.10"), addr("100.64.1.10"), addr("100.64.9.9")
	syn := func(src, dst netip.Addr) packettest.Frame { return template(6, src, dst, 1, 22) }
	network := func(blocks ...string) Network {
		n := vpcNetwork(ours)
		for _, block := range blocks {
			n.Blocks = append(n.Blocks, netip.MustParsePrefix(block))
		}
		return n
	}
	publish := func(n Network) {
		b.generation++
		e := b.sw.Edit(b.generation)
		e.Network(n)
		b.sw.Publish(e)
	}
	b.expect("1web", to("1web", GatewayMAC, syn(web, app)), "uplink", verdict.Forward)
	b.expect("1web", to("1web", GatewayMAC, syn(web, none)), "uplink", verdict.Forward)

	wide := network("192.0.2.0/24", "100.64.0.0/16")
	wide.Subnets = append(wide.Subnets, Subnet{Prefix: netip.MustParsePrefix("100.64.1.0/24"), Gateway: addr("100.64.1.1")})
	publish(wide)
	b.generation++
	e := b.sw.Edit(b.generation)
	b.place(e, ours, "7app", Endpoint{Epoch: 200, Address: app}, "vpc")
	b.sw.Publish(e)
	b.expect("1web", to("1web", GatewayMAC, syn(web, app)), "7app", verdict.Forward)
	b.expect("7app", to("7app", GatewayMAC, syn(app, web)), "1web", verdict.Forward)
	b.expect("7app", to("7app", GatewayMAC, syn(app, addr("10.0.2.10"))), "4db", verdict.Forward)
	b.expect("1web", to("1web", macOf("7app"), syn(web, app)), "1web", verdict.WrongMAC)
	b.expect("7app", packettest.ARP(1, macOf("7app"), app, addr("100.64.1.1")), "7app", verdict.Answered)
	b.expect("7app", packettest.ARP(1, macOf("7app"), app, web), "7app", verdict.ARPIgnored)
	b.expect("1web", to("1web", GatewayMAC, syn(web, none)), "1web", verdict.NoRoute)
	b.expect("1web", to("1web", GatewayMAC, syn(web, addr("192.0.2.7"))), "1web", verdict.NoRoute)
	b.expect("1web", to("1web", GatewayMAC, syn(web, addr("100.65.0.1"))), "uplink", verdict.Forward)
	b.expect("7app", to("7app", GatewayMAC, syn(app, laptop)), "7app", verdict.NotRouted)
	b.expect("5web", to("5web", GatewayMAC, syn(web, app)), "uplink", verdict.Forward) // of another VPC
	b.expect("uplink", outside(syn(app, addr("198.18.1.10"))), "uplink", verdict.BadSource)
	b.expect("uplink", outside(syn(none, addr("198.18.1.10"))), "uplink", verdict.BadSource)
	b.expect("uplink", outside(syn(addr("100.65.0.1"), addr("198.18.1.10"))), "1web", verdict.Forward)

	publish(network("192.0.2.0/24")) // the node removes the interfaces of a subnet before the subnet
	b.expect("1web", to("1web", GatewayMAC, syn(web, none)), "uplink", verdict.Forward)
	b.expect("1web", to("1web", GatewayMAC, syn(web, addr("192.0.2.7"))), "1web", verdict.NoRoute)
}
