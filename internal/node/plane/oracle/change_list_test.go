package oracle

import (
	"net/netip"
	"slices"

	"palisade/ec2"
	"palisade/ec2/state"
)

// list returns a prefix list of the owner of a VPC, or nil.
func (w *world) list(v *ec2.VPC) *ec2.PrefixList {
	var all []*ec2.PrefixList
	for l := range w.view.PrefixListsOf(v.Account, v.Region) {
		if !l.OwnedByAWS() {
			all = append(all, l)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return pick(w, all...)
}

func (w *world) listOf(v *ec2.VPC) ec2.PrefixListID {
	if l := w.list(v); l != nil {
		return l.ID
	}
	return ""
}

// blocks returns some blocks, each once.
func (w *world) blocks(most int) (all []netip.Prefix) {
	for range w.r.IntN(most + 1) {
		if b := w.block(); !slices.Contains(all, b) {
			all = append(all, b)
		}
	}
	return all
}

func (w *world) addList(v *ec2.VPC) state.Request {
	r := &state.CreatePrefixList{Account: v.Account, Region: v.Region, Name: "list", MaxEntries: 8}
	for _, b := range w.blocks(3) {
		r.Entries = append(r.Entries, ec2.PrefixEntry{CIDR: b})
	}
	return r
}

func (w *world) modifyList(v *ec2.VPC) state.Request {
	l := w.list(v)
	if l == nil {
		return w.addList(v)
	}
	r := &state.ModifyPrefixList{Account: v.Account, Region: v.Region, List: l.ID, CurrentVersion: new(l.Version)}
	for _, b := range w.blocks(3) {
		if _, has := l.Find(b); has {
			r.Remove = append(r.Remove, b)
		} else {
			r.Add = append(r.Add, ec2.PrefixEntry{CIDR: b})
		}
	}
	return r
}

func (w *world) restoreList(v *ec2.VPC) state.Request {
	l := w.list(v)
	if l == nil || l.Version < 2 {
		return nil
	}
	return &state.RestorePrefixList{Account: v.Account, Region: v.Region, List: l.ID, PreviousVersion: 1 + w.r.IntN(l.Version-1), CurrentVersion: l.Version}
}

func (w *world) removeList(v *ec2.VPC) state.Request {
	l := w.list(v)
	if l == nil {
		return nil
	}
	return &state.DeletePrefixList{Account: v.Account, Region: v.Region, List: l.ID}
}
