package state

import (
	"slices"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// operatorRequests are the requests of operators about networks and connections.
var operatorRequests = []Request{&SetTracking{}, &CutConnections{}}

const (
	maxCutEnds  = 8192 // of one request, so that it fits into a log entry
	keptCuts    = 64   // a node that misses more than these, because it is away, carries out the newest ones only
	keptCutEnds = 4 * maxCutEnds
)

// CutConnections ends connections on every node: those that a rule admitted, whether or not the rule
// still exists, or those that join two ends. A node that is away carries it out when it applies this
// entry.
type CutConnections struct {
	Rule ec2.RuleID `json:",omitempty"`
	From []ec2.End  `json:",omitempty"`
	To   []ec2.End  `json:",omitempty"`
}

func (r *CutConnections) apply(t *tx) (Result, error) {
	cut := ec2.Cut{Index: t.meta.Index, CutSelection: ec2.CutSelection{From: r.From, To: r.To}}
	switch {
	case r.Rule != "" && len(r.From)+len(r.To) > 0:
		return Result{}, ec2.Errorf("InvalidParameterCombination", "connections are selected by a rule or by two ends, not by both")
	case r.Rule != "":
		var err error
		if cut.Serials, err = serialsOf(t.Txn, t.meta, r.Rule); err != nil {
			return Result{}, err
		}
	case len(r.From) == 0 || len(r.To) == 0:
		return Result{}, ec2.Errorf("MissingParameter", "connections are selected by a rule or by two ends; an end is missing")
	}
	if n := len(r.From) + len(r.To); n > maxCutEnds {
		return Result{}, ec2.Errorf("InvalidParameterValue", "the two ends have %d addresses together; at most %d are possible: name ranges of addresses instead", n, maxCutEnds)
	}
	for _, e := range slices.Concat(r.From, r.To) {
		if !e.Prefix.IsValid() || e.Prefix != e.Prefix.Masked() {
			return Result{}, ec2.Errorf("InvalidParameterValue", "%s is not a canonical range of addresses", e.Prefix)
		}
	}
	// Earlier Views share the list, so it is replaced and not changed.
	kept := append(slices.Clone(t.meta.Cuts), cut)
	for ends := countEnds(kept); len(kept) > keptCuts || ends > keptCutEnds; kept = kept[1:] {
		ends -= countEnds(kept[:1])
	}
	t.meta.Cuts = kept
	return Result{}, nil
}

func countEnds(cuts []ec2.Cut) (n int) {
	for _, c := range cuts {
		n += len(c.From) + len(c.To)
	}
	return n
}

// CutsAfter returns the cuts that were decided after a log index, oldest first. Of these, the State
// keeps the newest 64.
func (v *View) CutsAfter(index uint64) []ec2.Cut {
	cuts := v.v.meta.Cuts
	for len(cuts) > 0 && cuts[0].Index <= index {
		cuts = cuts[1:]
	}
	return cuts
}

// RuleSerials returns the serials by which connections name a rule: the present serial, if the rule
// exists, and the serial that it was made with.
func (v *View) RuleSerials(id ec2.RuleID) ([]uint64, error) {
	return serialsOf(v.txn(), v.v.meta, id)
}

func serialsOf(t *memdb.Txn, m *meta, id ec2.RuleID) ([]uint64, error) {
	if err := ec2.CheckRuleID(id); err != nil {
		return nil, err
	}
	var serials []uint64
	if g := first[ec2.Group](t, tableGroup, indexRule, key(id)); g != nil {
		for _, r := range g.Rules {
			if r.ID == id {
				serials = append(serials, r.Serial)
			}
		}
	}
	if made, ok := m.serialOf("sgr", string(id)); ok && !slices.Contains(serials, made) {
		serials = append(serials, made)
	}
	if len(serials) == 0 {
		return nil, ec2.NoSuch("sgr", id)
	}
	return serials, nil
}
