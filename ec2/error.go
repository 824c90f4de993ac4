package ec2

import (
	"fmt"
	"strings"
)

// An Error is a mistake of the caller, with AWS's code. It changes nothing: a command
// that returns one has left the State as it was.
type Error struct {
	Code    string // "InvalidGroup.NotFound"
	Message string
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Errorf makes an Error.
func Errorf(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Missing is the Error of a request that does not say what it must.
func Missing(parameter string) *Error {
	return Errorf("MissingParameter", "The request must contain the parameter %s", parameter)
}

// NoSuch is EC2's error for an id that should be of a kind, named by its prefix, and
// names nothing of the caller's.
func NoSuch[ID ~string](kind string, id ID) *Error {
	known := notFound[kind]
	return Errorf(known.code, known.text, Clip(string(id)))
}

// notFound has, by the prefix of an id, AWS's code and what its text calls the resource
// (EC2 API Reference, "Error codes").
var notFound = map[string]struct{ code, text string }{
	"sg":       {"InvalidGroup.NotFound", "The security group '%s' does not exist"},
	"sgr":      {"InvalidSecurityGroupRuleId.NotFound", "The security group rule ID '%s' does not exist"},
	"i":        {"InvalidInstanceID.NotFound", "The instance ID '%s' does not exist"},
	"eni":      {"InvalidNetworkInterfaceID.NotFound", "The networkInterface ID '%s' does not exist"},
	"vpc":      {"InvalidVpcID.NotFound", "The vpc ID '%s' does not exist"},
	"acl":      {"InvalidNetworkAclID.NotFound", "The networkAcl ID '%s' does not exist"},
	"subnet":   {"InvalidSubnetID.NotFound", "The subnet ID '%s' does not exist"},
	"igw":      {"InvalidInternetGatewayID.NotFound", "The internetGateway ID '%s' does not exist"},
	"rtb":      {"InvalidRouteTableID.NotFound", "The routeTable ID '%s' does not exist"},
	"eipalloc": {"InvalidAllocationID.NotFound", "The allocation ID '%s' does not exist"},
	"key":      {"InvalidKeyPair.NotFound", "The key pair ID '%s' does not exist"},
	"dopt":     {"InvalidDhcpOptionID.NotFound", "The dhcpOption ID '%s' does not exist"},
	"eipassoc": {"InvalidAssociationID.NotFound", "The association ID '%s' does not exist"},
	"rtbassoc": {"InvalidAssociationID.NotFound", "The association ID '%s' does not exist"},
}

// NoSuchResource is EC2's error for an id that names nothing of the caller's.
func NoSuchResource[ID ~string](id ID) *Error {
	kind, digits, _ := strings.Cut(string(id), "-")
	known, ok := notFound[kind]
	if !ok || strings.Trim(digits, "0123456789abcdef") != "" || len(digits) > 17 || digits == "" {
		return Errorf("InvalidID", "The ID '%s' is not valid", Clip(string(id)))
	}
	return Errorf(known.code, known.text, id)
}
