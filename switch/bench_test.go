package vswitch

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/firewall"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// Offsets in an untagged frame of IPv4 without options.
const (
	srcMACAt  = 6
	srcIPAt   = 26
	srcPortAt = 34
	dstPortAt = 36
)

// pass sends one frame through the whole pipeline, with a write to a device in memory.
func (b *testbed) pass(in *Port, ethernet []byte, now time.Duration) {
	f := b.frame
	clear(f.buffer[:offloadLen])
	n := copy(f.buffer[offloadLen:], ethernet)
	f.snapshot, f.now = b.sw.Snapshot(), now
	f.receive(in, offloadLen+n)
}

func (b *testbed) requireMostly(port string, v verdict.Verdict) {
	b.t.Helper()
	verdicts := b.ports[port].Counters().Verdicts
	for other, n := range verdicts {
		if verdict.Verdict(other) != v && n > verdicts[v] {
			b.t.Errorf("at %s %d frames are %v and only %d are %v, want most of them %v", port, n, verdict.Verdict(other), verdicts[v], v, v)
		}
	}
}

// BenchmarkForward measures the cost of one frame, from read to write, without system calls.
func BenchmarkForward(b *testing.B) {
	web, app := addr("10.10.0.4"), addr("10.10.0.5")
	fromWeb := template(packet.ProtocolTCP, web, app, 40000, 80)

	b.Run("known-flow", func(b *testing.B) {
		t := newTestbed(b)
		t.rules("app", permit(ec2.TCP, 80, 80, "web"))
		t.expect("web", t.of("web", fromWeb), "app", verdict.Forward)
		t.expect("app", t.of("app", reply(fromWeb, packet.SYN|packet.ACK)), "web", verdict.Forward)
		known := fromWeb
		known.TCPFlags, known.TCPSeq, known.TCPAck = packet.ACK, 1, 1
		frame := t.of("web", known)
		for b.Loop() {
			t.pass(t.ports["web"], frame, 0)
		}
		t.requireMostly("app", verdict.Forward)
	})

	// Every packet opens a connection between two instances, one each millisecond. So both
	// zones hold 30 s of half-open connections.
	b.Run("new-flow", func(b *testing.B) {
		t := newTestbed(b)
		t.rules("app", permit(ec2.TCP, 0, 65535, "web"))
		frame := t.of("web", fromWeb)
		i := uint32(0)
		for b.Loop() {
			i++
			binary.BigEndian.PutUint32(frame[srcPortAt:], i*0x9e3779b1) // a pair of ports that was not used before
			t.pass(t.ports["web"], frame, time.Duration(i)*time.Millisecond)
		}
		t.requireMostly("app", verdict.Forward)
	})

	// SYNs from random addresses outside: to a service that is open to all addresses, which
	// creates no state, and to one that is open to half of them, which fills the tracker.
	for _, flood := range []struct{ name, source string }{{"syn-flood", "0.0.0.0/0"}, {"syn-flood-tracked", "128.0.0.0/1"}} {
		b.Run(flood.name, func(b *testing.B) {
			t := newTestbed(b)
			t.rules("web", permit(ec2.TCP, 80, 80, flood.source))
			frame := outside(template(packet.ProtocolTCP, stranger, addr("198.18.0.4"), 40000, 80))
			r := rand.New(rand.NewPCG(1, 1))
			now := time.Duration(0)
			for b.Loop() {
				random := r.Uint32()
				binary.BigEndian.PutUint32(frame[srcIPAt:], 0x80000000|random>>3) // 128.0.0.0 to 159.255.255.255, all unicast
				binary.BigEndian.PutUint16(frame[srcPortAt:], uint16(random))
				now += time.Microsecond
				t.pass(t.ports["uplink"], frame, now)
			}
			if live := t.tracker.Usage().Tracked; (live > 0) != (flood.name != "syn-flood") {
				b.Errorf("%d connections are tracked after %s; want 0 only after syn-flood", live, flood.name)
			}
		})
	}

	// The cost by the number of rules and members. The packets belong to no connection, so
	// each is checked against the rules, and none is stored.
	for _, rules := range []int{1, 100, 10_000} {
		for _, members := range []int{10, 100_000} {
			b.Run(fmt.Sprintf("rules=%d/members=%d", rules, members), func(b *testing.B) {
				benchmarkCrowd(b, crowdSize{rules, members, members})
			})
		}
	}
	// The same with ten senders on this node: the cost of the lookups without the cache misses of a
	// hundred thousand ports.
	for _, rules := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprintf("rules=%d/members=100000/senders=10", rules), func(b *testing.B) {
			benchmarkCrowd(b, crowdSize{rules, 100_000, 10})
		})
	}
}

type crowdSize struct{ rules, members, senders int }

// benchmarkCrowd sends from random members to random ports of the app, whose group has the rules.
// The senders' ports are random too, so that the tracker looks up as many flows, and misses the
// processor's caches as often, for any number of rules and members.
func benchmarkCrowd(b *testing.B, size crowdSize) {
	t := newTestbed(b)
	r := rand.New(rand.NewPCG(1, uint64(size.rules)))
	ports := t.crowdRules(r, size.rules)
	crowd := t.crowd(r, size.members)[:size.senders]

	f := template(packet.ProtocolTCP, addr("10.10.0.4"), addr("10.10.0.5"), 40000, 80)
	f.TCPFlags = packet.ACK
	frame := t.of("web", f)
	i := uint32(0)
	for b.Loop() {
		i++
		m := &crowd[i%uint32(len(crowd))]
		copy(frame[srcMACAt:], m.owner.MAC[:])
		binary.BigEndian.PutUint32(frame[srcIPAt:], m.ip)
		binary.BigEndian.PutUint16(frame[srcPortAt:], uint16(i*0x9e3779b1>>16))
		binary.BigEndian.PutUint16(frame[dstPortAt:], ports[i&0xffff])
		t.pass(m.port, frame, 0)
	}
	verdicts := t.ports["app"].Counters().Verdicts
	judged := verdicts[verdict.Forward] + verdicts[verdict.NoRule]
	if judged < uint64(b.N) {
		b.Errorf("the rules were checked for %d packets, want %d", judged, b.N)
	}
	b.ReportMetric(100*float64(verdicts[verdict.Forward])/float64(judged), "%admitted")
}

// crowdRules gives the app's group rules for random ports: a quarter of the rules admit one of a
// hundred groups, the others CIDRs of all lengths. It returns ports drawn from the rules.
func (b *testbed) crowdRules(r *rand.Rand, n int) []uint16 {
	var rules []ec2.Rule
	for i := range n {
		from := r.IntN(65536)
		to := min(65535, from+r.IntN(16))
		source := fmt.Sprint("src", r.IntN(100))
		if i%4 != 0 {
			ip := netip.AddrFrom4([4]byte{10, byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))})
			source = netip.PrefixFrom(ip, 8+r.IntN(25)).Masked().String()
		}
		rules = append(rules, permit(ec2.TCP, from, to, source))
	}
	b.rules("app", rules...)
	ports := make([]uint16, 1<<16)
	for i := range ports {
		ports[i] = uint16(rules[r.IntN(len(rules))].From)
	}
	return ports
}

type member struct {
	ip    uint32
	owner *Endpoint
	port  *Port
}

// crowd attaches instances, each in one of a hundred groups. No poller reads their ports, because
// there are not enough descriptors. They share a zone, where their flows differ because each member
// has its own address.
func (b *testbed) crowd(r *rand.Rand, n int) []member {
	zone := b.tracker.AddZone(100, conntrack.Timeouts{})
	e := b.sw.Edit(b.generation)
	all := make([]member, 0, n)
	taken := map[uint32]bool{}
	for len(all) < n {
		ip := 10<<24 | r.Uint32N(1<<24)
		if taken[ip] || ip>>16 == 10<<8|10 { // 10.10.0.0/16 is where the hosts are
			continue
		}
		taken[ip] = true
		var mac ec2.MAC
		mac[0], mac[1] = 2, 9
		binary.BigEndian.PutUint32(mac[2:], ip)
		i := len(all)
		port := &Port{name: "member", device: b.devices["web"], offloads: packet.DatagramOffloads, index: b.sw.next + i}
		var raw [4]byte
		binary.BigEndian.PutUint32(raw[:], ip)
		owner := &Endpoint{Epoch: uint64(1000 + i), Address: netip.AddrFrom4(raw), MAC: mac, Port: port,
			Groups: []firewall.GroupNumber{b.compiler.Number(ec2.GroupID(fmt.Sprint("src", i%100)))}}
		all = append(all, member{ip: ip, owner: owner, port: port})
	}
	for _, m := range all {
		e.AddEndpoint(1, m.owner)
	}
	for _, m := range all {
		e.Attach(m.port, 1, Attachment{Endpoint: m.owner, Zone: zone, Rules: b.sets["web"]})
	}
	b.sw.Publish(e)
	return all
}
