package firewall_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"palisade/ec2"
	"palisade/firewall"
)

// An aclPacket is what an entry of a network ACL looks at.
type aclPacket struct {
	egress     bool
	protocol   uint8
	port       uint16 // destination
	icmp, code uint8
	remote     netip.Addr
}

// key is what packet.Packet.RuleKey returns for the packet.
func (p aclPacket) key() uint16 {
	switch p.protocol {
	case 6, 17:
		return p.port
	case 1:
		return uint16(p.icmp)<<8 | uint16(p.code)
	}
	return 0
}

// slowACL decides about a packet by looking at each entry (Amazon VPC User Guide, "Network ACL rules").
func slowACL(acl *ec2.NetworkACL, p aclPacket) ec2.ACLEntry {
	by := ec2.ACLEntry{Number: 32767, Egress: p.egress, CIDR: netip.MustParsePrefix("0.0.0.0/0")}
	for _, e := range acl.Entries {
		t := e.Traffic
		switch {
		case e.Egress != p.egress, e.Number >= by.Number, !e.CIDR.Contains(p.remote):
		case !t.One:
			by = e
		case int(t.Protocol) != int(p.protocol):
		case (p.protocol == 6 || p.protocol == 17) && (int(p.port) < t.From || int(p.port) > t.To):
		case p.protocol == 1 && (t.From != -1 && t.From != int(p.icmp) || t.To != -1 && t.To != int(p.code)):
		default:
			by = e
		}
	}
	return by
}

// aclReader reads a random ACL and random packets from bytes; zeros follow the last byte.
type aclReader struct{ data []byte }

func (r *aclReader) n(below int) int {
	if len(r.data) == 0 {
		return 0
	}
	b := int(r.data[0])
	r.data = r.data[1:]
	return b % below
}

// port returns one of few ports, so that entries and packets meet at the ends of ranges.
func (r *aclReader) port() int {
	return []int{0, 1, 21, 22, 23, 255, 256, 257, 1023, 1024, 65534, 65535}[r.n(12)]
}

func (r *aclReader) address() netip.Addr {
	return netip.AddrFrom4([4]byte{[]byte{10, 11, 192}[r.n(3)], byte(r.n(2)), byte(r.n(2) * 128), byte(r.n(4))})
}

func (r *aclReader) acl() *ec2.NetworkACL {
	acl := &ec2.NetworkACL{ID: "acl-1"}
	for _, egress := range []bool{false, true} {
		number := 0
		for range r.n(41) {
			number += 1 + r.n(3)
			e := ec2.ACLEntry{Number: number, Egress: egress, Allow: r.n(2) == 0, CIDR: netip.PrefixFrom(r.address(), r.n(33)).Masked()}
			if r.n(12) == 0 {
				e.CIDR = netip.MustParsePrefix("::/0")
			}
			if r.n(4) > 0 {
				e.Traffic = ec2.ACLTraffic{One: true, Protocol: []ec2.Protocol{ec2.TCP, ec2.UDP, ec2.ICMP, 47, 0, 58}[r.n(6)]}
				switch e.Traffic.Protocol {
				case ec2.TCP, ec2.UDP:
					a, b := r.port(), r.port()
					e.Traffic.From, e.Traffic.To = min(a, b), max(a, b)
				case ec2.ICMP:
					if e.Traffic.From, e.Traffic.To = r.n(5)-1, -1; e.Traffic.From >= 0 {
						e.Traffic.To = r.n(4) - 1
					}
				}
			}
			acl.Entries = append(acl.Entries, e)
		}
	}
	return acl
}

func (r *aclReader) packet() aclPacket {
	return aclPacket{egress: r.n(2) == 0, protocol: []uint8{6, 17, 1, 47, 0, 58, 99}[r.n(7)], port: uint16(r.port()), icmp: uint8(r.n(5)), code: uint8(r.n(4)), remote: r.address()}
}

// checkACL compares the compiled form of an ACL with slowACL, on so many packets.
func checkACL(t *testing.T, r *aclReader, packets int) (decisions map[int]int) {
	t.Helper()
	acl := r.acl()
	compiled := firewall.CompileACL(acl)
	decisions = map[int]int{}
	for range packets {
		p := r.packet()
		way := ec2.Ingress
		if p.egress {
			way = ec2.Egress
		}
		want := slowACL(acl, p)
		got := compiled.Decide(way, p.protocol, p.key(), p.remote)
		if got.Entry != want || got.ACL != acl.ID {
			t.Fatalf("packet %+v is decided by %+v, want entry %+v of\n%v", p, got, want, acl.Entries)
		}
		if compiled.Open(way) && !want.Allow {
			t.Fatalf("packet %+v is denied by entry %+v of an ACL that calls itself open:\n%v", p, want, acl.Entries)
		}
		decisions[want.Number]++
	}
	return decisions
}

func TestCompiledACLDecidesAsAScanOfItsEntries(t *testing.T) {
	decided := 0
	for seed := range uint64(2000) {
		rng := rand.New(rand.NewPCG(seed, 14))
		data := make([]byte, 4000)
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		decided += len(checkACL(t, &aclReader{data}, 300))
	}
	if decided < 10_000 {
		t.Errorf("the packets of all ACLs met %d entries, want at least 10000", decided)
	}
}

func FuzzACL(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x02\x01\x00\x00\x01\x00\x00\x08\x01\x01\x00\x03\x03\x00\x00\x01\x01\x00\x00\x01\x01\x00\x00\x00\x00\x20\x01\x00"))
	f.Fuzz(func(t *testing.T, data []byte) { checkACL(t, &aclReader{data}, 50) })
}

// A nil ACL is open, and an ACL without entries denies everything. Entries beyond those that a compiled ACL
// has bits for admit nothing.
func TestACLsAtTheirEnds(t *testing.T) {
	var none *firewall.ACL
	if !none.Open(ec2.Ingress) || none.Decide(ec2.Ingress, 6, 22, netip.MustParseAddr("10.0.0.1")) != nil {
		t.Error("no ACL is not open")
	}
	empty := firewall.CompileACL(&ec2.NetworkACL{ID: "acl-1"})
	if by := empty.Decide(ec2.Egress, 6, 22, netip.MustParseAddr("10.0.0.1")); empty.Open(ec2.Egress) || by.Entry.Allow || by.Entry.Number != 32767 || !by.Entry.Egress {
		t.Errorf("an ACL without entries decides by %+v", by)
	}
	unsorted := firewall.CompileACL(&ec2.NetworkACL{ID: "acl-1", Entries: []ec2.ACLEntry{
		{Number: 20, CIDR: netip.MustParsePrefix("0.0.0.0/0")}, {Number: 10, Allow: true, CIDR: netip.MustParsePrefix("0.0.0.0/0")}}})
	if by := unsorted.Decide(ec2.Ingress, 6, 22, netip.MustParseAddr("10.0.0.1")); by.Entry.Number != 10 {
		t.Errorf("an ACL with the entries 20 and 10 decides by %+v", by)
	}
	full := &ec2.NetworkACL{ID: "acl-1"}
	for n := range 70 {
		full.Entries = append(full.Entries, ec2.ACLEntry{Number: 1 + n, Allow: true, CIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(n), 0}), 24)})
	}
	for n, want := range map[int]int{0: 1, 63: 64, 64: 32767, 69: 32767} {
		if by := firewall.CompileACL(full).Decide(ec2.Ingress, 6, 22, netip.AddrFrom4([4]byte{10, 0, byte(n), 1})); by.Entry.Number != want {
			t.Errorf("a packet of entry %d is decided by %+v, want %d", n+1, by.Entry, want)
		}
	}
}

// aclOf returns an ACL with n entries in each direction, of which the last admits everything.
func aclOf(n int) *firewall.ACL {
	acl := &ec2.NetworkACL{ID: "acl-1"}
	for _, egress := range []bool{false, true} {
		for i := range n - 1 {
			acl.Entries = append(acl.Entries, ec2.ACLEntry{Number: 1 + i, Egress: egress, CIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, byte(i), 0}), 24),
				Traffic: ec2.ACLTraffic{One: true, Protocol: ec2.TCP, From: 1000 * i, To: 1000*i + 10}})
		}
		acl.Entries = append(acl.Entries, ec2.ACLEntry{Number: n, Egress: egress, Allow: true, CIDR: netip.MustParsePrefix("0.0.0.0/0")})
	}
	return firewall.CompileACL(acl)
}

func TestACLDecisionsAllocateNothing(t *testing.T) {
	acl, i := aclOf(40), 0
	if n := testing.AllocsPerRun(1000, func() {
		acl.Decide(ec2.Ingress, 6, uint16(i), netip.AddrFrom4([4]byte{192, 0, byte(i), 1}))
		i += 7
	}); n != 0 {
		t.Errorf("%v allocations for each decision, want 0", n)
	}
}

func BenchmarkACL(b *testing.B) {
	for _, n := range []int{1, 2, 20, 40} {
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) {
			acl, i := aclOf(n), 0
			for b.Loop() {
				acl.Decide(ec2.Ingress, 6, uint16(i), netip.AddrFrom4([4]byte{192, 0, byte(i), 1}))
				i += 7
			}
		})
	}
}
