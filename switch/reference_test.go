package vswitch

import (
	"net/netip"
	"slices"
	"time"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// A reference is a slow and obvious firewall of one interface: it looks at every rule and at every
// connection for every packet. Random packets must get the same verdict from it and from the switch.
//
// It was written from the EC2 User Guide ("Security group connection tracking"), RFC 9293, RFC 5961,
// and van Rooij's "Real Stateful TCP Packet Filtering in IP Filter" (2001), not from package conntrack.
type reference struct {
	name      string
	address   netip.Addr
	unchecked bool
	strict    bool // revoked rules cut tracked connections too
	rules     []ec2.Rule
	changed   int // counts the changes of the rules
	shrunk    int // the last change that removed a rule
	all       []*refConnection
	lost      []refLost
	// missing is until when an untracked connection may be without an entry, for want of room.
	missing time.Duration
}

// A refPacket is one packet. peer is the other end of it, and member the group that peer is in; ""
// if the packet came from or goes to an address that the peer forwards for.
type refPacket struct {
	packet.Template
	quoted *packet.Template
	peer   netip.Addr
	member ec2.GroupID
}

// A refConnection is an entry. from is the direction in which its first packet crossed the
// interface, flow the flow of that packet.
type refConnection struct {
	flow      packet.Flow
	query     uint8 // ICMP type of the first packet
	from      conntrack.Direction
	untracked bool
	blocked   bool
	judged    int // the change of the rules after which it was last judged
	until     time.Duration
	packets   [2]int
	tcp       refTCP
}

// A refLost is a range of ports that an ingress rule opened until a moment ago.
type refLost struct {
	refRange
	until   time.Duration
	missing bool // a connection of these ports may be without an entry, for want of room
}

const (
	refOriginal = 0
	refReply    = 1
)

func isSYN(p *refPacket) bool {
	return p.Flow.Protocol == packet.ProtocolTCP && p.TCPFlags&(packet.SYN|packet.ACK) == packet.SYN
}

func (p *refPacket) ported() bool {
	return p.Flow.Protocol == packet.ProtocolTCP || p.Flow.Protocol == packet.ProtocolUDP
}

func isICMPError(p *refPacket) bool {
	return p.Flow.Protocol == packet.ProtocolICMP && slices.Contains([]uint8{3, 4, 5, 11, 12}, p.ICMPType)
}

// find returns the live connection of a flow that crosses the interface in direction d, and which
// way of the connection that is.
func (z *reference) find(flow packet.Flow, icmpType uint8, d conntrack.Direction, now time.Duration) (*refConnection, int) {
	query := icmpType
	isReply := flow.Protocol == packet.ProtocolICMP && (icmpType == 0 || icmpType == 14)
	if icmpType == 0 {
		query = 8
	} else if icmpType == 14 {
		query = 13
	}
	for _, c := range z.all {
		if now >= c.until || c.flow.Protocol != flow.Protocol || flow.Protocol == packet.ProtocolICMP && c.query != query {
			continue
		}
		if c.flow == flow && c.from == d && !isReply {
			return c, refOriginal
		}
		back := packet.Flow{Src: flow.Dst, Dst: flow.Src, SrcPort: flow.DstPort, DstPort: flow.SrcPort, Protocol: flow.Protocol}
		if c.flow == back && c.from != d && (flow.Protocol != packet.ProtocolICMP || isReply) {
			return c, refReply
		}
	}
	return nil, 0
}

func (z *reference) remove(c *refConnection) {
	z.all = slices.DeleteFunc(z.all, func(o *refConnection) bool { return o == c })
}

// judge returns the verdict of a packet that crosses the interface.
func (z *reference) judge(p *refPacket, d conntrack.Direction, now time.Duration) verdict.Verdict {
	z.all = slices.DeleteFunc(z.all, func(c *refConnection) bool { return now >= c.until })
	if isICMPError(p) {
		return z.judgeError(p, d, now)
	}
	c, w := z.find(p.Flow, p.ICMPType, d, now)
	if c == nil {
		return z.judgeNew(p, d, now, nil, 0)
	}
	if c.blocked {
		c.until = now + 180*time.Second // without a packet
	}
	if isSYN(p) {
		return z.judgeNew(p, d, now, c, w)
	}
	if c.checksWindows() && c.tcp.place(p, w) == refOutside {
		// It does not belong to the connection and changes nothing, unless it answers a SYN that the
		// rules admitted on the same ports.
		switch {
		case !c.tcp.answersNoted(p, w):
			return z.judgeNew(p, d, now, c, w)
		case c.tcp.notedUntracked:
			z.remove(c)
			return z.judgeNew(p, d, now, nil, 0)
		}
	}
	if c.blocked && c.judged == z.changed {
		return verdict.Revoked
	}
	if c.blocked || c.judged < z.shrunk && (c.untracked || z.strict) {
		return z.judgeAgain(p, d, now, c, w)
	}
	if c.untracked && w == refReply && !z.match(p, d).allowed {
		z.count(c, p, w, now)
		return verdict.NoRule
	}
	z.count(c, p, w, now)
	return verdict.Forward
}

func (c *refConnection) checksWindows() bool {
	return c.flow.Protocol == packet.ProtocolTCP && !c.untracked && !c.blocked
}

// unsure reports whether a segment is so near to a bound of a window that a switch that rounds
// windows up may take it for part of the connection.
func (z *reference) unsure(p *refPacket, d conntrack.Direction, now time.Duration) bool {
	if p.Flow.Protocol != packet.ProtocolTCP || isSYN(p) {
		return false
	}
	c, w := z.find(p.Flow, p.ICMPType, d, now)
	return c != nil && c.checksWindows() && c.tcp.place(p, w) == refGrey
}

// judgeAgain judges a connection that older rules admitted, by its first packet.
func (z *reference) judgeAgain(p *refPacket, d conntrack.Direction, now time.Duration, c *refConnection, w int) verdict.Verdict {
	first := *p
	if w == refReply {
		first.Flow, first.ICMPType, first.ICMPCode = c.flow, c.query, 0
	}
	c.judged = z.changed
	if !z.match(&first, c.from).allowed {
		c.blocked = true
		c.until = now + 180*time.Second
		return verdict.Revoked
	}
	if c.blocked {
		c.blocked = false
		c.tcp.forgetWindows()
	}
	z.count(c, p, w, now)
	if c.untracked && w == refReply && !z.match(p, d).allowed {
		return verdict.NoRule
	}
	return verdict.Forward
}

// judgeNew judges a packet that belongs to no connection. old is a connection with the same ports;
// nil if there is none.
func (z *reference) judgeNew(p *refPacket, d conntrack.Direction, now time.Duration, old *refConnection, w int) verdict.Verdict {
	m := z.match(p, d)
	if !m.allowed {
		z.renewLost(p, d, now)
		return verdict.NoRule
	}
	lost, missing := z.leavesLost(p, d, now)
	if lost && !isSYN(p) && (p.Flow.Protocol == packet.ProtocolTCP || missing) {
		z.renewLost(p, d, now)
		return verdict.Revoked
	}
	untracked := m.world && p.ported() && z.open(p.Flow.Protocol, 1-d)
	switch {
	case old != nil && !isSYN(p):
		return verdict.Forward // a stray segment changes nothing
	case isSYN(p) && old != nil:
		z.reuse(p, d, now, old, w, untracked)
		return verdict.Forward
	case z.answersUntracked(p, d):
		c := &refConnection{flow: packet.Flow{Src: p.Flow.Dst, Dst: p.Flow.Src, SrcPort: p.Flow.DstPort, DstPort: p.Flow.SrcPort, Protocol: p.Flow.Protocol}, from: 1 - d, untracked: true, judged: z.changed}
		c.tcp.state = refSYNSent
		if p.TCPFlags&packet.SYN == 0 {
			c.tcp.state = refEstablished
		}
		z.all = append(z.all, c)
		z.count(c, p, refReply, now)
		return verdict.Forward
	case p.Flow.Protocol == packet.ProtocolTCP && !isSYN(p):
		return verdict.Forward
	case lost && p.Flow.Protocol == packet.ProtocolUDP:
		return verdict.Forward
	case p.Flow.Protocol == packet.ProtocolICMP && p.ICMPType != 8 && p.ICMPType != 13:
		return verdict.Forward
	case untracked:
		return verdict.Forward
	}
	z.track(p, d, now)
	return verdict.Forward
}

// track records a tracked connection that packet p opens.
func (z *reference) track(p *refPacket, d conntrack.Direction, now time.Duration) {
	c := &refConnection{flow: p.Flow, query: p.ICMPType, from: d, judged: z.changed}
	z.all = append(z.all, c)
	z.count(c, p, refOriginal, now)
}

// reuse takes a SYN that the rules admit, with the ports of the connection old.
func (z *reference) reuse(p *refPacket, d conntrack.Direction, now time.Duration, old *refConnection, w int, untracked bool) {
	over := old.blocked || old.tcp.state == refTimeWait || old.tcp.state == refClosed
	begin := func() {
		z.remove(old)
		if !untracked {
			z.track(p, d, now)
		}
	}
	switch {
	case over || old.untracked && w == refOriginal:
		begin()
	case old.untracked:
		if !untracked {
			begin()
		}
	case w == refReply && old.tcp.state == refSYNSent:
		if !untracked { // both ends open the connection (RFC 9293 §3.5)
			z.count(old, p, w, now)
		}
	case w == refReply:
	case old.tcp.state == refSYNSent || old.tcp.state == refSYNReceived:
		if !untracked && old.tcp.ends[w].next == p.TCPSeq+1 {
			z.count(old, p, w, now)
			return
		}
		begin()
	default:
		old.tcp.noted, old.tcp.notedSeq, old.tcp.notedUntracked = true, p.TCPSeq, untracked
		old.tcp.notedScale, old.tcp.notedWindow = p.TCPScale, p.TCPWindow
		if !untracked {
			old.judged = z.changed
		}
	}
}

// answersUntracked reports whether a packet leaves as an answer in an untracked connection.
func (z *reference) answersUntracked(p *refPacket, d conntrack.Direction) bool {
	if d != conntrack.Out || !p.ported() || isSYN(p) {
		return false
	}
	return z.ingress(p).world && z.open(p.Flow.Protocol, conntrack.Out)
}

// ingress matches the packet that p, which leaves, would answer.
func (z *reference) ingress(p *refPacket) refMatch {
	asked := *p
	asked.Flow.DstPort = p.Flow.SrcPort
	return z.match(&asked, conntrack.In)
}

// judgeError judges an ICMP error.
func (z *reference) judgeError(p *refPacket, d conntrack.Direction, now time.Duration) verdict.Verdict {
	if p.ICMPType == 4 || p.ICMPType == 5 || p.quoted == nil {
		return verdict.NoConnection
	}
	q := p.quoted
	sentByReceiver := q.Flow.Src == p.Flow.Dst
	if c, _ := z.find(q.Flow, q.ICMPType, 1-d, now); c != nil && sentByReceiver && !c.blocked && !c.untracked && (!z.strict || c.judged >= z.shrunk) {
		return verdict.Forward
	}
	if sentByReceiver && (q.Flow.Protocol == packet.ProtocolTCP || q.Flow.Protocol == packet.ProtocolUDP) {
		port := q.Flow.DstPort
		if d == conntrack.In {
			port = q.Flow.SrcPort
		}
		asked := refPacket{Template: *q, peer: p.peer, member: ""}
		asked.Flow.DstPort = port
		if z.match(&asked, conntrack.In).world && z.open(q.Flow.Protocol, conntrack.Out) {
			return verdict.Forward
		}
	}
	if sentByReceiver && z.match(p, d).allowed {
		return verdict.Forward
	}
	return verdict.NoConnection
}

// count notes a packet of a connection, and keeps the connection for another timeout.
func (z *reference) count(c *refConnection, p *refPacket, w int, now time.Duration) {
	if c.checksWindows() && c.tcp.place(p, w) == refOutside && c.tcp.answersNoted(p, w) {
		c.tcp.beginAgain()
		c.packets = [2]int{1, 0}
	}
	c.packets[w]++
	if p.Flow.Protocol == packet.ProtocolTCP {
		was := c.tcp.state
		changes := c.tcp.advance(p, w, !c.untracked)
		if was == refClosed && c.tcp.state == refClosed || !changes {
			return
		}
	}
	c.until = now + c.timeout()
}

func (c *refConnection) timeout() time.Duration {
	switch c.flow.Protocol {
	case packet.ProtocolTCP:
		return refTimeouts[c.tcp.state]
	case packet.ProtocolUDP:
		if c.packets[0] > 1 && c.packets[1] > 1 {
			return 180 * time.Second
		}
		return 30 * time.Second
	case packet.ProtocolICMP:
		return 30 * time.Second
	}
	return 600 * time.Second
}
