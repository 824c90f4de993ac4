package fleet

import (
	"fmt"
	"net/netip"
	"slices"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/instance"
)

// attachmentNIC returns the configuration of an interface in the namespace to which it is attached. If the
// namespace has a default route of its own, it reaches the subnet and the VPC by the interface. Of several
// interfaces in a VPC, the first leads to it, and each to its own subnet.
func (f *Fleet) attachmentNIC(view *state.View, eni *ec2.Interface) instance.NIC {
	n := instance.NIC{Device: eni.External.Device, MAC: eni.MAC, MTU: f.MTU, Foreign: true, Alias: f.alias(eni.ID)}
	n.Addresses, n.Gateway = f.Link(view, eni)
	before, several := f.attachedBeside(view, eni)
	n.Second, n.Several = len(before) > 0, several
	n.Reach, _ = f.reach(view, eni, n.Addresses[0].Masked(), before)
	return n
}

// attachedBeside returns the interfaces that were attached to the same namespace before, and whether the namespace has
// any other.
func (f *Fleet) attachedBeside(view *state.View, eni *ec2.Interface) (before []*ec2.Interface, several bool) {
	for e := range view.Interfaces() {
		if !f.isAttachedHere(e) || e.ID == eni.ID || e.State != ec2.Active || e.External.Namespace != eni.External.Namespace {
			continue
		}
		several = true
		if e.Epoch < eni.Epoch {
			before = append(before, e)
		}
	}
	return before, several
}

// reach returns the prefixes that an interface leads to: its subnet and its VPC, unless an earlier interface of
// the namespace leads there. conflicts names those that an earlier interface of another VPC has.
func (*Fleet) reach(view *state.View, eni *ec2.Interface, subnet netip.Prefix, before []*ec2.Interface) (prefixes []netip.Prefix, conflicts []string) {
	wanted := []netip.Prefix{subnet}
	if !slices.ContainsFunc(before, func(e *ec2.Interface) bool { return e.VNI == eni.VNI }) {
		wanted = append(wanted, blocksOf(view, eni)...)
	}
	for _, p := range wanted {
		taken := slices.IndexFunc(before, func(e *ec2.Interface) bool {
			return e.VNI != eni.VNI && slices.ContainsFunc(blocksOf(view, e), p.Overlaps)
		})
		if taken < 0 {
			prefixes = append(prefixes, p)
			continue
		}
		conflicts = append(conflicts, fmt.Sprintf("%s is not reached by %s: %s leads to another VPC with these addresses", p, eni.External.Device, before[taken].External.Device))
	}
	return prefixes, conflicts
}

// blocksOf returns the CIDR blocks of an interface's VPC.
func blocksOf(view *state.View, eni *ec2.Interface) []netip.Prefix {
	if n, ok := view.Network(eni.VNI); ok {
		return slices.Concat([]netip.Prefix{n.Prefix}, n.Blocks)
	}
	return nil
}

// Conflicts says which addresses of its subnet and VPC a namespace does not reach by an interface that is attached to it
// here, because it has other routes there.
func (f *Fleet) Conflicts(view *state.View, eni *ec2.Interface) []string {
	if !f.isAttachedHere(eni) || eni.External.Namespace == "" {
		return nil
	}
	n := f.attachmentNIC(view, eni)
	before, _ := f.attachedBeside(view, eni)
	_, conflicts := f.reach(view, eni, n.Addresses[0].Masked(), before)
	more, err := instance.Conflicts(eni.External.Namespace, n)
	if err != nil {
		f.Logger.Warn("routes of a namespace not compared", "interface", eni.ID, "err", err)
	}
	return append(conflicts, more...)
}
