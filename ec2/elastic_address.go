package ec2

import (
	"net/netip"
)

// An ElasticAddress is a public address that an account keeps until it releases it, whether
// or not the address is associated with an interface.
type ElasticAddress struct {
	ID      AllocationID
	Account AccountID
	Region  Region
	Public  netip.Addr

	Association AssociationID // "eipassoc-…"; "" while it is not associated
	Interface   InterfaceID
	Private     netip.Addr // the private address of Interface that Public is translated to
}
