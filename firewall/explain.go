package firewall

import (
	"fmt"
	"net/netip"
	"slices"

	"palisade/ec2"
)

var everywhere4 = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// An Explanation is a Decision with its reasons.
type Explanation struct {
	Decision
	// By is the rule that admits the packet; nil if none does.
	By *Ref
	// Entry is the entry that contains the packet's source, if By names a prefix list.
	Entry netip.Prefix
	// Refusals holds each rule and why it does not admit the packet, the rules with the
	// fewest reasons first. It is empty if a rule admits the packet.
	Refusals []Refusal
}

// A Refusal is one rule that does not admit a packet.
type Refusal struct {
	Ref
	WrongProtocol bool // also if the rule is for ICMPv6 and the packet is IPv4
	WrongRange    bool
	WrongSource   bool
	IPv6Only      bool // the packet is IPv4, and the rule is for IPv6 alone
}

// misses returns the number of reasons.
func (r Refusal) misses() int {
	n := 0
	for _, wrong := range []bool{r.WrongProtocol, r.WrongRange, r.WrongSource} {
		if wrong {
			n++
		}
	}
	return n
}

func (r Refusal) String() string {
	peer := "source"
	if r.Rule.Direction == ec2.Egress {
		peer = "destination"
	}
	switch {
	case r.IPv6Only:
		return fmt.Sprintf("%s of %s is for IPv6", r.Rule.ID, r.Group.Name)
	case r.WrongProtocol:
		return fmt.Sprintf("%s of %s is for another protocol", r.Rule.ID, r.Group.Name)
	case r.WrongRange && r.WrongSource:
		return fmt.Sprintf("%s of %s is for another range and another %s", r.Rule.ID, r.Group.Name, peer)
	case r.WrongRange:
		return fmt.Sprintf("%s of %s is for another range", r.Rule.ID, r.Group.Name)
	}
	return fmt.Sprintf("%s of %s is for another %s", r.Rule.ID, r.Group.Name, peer)
}

// Explain returns the decision of Match, with its reasons.
func (t *Table) Explain(protocol uint8, key uint16, src Source) Explanation {
	e := Explanation{Decision: t.Match(protocol, key, src)}
	if t == nil {
		return e
	}
	for i := range t.refs {
		ref := &t.refs[i]
		if e.Allowed {
			if ref.Rule.Serial == e.Rule && covers(&ref.Rule, protocol, key) {
				e.By = ref
				if ref.listed {
					e.Entry, _ = src.Lists.entry(ref.list, src.Addr)
				}
				return e
			}
			continue
		}
		r := Refusal{Ref: *ref, WrongSource: !ref.names(src), IPv6Only: src.Addr.Is4() && onlyIPv6(&ref.Rule)}
		of := ref.Rule.Protocol
		r.WrongProtocol = of != ec2.AnyProtocol && of != ec2.Protocol(protocol) || of == ec2.ICMPv6 && r.IPv6Only
		r.WrongRange = !r.WrongProtocol && !covers(&ref.Rule, protocol, key)
		e.Refusals = append(e.Refusals, r)
	}
	slices.SortStableFunc(e.Refusals, func(a, b Refusal) int { return a.misses() - b.misses() })
	return e
}

// names reports whether the rule's source is a group, CIDR or prefix list that src belongs to.
func (r *Ref) names(src Source) bool {
	switch {
	case r.Rule.Source.IsGroup():
		return slices.Contains(src.Groups, r.number)
	case r.Rule.Source.IsPrefixList():
		_, ok := src.Lists.entry(r.list, src.Addr)
		return ok && r.listed
	}
	return r.Rule.Source.Prefix.Contains(src.Addr)
}

// Rules returns the rules of the Table, in the order of their groups.
func (t *Table) Rules() []Ref {
	if t == nil {
		return nil
	}
	return t.refs
}
