package vswitch

import (
	"palisade/conntrack"
	"palisade/firewall"
	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// judge decides whether a packet may cross an interface: by its connection, or else by the rules of
// the interface's groups. It returns Forward or the verdict that drops the packet. peer is the
// other end of the packet.
func (f *frame) judge(a *Attachment, d conntrack.Direction, peer firewall.Source) verdict.Verdict {
	failpoint.Reach()
	p := &f.pkt
	peer.Lists = f.snapshot.lists
	if f.sw.stateless {
		return f.judgeNew(a, d, peer, conntrack.Answer{Status: conntrack.Checked}) // so that no connection is created
	}
	if p.Fragment && !p.HasL4 {
		return f.traced(a, d, a.Zone.Fragment(p, d, f.now))
	}
	v := f.judgeWhole(a, d, peer)
	if v == verdict.Forward && p.Fragment && f.trace == nil {
		return a.Zone.AdmitFragment(p, d, f.now)
	}
	return v
}

// judgeWhole judges a packet that has its transport header: a whole packet or a first fragment.
func (f *frame) judgeWhole(a *Attachment, d conntrack.Direction, peer firewall.Source) verdict.Verdict {
	failpoint.Reach()
	p := &f.pkt
	if p.IsICMPError {
		return f.traced(a, d, f.judgeError(a, d, peer))
	}
	answer := f.observe(a, d)
	if f.trace != nil {
		f.trace.observed(f, a, d, answer)
	}
	switch answer.Status {
	case conntrack.Live:
		return verdict.Forward
	case conntrack.Blocked:
		return a.Zone.Refuse()
	case conntrack.Stale:
		return f.judgeAgain(a, d, answer, peer)
	case conntrack.Checked:
		if !answer.Reply {
			return verdict.Forward
		}
	}
	return f.judgeNew(a, d, peer, answer)
}

// observe looks the packet's connection up in the interface's zone, and updates it unless this is a
// trace.
func (f *frame) observe(a *Attachment, d conntrack.Direction) conntrack.Answer {
	failpoint.Reach()
	a.Zone.Identify(&f.tuple, &f.pkt)
	if f.trace != nil {
		return a.Zone.Peek(&f.pkt, &f.tuple, d, f.now, f.revision(a))
	}
	return a.Zone.Observe(&f.pkt, &f.tuple, d, f.now, f.revision(a))
}

// revision returns the revision of the rules of an interface. If they name prefix lists, it is not older
// than the last change of any list.
func (f *frame) revision(a *Attachment) conntrack.Revision {
	failpoint.Reach()
	r := a.revision
	if lists := f.snapshot.lists; a.listed && lists != nil {
		r.Generation, r.Shrunk = max(r.Generation, lists.Generation), max(r.Shrunk, lists.Shrunk)
	}
	return r
}

// judgeNew checks the rules for a packet of no known connection. If the rules admit it from all
// addresses, and admit every answer, its connection is not tracked (EC2 User Guide, "Untracked
// connections").
func (f *frame) judgeNew(a *Attachment, d conntrack.Direction, peer firewall.Source, answer conntrack.Answer) verdict.Verdict {
	failpoint.Reach()
	p := &f.pkt
	table, opposite := a.tables(d)
	decision := table.Match(p.Flow.Protocol, p.RuleKey(), peer)
	if f.trace != nil {
		f.trace.matched(table, p.RuleKey(), peer)
	}
	switch {
	case !decision.Allowed:
		if answer.Status != conntrack.Checked { // no connection of a lost port: the rules admit it
			f.renewLost(a, d)
		}
		return verdict.NoRule
	case answer.Status == conntrack.Checked:
		return verdict.Forward
	}
	lost, missing := f.leavesLostPort(a, d, peer)
	if lost && !p.IsFirstSYN() && (p.Flow.Protocol == packet.ProtocolTCP || missing) {
		f.renewLost(a, d)
		return a.Zone.Refuse()
	}
	if f.trace != nil {
		return verdict.Forward
	}
	admission := conntrack.Admission{Direction: d, Rule: decision.Rule, Revision: f.revision(a)}
	switch {
	case f.answersUntracked(a, d, peer, &admission):
	case p.Flow.Protocol == packet.ProtocolTCP && !p.IsFirstSYN():
		return verdict.Forward // a TCP segment in the middle of a connection creates none
	case lost && p.Flow.Protocol == packet.ProtocolUDP:
		return verdict.Forward // it may be an answer in a revoked connection, so it creates none
	case p.Flow.Protocol == packet.ProtocolICMP && p.ICMPType != packet.ICMPEcho && p.ICMPType != packet.ICMPTimestamp:
		return verdict.Forward // an ICMP message that is no query creates no connection
	case decision.World && hasPorts(p) && opposite.Open(p.Flow.Protocol, peer.Addr):
		if answer.Status == conntrack.Reused {
			a.Zone.ReuseUntracked(p, &f.tuple, d, f.now)
		}
		return verdict.Forward // an untracked connection is stored when it is answered
	}
	return a.Zone.Admit(p, &f.tuple, f.now, admission)
}

// leavesLostPort reports whether a packet without a connection leaves from a port that a rule opened
// until a moment ago, and no rule admits the packet that it would answer. missing is true if the
// connection may exist and be without an entry.
func (f *frame) leavesLostPort(a *Attachment, d conntrack.Direction, peer firewall.Source) (lost, missing bool) {
	failpoint.Reach()
	p := &f.pkt
	if d != conntrack.Out || !hasPorts(p) {
		return false, false
	}
	if lost, missing = a.Zone.Lost(p.Flow.Protocol, p.Flow.SrcPort, f.now); !lost || a.Rules.Ingress.Match(p.Flow.Protocol, p.Flow.SrcPort, peer).Allowed {
		return false, false
	}
	return lost, missing
}

// renewLost keeps the memory of lost ports while packets of both directions match them.
func (f *frame) renewLost(a *Attachment, d conntrack.Direction) {
	failpoint.Reach()
	p := &f.pkt
	if f.trace != nil || !hasPorts(p) {
		return
	}
	port := p.Flow.DstPort
	if d == conntrack.Out {
		port = p.Flow.SrcPort
	}
	a.Zone.Renew(p.Flow.Protocol, port, f.now)
}

// answersUntracked reports whether a packet that leaves is an answer in a connection that is not
// tracked, and if so sets admission. The connection is stored from its first answer on, so that it
// can be cut when its rule is revoked.
func (f *frame) answersUntracked(a *Attachment, d conntrack.Direction, peer firewall.Source, admission *conntrack.Admission) bool {
	failpoint.Reach()
	p := &f.pkt
	if d != conntrack.Out || !hasPorts(p) || p.IsFirstSYN() {
		return false
	}
	ingress, egress := a.Rules.Ingress, a.Rules.Egress
	decision := ingress.Match(p.Flow.Protocol, p.Flow.SrcPort, peer)
	if !decision.World || !egress.Open(p.Flow.Protocol, peer.Addr) {
		return false
	}
	admission.Untracked, admission.Reversed, admission.Rule = true, true, decision.Rule
	return true
}

func hasPorts(p *packet.Packet) bool {
	return p.Flow.Protocol == packet.ProtocolTCP || p.Flow.Protocol == packet.ProtocolUDP
}

// judgeAgain checks a connection that older rules admitted against the rules in force: if these
// would not admit its first packet, it cuts the connection. In an untracked connection that they
// admit, an answer still needs a rule of its own.
func (f *frame) judgeAgain(a *Attachment, d conntrack.Direction, answer conntrack.Answer, peer firewall.Source) verdict.Verdict {
	failpoint.Reach()
	p := &f.pkt
	first := conntrack.Out
	if answer.Outside {
		first = conntrack.In
	}
	table, _ := a.tables(first)
	key := p.RuleKey()
	if answer.Reply {
		key = replyKey(p)
	}
	decision := table.Match(p.Flow.Protocol, key, peer)
	if f.trace != nil {
		f.trace.matched(table, key, peer)
		if !decision.Allowed {
			return a.Zone.Refuse()
		}
	} else if v := a.Zone.Rejudge(p, &f.tuple, d, f.now, f.revision(a), decision.Allowed, decision.Rule); v != verdict.Forward {
		return v
	}
	if answer.Reply && answer.Untracked {
		return f.judgeNew(a, d, peer, conntrack.Answer{Status: conntrack.Checked})
	}
	return verdict.Forward
}

// replyKey returns the rule key of the packet that p answers.
func replyKey(p *packet.Packet) uint16 {
	switch p.Flow.Protocol {
	case packet.ProtocolTCP, packet.ProtocolUDP:
		return p.Flow.SrcPort
	case packet.ProtocolICMP:
		if p.ICMPType == packet.ICMPTimestampReply {
			return packet.ICMPTimestamp << 8
		}
		return packet.ICMPEcho << 8
	}
	return 0
}

// judgeError admits an ICMP error if it is about a known connection, if it is about a packet that
// the rules admit untracked, or if a rule admits such errors. Redirects and source quenches never
// pass: no EC2 network needs them, and a forged redirect diverts traffic. Nor does an error about a
// connection that an operator cut. No rule admits an error from outside with a source in a public pool.
func (f *frame) judgeError(a *Attachment, d conntrack.Direction, peer firewall.Source) verdict.Verdict {
	failpoint.Reach()
	p := &f.pkt
	if p.ICMPType == packet.ICMPRedirect || p.ICMPType == packet.ICMPSourceQuench {
		return verdict.NoConnection
	}
	if a.Zone.QuotesCut(p, d, f.now) {
		return verdict.NoConnection
	}
	if a.Zone.Related(p, d, f.now, f.revision(a)) || f.aboutUntracked(a, d, peer) {
		return verdict.Forward
	}
	if f.in.kind == UplinkPort && f.snapshot.inPublicPool(p.Flow.Src) {
		return verdict.NoConnection
	}
	table, _ := a.tables(d)
	if table.Match(p.Flow.Protocol, p.RuleKey(), peer).Allowed && quotesOwn(p) {
		return verdict.Forward
	}
	return verdict.NoConnection
}

// quotesOwn reports whether the packet that the error quotes was sent by the error's receiver.
func quotesOwn(p *packet.Packet) bool { return !p.HasQuoted || p.Quoted.Src == p.Flow.Dst }

// aboutUntracked reports whether the packet that the error quotes belongs to a connection that the
// rules admit untracked.
func (f *frame) aboutUntracked(a *Attachment, d conntrack.Direction, peer firewall.Source) bool {
	failpoint.Reach()
	p := &f.pkt
	if !p.HasQuoted || p.Quoted.Src != p.Flow.Dst {
		return false
	}
	// If the error comes in, the quoted packet left here, as an answer to a packet that ingress
	// admits. If the error goes out, the quoted packet came in and ingress admitted it.
	port := p.Quoted.DstPort
	remote := p.Quoted.Src
	if d == conntrack.In {
		port, remote = p.Quoted.SrcPort, p.Quoted.Dst
	}
	if p.Quoted.Protocol != packet.ProtocolTCP && p.Quoted.Protocol != packet.ProtocolUDP {
		return false
	}
	decision := a.Rules.Ingress.Match(p.Quoted.Protocol, port, firewall.Source{Addr: remote})
	return decision.World && a.Rules.Egress.Open(p.Quoted.Protocol, peer.Addr)
}

// tables returns the rules for direction d and for the opposite direction.
func (a *Attachment) tables(d conntrack.Direction) (table, opposite *firewall.Table) {
	if d == conntrack.In {
		return a.Rules.Ingress, a.Rules.Egress
	}
	return a.Rules.Egress, a.Rules.Ingress
}

func (f *frame) traced(a *Attachment, d conntrack.Direction, v verdict.Verdict) verdict.Verdict {
	if f.trace != nil {
		f.trace.decided(f, a, d, v)
	}
	return v
}
