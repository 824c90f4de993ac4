package state

import (
	"net/netip"
	"strings"

	"palisade/ec2"
)

// RegisterInterface attaches an interface to an external device of a node. The interface is Active
// at once. It is an existing, detached interface, which UnregisterInterface detaches again, or a
// new interface made from Spec, which UnregisterInterface deletes. Result: Interface.
type RegisterInterface struct {
	Account   ec2.AccountID
	Region    ec2.Region
	Node      ec2.NodeID
	External  ec2.ExternalDevice `json:"Outside"`
	Interface ec2.InterfaceID    `json:",omitempty"`
	Spec      InterfaceSpec      `json:",omitzero"`
	Public    *bool              `json:",omitempty"` // whether a new interface gets a public address; nil: as its subnet says
	Tags      map[string]string  `json:",omitempty"`
}

func (r *RegisterInterface) apply(t *tx) (Result, error) {
	if err := checkExternal(&r.External); err != nil {
		return Result{}, err
	}
	n := first[ec2.Node](t.Txn, tableNode, indexID, key(r.Node))
	if n == nil || !n.Member() {
		return Result{}, noSuchNode(r.Node)
	}
	for o := range rows[ec2.Interface](t.Txn, tableInterface, indexNode, key(n.ID)) {
		if o.External != nil && *o.External == r.External {
			return Result{}, ec2.Errorf("Resource.AlreadyAssociated", "Interface %s is already attached to %s of node %s", o.ID, &r.External, n.ID)
		}
	}
	eni, onTermination, err := r.take(t)
	if err != nil {
		return Result{}, err
	}
	if s := first[ec2.Subnet](t.Txn, tableSubnet, indexID, key(eni.Subnet)); !t.carries(n, s.Region, s.Zone) {
		return Result{}, ec2.Errorf("InvalidParameterCombination", "Subnet '%s' is in availability zone %s, which node %s does not carry", s.ID, s.Zone, n.ID)
	}
	device := r.External
	eni.External = &device
	eni.Attachment = &ec2.Attachment{
		ID:                  ec2.AttachmentID(t.meta.longID("eni-attach", t.serial())),
		Time:                t.meta.Time,
		DeleteOnTermination: onTermination == ec2.DeleteInterface,
	}
	t.activate(eni, n.ID)
	t.put(tableInterface, eni)
	return Result{Interface: eni}, nil
}

// take returns the interface of the request, or a new one, and what UnregisterInterface does with
// the interface.
func (r *RegisterInterface) take(t *tx) (*ec2.Interface, ec2.OnTermination, error) {
	if r.Interface != "" {
		was, err := t.interfaceOf(r.Account, r.Region, r.Interface)
		switch {
		case err != nil:
			return nil, ec2.KeepInterface, err
		case was.Attachment != nil:
			return nil, ec2.KeepInterface, interfaceInUse(was.ID)
		case r.Public != nil || r.Spec.given():
			return nil, ec2.KeepInterface, ec2.Errorf("InvalidParameterCombination", "An existing interface keeps its subnet, groups and addresses")
		}
		eni := *was
		return &eni, ec2.KeepInterface, t.tag(string(eni.ID), r.Account, r.Region, r.Tags)
	}
	s, err := t.subnetOf(r.Account, r.Region, r.Spec.Subnet)
	if err != nil {
		return nil, ec2.DeleteInterface, err
	}
	if err := t.roomForInterfaces(r.Account, r.Region, 1); err != nil {
		return nil, ec2.DeleteInterface, err
	}
	eni, err := t.newSubnetLeaser(s).make(r.Spec)
	if err != nil {
		return nil, ec2.DeleteInterface, err
	}
	public := s.MapPublic && len(t.publicPools(r.Region)) > 0
	if r.Public != nil {
		public = *r.Public
	}
	if public {
		if err := t.mapPublic(eni, t.newPublicAllocator(r.Region)); err != nil {
			return nil, ec2.DeleteInterface, err
		}
	}
	return eni, ec2.DeleteInterface, t.tag(string(eni.ID), r.Account, r.Region, r.Tags)
}

// given reports whether any field of s is set.
func (s InterfaceSpec) given() bool {
	return s.Subnet != "" || len(s.Groups) > 0 || s.Description != "" || s.Private != netip.Addr{} || len(s.Secondary) > 0 || s.SecondaryCount != 0
}

// checkExternal returns an error for a name that a device of the kernel or a file in /run/netns
// cannot have.
func checkExternal(o *ec2.ExternalDevice) error {
	fits := func(name string, limit int) bool {
		return ec2.Printable(name, limit) && !strings.ContainsAny(name, "/ :") && name != "." && name != ".."
	}
	const interfaceName = 15 // IFNAMSIZ without the NUL
	if o.Device == "" || !fits(o.Device, interfaceName) {
		return ec2.Errorf("InvalidParameterValue", "%q is not a device name: at most %d characters, without / : and blanks", ec2.Clip(o.Device), interfaceName)
	}
	if !fits(o.Namespace, 255) {
		return ec2.Errorf("InvalidParameterValue", "%q is not the name of a network namespace", ec2.Clip(o.Namespace))
	}
	return nil
}

// UnregisterInterface detaches an interface from its external device. Its addresses leave all
// groups with this command. The interface is deleted, or detached if it existed before
// RegisterInterface, when the node reports that the port is down. A second request with Force does
// not wait for that report. Result: Interface, as it was.
type UnregisterInterface struct {
	Account   ec2.AccountID
	Region    ec2.Region
	Interface ec2.InterfaceID
	Force     bool `json:",omitempty"`
}

func (r *UnregisterInterface) apply(t *tx) (Result, error) {
	was, err := t.interfaceOf(r.Account, r.Region, r.Interface)
	if err != nil {
		return Result{}, err
	}
	switch {
	case was.External == nil:
		return Result{}, ec2.Errorf("IncorrectState", "Interface %s is not attached to an external device of a node", was.ID)
	case was.Attachment.Detaching && r.Force:
		t.deleteOrDetach(was)
	case !was.Attachment.Detaching:
		t.beginDetach(was)
	}
	return Result{Interface: was}, nil
}
