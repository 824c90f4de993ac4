package vswitch

import (
	"palisade/conntrack"
	"palisade/firewall"
	"palisade/internal/failpoint"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// judge decides whether a packet may cross an interface: by the connection it belongs
// to, else by the rules of the interface's groups. peer is the far end.
func (f *frame) judge(a *Attachment, d conntrack.Direction, peer firewall.Source) verdict.Verdict {
	failpoint.Reach()
	p := &f.pkt
	if f.sw.stateless {
		return f.judgeNew(a, d, peer, conntrack.Checked) // which creates nothing
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

func (f *frame) judgeWhole(a *Attachment, d conntrack.Direction, peer firewall.Source) verdict.Verdict {
	failpoint.Reach()
	p := &f.pkt
	if p.IsICMPError {
		return f.traced(a, d, f.judgeError(a, d, peer))
	}
	if d == conntrack.In && a.Endpoint.Port == f.in && a.Endpoint.Owns(p.Flow.Src) {
		return f.judgeOwn(a, peer)
	}
	answer := f.observe(a)
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
	return f.judgeNew(a, d, peer, answer.Status)
}

// judgeOwn asks the rules about what an interface sends to itself. Its zone would know the
// connection from the way out, and let in what no rule admits.
func (f *frame) judgeOwn(a *Attachment, peer firewall.Source) verdict.Verdict {
	failpoint.Reach()
	if f.trace != nil {
		f.trace.observed(f, a, conntrack.In, conntrack.Answer{})
	}
	return f.judgeNew(a, conntrack.In, peer, conntrack.Checked) // which creates nothing
}

func (f *frame) observe(a *Attachment) conntrack.Answer {
	failpoint.Reach()
	a.Zone.Identify(&f.tuple, &f.pkt)
	if f.trace != nil {
		return a.Zone.Peek(&f.pkt, &f.tuple, f.now, a.revision)
	}
	return a.Zone.Observe(&f.pkt, &f.tuple, f.now, a.revision)
}

// judgeNew asks the rules. What they admit for the whole world, with every answer
// admitted the other way too, is not tracked (EC2 User Guide, "Untracked connections").
func (f *frame) judgeNew(a *Attachment, d conntrack.Direction, peer firewall.Source, s conntrack.Status) verdict.Verdict {
	failpoint.Reach()
	p := &f.pkt
	table, opposite := a.tables(d)
	decision := table.Match(p.Flow.Protocol, p.RuleKey(), peer)
	if f.trace != nil {
		f.trace.matched(table, p.RuleKey(), peer)
	}
	if !decision.Allowed {
		return verdict.NoRule
	}
	if s == conntrack.Checked || f.trace != nil {
		return verdict.Forward
	}
	admission := conntrack.Admission{Direction: d, Rule: decision.Rule, Revision: a.revision}
	switch {
	case f.answersUntracked(a, d, peer, &admission):
	case p.Flow.Protocol == packet.ProtocolTCP && !p.IsFirstSYN():
		return verdict.Forward // a connection's middle creates nothing
	case d == conntrack.Out && p.Flow.Protocol == packet.ProtocolUDP && a.justClosed(p.Flow.SrcPort, f.now):
		return verdict.Forward // nor an answer to what was revoked
	case p.Flow.Protocol == packet.ProtocolICMP && p.ICMPType != packet.ICMPEcho && p.ICMPType != packet.ICMPTimestamp:
		return verdict.Forward // nor does what asks no question
	case decision.World && hasPorts(p) && opposite.Open(p.Flow.Protocol, peer.Addr):
		return verdict.Forward // nor what is not tracked, before it is answered
	}
	return a.Zone.Admit(p, &f.tuple, f.now, admission)
}

// answersUntracked reports whether a packet that leaves is an answer in a connection
// that a world rule admits without tracking. From its first answer on such a connection
// is remembered, so that it can be cut.
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

// judgeAgain asks the rules in force about the first packet of a connection that older
// rules admitted, and cuts it if they do not. If they do, an answer in an untracked one
// still needs a rule of its own.
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
	} else if v := a.Zone.Rejudge(p, &f.tuple, f.now, a.revision, decision.Allowed, decision.Rule); v != verdict.Forward {
		return v
	}
	if answer.Reply && answer.Untracked {
		return f.judgeNew(a, d, peer, conntrack.Checked)
	}
	return verdict.Forward
}

// replyKey is the rule key of the packet that p answers.
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

// judgeError lets an ICMP error pass if it is about a connection that does, tracked or
// untracked, or if a rule admits errors of its kind. Redirects and source quenches never
// pass: no EC2 network has a use for them, and a forged one moves traffic.
func (f *frame) judgeError(a *Attachment, d conntrack.Direction, peer firewall.Source) verdict.Verdict {
	failpoint.Reach()
	p := &f.pkt
	if p.ICMPType == packet.ICMPRedirect || p.ICMPType == packet.ICMPSourceQuench {
		return verdict.NoConnection
	}
	if a.Zone.Related(p, f.now) || f.aboutUntracked(a, d, peer) {
		return verdict.Forward
	}
	table, _ := a.tables(d)
	if table.Match(p.Flow.Protocol, p.RuleKey(), peer).Allowed && quotesOwn(p) {
		return verdict.Forward
	}
	return verdict.NoConnection
}

// quotesOwn reports whether the packet an error quotes was sent by the error's receiver.
func quotesOwn(p *packet.Packet) bool { return !p.HasQuoted || p.Quoted.Src == p.Flow.Dst }

// aboutUntracked reports whether the packet an error quotes belongs to a connection that
// the rules admit without tracking: then it passes as the packet would.
func (f *frame) aboutUntracked(a *Attachment, d conntrack.Direction, peer firewall.Source) bool {
	failpoint.Reach()
	p := &f.pkt
	if !p.HasQuoted || p.Quoted.Src != p.Flow.Dst {
		return false
	}
	// Coming in, the quoted packet left here and answered what ingress admits;
	// going out, it came in and ingress admitted it.
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

// tables are the rules for a direction, and for the other one.
func (a *Attachment) tables(d conntrack.Direction) (table, opposite *firewall.Table) {
	if d == conntrack.In {
		return a.Rules.Ingress, a.Rules.Egress
	}
	return a.Rules.Egress, a.Rules.Ingress
}

func (f *frame) traced(a *Attachment, d conntrack.Direction, v verdict.Verdict) verdict.Verdict {
	if f.trace != nil {
		f.trace.decided(a, d, v)
	}
	return v
}
