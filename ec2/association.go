package ec2

// A RouteAssociation makes a table that of a subnet.
type RouteAssociation struct {
	ID     AssociationID
	Subnet SubnetID
}
