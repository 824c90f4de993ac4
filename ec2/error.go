package ec2

import (
	"fmt"
	"strings"
)

// An Error is a mistake of the caller, with AWS's code. A request that is refused with an Error
// changes no resource.
type Error struct {
	Code    string // "InvalidGroup.NotFound"
	Message string
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Errorf returns an Error with a formatted message.
func Errorf(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Missing returns the Error for a request without a required parameter.
func Missing(parameter string) *Error {
	return Errorf("MissingParameter", "The request must contain the parameter %s", parameter)
}

// NoSuch returns EC2's error for an id that names no resource of the caller. Kind is the prefix
// that such an id has: "vpc".
func NoSuch[ID ~string](kind string, id ID) *Error {
	known := notFound[kind]
	return Errorf(known.code, known.text, Clip(string(id)))
}

// notFound has AWS's code and text for each prefix of an id (EC2 API Reference, "Error codes").
var notFound = map[string]struct{ code, text string }{
	"sg":       {"InvalidGroup.NotFound", "The security group '%s' does not exist"},
	"sgr":      {"InvalidSecurityGroupRuleId.NotFound", "The security group rule ID '%s' does not exist"},
	"i":        {"InvalidInstanceID.NotFound", "The instance ID '%s' does not exist"},
	"eni":      {"InvalidNetworkInterfaceID.NotFound", "The networkInterface ID '%s' does not exist"},
	"vol":      {"InvalidVolume.NotFound", "The volume '%s' does not exist."},
	"vpc":      {"InvalidVpcID.NotFound", "The vpc ID '%s' does not exist"},
	"acl":      {"InvalidNetworkAclID.NotFound", "The networkAcl ID '%s' does not exist"},
	"subnet":   {"InvalidSubnetID.NotFound", "The subnet ID '%s' does not exist"},
	"igw":      {"InvalidInternetGatewayID.NotFound", "The internetGateway ID '%s' does not exist"},
	"rtb":      {"InvalidRouteTableID.NotFound", "The routeTable ID '%s' does not exist"},
	"eipalloc": {"InvalidAllocationID.NotFound", "The allocation ID '%s' does not exist"},
	"nat":      {"NatGatewayNotFound", "The Nat Gateway %s was not found"},
	"pl":       {"InvalidPrefixListID.NotFound", "The prefix list ID '%s' does not exist"},
	"key":      {"InvalidKeyPair.NotFound", "The key pair ID '%s' does not exist"},
	"dopt":     {"InvalidDhcpOptionID.NotFound", "The dhcpOption ID '%s' does not exist"},
	"aclassoc": {"InvalidAssociationID.NotFound", "The association ID '%s' does not exist"},
	"lt":       {"InvalidLaunchTemplateId.NotFound", "The specified launch template, with template ID %s, does not exist."},
	"pcx":      {"InvalidVpcPeeringConnectionID.NotFound", "The vpcPeeringConnection ID '%s' does not exist"},
	"pg":       {"InvalidPlacementGroup.Unknown", "The Placement Group '%s' is unknown."},
	"eipassoc": {"InvalidAssociationID.NotFound", "The association ID '%s' does not exist"},
	"rtbassoc": {"InvalidAssociationID.NotFound", "The association ID '%s' does not exist"},

	"vpc-cidr-assoc": {"InvalidVpcCidrBlockAssociationID.NotFound", "The vpc CIDR block association ID '%s' does not exist"},
}

// NoSuchResource returns EC2's error for an id that names no resource of the caller. It finds the
// kind of the resource by the prefix of the id.
func NoSuchResource[ID ~string](id ID) *Error {
	kind, digits, _ := strings.Cut(string(id), "-")
	known, ok := notFound[kind]
	if !ok || strings.Trim(digits, "0123456789abcdef") != "" || len(digits) > 17 || digits == "" {
		return Errorf("InvalidID", "The ID '%s' is not valid", Clip(string(id)))
	}
	return Errorf(known.code, known.text, id)
}
