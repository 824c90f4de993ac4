package ec2

import (
	"net/netip"
)

// An ElasticAddress is a public address that an account keeps, whether an interface has
// it or not.
type ElasticAddress struct {
	ID      AllocationID
	Account AccountID
	Region  Region
	Public  netip.Addr

	Association AssociationID // "eipassoc-…"; "" while nobody has it
	Interface   InterfaceID
	Private     netip.Addr // which of the interface's addresses
}
