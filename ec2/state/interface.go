package state

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/netip"

	"palisade/ec2"
)

// interfaceRequests are the requests for interfaces in VPCs, and those that reboot and modify
// instances.
var interfaceRequests = []Request{
	&CreateNetworkInterface{}, &DeleteNetworkInterface{},
	&AttachNetworkInterface{}, &DetachNetworkInterface{}, &ReportInterface{},
	&ModifyNetworkInterface{}, &AssignPrivateAddresses{}, &UnassignPrivateAddresses{},
	&RegisterInterface{}, &UnregisterInterface{},
	&RebootInstances{}, &ModifyInstance{},
}

// An InterfaceSpec describes an interface that a request makes.
type InterfaceSpec struct {
	Subnet         ec2.SubnetID  `json:",omitempty"`
	Groups         []ec2.GroupID `json:",omitempty"` // none: the default group of the VPC
	Description    string        `json:",omitempty"`
	Private        netip.Addr    `json:",omitzero"`              // zero: any free one
	Secondary      []netip.Addr  `json:"Further,omitempty"`      // secondary addresses; or
	SecondaryCount int           `json:"FurtherCount,omitempty"` // the number of secondary addresses, any free ones
}

// CreateNetworkInterface makes a detached interface. A repeated request with the same ClientToken
// returns the same interface. Result: Interface.
type CreateNetworkInterface struct {
	Account     ec2.AccountID
	Region      ec2.Region
	Spec        InterfaceSpec
	ClientToken string            `json:",omitempty"`
	Tags        map[string]string `json:",omitempty"`
}

func (r *CreateNetworkInterface) apply(t *tx) (Result, error) {
	shape := shapeOf(r)
	if r.ClientToken != "" {
		made := first[ec2.Interface](t.Txn, tableInterface, indexToken, key(r.Account)+key(r.Region)+key(r.ClientToken))
		if made != nil && made.RequestShape != shape {
			return Result{}, tokenMismatch()
		}
		if made != nil {
			return Result{Interface: made}, nil
		}
	}
	if err := checkClientToken(r.ClientToken); err != nil {
		return Result{}, err
	}
	s, err := t.subnetOf(r.Account, r.Region, r.Spec.Subnet)
	if err != nil {
		return Result{}, err
	}
	if err := t.roomForInterfaces(r.Account, r.Region, 1); err != nil {
		return Result{}, err
	}
	eni, err := t.newSubnetLeaser(s).make(r.Spec)
	if err != nil {
		return Result{}, err
	}
	eni.ClientToken = r.ClientToken
	if r.ClientToken != "" {
		eni.RequestShape = shape
	}
	t.put(tableInterface, eni)
	if err := t.tag(string(eni.ID), r.Account, r.Region, r.Tags); err != nil {
		return Result{}, err
	}
	return Result{Interface: eni}, nil
}

// DeleteNetworkInterface deletes a detached interface. Its addresses go into quarantine. Result:
// Interface, as it was.
type DeleteNetworkInterface struct {
	Account   ec2.AccountID
	Region    ec2.Region
	Interface ec2.InterfaceID
}

func (r *DeleteNetworkInterface) apply(t *tx) (Result, error) {
	eni, err := t.interfaceOf(r.Account, r.Region, r.Interface)
	if err != nil {
		return Result{}, err
	}
	if eni.Attachment != nil {
		return Result{}, ec2.Errorf("InvalidParameterValue", "Network interface '%s' is currently in use.", eni.ID)
	}
	t.deleteInterface(eni)
	return Result{Interface: eni}, nil
}

// roomForInterfaces returns EC2's error if an account may not have that many more interfaces.
func (t *tx) roomForInterfaces(account ec2.AccountID, region ec2.Region, more int) error {
	if more > t.freeInterfaces(account, region) {
		return ec2.Errorf("NetworkInterfaceLimitExceeded", "You have reached the limit on the number of network interfaces that you can create: %d.", t.limits().InterfacesPerRegion)
	}
	return nil
}

// freeInterfaces returns how many more interfaces an account may make.
func (t *tx) freeInterfaces(account ec2.AccountID, region ec2.Region) int {
	free := t.limits().InterfacesPerRegion
	for eni := range rows[ec2.Interface](t.Txn, tableInterface, indexOwner, key(account)+key(region)) {
		if eni.VPC != "" {
			free--
		}
	}
	return free
}

// shapeOf returns a digest of a request. Requests with the same client token must have the same
// digest.
func shapeOf(r Request) string {
	data, err := json.Marshal(r)
	if err != nil {
		panic(fmt.Sprintf("state: shape of %+v: %v", r, err))
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

func tokenMismatch() *ec2.Error {
	return ec2.Errorf("IdempotentParameterMismatch", "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).")
}

func checkClientToken(token string) error {
	if !ec2.Printable(token, 64) {
		return ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter ClientToken is invalid. At most 64 ASCII characters.", ec2.Clip(token))
	}
	return nil
}
