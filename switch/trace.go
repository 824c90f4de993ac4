package vswitch

import (
	"net/netip"
	"slices"

	"palisade/conntrack"
	"palisade/firewall"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// A Trace is what the pipeline did with one simulated packet. The pipeline itself makes the Trace,
// from the Snapshot and the connections in force, but writes no frame and stores no connection.
type Trace struct {
	Steps   []Step
	Verdict verdict.Verdict
	At      *Port // the port the verdict concerns
	Flow    packet.Flow
	// Routed says which subnet's routes lead the packet out of its network, or to an interface that forwards
	// it; nil if they had no say. Unrouted describes why a packet is NotRouted; nil for all other verdicts.
	Routed   *Routed
	Unrouted *Unrouted
	// NoPublic is the sender, if the packet has NoRoute because the sender's address has no public one. Absent is the
	// destination, if it has NoRoute because no interface of the sender's network, or of the peered one, has it.
	NoPublic *Endpoint
	Absent   *Absent
	// Onward is the frame that would go to another node, where TraceTunnel continues; nil if the
	// packet stays on this node.
	Onward *Onward

	entering *firewall.ACLDecision // of the next Step
}

// Routed is a subnet whose routes decide about a remote address.
type Routed struct {
	Endpoint *Endpoint // the interface in the subnet
	Network  VNI
	Subnet   *Subnet
	Remote   netip.Addr
}

// Unrouted is a subnet whose routes do not lead to a remote address.
type Unrouted struct {
	Routed
	Fault RouteFault
}

// Absent is an address that no interface of a network has.
type Absent struct {
	Network VNI
	Address netip.Addr
}

// Onward is a frame that a tunnel would have carried.
type Onward struct {
	Node   uint32        // the number of the receiving node
	Origin packet.Origin // without Node, which the receiver sets to the node that asks
	Frame  []byte        // begins with its Ethernet header
}

// A Step is one decision of the pipeline.
type Step struct {
	Endpoint  *Endpoint // the interface that the packet crossed
	Direction conntrack.Direction
	Flow      packet.Flow // at the interface, so after NAT
	// Connection is what the interface's zone knew of the packet. Asked reports whether the rules
	// were checked.
	Connection conntrack.Answer
	Asked      bool
	Table      *firewall.Table
	Key        uint16
	Peer       firewall.Source
	Verdict    verdict.Verdict // of a step that neither a connection nor a rule decided
	// ACL is the entry of the subnet's network ACL that admits or denies the packet: in an egress step after
	// the rules, in an ingress step before them. It is nil if the packet stays in the subnet.
	ACL *firewall.ACLDecision
}

// Trace runs the pipeline on a frame as if it had come in at a port. The frame begins with its
// Ethernet header. Trace overwrites the frame.
func (s *Switch) Trace(in *Port, ethernet []byte) Trace {
	return s.snapshot.Load().trace(s, in, packet.Origin{}, ethernet)
}

// TraceTunnel runs the pipeline on a frame as if another node had sent it: the second half of a
// Trace with Onward. It returns false if there is no tunnel.
func (s *Switch) TraceTunnel(from packet.Origin, ethernet []byte) (Trace, bool) {
	snapshot := s.snapshot.Load()
	if snapshot.tunnel == nil {
		return Trace{}, false
	}
	return snapshot.trace(s, snapshot.tunnel.Port, from, ethernet), true
}

func (s *Snapshot) trace(sw *Switch, in *Port, from packet.Origin, ethernet []byte) Trace {
	f := newFrame(sw)
	f.snapshot = s
	f.now = monotonic()
	f.trace = &Trace{}
	f.in, f.origin = in, from
	n := copy(f.buffer[offloadLen:], ethernet)
	f.trace.At, f.trace.Verdict = f.forward(f.buffer[:offloadLen+n])
	f.trace.Flow = f.pkt.Flow
	return *f.trace
}

func (t *Trace) observed(f *frame, a *Attachment, d conntrack.Direction, answer conntrack.Answer) {
	t.Steps = append(t.Steps, Step{Endpoint: a.Endpoint, Direction: d, Flow: f.pkt.Flow, Connection: answer, ACL: t.entering})
	t.entering = nil
}

func (t *Trace) matched(table *firewall.Table, key uint16, peer firewall.Source) {
	last := &t.Steps[len(t.Steps)-1]
	last.Asked, last.Table, last.Peer, last.Key = true, table, peer, key
}

func (t *Trace) decided(f *frame, a *Attachment, d conntrack.Direction, v verdict.Verdict) {
	t.Steps = append(t.Steps, Step{Endpoint: a.Endpoint, Direction: d, Flow: f.pkt.Flow, Verdict: v, ACL: t.entering})
	t.entering = nil
}

// judgedByACL keeps the entry that decided about a packet that enters a subnet for the Step of its ingress
// rules. A packet that leaves has its Step already.
func (t *Trace) judgedByACL(d conntrack.Direction, by *firewall.ACLDecision) {
	if n := len(t.Steps); d == conntrack.Out && n > 0 && by != nil && by.Entry.Allow {
		t.Steps[n-1].ACL = by
		return
	}
	t.entering = by
}

func (t *Trace) sentOnward(f *frame, to *Endpoint) {
	t.Onward = &Onward{Node: to.Node, Origin: f.originOf(to), Frame: slices.Clone(f.bytes())}
}

// Owner returns the interface that has a private address in network v; nil if none has it.
func (s *Snapshot) Owner(v VNI, a netip.Addr) *Endpoint {
	if n, ok := s.networks[v]; ok {
		return n.Find(a)
	}
	return nil
}

// crossed adds a Step for a NAT gateway that has translated the packet, with the flow after it.
func (t *Trace) crossed(gw *Endpoint, d conntrack.Direction, flow packet.Flow) {
	if t != nil {
		t.Steps = append(t.Steps, Step{Endpoint: gw, Direction: d, Flow: flow, Verdict: verdict.Forward, ACL: t.entering})
		t.entering = nil
	}
}
