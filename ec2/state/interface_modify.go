package state

import (
	"net/netip"
	"slices"

	"palisade/ec2"
)

// ModifyNetworkInterface changes the attributes that are not nil or empty. Groups replaces all
// groups. The Epoch stays, so the connections of the interface continue. Result: Interface.
type ModifyNetworkInterface struct {
	Account             ec2.AccountID
	Region              ec2.Region
	Interface           ec2.InterfaceID
	Description         *string          `json:",omitempty"`
	Groups              []ec2.GroupID    `json:",omitempty"`
	Unchecked           *bool            `json:",omitempty"` // turns the source/destination check off or on
	Attachment          ec2.AttachmentID `json:",omitempty"` // the attachment to change DeleteOnTermination of
	DeleteOnTermination *bool            `json:",omitempty"`
}

func (r *ModifyNetworkInterface) apply(t *tx) (Result, error) {
	was, err := t.interfaceOf(r.Account, r.Region, r.Interface)
	if err != nil {
		return Result{}, err
	}
	if err := notManaged(was); err != nil {
		return Result{}, err
	}
	eni := *was
	if r.Description != nil {
		if err := checkInterfaceDescription(*r.Description); err != nil {
			return Result{}, err
		}
		eni.Description = *r.Description
	}
	if r.Unchecked != nil {
		eni.Unchecked = *r.Unchecked
	}
	if r.DeleteOnTermination != nil {
		if eni.Attachment == nil || eni.Attachment.ID != r.Attachment {
			return Result{}, ec2.Errorf("InvalidAttachmentID.NotFound", "The attachment ID '%s' does not exist", ec2.Clip(string(r.Attachment)))
		}
		attachment := *eni.Attachment
		attachment.DeleteOnTermination = *r.DeleteOnTermination
		eni.Attachment = &attachment
	}
	if len(r.Groups) > 0 {
		if eni.Groups, err = t.interfaceGroups(r.Account, r.Region, eni.VPC, r.Groups); err != nil {
			return Result{}, err
		}
		t.mirrorGroups(&eni)
	}
	t.put(tableInterface, &eni)
	return Result{Interface: &eni}, nil
}

func checkInterfaceDescription(text string) error {
	if !ec2.Printable(text, 255) {
		return ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter description is invalid. At most 255 ASCII characters.", ec2.Clip(text))
	}
	return nil
}

// mirrorGroups copies the groups of an interface to its instance, if the interface is the primary
// one.
func (t *tx) mirrorGroups(eni *ec2.Interface) {
	was := first[ec2.Instance](t.Txn, tableInstance, indexID, key(eni.Instance))
	if was == nil || was.Interface != eni.ID {
		return
	}
	i := *was
	i.Groups = slices.Clone(eni.Groups)
	t.put(tableInstance, &i)
}

// AssignPrivateAddresses gives an interface secondary addresses: those in Addresses, or Count free
// ones. With Reassign, it takes an address from another interface of the subnet. Addresses that the
// interface has already are ignored. Result: Interface, Addresses.
type AssignPrivateAddresses struct {
	Account   ec2.AccountID
	Region    ec2.Region
	Interface ec2.InterfaceID
	Addresses []netip.Addr `json:",omitempty"`
	Count     int          `json:",omitempty"`
	Reassign  bool         `json:",omitempty"`
}

func (r *AssignPrivateAddresses) apply(t *tx) (Result, error) {
	was, err := t.interfaceOf(r.Account, r.Region, r.Interface)
	if err != nil {
		return Result{}, err
	}
	if err := notManaged(was); err != nil {
		return Result{}, err
	}
	switch {
	case len(r.Addresses) == 0 && r.Count == 0:
		return Result{}, ec2.Missing("privateIpAddress or secondaryPrivateIpAddressCount")
	case len(r.Addresses) > 0 && r.Count != 0:
		return Result{}, ec2.Errorf("InvalidParameterCombination", "Secondary addresses are either chosen or counted, not both")
	case hasDuplicates(r.Addresses):
		return Result{}, ec2.Errorf("InvalidParameterValue", "A private address may not be listed twice")
	}
	eni := *was
	var wanted, moved []netip.Addr
	for _, a := range r.Addresses {
		switch _, has := pairAt(&eni, a); {
		case has:
		case r.Reassign && t.holder(eni.VNI, a) != "":
			moved = append(moved, a)
		default:
			wanted = append(wanted, a)
		}
	}
	if err := t.reassign(&eni, moved); err != nil {
		return Result{}, err
	}
	l := t.newSubnetLeaser(first[ec2.Subnet](t.Txn, tableSubnet, indexID, key(eni.Subnet)))
	taken, err := l.takeSecondary(&eni, wanted, r.Count)
	if err != nil {
		return Result{}, err
	}
	t.put(tableInterface, &eni)
	return Result{Interface: &eni, Addresses: append(moved, taken...)}, nil
}

func hasDuplicates(addrs []netip.Addr) bool {
	seen := make(map[netip.Addr]bool)
	for _, a := range addrs {
		if seen[a] {
			return true
		}
		seen[a] = true
	}
	return false
}

// holder returns the id of the interface that has an address, or "".
func (t *tx) holder(vni ec2.VNI, a netip.Addr) ec2.InterfaceID {
	if row := first[address](t.Txn, tableAddress, indexID, addressKey(vni, a)); row != nil {
		return row.Interface
	}
	return ""
}

// reassign moves secondary addresses to eni from the interfaces that have them. Their elastic
// addresses move too (EC2 API Reference, "AssignPrivateIpAddresses").
func (t *tx) reassign(eni *ec2.Interface, moved []netip.Addr) error {
	for _, a := range moved {
		from := *first[ec2.Interface](t.Txn, tableInterface, indexID, key(t.holder(eni.VNI, a)))
		at := slices.IndexFunc(from.Secondary, func(p ec2.AddressPair) bool { return p.Private == a })
		if at < 0 || from.Subnet != eni.Subnet {
			return ec2.Errorf("InvalidIPAddress.InUse", "Address %s is in use. Only a secondary address of another interface of the subnet can be reassigned.", a)
		}
		pair := from.Secondary[at]
		from.Secondary = slices.Delete(slices.Clone(from.Secondary), at, at+1)
		t.put(tableInterface, &from)
		eni.Secondary = append(slices.Clone(eni.Secondary), pair)
		sortPairs(eni.Secondary)
		t.assign(eni.VNI, a, eni.ID)
		if e := t.elasticAt(pair.Public); e != nil {
			moved := *e
			moved.Interface = eni.ID
			t.put(tableElastic, &moved)
		}
	}
	return nil
}

// UnassignPrivateAddresses takes secondary addresses away from an interface. The private addresses
// go into quarantine; their elastic addresses become unassociated. Result: Interface.
type UnassignPrivateAddresses struct {
	Account   ec2.AccountID
	Region    ec2.Region
	Interface ec2.InterfaceID
	Addresses []netip.Addr
}

func (r *UnassignPrivateAddresses) apply(t *tx) (Result, error) {
	was, err := t.interfaceOf(r.Account, r.Region, r.Interface)
	if err != nil {
		return Result{}, err
	}
	if err := notManaged(was); err != nil {
		return Result{}, err
	}
	if len(r.Addresses) == 0 {
		return Result{}, ec2.Missing("privateIpAddress")
	}
	eni := *was
	for _, a := range r.Addresses {
		at := slices.IndexFunc(eni.Secondary, func(p ec2.AddressPair) bool { return p.Private == a })
		switch {
		case a == eni.Private:
			return Result{}, ec2.Errorf("InvalidParameterValue", "The primary private address %s of interface %s cannot be unassigned", a, eni.ID)
		case at < 0:
			return Result{}, ec2.Errorf("InvalidParameterValue", "Some of [%s] are not assigned to interface %s", a, eni.ID)
		}
		pair := eni.Secondary[at]
		eni.Secondary = slices.Delete(slices.Clone(eni.Secondary), at, at+1)
		t.quarantine(eni.VNI, a)
		t.releasePublic(pair.Public)
	}
	t.put(tableInterface, &eni)
	return Result{Interface: &eni}, nil
}
