package vswitch

import (
	"cmp"
	"slices"
	"time"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/internal/packet"
)

// A refMatch is what the rules say of a packet that opens a connection.
type refMatch struct{ allowed, world bool }

// match looks at every rule.
func (z *reference) match(p *refPacket, d conntrack.Direction) refMatch {
	var m refMatch
	for _, r := range z.rules {
		if (r.Direction == ec2.Egress) != (d == conntrack.Out) || !admitsProtocol(r, p) {
			continue
		}
		switch {
		case r.Source.IsGroup():
			m.allowed = m.allowed || p.member != "" && r.Source.Group.ID == p.member
		case r.Source.Prefix.Bits() == 0:
			m = refMatch{true, true}
		default:
			m.allowed = m.allowed || r.Source.Prefix.Contains(p.peer)
		}
	}
	return m
}

func admitsProtocol(r ec2.Rule, p *refPacket) bool {
	if r.Protocol == ec2.AnyProtocol {
		return true
	}
	if r.Protocol != ec2.Protocol(p.Flow.Protocol) {
		return false
	}
	switch p.Flow.Protocol {
	case packet.ProtocolTCP, packet.ProtocolUDP:
		return r.From <= int(p.Flow.DstPort) && int(p.Flow.DstPort) <= r.To
	case packet.ProtocolICMP:
		return (r.From < 0 || r.From == int(p.ICMPType)) && (r.To < 0 || r.To == int(p.ICMPCode))
	}
	return true
}

// open reports whether one rule admits all ports of a protocol from everywhere.
func (z *reference) open(protocol uint8, d conntrack.Direction) bool {
	return slices.ContainsFunc(z.rules, func(r ec2.Rule) bool {
		return (r.Direction == ec2.Egress) == (d == conntrack.Out) && !r.Source.IsGroup() && r.Source.Prefix.Bits() == 0 &&
			(r.Protocol == ec2.AnyProtocol || r.Protocol == ec2.Protocol(protocol) && r.From == 0 && r.To == 65535)
	})
}

// A refRange is a range of ports that ingress rules open to one source; "" is the world.
type refRange struct {
	protocol uint8
	from, to int
	source   string
}

// ranges returns the ports whose connections a revocation cuts: those that are open to the world
// and, in a strict network, those that any rule opens. The ranges of one source do not overlap.
func (z *reference) ranges() []refRange {
	var all []refRange
	for _, protocol := range []uint8{packet.ProtocolTCP, packet.ProtocolUDP} {
		for _, r := range z.rules {
			if r.Direction == ec2.Egress || r.Protocol != ec2.AnyProtocol && r.Protocol != ec2.Protocol(protocol) {
				continue
			}
			one := refRange{protocol, r.From, r.To, ""}
			if r.Protocol == ec2.AnyProtocol {
				one.from, one.to = 0, 65535
			}
			switch {
			case r.Source.IsGroup():
				one.source = string(r.Source.Group.ID)
			case r.Source.Prefix.Bits() != 0:
				one.source = r.Source.Prefix.String()
			}
			if one.source == "" || z.strict {
				all = append(all, one)
			}
		}
	}
	slices.SortFunc(all, func(a, b refRange) int {
		return cmp.Or(cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.source, b.source), cmp.Compare(a.from, b.from))
	})
	var merged []refRange
	for _, r := range all {
		if n := len(merged); n > 0 && merged[n-1].protocol == r.protocol && merged[n-1].source == r.source && r.from <= merged[n-1].to+1 {
			merged[n-1].to = max(merged[n-1].to, r.to)
			continue
		}
		merged = append(merged, r)
	}
	return merged
}

// without returns the parts of r that no range of open holds.
func (r refRange) without(open []refRange) []refRange {
	var rest []refRange
	for port := r.from; port <= r.to; {
		next := r.to + 1
		held := false
		for _, o := range open {
			if o.protocol != r.protocol || o.source != "" && o.source != r.source {
				continue
			}
			if o.from <= port && port <= o.to {
				held, next = true, o.to+1
				break
			}
			if o.from > port {
				next = min(next, o.from)
			}
		}
		if !held {
			rest = append(rest, refRange{r.protocol, port, min(next-1, r.to), r.source})
		}
		port = next
	}
	return rest
}

// setRules changes the rules.
func (z *reference) setRules(rules []ec2.Rule, now time.Duration) {
	was, old := z.ranges(), z.rules
	z.rules = rules
	z.changed++
	for _, r := range old {
		if !slices.ContainsFunc(rules, func(kept ec2.Rule) bool { return kept.Serial == r.Serial }) {
			z.shrunk = z.changed
		}
	}
	z.notice(was, now)
}

// notice remembers the ports that are not open any more.
func (z *reference) notice(was []refRange, now time.Duration) {
	open := z.ranges()
	z.lost = slices.DeleteFunc(z.lost, func(l refLost) bool { return now >= l.until || len(l.without(open)) == 0 })
	for _, r := range was {
		for _, r := range r.without(open) {
			z.lost = append(z.lost, refLost{r, now + 180*time.Second, now < z.missing})
		}
	}
}

// leavesLost reports whether a packet without a connection leaves from a port that was open until a
// moment ago, and its peer is not admitted to that port any more. missing is true if its connection
// may have found no room.
func (z *reference) leavesLost(p *refPacket, d conntrack.Direction, now time.Duration) (lost, missing bool) {
	if d != conntrack.Out || !p.ported() || z.ingress(p).allowed {
		return false, false
	}
	for _, l := range z.lost {
		if l.protocol == p.Flow.Protocol && l.from <= int(p.Flow.SrcPort) && int(p.Flow.SrcPort) <= l.to && now < l.until {
			lost, missing = true, missing || l.missing || now < z.missing
		}
	}
	return lost, missing
}

// renewLost keeps the memory of lost ports while packets match them. UDP ports are forgotten
// nevertheless if no connection is without an entry, so that strangers cannot keep an instance from
// opening connections.
func (z *reference) renewLost(p *refPacket, d conntrack.Direction, now time.Duration) {
	port := int(p.Flow.DstPort)
	if d == conntrack.Out {
		port = int(p.Flow.SrcPort)
	}
	for i := range z.lost {
		l := &z.lost[i]
		if l.protocol != p.Flow.Protocol || port < l.from || l.to < port || now >= l.until {
			continue
		}
		if missing := l.missing || now < z.missing; missing || l.protocol == packet.ProtocolTCP {
			l.until, l.missing = now+180*time.Second, missing
		}
	}
}
