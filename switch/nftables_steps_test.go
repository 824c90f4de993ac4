package vswitch

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
)

// An nftSource makes groups and packets for the comparison with netfilter. Each pair of groups has peer
// addresses of its own, so that no connection of earlier groups is left.
type nftSource struct {
	r     *rand.Rand
	web   netip.Addr
	peers []netip.Addr
	talks []*nftTalk
	// opened counts the connections: each has a client port of its own.
	opened int
	asked  []packet.Template // datagrams and queries that passed
	seen   map[nftKind]bool
}

// An nftKind is a flow and the ICMP type of its packets.
type nftKind struct {
	flow     packet.Flow
	icmpType uint8
}

func (s *nftSource) begin(group int) {
	s.talks, s.asked, s.peers, s.seen = nil, nil, nil, map[nftKind]bool{}
	for i := range 2 {
		s.peers = append(s.peers, netip.AddrFrom4([4]byte{10, byte(20 + group/200), byte(group % 200), byte(5 + i)}))
	}
}

// change returns the rules after a change. No rule is for the whole world: its connections would be
// untracked (EC2 User Guide, "Untracked connections"), which netfilter has not.
func (s *nftSource) change(rules []ec2.Rule) []ec2.Rule {
	rules = slices.DeleteFunc(slices.Clone(rules), func(ec2.Rule) bool { return s.r.IntN(2) == 0 })
	for range 2 + s.r.IntN(4) {
		source := fmt.Sprint(netip.PrefixFrom(pick(s.r, s.peers...), pick(s.r, 32, 32, 24)).Masked())
		protocol, from, to := ec2.TCP, pick(s.r, 22, 80), 80
		switch s.r.IntN(6) {
		case 0, 1:
			protocol, from, to = ec2.UDP, pick(s.r, 53, 54), 60
		case 2:
			protocol, from, to = ec2.ICMP, 8, -1
		case 3:
			protocol, from, to = 50, -1, -1
		}
		if s.r.IntN(3) == 0 {
			rules = append(rules, permitOut(protocol, from, to, source))
			continue
		}
		rules = append(rules, permit(protocol, from, to, source))
	}
	return rules
}

func (s *nftSource) step() *nftStep {
	step := s.any()
	f := step.p.Flow
	step.answered = s.seen[nftKind{packettest.Reverse(f), 0}]
	return step
}

func (s *nftSource) any() *nftStep {
	if s.r.IntN(10) < 7 {
		return s.segment()
	}
	if len(s.asked) > 0 && s.r.IntN(2) == 0 {
		return s.answer(pick(s.r, s.asked...))
	}
	step := &nftStep{fromNear: s.r.IntN(2) == 0}
	step.p.Flow = packet.Flow{Src: pick(s.r, s.peers...), Dst: s.web, Protocol: pick(s.r, uint8(17), 17, 1, 50)}
	if step.fromNear {
		step.p.Flow.Src, step.p.Flow.Dst = step.p.Flow.Dst, step.p.Flow.Src
	}
	switch step.p.Flow.Protocol {
	case packet.ProtocolUDP:
		step.p.Flow.SrcPort, step.p.Flow.DstPort = uint16(1000+s.r.IntN(20)), uint16(53+s.r.IntN(3))
	case packet.ProtocolICMP:
		step.p.ICMPType = 8
		step.p.Flow.SrcPort = uint16(s.r.IntN(50))
		step.p.Flow.DstPort = step.p.Flow.SrcPort
	}
	step.p.Payload = nftPayload[:8]
	return step
}

var nftPayload = bytes.Repeat([]byte{'n'}, 1400)

// answer makes the answer to a datagram or query that passed.
func (s *nftSource) answer(p packet.Template) *nftStep {
	step := &nftStep{p: p, fromNear: p.Flow.Dst == s.web}
	f := &step.p.Flow
	f.Src, f.Dst, f.SrcPort, f.DstPort = f.Dst, f.Src, f.DstPort, f.SrcPort
	step.p.ICMPType = 0
	return step
}

// segment makes a TCP segment.
func (s *nftSource) segment() *nftStep {
	if len(s.talks) < 10 || s.r.IntN(40) == 0 {
		s.opened++
		s.talks = append(s.talks, &nftTalk{client: uint16(2000 + s.opened%60_000), server: pick(s.r, uint16(22), 79, 80, 81),
			fromNear: s.r.IntN(3) == 0, peer: pick(s.r, s.peers...), next: [2]uint32{s.r.Uint32(), s.r.Uint32()}})
		if len(s.talks) > 10 {
			s.talks = s.talks[1:]
		}
	}
	talk := pick(s.r, s.talks...)
	w := s.r.IntN(2)
	switch talk.sent {
	case 0, 2:
		w = 0
	case 1:
		w = 1
	}
	step := &nftStep{talk: talk, fromNear: talk.fromNear == (w == 0)}
	f := packet.Flow{Src: s.web, Dst: talk.peer, SrcPort: talk.client, DstPort: talk.server, Protocol: packet.ProtocolTCP}
	if w == 1 {
		f.SrcPort, f.DstPort = f.DstPort, f.SrcPort
	}
	if !step.fromNear {
		f.Src, f.Dst = f.Dst, f.Src
	}
	step.p = packet.Template{Flow: f, TCPFlags: packet.ACK, TCPSeq: talk.next[w], TCPAck: talk.next[1-w], TCPWindow: 20_000}
	switch {
	case talk.sent == 0:
		step.p.TCPFlags, step.p.TCPAck = packet.SYN, 0
	case talk.sent == 1:
		step.p.TCPFlags |= packet.SYN
	case talk.sent > 2:
		s.vary(step)
	}
	return step
}

// vary makes a segment carry data, end the connection, or be one that somebody forges.
func (s *nftSource) vary(step *nftStep) {
	p := &step.p
	switch s.r.IntN(20) {
	case 0:
		p.TCPFlags |= packet.FIN
	case 1:
		p.TCPFlags |= packet.RST
	case 2, 3, 4: // outside of the windows
		step.forged = true
		by := pick(s.r, uint32(1<<20), 1<<30, 1<<31-1, ^uint32(1<<20), ^uint32(1<<30))
		p.TCPSeq += by
		step.late = int32(by) < 0
		p.TCPFlags = pick(s.r, uint8(packet.ACK), packet.ACK, packet.RST)
	case 5: // acknowledges what was not sent
		step.forged = true
		p.TCPAck += pick(s.r, uint32(1), 1<<20, 1<<30)
	case 6:
		step.forged = true // within the window, and repeated
		p.TCPSeq -= uint32(s.r.IntN(2))
	case 7:
		p.TCPFlags, p.TCPAck, step.forged = packet.SYN, 0, true
		step.talk.reused = true
	default:
		p.Payload = nftPayload[:pick(s.r, 0, 1, 1400)]
	}
}

// learn notes a packet that both let pass.
func (s *nftSource) learn(step *nftStep) {
	if step.talk == nil {
		s.seen[nftKind{step.p.Flow, step.p.ICMPType}] = true
		if step.p.ICMPType == 8 || step.p.Flow.Protocol != packet.ProtocolICMP {
			if s.asked = append(s.asked, step.p); len(s.asked) > 20 {
				s.asked = s.asked[1:]
			}
		}
		return
	}
	talk := step.talk
	if step.forged {
		return
	}
	talk.sent++
	w := 0
	if step.fromNear != talk.fromNear {
		w = 1
	}
	_, talk.next[w] = refSpan(&refPacket{Template: step.p})
	talk.over = talk.over || step.p.TCPFlags&packet.RST != 0
}
