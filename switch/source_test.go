package vswitch

import (
	"testing"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// TestOriginDecidesAsWhomAFrameComes has what the receiver's rules see of a frame from another node: the
// groups of an interface for its own address, none for its public address or for an address that it forwards.
func TestOriginDecidesAsWhomAFrameComes(t *testing.T) {
	b := newVPCBed(t)
	b.tunnel(1500)
	e := b.sw.Edit(b.generation)
	groups := b.sets["web"].Numbers
	e.AddEndpoint(ours, &Endpoint{Epoch: 40, Address: addr("10.0.1.40"), Public: addr("198.18.1.80"), MAC: macOf("plain"), Groups: groups, Node: 2})
	e.AddEndpoint(ours, &Endpoint{Epoch: 50, Address: addr("10.0.1.50"), MAC: macOf("router"), Groups: groups, Node: 2, Unchecked: true})
	b.sw.Publish(e)
	plain, router := packet.Origin{Node: 2, VNI: uint32(ours), Epoch: 40}, packet.Origin{Node: 2, VNI: uint32(ours), Epoch: 50}
	for name, tt := range map[string]struct {
		origin         packet.Origin
		mac            string
		src            string
		arp            bool
		ok, fromPublic bool
		groups         bool
	}{
		"its address":                     {plain, "plain", "10.0.1.40", false, true, false, true},
		"its address, in a request":       {plain, "plain", "10.0.1.40", true, true, false, true},
		"its public address":              {plain, "plain", "198.18.1.80", false, true, true, false},
		"another's address":               {plain, "plain", "10.0.1.50", false, false, false, false},
		"another's address, in a request": {plain, "plain", "10.0.1.50", true, false, false, false},
		"an address of the world":         {plain, "plain", "203.0.113.25", false, false, false, false},
		"another's MAC address":           {plain, "router", "10.0.1.40", false, false, false, false},
		"no network":                      {packet.Origin{Node: 2, VNI: 99, Epoch: 40}, "plain", "10.0.1.40", false, false, false, false},
		"a router's own address":          {router, "router", "10.0.1.50", false, true, false, true},
		"what a router forwards":          {router, "router", "203.0.113.25", false, true, false, false},
		"a router in another's name":      {router, "router", "10.0.1.40", false, true, false, false},
		"a router, to a group":            {router, "router", "224.0.0.1", false, false, false, false},
		"a router, in a request":          {router, "router", "203.0.113.25", true, false, false, false},
		"another router":                  {packet.Origin{Node: 3, VNI: uint32(ours), Epoch: 50}, "router", "203.0.113.25", false, false, false, false},
	} {
		f := b.frame
		f.snapshot, f.in, f.origin = b.sw.Snapshot(), b.ports["tunnel"], tt.origin
		frame := to(tt.mac, GatewayMAC, template(17, addr(tt.src), addr("10.0.1.10"), 1, 53))
		if tt.arp {
			frame = packettest.ARP(1, macOf(tt.mac), addr(tt.src), addr("10.0.1.10"))
		}
		if v, ok := f.decoder.Decode(frame, &f.pkt); !ok {
			t.Fatalf("%s: Decode refuses the frame as %v", name, v)
		}
		fromPublic, v, ok := f.checkOrigin()
		if ok != tt.ok || fromPublic != tt.fromPublic || ok != (v == verdict.Unset) || !ok && v != verdict.TunnelForeign {
			t.Errorf("%s: accepted: %v, from a public address: %v, %v; want %v and %v", name, ok, fromPublic, v, tt.ok, tt.fromPublic)
		}
		if ok && (f.from.Addr != addr(tt.src) || (len(f.from.Groups) > 0) != tt.groups) {
			t.Errorf("%s: the rules see %+v, want the address and groups: %v", name, f.from, tt.groups)
		}
	}
}

// TestUnroutableAddresses: those that no host may send from or to.
func TestUnroutableAddresses(t *testing.T) {
	for address, want := range map[string]bool{
		"224.0.0.1": true, "239.255.255.255": true, "127.0.0.1": true, "127.9.9.9": true, "0.0.0.0": true, "255.255.255.255": true,
		"10.0.0.1": false, "203.0.113.25": false, "169.254.1.1": false, "0.0.0.1": false, "255.255.255.254": false, "254.255.255.255": false, "240.0.0.1": false,
	} {
		if got := unroutable(addr(address)); got != want {
			t.Errorf("%s is unroutable: %v, want %v", address, got, want)
		}
	}
}

// TestDHCPServerIsKnownByItsPort: of UDP, in a packet that has its header.
func TestDHCPServerIsKnownByItsPort(t *testing.T) {
	b := newTestbed(t)
	b.rules("app", permit(ec2.AnyProtocol, -1, -1, "0.0.0.0/0"))
	for _, tt := range []struct {
		protocol uint8
		port     uint16
		want     bool
	}{{17, 67, true}, {17, 66, false}, {17, 68, false}, {6, 67, false}, {1, 67, false}} {
		frame := b.of("web", template(tt.protocol, addr("10.10.0.4"), addr("10.10.0.5"), tt.port, 68))
		if _, v := b.send("web", frame); (v == verdict.DHCPServer) != tt.want {
			t.Errorf("protocol %d from port %d: %v, want a DHCP server: %v", tt.protocol, tt.port, v, tt.want)
		}
	}
	later := template(17, addr("10.10.0.4"), addr("10.10.0.5"), 67, 68)
	later.FragOffset, later.Payload = 1480, make([]byte, 100)
	if _, v := b.send("web", b.of("web", later)); v == verdict.DHCPServer {
		t.Error("a later fragment, which has no port, is a DHCP server's")
	}
}
