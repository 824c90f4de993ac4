package plane

import (
	"palisade/ec2"
	"palisade/ec2/state"
	vswitch "palisade/switch"
)

// setLists gives the switch new prefix lists and changed entries. Apply calls it before it compiles rules,
// which may name a new list. No table is compiled for an entry.
func (p *Plane) setLists(edit *vswitch.Edit, changes []state.Change[ec2.PrefixList], generation uint64) {
	for _, c := range changes {
		if c.After != nil {
			p.compiler.SetList(c.After, generation)
		}
	}
	if len(changes) > 0 {
		edit.Lists(p.compiler.Lists())
	}
}

// removeLists removes deleted prefix lists. Apply calls it after it has compiled the rules that do not name
// them any more.
func (p *Plane) removeLists(edit *vswitch.Edit, changes []state.Change[ec2.PrefixList], generation uint64) {
	for _, c := range changes {
		if c.After == nil {
			p.compiler.RemoveList(c.Before.ID, generation)
			edit.Lists(p.compiler.Lists())
		}
	}
}
