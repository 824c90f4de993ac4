package vswitch

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"palisade/ec2"
	"palisade/internal/packet"
)

// A refSource makes the steps of a random test. It plays hosts that open, use and close connections
// of few addresses and ports, hosts that forge segments, and users who change rules.
type refSource struct {
	r     *rand.Rand
	rules map[string][]ec2.Rule
	talks []*refTalk
	last  []packet.Template // a few packets of the past, for ICMP errors and repetitions
	next  int               // of last
	bytes []byte
	// changes is how many steps there are for one change of rules.
	changes int
}

// A refTalk is a TCP connection as its two ends see it.
type refTalk struct {
	ends [2]refTalker
	via  string // the interface that forwards for the two; "" for none
}

type refTalker struct {
	host string
	port uint16
	next uint32 // its next sequence number
	want uint32 // the next of the other end that it has received
	// scale is its window scale; window what it announces.
	scale  uint8
	window uint16
}

func newRefSource(seed uint64) *refSource {
	s := &refSource{r: rand.New(rand.NewPCG(seed, 1)), rules: map[string][]ec2.Rule{}, bytes: bytes.Repeat([]byte{'x'}, 1400), changes: 100 << (seed % 4)}
	return s
}

func pick[T any](r *rand.Rand, all ...T) T { return all[r.IntN(len(all))] }

func (s *refSource) host() string { return pick(s.r, "web", "web", "app", "app", "router") }

// step returns the next step, and what the hosts learn if the packet is delivered.
func (s *refSource) step() (*refStep, func()) {
	after := time.Duration(s.r.IntN(20)) * time.Millisecond
	if s.r.IntN(150) == 0 {
		after = time.Second * pick[time.Duration](s.r, 9, 11, 29, 30, 31, 59, 61, 119, 121, 179, 180, 181, 599, 601, 431_999, 432_001)
	}
	none := func() {}
	switch n := s.r.IntN(s.changes * 10); {
	case n < 10:
		return s.change(after), none
	case n%10 < 6:
		return s.segment(after)
	case n%100 == 99 && len(s.last) > 0:
		return s.icmpError(after), none
	}
	return s.other(after), none
}

// change adds or removes a rule, or narrows one.
func (s *refSource) change(after time.Duration) *refStep {
	group := pick(s.r, "web", "web", "web", "app", "router")
	rules := slices.Clone(s.rules[group])
	switch {
	case len(rules) > 0 && (s.r.IntN(2) == 0 || len(rules) > 6):
		i := s.r.IntN(len(rules))
		if rules[i].Source.Prefix.IsValid() && s.r.IntN(3) == 0 {
			serial++
			rules[i].Serial, rules[i].Source.Prefix = serial, netip.PrefixFrom(refAddress[s.host()], 32)
			break
		}
		rules = slices.Delete(rules, i, i+1)
	default:
		rules = append(rules, s.rule())
	}
	if s.r.IntN(10) == 0 { // back to a useful start
		rules = []ec2.Rule{anyOut(), permit(ec2.TCP, 80, 80, "0.0.0.0/0"), permit(ec2.UDP, 53, 53, "0.0.0.0/0")}
	}
	s.rules[group] = rules
	return &refStep{after: after, group: group, rules: rules}
}

func (s *refSource) rule() ec2.Rule {
	source := pick(s.r, "0.0.0.0/0", "0.0.0.0/0", "10.0.0.0/8", "10.10.0.4/32", "10.10.0.5/32", "web", "app", "router")
	protocol, from, to := ec2.AnyProtocol, -1, -1
	switch s.r.IntN(7) {
	case 0, 1:
		protocol, from, to = ec2.TCP, pick(s.r, 22, 80, 1000), 1000
	case 2, 3:
		protocol, from, to = ec2.UDP, pick(s.r, 53, 54, 1000), 1000
	case 4:
		protocol, from, to = ec2.Protocol(pick(s.r, 6, 17)), 0, 65535
	case 5:
		protocol, from, to = ec2.ICMP, pick(s.r, -1, 0, 8), -1
	}
	if s.r.IntN(3) == 0 {
		return permitOut(protocol, from, to, source)
	}
	return permit(protocol, from, to, source)
}

// other makes a datagram, an ICMP query or reply, or a packet of another protocol.
func (s *refSource) other(after time.Duration) *refStep {
	from, to := s.host(), s.host()
	for to == from {
		to = s.host()
	}
	p := packet.Template{Flow: packet.Flow{Src: refAddress[from], Dst: refAddress[to], Protocol: pick(s.r, uint8(17), 17, 17, 1, 47, 50)}}
	switch p.Flow.Protocol {
	case packet.ProtocolUDP:
		p.Flow.SrcPort, p.Flow.DstPort = pick(s.r, uint16(53), 54, 1000, 1001), pick(s.r, uint16(53), 54, 1000, 1001)
	case packet.ProtocolICMP:
		p.ICMPType = pick(s.r, uint8(0), 0, 8, 8, 8, 13, 14)
		p.Flow.SrcPort = uint16(s.r.IntN(2))
		p.Flow.DstPort = p.Flow.SrcPort
	}
	step := &refStep{after: after, from: from, packet: p}
	s.forward(step)
	s.remember(step.packet)
	return step
}

// forward lets a packet take the way over the interface that forwards, or be forged by it.
func (s *refSource) forward(step *refStep) {
	switch s.r.IntN(8) {
	case 0:
		if step.from != "router" {
			step.via = "router"
		}
	case 1:
		if step.packet.Flow.Dst != refAddress["router"] {
			step.from = "router"
		}
	}
}

func (s *refSource) remember(p packet.Template) {
	if s.r.IntN(4) != 0 {
		return
	}
	if len(s.last) < 16 {
		s.last = append(s.last, p)
		return
	}
	s.last[s.next%16] = p
	s.next++
}

func (s *refSource) icmpError(after time.Duration) *refStep {
	q := pick(s.r, s.last...)
	q.Payload = s.bytes[:8]
	from := "app"
	for _, name := range refHosts {
		if refAddress[name] == q.Flow.Dst {
			from = name
		}
	}
	if s.r.IntN(4) == 0 {
		from = s.host()
	}
	to := q.Flow.Src
	if s.r.IntN(8) == 0 {
		to = refAddress[s.host()]
	}
	if to == refAddress[from] {
		return s.other(after)
	}
	return &refStep{after: after, from: from, quoted: &q, packet: packet.Template{
		Flow:     packet.Flow{Src: refAddress[from], Dst: to, Protocol: packet.ProtocolICMP},
		ICMPType: pick(s.r, uint8(3), 3, 11, 12, 4, 5),
	}}
}

// segment makes a TCP segment: the next of a connection, or one that somebody forges.
func (s *refSource) segment(after time.Duration) (*refStep, func()) {
	if len(s.talks) < 12 || s.r.IntN(200) == 0 {
		s.open()
	}
	talk := s.talks[s.r.IntN(len(s.talks))]
	w := s.r.IntN(2)
	p, learn := s.said(talk, w)
	step := &refStep{after: after, from: talk.ends[w].host, via: talk.via, packet: p}
	if talk.via == step.from {
		step.via = ""
	}
	if s.r.IntN(30) == 0 {
		s.forward(step)
	}
	s.remember(step.packet)
	return step, learn
}

// open begins a connection, in the place of an old one if there are enough.
func (s *refSource) open() {
	client, server := s.host(), s.host()
	for client == server {
		server = s.host()
	}
	talk := &refTalk{ends: [2]refTalker{
		{host: client, port: pick(s.r, uint16(1000), 1001, 80), next: s.r.Uint32(), scale: pick(s.r, uint8(0), 0, 1, 7), window: pick(s.r, uint16(1), 1024, 65535)},
		{host: server, port: pick(s.r, uint16(22), 80, 443, 1000), next: s.r.Uint32(), scale: pick(s.r, uint8(0), 0, 1, 7), window: pick(s.r, uint16(1), 1024, 65535)},
	}}
	if s.r.IntN(6) == 0 {
		talk.via = "router"
	}
	if len(s.talks) >= 12 {
		s.talks[s.r.IntN(len(s.talks))] = talk
		return
	}
	s.talks = append(s.talks, talk)
}

// said returns what one end of a connection says next, and what both learn if it is delivered.
func (s *refSource) said(talk *refTalk, w int) (packet.Template, func()) {
	e, o := &talk.ends[w], &talk.ends[1-w]
	p := packet.Template{
		Flow:     packet.Flow{Src: refAddress[e.host], Dst: refAddress[o.host], SrcPort: e.port, DstPort: o.port, Protocol: packet.ProtocolTCP},
		TCPFlags: packet.ACK, TCPSeq: e.next, TCPAck: e.want, TCPWindow: e.window,
	}
	started := e.want != 0
	n := s.r.IntN(100)
	switch {
	case !started && w == 0 && n < 80 || started && n < 2:
		p.TCPFlags, p.TCPAck, p.TCPScale = packet.SYN, 0, e.scale
		if started || s.r.IntN(20) == 0 { // the next connection on the same ports
			e.next, e.want = s.r.Uint32(), 0
			p.TCPSeq = e.next
		}
	case !started && n < 3: // both ends open it
		p.TCPFlags, p.TCPAck, p.TCPScale = packet.SYN, 0, e.scale
	case w == 1 && n < 6 || started && e.next-o.want > 1<<30:
		p.TCPFlags, p.TCPScale = packet.SYN|packet.ACK, e.scale
	case n < 12:
		s.forge(talk, w, &p)
		return p, func() {}
	case n < 16:
		p.TCPFlags |= packet.FIN
	case n < 18:
		p.TCPFlags = pick(s.r, uint8(packet.RST), packet.RST|packet.ACK)
	case n < 60:
		p.Payload = s.bytes[:pick(s.r, 0, 1, 100, 1400)]
	}
	return p, s.learned(talk, w, p)
}

// learned returns what happens at both ends if a segment is delivered.
func (s *refSource) learned(talk *refTalk, w int, p packet.Template) func() {
	return func() {
		e, o := &talk.ends[w], &talk.ends[1-w]
		_, next := refSpan(&refPacket{Template: p})
		if p.TCPFlags&packet.SYN != 0 {
			o.want = next
			if w == 0 && p.TCPFlags&packet.ACK == 0 && s.r.IntN(3) > 0 {
				o.next = s.r.Uint32()
			}
		} else if p.TCPSeq == o.want {
			o.want = next
		}
		if refBefore(e.next, next) && s.r.IntN(10) > 0 {
			e.next = next // otherwise it sends the segment once more
		}
	}
}

// forge changes a segment so that it does not fit, or not exactly.
func (s *refSource) forge(talk *refTalk, w int, p *packet.Template) {
	p.TCPFlags = pick(s.r, uint8(packet.ACK), packet.ACK, packet.RST, packet.RST|packet.ACK, packet.SYN|packet.ACK, packet.FIN|packet.ACK)
	by := pick(s.r, uint32(1), 2, 1000, 1024, 1025, 65535, 65536, 1<<29, 1<<31-1)
	if s.r.IntN(2) == 0 {
		by = -by
	}
	switch s.r.IntN(4) {
	case 0, 1:
		p.TCPSeq += by
	case 2:
		p.TCPAck += by
	default:
		p.TCPSeq, p.TCPAck = s.r.Uint32(), s.r.Uint32()
	}
	if s.r.IntN(3) == 0 {
		p.Payload = s.bytes[:pick(s.r, 1, 1400)]
	}
}
