package state

import (
	"slices"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// AssociateRouteTable associates a subnet with a table. Result: RouteTable, Association.
type AssociateRouteTable struct {
	Account    ec2.AccountID
	Region     ec2.Region
	RouteTable ec2.RouteTableID
	Subnet     ec2.SubnetID
}

func (r *AssociateRouteTable) apply(t *tx) (Result, error) {
	rt, err := t.routeTable(r.Account, r.Region, r.RouteTable)
	if err != nil {
		return Result{}, err
	}
	s, err := t.subnetOf(r.Account, r.Region, r.Subnet)
	if err != nil {
		return Result{}, err
	}
	if s.VPC != rt.VPC {
		return Result{}, ec2.Errorf("InvalidParameterValue", "route table %s and subnet %s belong to different networks", rt.ID, s.ID)
	}
	if o, at := associated(t.Txn, s); o != nil {
		if o.ID == rt.ID {
			return Result{RouteTable: rt, Association: o.Associations[at].ID}, nil
		}
		return Result{}, ec2.Errorf("Resource.AlreadyAssociated", "the specified association for route table %s conflicts with an existing association", rt.ID)
	}
	return t.associate(rt, s.ID), nil
}

func (t *tx) associate(rt *ec2.RouteTable, s ec2.SubnetID) Result {
	id := ec2.AssociationID(t.meta.longID("rtbassoc", t.serial()))
	now := t.putRouteTable(rt, func(now *ec2.RouteTable) {
		now.Associations = append(now.Associations, ec2.RouteAssociation{ID: id, Subnet: s})
	})
	return Result{RouteTable: now, Association: id}
}

// DisassociateRouteTable ends an association, so that the main table applies to the subnet again.
// Result: RouteTable.
type DisassociateRouteTable struct {
	Account     ec2.AccountID
	Region      ec2.Region
	Association ec2.AssociationID
}

func (r *DisassociateRouteTable) apply(t *tx) (Result, error) {
	rt, at, err := t.association(r.Account, r.Region, r.Association)
	if err != nil {
		return Result{}, err
	}
	if at == mainAssociation {
		return Result{}, ec2.Errorf("InvalidParameterValue", "cannot disassociate the main route table association %s", r.Association)
	}
	now := t.putRouteTable(rt, func(now *ec2.RouteTable) { now.Associations = slices.Delete(now.Associations, at, at+1) })
	return Result{RouteTable: now}, nil
}

// ReplaceRouteTableAssociation replaces the table that is associated with a subnet, or the main
// table of a VPC. The association gets a new id. Result: RouteTable, Association.
type ReplaceRouteTableAssociation struct {
	Account     ec2.AccountID
	Region      ec2.Region
	Association ec2.AssociationID
	RouteTable  ec2.RouteTableID
}

func (r *ReplaceRouteTableAssociation) apply(t *tx) (Result, error) {
	was, at, err := t.association(r.Account, r.Region, r.Association)
	if err != nil {
		return Result{}, err
	}
	rt, err := t.routeTable(r.Account, r.Region, r.RouteTable)
	if err != nil {
		return Result{}, err
	}
	switch {
	case rt.VPC != was.VPC:
		return Result{}, ec2.Errorf("InvalidParameterValue", "route table %s and route table %s belong to different networks", rt.ID, was.ID)
	case rt.ID == was.ID:
		return Result{RouteTable: rt, Association: r.Association}, nil
	case at != mainAssociation:
		subnet := was.Associations[at].Subnet
		t.putRouteTable(was, func(now *ec2.RouteTable) { now.Associations = slices.Delete(now.Associations, at, at+1) })
		return t.associate(rt, subnet), nil
	}
	id := ec2.AssociationID(t.meta.longID("rtbassoc", t.serial()))
	t.putRouteTable(was, func(now *ec2.RouteTable) { now.Main = "" })
	now := t.putRouteTable(rt, func(now *ec2.RouteTable) { now.Main = id })
	if had := first[ec2.VPC](t.Txn, tableVPC, indexID, key(rt.VPC)); had != nil {
		vpc := *had
		vpc.RouteTable = rt.ID
		t.put(tableVPC, &vpc)
	}
	return Result{RouteTable: now, Association: id}, nil
}

// mainAssociation is the index that the method association returns for the association of a main
// table.
const mainAssociation = -1

// The method association returns the route table that has an association, and the index of the
// association in the table.
func (t *tx) association(account ec2.AccountID, region ec2.Region, id ec2.AssociationID) (rt *ec2.RouteTable, at int, err error) {
	if id == "" {
		return nil, 0, ec2.Missing("associationId")
	}
	for rt := range rows[ec2.RouteTable](t.Txn, tableRoutes, indexOwner, key(account)+key(region)) {
		if rt.Main == id {
			return rt, mainAssociation, nil
		}
		for at, a := range rt.Associations {
			if a.ID == id {
				return rt, at, nil
			}
		}
	}
	return nil, 0, ec2.NoSuch("rtbassoc", id)
}

// RouteTableOf returns the route table that applies to a subnet: the table that the subnet is
// associated with, or the main table of its VPC.
func (v *View) RouteTableOf(s *ec2.Subnet) *ec2.RouteTable {
	if own, _ := associated(v.txn(), s); own != nil {
		return own
	}
	vpc, ok := v.VPC(s.VPC)
	if !ok {
		return nil
	}
	main, _ := v.RouteTable(vpc.RouteTable)
	return main
}

// associated returns the route table that a subnet is associated with, and the index of the
// association. The table is nil if the main table applies.
func associated(txn *memdb.Txn, s *ec2.Subnet) (*ec2.RouteTable, int) {
	for rt := range rows[ec2.RouteTable](txn, tableRoutes, indexVPC, key(s.VPC)) {
		for at, a := range rt.Associations {
			if a.Subnet == s.ID {
				return rt, at
			}
		}
	}
	return nil, 0
}
