package firewall

import (
	"math/bits"

	"palisade/internal/failpoint"
)

// A ruleIndex finds the rule of one source for a port, as fast for ten thousand rules as
// for one. It cuts the 65,536 ports into intervals, each covered by one rule or by none. A
// bit for each port says whether an interval begins there, so the number of bits set up to
// a port is the number of its interval. Only words with a bit in them are kept. A ruleIndex
// takes at most 40 bytes for each rule and 300 for the source.
type ruleIndex struct {
	kept   [16]uint64  // bit w: the word of the ports 64w to 64w+63 is kept
	before [16]uint16  // number of kept words before those of kept[i]
	words  []startWord // the words that are kept, and an empty one
	rules  []uint32    // the rule of each interval, or noRule
}

type startWord struct {
	starts uint64 // bit i: an interval begins at the word's port i
	before uint32 // number of intervals that begin in words before this one
}

// An interval ends where the next one begins.
type interval struct {
	from uint16
	rule uint32 // or noRule
}

// newRuleIndex returns the index of a source's intervals, which are in ascending order.
// Ports before the first interval have no rule.
func newRuleIndex(intervals []interval) ruleIndex {
	x := ruleIndex{rules: []uint32{noRule}}
	last := -1
	for _, v := range append([]interval{{0, noRule}}, intervals...) {
		if v.from == 0 {
			x.rules[0] = v.rule
		} else {
			x.rules = append(x.rules, v.rule)
		}
		word := int(v.from >> 6)
		if word != last {
			x.kept[word>>6] |= 1 << (word & 63)
			x.words = append(x.words, startWord{before: uint32(len(x.rules) - 1)})
			last = word
		}
		x.words[len(x.words)-1].starts |= 1 << (v.from & 63)
	}
	x.words = append(x.words, startWord{before: uint32(len(x.rules))})
	for i := 1; i < len(x.kept); i++ {
		x.before[i] = x.before[i-1] + uint16(bits.OnesCount64(x.kept[i-1]))
	}
	return x
}

// rule returns the rule that covers a port, or noRule.
func (x *ruleIndex) rule(port uint16) uint32 {
	failpoint.Reach()
	block, bit := port>>12, port>>6&63
	kept := x.kept[block]
	word := &x.words[int(x.before[block])+bits.OnesCount64(kept&(1<<bit-1))]
	starts := word.starts & (^uint64(0) >> (63 - port&63))
	if kept>>bit&1 == 0 {
		starts = 0 // no interval begins in this word, so the last one before it covers the port
	}
	return x.rules[int(word.before)+bits.OnesCount64(starts)-1]
}
