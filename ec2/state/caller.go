package state

import (
	"reflect"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// A caller says which nodes may hand a request to the leader. The leader itself may propose every
// request: it makes users' requests from what they signed.
type caller int

const (
	byNobody caller = iota // callers does not have the request: it is refused
	byVoter                // an operator at a voter
	byUser                 // only the leader, from a user's signed request
	byLeader               // only the leader, by itself
	byOwner                // a report: only the node that the interface or instance is at
	byEither               // an operator at a voter, or the node that the interface is at
)

// callers has the caller of each request but Batch, by the name of its type.
var callers = map[string]caller{
	"CreateAccount": byVoter, "CreateAccessKey": byVoter, "DeleteAccessKey": byVoter, "UpdateAccessKey": byVoter,
	"CreateJoinToken": byVoter, "AdmitNode": byVoter, "FenceNode": byVoter, "RemoveNode": byVoter, "RegisterInterface": byVoter,
	"SetRegions": byVoter, "SetTracking": byVoter, "CutConnections": byVoter, "BeginRotation": byVoter,

	"Bootstrap": byLeader, "PutNetwork": byLeader, "PutNode": byLeader, "SealSecrets": byLeader, "Sweep": byLeader,
	"AdvanceRotation": byLeader, "MoveNATGateway": byLeader,

	"ReportInstance": byOwner, "ReportInterface": byOwner,
	"UnregisterInterface": byEither,

	"OpenRegion": byUser,

	"CreateSecurityGroup": byUser, "DeleteSecurityGroup": byUser,
	"AuthorizeRules": byUser, "RevokeRules": byUser, "ModifyRules": byUser, "UpdateRuleDescriptions": byUser,
	"RunInstances": byUser, "TerminateInstances": byUser, "StopInstances": byUser, "StartInstances": byUser,
	"RebootInstances": byUser, "ModifyInstance": byUser,
	"CreateKeyPair": byUser, "DeleteKeyPair": byUser, "CreateTags": byUser, "DeleteTags": byUser,
	"CreateNetworkInterface": byUser, "DeleteNetworkInterface": byUser, "ModifyNetworkInterface": byUser,
	"AttachNetworkInterface": byUser, "DetachNetworkInterface": byUser,
	"AssignPrivateAddresses": byUser, "UnassignPrivateAddresses": byUser,
	"CreateVPC": byUser, "CreateDefaultVPC": byUser, "DeleteVPC": byUser, "ModifyVPC": byUser,
	"AssociateVPCBlock": byUser, "DisassociateVPCBlock": byUser,
	"CreateNetworkACL": byUser, "DeleteNetworkACL": byUser, "ReplaceACLAssociation": byUser,
	"CreateACLEntry": byUser, "ReplaceACLEntry": byUser, "DeleteACLEntry": byUser,
	"CreateVolume": byUser, "ModifyVolume": byUser, "DeleteVolume": byUser, "AttachVolume": byUser, "DetachVolume": byUser,
	"CreateSubnet": byUser, "CreateDefaultSubnet": byUser, "DeleteSubnet": byUser, "ModifySubnet": byUser,
	"CreateInternetGateway": byUser, "DeleteInternetGateway": byUser, "AttachInternetGateway": byUser, "DetachInternetGateway": byUser,
	"CreateNATGateway": byUser, "DeleteNATGateway": byUser,
	"CreateRouteTable": byUser, "DeleteRouteTable": byUser, "CreateRoute": byUser, "ReplaceRoute": byUser, "DeleteRoute": byUser,
	"AssociateRouteTable": byUser, "DisassociateRouteTable": byUser, "ReplaceRouteTableAssociation": byUser,
	"CreateVPCPeering": byUser, "AcceptVPCPeering": byUser, "RejectVPCPeering": byUser, "DeleteVPCPeering": byUser,
	"ModifyVPCPeering": byUser, "AssociateGroupVPC": byUser, "DisassociateGroupVPC": byUser,
	"CreateLaunchTemplate": byUser, "CreateLaunchTemplateVersion": byUser, "ModifyLaunchTemplate": byUser,
	"DeleteLaunchTemplate": byUser, "DeleteLaunchTemplateVersions": byUser,
	"CreatePlacementGroup": byUser, "DeletePlacementGroup": byUser,
	"CreateDHCPOptions": byUser, "DeleteDHCPOptions": byUser, "AssociateDHCPOptions": byUser,
	"CreatePrefixList": byUser, "ModifyPrefixList": byUser, "RestorePrefixList": byUser, "DeletePrefixList": byUser,
	"MonitorInstances": byUser, "ModifyInstanceOptions": byUser,
	"AllocateAddress": byUser, "ReleaseAddress": byUser, "AssociateAddress": byUser, "DisassociateAddress": byUser,
}

// FromOwner reports whether a request is a report of a node about what is at the node.
func FromOwner(r Request) bool { return callerOf(r) == byOwner }

func callerOf(r Request) caller { return callers[reflect.TypeOf(r).Elem().Name()] }

// MayPropose returns an error unless another node may hand a request to the leader.
func (v *View) MayPropose(from ec2.NodeID, r Request) error {
	n, ok := v.Node(from)
	if !ok || !n.Member() {
		return ec2.Errorf("UnauthorizedOperation", "%s is no member of the cluster", from)
	}
	if b, ok := r.(*Batch); ok {
		for _, r := range b.Requests {
			if err := v.MayPropose(from, r); err != nil {
				return err
			}
		}
		return nil
	}
	name := reflect.TypeOf(r).Elem().Name()
	switch callerOf(r) {
	case byUser:
		return ec2.Errorf("UnauthorizedOperation", "%s is a request of users, and %s has no user's signature for it", name, from)
	case byLeader, byNobody:
		return ec2.Errorf("UnauthorizedOperation", "%s is proposed by the leader only, not by %s", name, from)
	}
	return checkCaller(v.txn(), from, r)
}

// checkCaller returns an error if a node may not have handed a request to the leader. Apply checks it
// again, on every node. from is "" in commands of earlier releases. The leader's own commands are
// from itself.
func checkCaller(t *memdb.Txn, from ec2.NodeID, r Request) error {
	if from == "" {
		return nil
	}
	if b, ok := r.(*Batch); ok {
		for _, r := range b.Requests {
			if err := checkCaller(t, from, r); err != nil {
				return err
			}
		}
		return nil
	}
	kind := callerOf(r)
	if kind == byUser || kind == byLeader {
		return nil
	}
	n := first[ec2.Node](t, tableNode, indexID, key(from))
	votes := n == nil || n.Votes() // the node is not in its table before the first commands of a cluster
	owner := placeOf(t, r)
	name := reflect.TypeOf(r).Elem().Name()
	switch {
	case kind == byOwner && owner != "" && owner != from:
		return ec2.Errorf("UnauthorizedOperation", "%s is about what is at %s, and %s may only report what is its own", name, owner, from)
	case kind == byEither && !votes && owner != from:
		return ec2.Errorf("UnauthorizedOperation", "%s is no voter, so its operator may only detach what is attached at %s", from, from)
	case kind == byVoter && !votes:
		return ec2.Errorf("UnauthorizedOperation", "%s is a request of an operator of the cluster, and %s is no voter", name, from)
	}
	return nil
}

// placeOf returns the node of the interface or instance that a request is about; "" if it is at
// none.
func placeOf(t *memdb.Txn, r Request) ec2.NodeID {
	switch r := r.(type) {
	case *ReportInstance:
		if i := first[ec2.Instance](t, tableInstance, indexID, key(r.Instance)); i != nil {
			return i.Node
		}
	case *ReportInterface:
		if i := first[ec2.Interface](t, tableInterface, indexID, key(r.Interface)); i != nil {
			return i.Node
		}
	case *UnregisterInterface:
		if i := first[ec2.Interface](t, tableInterface, indexID, key(r.Interface)); i != nil {
			return i.Node
		}
	}
	return ""
}
