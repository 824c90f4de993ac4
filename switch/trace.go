package vswitch

import (
	"net/netip"
	"slices"

	"palisade/conntrack"
	"palisade/firewall"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// A Trace is what the pipeline did with one imagined packet. It is made by the pipeline
// itself, on the live Snapshot and connections, writing and remembering nothing.
type Trace struct {
	Steps   []Step
	Verdict verdict.Verdict
	At      *Port // the port the verdict concerns
	Flow    packet.Flow
	// Unrouted says where a packet that is NotRouted had no way from or to; else nil.
	Unrouted *Unrouted
	// Onward is how the packet went on to another node, where TraceTunnel does the
	// rest; nil if its way ended here.
	Onward *Onward
}

// Unrouted is a subnet without a way to a far address.
type Unrouted struct {
	Endpoint *Endpoint // whose subnet it is
	Network  VNI
	Subnet   *Subnet
	Far      netip.Addr
}

// Onward is what a tunnel would have carried.
type Onward struct {
	Node   uint32        // where to
	Origin packet.Origin // its Node is for the receiver to fill in: who asks is who sent
	Frame  []byte        // begins with its Ethernet header
}

// A Step is one decision on the way.
type Step struct {
	Endpoint  *Endpoint // whose interface was crossed
	Direction conntrack.Direction
	Flow      packet.Flow // as the interface sees it, behind NAT
	// Connection is what the interface's zone knew; Asked whether the rules were asked.
	Connection conntrack.Answer
	Asked      bool
	Table      *firewall.Table
	Key        uint16
	Peer       firewall.Source
	Verdict    verdict.Verdict // of a step that neither a connection nor a rule decided
}

// Trace runs the pipeline on a frame as if it had come in at a port. The frame begins
// with its Ethernet header, and is changed on its way.
func (s *Switch) Trace(in *Port, ethernet []byte) Trace {
	return s.snapshot.Load().trace(s, in, packet.Origin{}, ethernet)
}

// TraceTunnel runs the pipeline on a frame as if another node had sent it: the second half
// of a Trace that went Onward there. It reports false where there is no tunnel.
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
	t.Steps = append(t.Steps, Step{Endpoint: a.Endpoint, Direction: d, Flow: f.pkt.Flow, Connection: answer})
}

func (t *Trace) matched(table *firewall.Table, key uint16, peer firewall.Source) {
	last := &t.Steps[len(t.Steps)-1]
	last.Asked, last.Table, last.Peer, last.Key = true, table, peer, key
}

func (t *Trace) decided(a *Attachment, d conntrack.Direction, v verdict.Verdict) {
	t.Steps = append(t.Steps, Step{Endpoint: a.Endpoint, Direction: d, Verdict: v})
}

func (t *Trace) wentOn(f *frame, to *Endpoint) {
	t.Onward = &Onward{Node: to.Node, Origin: f.originOf(to), Frame: slices.Clone(f.bytes())}
}

// PortOf finds the port an address is at, and the owner's public and private addresses;
// nil if no instance has it.
func (s *Snapshot) PortOf(v VNI, a netip.Addr) *Endpoint {
	if ep := s.Public(a); ep != nil {
		return ep
	}
	if n, ok := s.networks[v]; ok {
		return n.Find(a)
	}
	return nil
}
