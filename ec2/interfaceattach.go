package ec2

import (
	"regexp"
	"slices"
)

// AttachNetworkInterface puts an interface into an instance of its zone and VPC: one that
// runs gets it at once, one that is stopped when it starts. Result: Interface.
type AttachNetworkInterface struct {
	Account     AccountID
	Region      Region
	Interface   InterfaceID
	Instance    InstanceID
	DeviceIndex int
}

func (r *AttachNetworkInterface) apply(t *tx) (Result, error) {
	was, err := t.interfaceOf(r.Account, r.Region, r.Interface)
	if err != nil {
		return Result{}, err
	}
	i, err := t.instance(r.Account, r.Region, r.Instance)
	if err != nil {
		return Result{}, err
	}
	if err := t.attachable(was, i, r.DeviceIndex); err != nil {
		return Result{}, err
	}
	eni := *was
	t.plug(&eni, i, r.DeviceIndex, KeepInterface)
	t.put(tableInterface, &eni)
	return Result{Interface: &eni}, nil
}

// attachable refuses what EC2 refuses to attach.
func (t *tx) attachable(eni *Interface, i *Instance, index int) error {
	if i.VPC == "" {
		return Errorf("InvalidParameterCombination", "Network interfaces are attached to instances in a VPC, and '%s' is in EC2-Classic", i.ID)
	}
	if eni.Attachment != nil {
		return inUse(eni.ID)
	}
	if i.State != Pending && i.State != Running && i.State != Stopped {
		return Errorf("IncorrectState", "The instance '%s' is not in a state in which an interface can be attached: it is %s", i.ID, i.State)
	}
	if eni.VPC != i.VPC {
		return Errorf("InvalidParameterCombination", "You may not attach a network interface to an instance if they are not in the same VPC")
	}
	if s := first[Subnet](t.Txn, tableSubnet, indexID, key(eni.Subnet)); s.Zone != i.Zone {
		return Errorf("InvalidParameterCombination", "You may not attach a network interface to an instance if they are not in the same availability zone")
	}
	has := t.attached(i.ID)
	if err := t.checkDevices(i.Type, len(has)+1, index); err != nil {
		return err
	}
	for _, o := range has {
		if deviceIndex(o) == index {
			return Errorf("InvalidParameterValue", "Instance '%s' already has an interface attached at device index '%d'.", i.ID, index)
		}
	}
	return nil
}

// checkDevices refuses more interfaces than an instance may have.
func (t *tx) checkDevices(instanceType string, count int, indices ...int) error {
	limit := t.limits().InterfacesPerInstance
	if count > limit {
		return Errorf("AttachmentLimitExceeded", "Interface count %d exceeds the limit for %s: %d", count, instanceType, limit)
	}
	for _, index := range indices {
		if index < 0 || index > maxDeviceIndex {
			return Errorf("InvalidParameterValue", "Invalid value '%d' for deviceIndex: it is from 0 to %d", index, maxDeviceIndex)
		}
	}
	return nil
}

// maxDeviceIndex is the highest place of an interface in an instance, whatever the limit
// of their number is.
const maxDeviceIndex = 31

func inUse(id InterfaceID) *Error {
	return Errorf("InvalidNetworkInterface.InUse", "Interface: [%s] in use.", id)
}

// Kept says what becomes of an interface when its instance is terminated.
type Kept bool

const (
	KeepInterface   Kept = true
	DeleteInterface Kept = false
)

// plug attaches an interface to an instance, and puts it to work if the instance is not
// stopped. The caller puts the row.
func (t *tx) plug(eni *Interface, i *Instance, index int, kept Kept) {
	eni.Instance = i.ID
	eni.Attachment = &Attachment{
		ID:                  AttachmentID(t.meta.longID("eni-attach", t.serial())),
		DeviceIndex:         index,
		Time:                t.meta.Time,
		DeleteOnTermination: kept == DeleteInterface,
	}
	if i.State != Stopped {
		t.activate(eni, i.Node)
	}
}

// DetachNetworkInterface takes an interface out of its instance. Where the instance runs,
// its addresses leave every set with this command, and it is free when its node has taken
// the port down and reports so. Force ends a detachment that the node does not report.
// Result: Interface.
type DetachNetworkInterface struct {
	Account    AccountID
	Region     Region
	Attachment AttachmentID
	Force      bool `json:",omitempty"`
}

func (r *DetachNetworkInterface) apply(t *tx) (Result, error) {
	was, err := t.attachmentOf(r.Account, r.Region, r.Attachment)
	if err != nil {
		return Result{}, err
	}
	switch {
	case was.Outside != nil:
		return Result{}, Errorf("OperationNotPermitted", "You are not allowed to manage this attachment: %s is in front of %s of node %s, which `palisade detach` undoes", was.ID, was.Outside, was.Node)
	case deviceIndex(was) == 0:
		return Result{}, Errorf("OperationNotPermitted", "The network interface at device index 0 and networkCard index 0 cannot be detached.")
	case was.State == Draining && !was.Attachment.Detaching && t.ending(was.Instance):
		return Result{}, Errorf("IncorrectState", "The instance '%s' is shutting down, and its interfaces end with it", was.Instance)
	case was.State == Idle, was.Attachment.Detaching && r.Force:
		t.ended(was, false)
	case was.Attachment.Detaching:
		return Result{}, Errorf("IncorrectState", "The attachment '%s' is being detached already", r.Attachment)
	default:
		t.unplug(was)
	}
	return Result{Interface: first[Interface](t.Txn, tableInterface, indexID, key(was.ID))}, nil
}

func (t *tx) ending(id InstanceID) bool {
	return first[Instance](t.Txn, tableInstance, indexID, key(id)).State == ShuttingDown
}

// unplug begins to end an attachment that is at a node.
func (t *tx) unplug(was *Interface) {
	eni, attachment := *was, *was.Attachment
	attachment.Detaching = true
	eni.State, eni.Attachment = Draining, &attachment
	t.put(tableInterface, &eni)
}

// ReportInterface is what a node says about an interface of its own that leaves an
// instance which goes on, or the machine it was put in front of: the port is down. Epoch
// is the lease the node speaks of; a report about another is old and changes nothing. Nor
// does one about an interface whose instance ends: ReportInstance says that all of its
// ports are down.
type ReportInterface struct {
	Interface InterfaceID
	Epoch     uint64
}

func (r *ReportInterface) apply(t *tx) (Result, error) {
	eni := first[Interface](t.Txn, tableInterface, indexID, key(r.Interface))
	if eni == nil || eni.Epoch != r.Epoch || eni.State != Draining || eni.Attachment == nil || !eni.Attachment.Detaching {
		return Result{}, nil
	}
	t.ended(eni, eni.Outside != nil)
	return Result{}, nil
}

var attachmentID = regexp.MustCompile(`^eni-attach-[0-9a-f]{1,17}$`)

func (t *tx) attachmentOf(account AccountID, region Region, id AttachmentID) (*Interface, error) {
	if id == "" {
		return nil, Missing("attachmentId")
	}
	if !attachmentID.MatchString(string(id)) {
		return nil, Errorf("InvalidAttachmentId.Malformed", `Invalid id: "%s" (expecting "eni-attach-...")`, Clip(string(id)))
	}
	for eni := range rows[Interface](t.Txn, tableInterface, indexOwner, key(account)+key(region)) {
		if eni.Attachment != nil && eni.Attachment.ID == id {
			return eni, nil
		}
	}
	return nil, Errorf("InvalidAttachmentID.NotFound", "The attachment ID '%s' does not exist", id)
}

// attached are the interfaces of an instance, by device index.
func (t *tx) attached(id InstanceID) []*Interface {
	list := slices.Collect(rows[Interface](t.Txn, tableInterface, indexHolder, key(id)))
	slices.SortFunc(list, func(a, b *Interface) int { return deviceIndex(a) - deviceIndex(b) })
	return list
}

// deviceIndex is 0 in EC2-Classic, which knows no attachments.
func deviceIndex(i *Interface) int {
	if i.Attachment == nil {
		return 0
	}
	return i.Attachment.DeviceIndex
}
