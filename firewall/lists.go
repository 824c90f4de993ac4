package firewall

import (
	"math/bits"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"palisade/ec2"
	"palisade/internal/failpoint"
)

// Lists are the entries of the prefix lists that rules may name, at one generation. A Table names a
// list by its number and has none of its entries, so a changed entry costs one path of a trie, however
// many Tables name the list. Lists are immutable and safe for any number of readers. Nil Lists are empty.
type Lists struct {
	// Generation is the generation of the last change of an entry of a list, and Shrunk that of the
	// last loss of an entry.
	Generation uint64
	Shrunk     uint64

	owners []*ownerLists // by listNumber.owner
}

// A listOwner is the account and the region that a list belongs to. Each has lists of its own numbers, so
// that the cost of Match does not grow with the lists of others.
type listOwner struct {
	account ec2.AccountID
	region  ec2.Region
}

// A listNumber identifies a prefix list in the data plane: its owner, and a bit among the owner's lists.
type listNumber struct {
	owner uint32
	bit   uint32
}

// ownerLists are the lists of one owner.
type ownerLists struct {
	entries *bart.Table[bitSet] // block -> the lists that have it as an entry
	shrunk  []int               // by listNumber.bit: the version that last lost an entry
}

// A bitSet has a bit for each list of an owner. It may be shorter than there are lists.
type bitSet []uint64

func (s bitSet) has(bit uint32) bool { return int(bit>>6) < len(s) && s[bit>>6]>>(bit&63)&1 != 0 }

// with returns a copy of s with a bit set or cleared, without empty words at the end.
func (s bitSet) with(bit uint32, set bool) bitSet {
	next := make(bitSet, max(len(s), int(bit>>6)+1))
	copy(next, s)
	if set {
		next[bit>>6] |= 1 << (bit & 63)
	} else {
		next[bit>>6] &^= 1 << (bit & 63)
	}
	for len(next) > 0 && next[len(next)-1] == 0 {
		next = next[:len(next)-1]
	}
	return next
}

// find returns a list among those of wanted that has an entry which contains an address. The loop is
// over the owner's entries that contain the address, from the longest to the shortest, at most 33 of IPv4.
func (l *Lists) find(owner uint32, wanted bitSet, addr netip.Addr) (bit uint32, ok bool) {
	failpoint.Reach()
	if l == nil || int(owner) >= len(l.owners) {
		return 0, false
	}
	for block := netip.PrefixFrom(addr, addr.BitLen()); ; {
		entry, lists, ok := l.owners[owner].entries.LookupPrefixLPM(block)
		if !ok {
			return 0, false
		}
		for i := range min(len(lists), len(wanted)) {
			if hit := lists[i] & wanted[i]; hit != 0 {
				return uint32(i<<6 + bits.TrailingZeros64(hit)), true
			}
		}
		if entry.Bits() == 0 {
			return 0, false
		}
		block = netip.PrefixFrom(addr, entry.Bits()-1)
	}
}

// entry returns the longest entry of a list that contains an address.
func (l *Lists) entry(n listNumber, addr netip.Addr) (netip.Prefix, bool) {
	if l == nil || int(n.owner) >= len(l.owners) || !addr.IsValid() {
		return netip.Prefix{}, false
	}
	for block, lists := range l.owners[n.owner].entries.Supernets(netip.PrefixFrom(addr, addr.BitLen())) {
		if lists.has(n.bit) {
			return block, true
		}
	}
	return netip.Prefix{}, false
}

// Entries returns how many blocks are entries of a list, each once for each owner.
func (l *Lists) Entries() int {
	count := 0
	if l != nil {
		for _, o := range l.owners {
			count += o.entries.Size()
		}
	}
	return count
}

// shrunk returns the version of a list that last lost an entry.
func (l *Lists) shrunk(n listNumber) int {
	if l == nil || int(n.owner) >= len(l.owners) || int(n.bit) >= len(l.owners[n.owner].shrunk) {
		return 0
	}
	return l.owners[n.owner].shrunk[n.bit]
}

// listBook numbers the prefix lists of a Compiler and keeps their entries.
type listBook struct {
	current *Lists
	owners  map[listOwner]uint32
	numbers map[ec2.PrefixListID]listNumber
	rows    map[ec2.PrefixListID]*ec2.PrefixList // as their entries are in current
	used    []bitSet                             // by owner: the bits that are given to lists
}

func newListBook() listBook {
	return listBook{owners: map[listOwner]uint32{}, numbers: map[ec2.PrefixListID]listNumber{}, rows: map[ec2.PrefixListID]*ec2.PrefixList{}}
}

// Lists returns the prefix lists in force.
func (c *Compiler) Lists() *Lists { return c.lists.current }

// SetList adds a prefix list, or changes its entries. Its owner calls it before it compiles rules that
// name a new list.
func (c *Compiler) SetList(list *ec2.PrefixList, generation uint64) {
	b := &c.lists
	number, known := b.numbers[list.ID]
	if !known {
		number = b.number(listOwner{list.Account, list.Region})
		b.numbers[list.ID] = number
	}
	var before []ec2.PrefixEntry
	if was := b.rows[list.ID]; was != nil {
		before = was.Entries
	}
	b.rows[list.ID] = list
	b.change(number, list.Shrunk, before, list.Entries, generation, known)
}

// RemoveList removes a deleted prefix list. Its owner calls it after it compiled the rules that do not
// name the list any more. While a Set still names the list, its number is given to no other.
func (c *Compiler) RemoveList(id ec2.PrefixListID, generation uint64) {
	b := &c.lists
	number, ok := b.numbers[id]
	if !ok {
		return
	}
	b.change(number, 0, b.rows[id].Entries, nil, generation, true)
	delete(b.numbers, id)
	delete(b.rows, id)
	if !c.names(id) {
		b.used[number.owner] = b.used[number.owner].with(number.bit, false)
	}
}

// names reports whether a rule of any Set names a prefix list.
func (c *Compiler) names(id ec2.PrefixListID) bool {
	for _, s := range c.sets {
		for _, t := range []*Table{s.Ingress, s.Egress} {
			if slices.ContainsFunc(t.Rules(), func(r Ref) bool { return r.Rule.Source.PrefixList == id }) {
				return true
			}
		}
	}
	return false
}

// number gives an owner's lowest free bit to a list.
func (b *listBook) number(of listOwner) listNumber {
	owner, ok := b.owners[of]
	if !ok {
		owner = uint32(len(b.used))
		b.owners[of] = owner
		b.used = append(b.used, nil)
	}
	bit := uint32(0)
	for b.used[owner].has(bit) {
		bit++
	}
	b.used[owner] = b.used[owner].with(bit, true)
	return listNumber{owner, bit}
}

// change replaces the entries of a list. If judged is true, rules may have named the list before, so
// connections that it admitted are checked again.
func (b *listBook) change(n listNumber, shrunk int, before, after []ec2.PrefixEntry, generation uint64, judged bool) {
	next := &Lists{}
	if b.current != nil {
		*next = *b.current
	}
	next.owners = slices.Clone(next.owners)
	for int(n.owner) >= len(next.owners) {
		next.owners = append(next.owners, &ownerLists{entries: &bart.Table[bitSet]{}})
	}
	owner := *next.owners[n.owner]
	owner.shrunk = slices.Clone(owner.shrunk)
	for int(n.bit) >= len(owner.shrunk) {
		owner.shrunk = append(owner.shrunk, 0)
	}
	owner.shrunk[n.bit] = shrunk
	next.owners[n.owner] = &owner

	added, removed := ec2.EntryDifference(before, after)
	for _, e := range removed {
		if _, kept := ec2.FindEntry(after, e.CIDR); kept {
			continue // only its description has changed
		}
		owner.set(e.CIDR, n.bit, false)
		if judged {
			next.Generation, next.Shrunk = generation, generation
		}
	}
	for _, e := range added {
		if _, had := ec2.FindEntry(before, e.CIDR); had {
			continue
		}
		owner.set(e.CIDR, n.bit, true)
		if judged {
			next.Generation = generation
		}
	}
	b.current = next
}

// set makes a block an entry of a list, or no entry of it. It copies one path of the trie.
func (o *ownerLists) set(block netip.Prefix, bit uint32, entry bool) {
	lists, _ := o.entries.Get(block)
	if lists = lists.with(bit, entry); len(lists) == 0 {
		o.entries = o.entries.DeletePersist(block)
	} else {
		o.entries = o.entries.InsertPersist(block, lists)
	}
}
