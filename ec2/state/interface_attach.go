package state

import (
	"regexp"
	"slices"
	"strings"

	"palisade/ec2"
)

// AttachNetworkInterface attaches an interface to an instance in the same zone and VPC. A running
// instance gets the interface at once, a stopped instance when it starts. Result: Interface.
type AttachNetworkInterface struct {
	Account     ec2.AccountID
	Region      ec2.Region
	Interface   ec2.InterfaceID
	Instance    ec2.InstanceID
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
	t.attach(&eni, i, r.DeviceIndex, ec2.KeepInterface)
	t.put(tableInterface, &eni)
	return Result{Interface: &eni}, nil
}

// attachable returns EC2's error if EC2 would refuse the attachment.
func (t *tx) attachable(eni *ec2.Interface, i *ec2.Instance, index int) error {
	if i.VPC == "" {
		return ec2.Errorf("InvalidParameterCombination", "Network interfaces are attached to instances in a VPC, and '%s' is in EC2-Classic", i.ID)
	}
	if eni.Attachment != nil {
		return interfaceInUse(eni.ID)
	}
	if i.State != ec2.Pending && i.State != ec2.Running && i.State != ec2.Stopped {
		return ec2.Errorf("IncorrectState", "The instance '%s' is not in a state in which an interface can be attached: it is %s", i.ID, i.State)
	}
	if eni.VPC != i.VPC {
		return ec2.Errorf("InvalidParameterCombination", "You may not attach a network interface to an instance if they are not in the same VPC")
	}
	if s := first[ec2.Subnet](t.Txn, tableSubnet, indexID, key(eni.Subnet)); s.Zone != i.Zone {
		return ec2.Errorf("InvalidParameterCombination", "You may not attach a network interface to an instance if they are not in the same availability zone")
	}
	has := t.attached(i.ID)
	if err := t.checkDevices(i.Type, len(has)+1, index); err != nil {
		return err
	}
	for _, o := range has {
		if deviceIndex(o) == index {
			return ec2.Errorf("InvalidParameterValue", "Instance '%s' already has an interface attached at device index '%d'.", i.ID, index)
		}
	}
	return nil
}

// checkDevices returns an error if count is more interfaces than an instance may have, and for an
// invalid device index.
func (t *tx) checkDevices(instanceType string, count int, indices ...int) error {
	limit := t.limits().InterfacesPerInstance
	if count > limit {
		return ec2.Errorf("AttachmentLimitExceeded", "Interface count %d exceeds the limit for %s: %d", count, instanceType, limit)
	}
	for _, index := range indices {
		if index < 0 || index > maxDeviceIndex {
			return ec2.Errorf("InvalidParameterValue", "Invalid value '%d' for deviceIndex: it is from 0 to %d", index, maxDeviceIndex)
		}
	}
	return nil
}

// maxDeviceIndex is the highest device index. It does not depend on the number of interfaces.
const maxDeviceIndex = 31

func interfaceInUse(id ec2.InterfaceID) *ec2.Error {
	return ec2.Errorf("InvalidNetworkInterface.InUse", "Interface: [%s] in use.", id)
}

// attach attaches an interface to an instance, and activates it unless the instance is stopped. The
// caller must put the row of the interface.
func (t *tx) attach(eni *ec2.Interface, i *ec2.Instance, index int, onTermination ec2.OnTermination) {
	eni.Instance = i.ID
	eni.Attachment = &ec2.Attachment{
		ID:                  ec2.AttachmentID(t.meta.longID("eni-attach", t.serial())),
		DeviceIndex:         index,
		Time:                t.meta.Time,
		DeleteOnTermination: onTermination == ec2.DeleteInterface,
	}
	if i.State != ec2.Stopped {
		t.activate(eni, i.Node)
	}
}

// DetachNetworkInterface detaches an interface from its instance. If the instance runs, the
// addresses leave all groups with this command, and the interface is detached when the node
// reports that the port is down. A second request with Force does not wait for that report.
// Result: Interface.
type DetachNetworkInterface struct {
	Account    ec2.AccountID
	Region     ec2.Region
	Attachment ec2.AttachmentID
	Force      bool `json:",omitempty"`
}

func (r *DetachNetworkInterface) apply(t *tx) (Result, error) {
	was, err := t.attachmentOf(r.Account, r.Region, r.Attachment)
	if err != nil {
		return Result{}, err
	}
	switch {
	case was.External != nil:
		return Result{}, ec2.Errorf("OperationNotPermitted", "You are not allowed to manage this attachment: %s is attached to %s of node %s; use `palisade detach`", was.ID, was.External, was.Node)
	case deviceIndex(was) == 0:
		return Result{}, ec2.Errorf("OperationNotPermitted", "The network interface at device index 0 and networkCard index 0 cannot be detached.")
	case was.State == ec2.Draining && !was.Attachment.Detaching && t.isShuttingDown(was.Instance):
		return Result{}, ec2.Errorf("IncorrectState", "The instance '%s' is shutting down, and its interfaces end with it", was.Instance)
	case was.State == ec2.Idle, was.Attachment.Detaching && r.Force:
		t.detach(was)
	case was.Attachment.Detaching:
		return Result{}, ec2.Errorf("IncorrectState", "The attachment '%s' is being detached already", r.Attachment)
	default:
		t.beginDetach(was)
	}
	return Result{Interface: first[ec2.Interface](t.Txn, tableInterface, indexID, key(was.ID))}, nil
}

func (t *tx) isShuttingDown(id ec2.InstanceID) bool {
	return first[ec2.Instance](t.Txn, tableInstance, indexID, key(id)).State == ec2.ShuttingDown
}

// beginDetach makes an interface at a node Draining. The interface is detached when the node
// reports that the port is down.
func (t *tx) beginDetach(was *ec2.Interface) {
	eni, attachment := *was, *was.Attachment
	attachment.Detaching = true
	eni.State, eni.Attachment = ec2.Draining, &attachment
	t.put(tableInterface, &eni)
}

// ReportInterface is a report of a node that the port of an interface is down, because the
// interface is being detached from a running instance or from an external device. A report with
// another Epoch is about an earlier lease and changes nothing. Neither does a report about an
// interface whose instance ends: ReportInstance is for that.
type ReportInterface struct {
	Interface ec2.InterfaceID
	Epoch     uint64
}

func (r *ReportInterface) apply(t *tx) (Result, error) {
	eni := first[ec2.Interface](t.Txn, tableInterface, indexID, key(r.Interface))
	if eni == nil || eni.Epoch != r.Epoch || eni.State != ec2.Draining || eni.Attachment == nil || !eni.Attachment.Detaching {
		return Result{}, nil
	}
	if eni.External != nil {
		t.deleteOrDetach(eni)
	} else {
		t.detach(eni)
	}
	return Result{}, nil
}

var attachmentID = regexp.MustCompile(`^eni-attach-[0-9a-f]{1,17}$`)

func (t *tx) attachmentOf(account ec2.AccountID, region ec2.Region, id ec2.AttachmentID) (*ec2.Interface, error) {
	if id == "" {
		return nil, ec2.Missing("attachmentId")
	}
	if strings.HasPrefix(string(id), "ela-attach-") { // of a NAT gateway
		return nil, ec2.Errorf("OperationNotPermitted", "You are not allowed to manage 'ela-attach' attachments.")
	}
	if !attachmentID.MatchString(string(id)) {
		return nil, ec2.Errorf("InvalidAttachmentId.Malformed", `Invalid id: "%s" (expecting "eni-attach-...")`, ec2.Clip(string(id)))
	}
	for eni := range rows[ec2.Interface](t.Txn, tableInterface, indexOwner, key(account)+key(region)) {
		if eni.Attachment != nil && eni.Attachment.ID == id {
			return eni, nil
		}
	}
	return nil, ec2.Errorf("InvalidAttachmentID.NotFound", "The attachment ID '%s' does not exist", id)
}

// attached returns the interfaces of an instance, sorted by device index.
func (t *tx) attached(id ec2.InstanceID) []*ec2.Interface {
	list := slices.Collect(rows[ec2.Interface](t.Txn, tableInterface, indexHolder, key(id)))
	slices.SortFunc(list, func(a, b *ec2.Interface) int { return deviceIndex(a) - deviceIndex(b) })
	return list
}

// deviceIndex returns the device index of an interface. It is 0 in EC2-Classic, where interfaces
// have no Attachment.
func deviceIndex(i *ec2.Interface) int {
	if i.Attachment == nil {
		return 0
	}
	return i.Attachment.DeviceIndex
}
