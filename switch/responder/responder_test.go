package responder

import (
	"bytes"
	"net/netip"
	"testing"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
)

var (
	hostMAC    = ec2.MAC{2, 0, 0, 0, 0, 4}
	gatewayMAC = ec2.MAC{2, 0, 0, 0, 0, 1}
	host       = netip.MustParseAddr("10.10.0.4")
	gateway    = netip.MustParseAddr("10.10.0.1")
	remote     = netip.MustParseAddr("203.0.113.25")
)

// link is a link with one other host on it: the gateway.
type link struct{}

func (link) Neighbour(_, target netip.Addr) (ec2.MAC, bool) { return gatewayMAC, target == gateway }

func decode(t testing.TB, frame []byte) (p packet.Packet) {
	t.Helper()
	if v, ok := packet.NewDecoder().Decode(frame, &p); !ok {
		t.Fatalf("% x is %v", frame, v)
	}
	return p
}

func TestARPAnswersRequestsAlone(t *testing.T) {
	tests := []struct {
		name      string
		operation uint16
		target    netip.Addr
		want      bool
	}{
		{"request for the gateway", 1, gateway, true},
		{"request for an unknown address", 1, remote, false},
		{"reply", 2, gateway, false},
	}
	for _, tt := range tests {
		frame := packettest.ARP(tt.operation, hostMAC, host, tt.target)
		before, p := bytes.Clone(frame), decode(t, frame)
		if got := ARP(frame, &p, link{}); got != tt.want {
			t.Errorf("%s: ARP returned %v, want %v", tt.name, got, tt.want)
		}
		if !tt.want {
			if !bytes.Equal(frame, before) {
				t.Errorf("%s: ARP returned false but changed the frame to % x", tt.name, frame)
			}
			continue
		}
		a := decode(t, frame)
		if a.ARPOperation != 2 || a.ARPSender != gatewayMAC || a.ARPSenderIP != gateway || a.ARPTargetIP != host || a.DstMAC != hostMAC {
			t.Errorf("%s: the answer is %+v, want an ARP reply to %s that %s is at %v", tt.name, a, host, gateway, gatewayMAC)
		}
	}
}

func TestTooBigTellsSenderTheMTU(t *testing.T) {
	f := packettest.Frame{Flow: packet.Flow{Src: host, Dst: remote, SrcPort: 5000, DstPort: 53, Protocol: packet.ProtocolUDP},
		SrcMAC: hostMAC, DstMAC: gatewayMAC, DontFragment: true, Payload: make([]byte, 1400)}
	frame := packettest.Build(f)
	p := decode(t, frame)
	a := decode(t, TooBig(make([]byte, 1500), frame, &p, Router{Address: gateway, MAC: gatewayMAC, MTU: 1406}))
	if a.Flow.Src != gateway || a.Flow.Dst != host || a.SrcMAC != gatewayMAC || a.DstMAC != hostMAC || a.ICMPType != packet.ICMPUnreachable || a.ICMPCode != 4 || a.Quoted != p.Flow {
		t.Errorf("the answer is %+v, want an ICMP error of type 3 code 4 from %s to %s about %v", a, gateway, host, p.Flow)
	}
}

func TestTooBigAnswersNoErrorAndNoLaterFragment(t *testing.T) {
	f := packettest.Frame{Flow: packet.Flow{Src: host, Dst: remote, SrcPort: 5000, DstPort: 53, Protocol: packet.ProtocolUDP},
		SrcMAC: hostMAC, DstMAC: gatewayMAC, Payload: make([]byte, 64)}
	quoted := f
	quoted.Flow = packettest.Reverse(f.Flow)
	later := f
	later.FragID, later.FragOffset = 7, 1480
	from := func(src string) []byte {
		forged := f
		forged.Flow.Src = netip.MustParseAddr(src)
		return packettest.Build(forged)
	}
	for name, frame := range map[string][]byte{
		"from a broadcast address": from("255.255.255.255"),
		"from a multicast address": from("224.0.0.1"),
		"from class E":             from("240.0.0.1"),
		"from loopback":            from("127.0.0.1"),
		"from no network":          from("0.0.0.1"),
		"ICMP error":               packettest.ICMPError(packet.ICMPUnreachable, 1, host, remote, packettest.Build(quoted), hostMAC, gatewayMAC),
		"later fragment":           packettest.Build(later),
	} {
		p := decode(t, frame)
		if answer := TooBig(make([]byte, 1500), frame, &p, Router{Address: gateway, MAC: gatewayMAC, MTU: 100}); answer != nil {
			t.Errorf("%s: the answer is % x, want none", name, answer)
		}
	}
}

// FuzzAnswers passes every packet that Decode accepts to ARP or to TooBig: neither panics, and Decode
// accepts each answer.
func FuzzAnswers(f *testing.F) {
	f.Add(packettest.ARP(1, hostMAC, host, gateway))
	f.Add(packettest.Build(packettest.Frame{Flow: packet.Flow{Src: host, Dst: remote, SrcPort: 1, DstPort: 53, Protocol: packet.ProtocolUDP}, SrcMAC: hostMAC, DstMAC: gatewayMAC}))
	f.Fuzz(func(t *testing.T, frame []byte) {
		var p packet.Packet
		if _, ok := packet.NewDecoder().Decode(frame, &p); !ok {
			return
		}
		if p.EtherType == packet.EtherTypeARP {
			if ARP(frame, &p, link{}) {
				decode(t, frame)
			}
			return
		}
		if answer := TooBig(make([]byte, 2048), frame, &p, Router{Address: gateway, MAC: gatewayMAC, MTU: 576}); answer != nil {
			decode(t, answer)
		}
	})
}

func TestNoAllocs(t *testing.T) {
	request := packettest.ARP(1, hostMAC, host, gateway)
	asked := decode(t, request)
	frame := packettest.Build(packettest.Frame{Flow: packet.Flow{Src: host, Dst: remote, SrcPort: 1, DstPort: 53, Protocol: packet.ProtocolUDP}, SrcMAC: hostMAC, DstMAC: gatewayMAC})
	p, out := decode(t, frame), make([]byte, 2048)
	if n := testing.AllocsPerRun(100, func() {
		ARP(request, &asked, link{})
		TooBig(out, frame, &p, Router{Address: gateway, MAC: gatewayMAC, MTU: 576})
	}); n != 0 {
		t.Errorf("%v allocations for an ARP reply and an ICMP error, want 0", n)
	}
}
