package vswitch

import (
	"net/netip"

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
	f := newFrame(s)
	f.snapshot = s.snapshot.Load()
	f.now = monotonic()
	f.trace = &Trace{}
	f.in = in
	n := copy(f.buffer[offloadLen:], ethernet)
	f.trace.At, f.trace.Verdict = f.forward(f.buffer[:offloadLen+n])
	f.trace.Flow = f.pkt.Flow
	return *f.trace
}

func (t *Trace) observed(f *frame, a *Attachment, d conntrack.Direction, answer conntrack.Answer) {
	t.Steps = append(t.Steps, Step{Endpoint: a.Endpoint, Direction: d, Flow: f.pkt.Flow, Connection: answer})
}

func (t *Trace) matched(f *frame, a *Attachment, d conntrack.Direction, table *firewall.Table, peer firewall.Source) {
	last := &t.Steps[len(t.Steps)-1]
	last.Asked, last.Table, last.Peer, last.Key = true, table, peer, f.pkt.RuleKey()
	if last.Connection.Status == conntrack.Stale && last.Connection.Reply {
		last.Key = replyKey(&f.pkt)
	}
}

func (t *Trace) decided(a *Attachment, d conntrack.Direction, v verdict.Verdict) {
	t.Steps = append(t.Steps, Step{Endpoint: a.Endpoint, Direction: d, Verdict: v})
}

// PortOf finds the port an address is at, and the owner's public and private addresses;
// nil if no instance of this node has it.
func (s *Snapshot) PortOf(v VNI, a netip.Addr) *Endpoint {
	if ep := s.Public(a); ep != nil {
		return ep
	}
	if n, ok := s.networks[v]; ok {
		return n.Find(a)
	}
	return nil
}

// UplinkPort returns the uplink in force, or nil.
func (s *Snapshot) UplinkPort() *Uplink { return s.uplink }
