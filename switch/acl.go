package vswitch

import (
	"net/netip"
	"sync/atomic"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/firewall"
	"palisade/internal/failpoint"
	"palisade/internal/verdict"
)

// aclOut lets the network ACL of an interface's subnet judge a packet that leaves the subnet. It returns
// Forward or the verdict that drops the packet. The pipeline calls it after the egress rules have admitted
// the packet, and before its destination is translated.
func (f *frame) aclOut(a *Attachment) verdict.Verdict {
	failpoint.Reach()
	return f.judgeByACL(a, conntrack.Out, ec2.Egress, f.pkt.Flow.Dst)
}

// aclIn lets the network ACL of an interface's subnet judge a packet that enters the subnet. It returns
// Forward or the verdict that drops the packet. The pipeline calls it before the ingress rules, and after
// the packet's source was translated.
func (f *frame) aclIn(a *Attachment) verdict.Verdict {
	failpoint.Reach()
	return f.judgeByACL(a, conntrack.In, ec2.Ingress, f.pkt.Flow.Src)
}

// judgeByACL judges every packet alike, whether or not it belongs to a connection. A fragment that is not
// the first passes if the ACL has admitted the first.
func (f *frame) judgeByACL(a *Attachment, d conntrack.Direction, way ec2.Direction, remote netip.Addr) verdict.Verdict {
	failpoint.Reach()
	acl := a.subnet.ACL
	if acl.Open(way) && f.trace == nil {
		return verdict.Forward
	}
	p := &f.pkt
	if p.Fragment && !p.HasL4 {
		return f.traced(a, d, a.Zone.Fragment(p, d.AtEdge(), f.now))
	}
	by := acl.Decide(way, p.Flow.Protocol, p.RuleKey(), remote)
	if f.trace != nil {
		f.trace.judgedByACL(d, by)
	}
	if by != nil && !by.Entry.Allow {
		return f.deniedByACL(a, d, by)
	}
	if p.Fragment && f.trace == nil {
		return a.Zone.AdmitFragment(p, d.AtEdge(), f.now)
	}
	return verdict.Forward
}

// deniedByACL returns the verdict of a packet that an entry of a network ACL denies.
func (f *frame) deniedByACL(a *Attachment, d conntrack.Direction, by *firewall.ACLDecision) verdict.Verdict {
	f.deniedBy = by
	return f.traced(a, d, verdict.ACLDenied)
}

// maxDenials is the number of entries whose packets a port counts. The packets of further entries are
// counted by the verdict alone.
const maxDenials = 16

// A denial counts the packets at a port that one entry of a network ACL has denied.
type denial struct {
	by      atomic.Pointer[firewall.ACLDecision]
	packets atomic.Uint64
}

// A Denial is how many packets at a port one entry of a network ACL has denied.
type Denial struct {
	firewall.ACLDecision
	Packets uint64
}

func (p *Port) countDenial(by *firewall.ACLDecision, packets uint32) {
	failpoint.Reach()
	for i := range p.denials {
		d := &p.denials[i]
		was := d.by.Load()
		if was == nil && !d.by.CompareAndSwap(nil, by) {
			was = d.by.Load() // another poller took the place
		}
		if was != nil && was != by {
			if was.ACL != by.ACL || was.Entry.Egress != by.Entry.Egress || was.Entry.Number != by.Entry.Number {
				continue
			}
			d.by.Store(by) // the entry as it is now
		}
		d.packets.Add(uint64(packets))
		return
	}
}

// Denials returns the entries of network ACLs that have denied packets at the port.
func (p *Port) Denials() (all []Denial) {
	for i := range p.denials {
		if by := p.denials[i].by.Load(); by != nil {
			all = append(all, Denial{*by, p.denials[i].packets.Load()})
		}
	}
	return all
}
