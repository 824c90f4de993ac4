package firewall

import (
	"cmp"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"palisade/ec2"
	"palisade/internal/failpoint"
)

// maxACLEntries is the most IPv4 entries of one direction that an ACL compiles: one bit for each. The
// state has a lower limit. Entries beyond it would admit nothing.
const maxACLEntries = 64

// An ACL is the compiled form of a network ACL. It is immutable and safe for any number of readers.
//
// The IPv4 entries of a direction are numbered in the order of their rule numbers, and an entry's number
// is its bit. A packet has two sets of bits: of the entries for its protocol and key, and of the entries
// for its remote address. The lowest bit in both sets is the entry that decides. Both sets are found by
// a search whose cost does not grow with the entries: the key by at most seven comparisons, the address
// by one longest-prefix match.
type ACL struct {
	in, out aclTable
}

// An ACLDecision is the entry of a network ACL that decides about a packet. It is ec2.LastACLEntry if no
// other entry matches.
type ACLDecision struct {
	ACL   string
	Entry ec2.ACLEntry
}

type aclTable struct {
	open      bool        // the first entry that can match a packet admits every packet
	allow     uint64      // the entries that admit
	protocols [256]uint64 // the entries of a protocol; if a protocol has keys, the entries of all its keys
	keys      [256]*aclKeys
	cidrs     bart.Table[uint64] // prefix -> its own entries, and those of all prefixes that contain it
	decisions []ACLDecision      // of each entry, and of the last one, which is not among the ACL's entries
}

// aclKeys are the entries for the keys of one protocol: bits[i] for the keys from starts[i] up to
// starts[i+1].
type aclKeys struct {
	starts []uint16 // ascending from 0
	bits   []uint64
}

// CompileACL compiles a network ACL. IPv6 entries are left out, because no IPv6 packet is carried.
func CompileACL(acl *ec2.NetworkACL) *ACL {
	a := new(ACL)
	var in, out []ec2.ACLEntry
	for _, e := range acl.Entries {
		switch {
		case !e.CIDR.Addr().Is4():
		case e.Egress:
			out = append(out, e)
		default:
			in = append(in, e)
		}
	}
	a.in.compile(acl.ID, in)
	a.out.compile(acl.ID, out)
	last := ec2.ACLEntry{Number: ec2.LastACLEntry, CIDR: everywhere4}
	a.in.decisions = append(a.in.decisions, ACLDecision{acl.ID, last})
	last.Egress = true
	a.out.decisions = append(a.out.decisions, ACLDecision{acl.ID, last})
	return a
}

func (t *aclTable) compile(id string, entries []ec2.ACLEntry) {
	slices.SortStableFunc(entries, func(a, b ec2.ACLEntry) int { return cmp.Compare(a.Number, b.Number) })
	entries = entries[:min(len(entries), maxACLEntries)]
	ranged := map[ec2.Protocol]bool{}
	for i, e := range entries {
		t.decisions = append(t.decisions, ACLDecision{id, e})
		if e.Allow {
			t.allow |= 1 << i
		}
		for p := range t.protocols {
			if !e.Traffic.One || e.Traffic.Protocol == ec2.Protocol(p) {
				t.protocols[p] |= 1 << i
			}
		}
		if from, to := e.Traffic.Keys(); from != 0 || to != 0xffff {
			ranged[e.Traffic.Protocol] = true
		}
	}
	for p := range ranged {
		t.keys[p] = newACLKeys(entries, p)
	}
	for _, e := range entries {
		prefix := e.CIDR.Masked()
		var bits uint64
		for i, o := range entries {
			if o.CIDR.Bits() <= prefix.Bits() && o.CIDR.Contains(prefix.Addr()) {
				bits |= 1 << i
			}
		}
		t.cidrs.Insert(prefix, bits)
	}
	t.open = len(entries) > 0 && entries[0].Allow && !entries[0].Traffic.One && entries[0].CIDR.Bits() == 0
}

func newACLKeys(entries []ec2.ACLEntry, p ec2.Protocol) *aclKeys {
	starts := []uint16{0}
	for _, e := range entries {
		if e.Traffic.One && e.Traffic.Protocol == p {
			from, to := e.Traffic.Keys()
			starts = append(starts, from)
			if to < 0xffff {
				starts = append(starts, to+1)
			}
		}
	}
	slices.Sort(starts)
	k := &aclKeys{starts: slices.Compact(starts)}
	for _, start := range k.starts {
		var bits uint64
		for i, e := range entries {
			from, to := e.Traffic.Keys()
			if (!e.Traffic.One || e.Traffic.Protocol == p) && from <= start && start <= to {
				bits |= 1 << i
			}
		}
		k.bits = append(k.bits, bits)
	}
	return k
}

func (k *aclKeys) at(key uint16) uint64 {
	low, high := 0, len(k.starts) // starts[low] <= key < starts[high]
	for high-low > 1 {
		if middle := int(uint(low+high) >> 1); k.starts[middle] <= key {
			low = middle
		} else {
			high = middle
		}
	}
	return k.bits[low]
}

func (a *ACL) table(d ec2.Direction) *aclTable {
	if d == ec2.Egress {
		return &a.out
	}
	return &a.in
}

// Open reports whether an ACL admits every packet in a direction by its first entry. A nil ACL, which a
// network without ACLs has, is open too.
func (a *ACL) Open(d ec2.Direction) bool { return a == nil || a.table(d).open }

// decides returns the index of the entry that decides about a packet; 64 if none matches it.
func (t *aclTable) decides(protocol uint8, key uint16, remote netip.Addr) int {
	failpoint.Reach()
	matching := t.protocols[protocol]
	if keys := t.keys[protocol]; keys != nil {
		matching = keys.at(key)
	}
	if matching == 0 {
		return maxACLEntries
	}
	near, _ := t.cidrs.Lookup(remote)
	return bits.TrailingZeros64(matching & near)
}

// Decide returns the entry that decides whether a packet of a protocol and key (see packet.Packet.RuleKey)
// may cross the edge of a subnet; nil for a nil ACL. remote is the packet's address outside of the
// subnet. Decide allocates nothing.
func (a *ACL) Decide(d ec2.Direction, protocol uint8, key uint16, remote netip.Addr) *ACLDecision {
	failpoint.Reach()
	if a == nil {
		return nil
	}
	t := a.table(d)
	return &t.decisions[min(t.decides(protocol, key, remote), len(t.decisions)-1)]
}
