package oracle

import (
	"fmt"
	"net/netip"
	"slices"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
	vswitch "palisade/switch"
)

// A probe is one packet.
type probe struct {
	from     *ec2.Interface // nil: it comes from outside
	node     ec2.NodeID     // where it comes in
	via      *ec2.Interface // the neighbour whose MAC address it has; nil: the gateway
	flow     packet.Flow
	icmpType uint8
	seq, ack uint32
	flags    uint8

	// reply: it answers a packet that the groups at both ends have admitted. current: no rules have
	// changed since.
	reply, current bool
}

func (p *probe) String() string {
	from := "outside, at " + string(p.node)
	if p.from != nil {
		from = fmt.Sprintf("%s at %s in %s, groups %v, unchecked %v", p.from.ID, p.node, p.from.Subnet, p.from.Groups, p.from.Unchecked)
	}
	if p.via != nil {
		from += ", by the MAC address of " + string(p.via.ID)
	}
	return fmt.Sprintf("%v, ICMP type %d, from %s; a reply: %v", p.flow, p.icmpType, from, p.reply)
}

func pick[T any](w *world, all ...T) T { return all[w.r.IntN(len(all))] }

// interfaces returns the interfaces that have a port.
func (w *world) interfaces() (all []*ec2.Interface) {
	for eni := range w.view.Interfaces() {
		if eni.State == ec2.Active {
			all = append(all, eni)
		}
	}
	return all
}

var outsiders = []netip.Addr{netip.MustParseAddr("203.0.113.25"), netip.MustParseAddr("203.0.113.200"), netip.MustParseAddr("198.51.100.7")}

// random returns a random packet with ports of its own, so that it belongs to no connection.
func (w *world) random() *probe {
	all := w.interfaces()
	p := &probe{flow: packet.Flow{Protocol: pick(w, uint8(6), 6, 17, 17, 17, 1)}, seq: w.r.Uint32(), flags: packet.SYN}
	w.probes++
	own := uint16((w.probes*7919)%60000) + 4000
	p.flow.SrcPort, p.flow.DstPort = own, pick(w, uint16(22), 53, 80, 80, 443, 1000)
	if p.flow.Protocol == packet.ProtocolICMP {
		p.flow.SrcPort, p.flow.DstPort, p.icmpType = own, own, 8
	}
	if w.r.IntN(6) == 0 {
		p.node, p.flow.Src = pick(w, nodeNames[:]...), pick(w, outsiders...)
		p.flow.Dst = w.public(all)
		if owner := findPublic(w.view, p.flow.Dst); owner != nil && w.r.IntN(8) > 0 {
			p.node = owner.Node
		}
		if w.r.IntN(40) == 0 {
			p.flow.Src = w.public(all)
		}
		return p
	}
	p.from = pick(w, all...)
	p.node = p.from.Node
	p.flow.Src = pick(w, p.from.Addresses()...).Private
	if w.r.IntN(20) == 0 {
		p.flow.Src = pick(w, append(outsiders, pick(w, all...).Private)...)
	}
	p.flow.Dst = w.destination(p, all)
	return p
}

// destination returns a random address other than the sender's own ones.
func (w *world) destination(p *probe, all []*ec2.Interface) netip.Addr {
	to := pick(w, all...)
	for has(to, p.flow.Src) || to.ID == p.from.ID || w.r.IntN(3) > 0 && to.VPC != p.from.VPC {
		to = pick(w, all...)
	}
	if to.Subnet == p.from.Subnet && w.r.IntN(2) == 0 {
		p.via = to
		if to.Unchecked && w.r.IntN(2) == 0 {
			return pick(w, outsiders...)
		}
		return pick(w, to.Addresses()...).Private
	}
	switch n := w.r.IntN(20); {
	case n == 0:
		s := pick(w, w.subnets...)
		return netip.AddrFrom4([4]byte{10, s.CIDR.Addr().As4()[1], s.CIDR.Addr().As4()[2], pick(w, byte(1), 200)})
	case n < 3:
		return pick(w, outsiders...)
	case n < 6:
		for {
			if a := w.public(all); !privateOf(p.from, a).IsValid() {
				return a
			}
		}
	}
	return pick(w, to.Addresses()...).Private
}

// public returns a public address of an interface, or one that nobody has.
func (w *world) public(all []*ec2.Interface) netip.Addr {
	var publics []netip.Addr
	for _, eni := range all {
		for _, a := range eni.Addresses() {
			if a.Public.IsValid() {
				publics = append(publics, a.Public)
			}
		}
	}
	if len(publics) == 0 || w.r.IntN(20) == 0 {
		return netip.MustParseAddr("198.18.200.200")
	}
	return pick(w, publics...)
}

// answer returns the packet that answers p, which was delivered as f says; nil if nobody answers it.
func (w *world) answer(p *probe, f *fate) *probe {
	q := &probe{from: f.to, reply: true, seq: w.r.Uint32(), ack: p.seq + 1, flags: packet.SYN | packet.ACK}
	q.flow = packet.Flow{Src: f.flow.Dst, Dst: f.flow.Src, SrcPort: f.flow.DstPort, DstPort: f.flow.SrcPort, Protocol: f.flow.Protocol}
	switch {
	case p.from == nil:
	case f.to == nil:
		q.node = p.node
		return q
	case !has(p.from, p.flow.Src): // a forged source, which its owner never hears of
		return nil
	}
	if !has(f.to, f.flow.Dst) { // it was meant for somebody else
		return nil
	}
	now, ok := w.view.Interface(f.to.ID)
	if !ok || now.Epoch != f.to.Epoch || now.State != ec2.Active {
		return nil
	}
	q.from, q.node = now, now.Node
	return q
}

// frame builds the frame of a packet.
func (w *world) frame(p *probe) []byte {
	f := packettest.Frame{Flow: p.flow, DstMAC: vswitch.GatewayMAC, TCPFlags: p.flags, TCPSeq: p.seq, TCPAck: p.ack, ICMPType: p.icmpType}
	switch {
	case p.from == nil:
		up := w.at(p.node).sw.Snapshot().UplinkPort()
		f.SrcMAC, f.DstMAC = up.NextHop, up.MAC
	default:
		f.SrcMAC = p.from.MAC
		if p.via != nil {
			f.DstMAC = p.via.MAC
		}
	}
	return packettest.Build(f)
}

func (w *world) at(name ec2.NodeID) *node { return w.nodes[slices.Index(nodeNames[:], name)] }

// An outcome is what became of a packet.
type outcome struct {
	delivered []string // "eni-… FLOW" or "uplink of node1 FLOW"
	dropped   []verdict.Verdict
}

// send passes a packet to its node.
func (w *world) send(p *probe) (o outcome) {
	w.Helper()
	n := w.at(p.node)
	in := n.uplink
	if p.from != nil {
		in = n.devices[p.from.Epoch]
	}
	check(w, in.Send(w.frame(p)))
	for worked := true; worked; {
		worked = false
		for _, n := range w.nodes {
			worked = n.sw.Step() || worked
		}
	}
	for i, n := range w.nodes {
		for epoch, d := range n.devices {
			for _, b := range d.Take() {
				o.delivered = append(o.delivered, fmt.Sprintf("%d %v", epoch, decoded(w, b)))
			}
		}
		for _, b := range n.uplink.Take() {
			if flow := decoded(w, b); flow != (packet.Flow{}) { // no announcement
				o.delivered = append(o.delivered, fmt.Sprintf("uplink of %s %v", nodeNames[i], flow))
			}
		}
		o.dropped = append(o.dropped, n.count()...)
	}
	return o
}

// count returns the verdicts other than Forward that were counted since the last call.
func (n *node) count() (dropped []verdict.Verdict) {
	var sum [verdict.Count]uint64
	for _, p := range n.sw.Ports() {
		for v, count := range p.Counters().Verdicts {
			sum[v] += count
		}
	}
	for v := range sum {
		if v := verdict.Verdict(v); v != verdict.Forward && v != verdict.Answered && sum[v] > n.counted[v] {
			dropped = append(dropped, v)
		}
	}
	n.counted = sum
	return dropped
}

func decoded(w *world, b []byte) packet.Flow {
	var p packet.Packet
	if v, ok := packet.NewDecoder().Decode(b[packet.OffloadLen:], &p); !ok {
		w.Fatalf("a delivered frame is refused as %v", v)
	}
	return p.Flow
}

// want returns the outcome of a packet that a fate says is delivered.
func (w *world) want(p *probe, f *fate) string {
	if f.to == nil {
		return fmt.Sprintf("uplink of %s %v", p.node, f.flow)
	}
	return fmt.Sprintf("%d %v", f.to.Epoch, f.flow)
}
