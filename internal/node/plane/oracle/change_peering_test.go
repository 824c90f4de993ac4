package oracle

import (
	"palisade/ec2"
	"palisade/ec2/state"
)

// peering returns a peering of a VPC that has not ended, or nil.
func (w *world) peering(v *ec2.VPC) *ec2.VPCPeering {
	var all []*ec2.VPCPeering
	for p := range w.view.PeeringsIn(v.ID) {
		if !p.Ended() {
			all = append(all, p)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return pick(w, all...)
}

func (w *world) requestPeering(v *ec2.VPC) state.Request {
	o := pick(w, w.vpcs...)
	return &state.CreateVPCPeering{Account: v.Account, Region: v.Region, VPC: v.ID, PeerAccount: o.Account, PeerVPC: o.ID}
}

func (w *world) acceptPeering(v *ec2.VPC) state.Request {
	p := w.peering(v)
	if p == nil {
		return nil
	}
	return &state.AcceptVPCPeering{Account: p.Accepter.Account, Region: p.Accepter.Region, Peering: p.ID}
}

// endPeering rejects or deletes a peering.
func (w *world) endPeering(v *ec2.VPC) state.Request {
	p := w.peering(v)
	switch {
	case p == nil:
		return nil
	case p.Active():
		return &state.DeleteVPCPeering{Account: v.Account, Region: v.Region, Peering: p.ID}
	}
	return &state.RejectVPCPeering{Account: p.Accepter.Account, Region: p.Accepter.Region, Peering: p.ID}
}

// shareGroup lets the interfaces of another VPC have a group.
func (w *world) shareGroup(v *ec2.VPC) state.Request {
	return &state.AssociateGroupVPC{Account: v.Account, Region: v.Region, Group: pick(w, w.groups[v.ID]...), VPC: pick(w, w.vpcs...).ID}
}

func (w *world) unshareGroup(v *ec2.VPC) state.Request {
	return &state.DisassociateGroupVPC{Account: v.Account, Region: v.Region, Group: pick(w, w.groups[v.ID]...), VPC: pick(w, w.vpcs...).ID}
}
