package state

import "palisade/ec2"

// CreateInternetGateway makes a detached gateway. Result: Gateway.
type CreateInternetGateway struct {
	Account ec2.AccountID
	Region  ec2.Region
	Tags    map[string]string `json:",omitempty"`
}

func (r *CreateInternetGateway) apply(t *tx) (Result, error) {
	if _, err := t.platform(r.Account, r.Region); err != nil {
		return Result{}, err
	}
	count := 0
	for range rows[ec2.InternetGateway](t.Txn, tableGateway, indexOwner, key(r.Account)+key(r.Region)) {
		count++
	}
	if count >= t.limits().GatewaysPerRegion {
		return Result{}, ec2.Errorf("InternetGatewayLimitExceeded", "The maximum number of internet gateways has been reached.")
	}
	g := &ec2.InternetGateway{ID: ec2.GatewayID(t.meta.longID("igw", t.serial())), Account: r.Account, Region: r.Region}
	t.put(tableGateway, g)
	if err := t.tag(string(g.ID), r.Account, r.Region, r.Tags); err != nil {
		return Result{}, err
	}
	return Result{Gateway: g}, nil
}

// DeleteInternetGateway deletes a detached gateway. Routes to it stay, as black holes. Result:
// Gateway.
type DeleteInternetGateway struct {
	Account ec2.AccountID
	Region  ec2.Region
	Gateway ec2.GatewayID
}

func (r *DeleteInternetGateway) apply(t *tx) (Result, error) {
	g, err := t.gateway(r.Account, r.Region, r.Gateway)
	if err != nil {
		return Result{}, err
	}
	if g.VPC != "" {
		return Result{}, hasDependents("internetGateway", g.ID, []string{string(g.VPC)})
	}
	t.untag(string(g.ID))
	t.del(tableGateway, g)
	return Result{Gateway: g}, nil
}

// AttachInternetGateway connects a VPC, which has no gateway yet, with the internet. Result:
// Gateway.
type AttachInternetGateway struct {
	Account ec2.AccountID
	Region  ec2.Region
	Gateway ec2.GatewayID
	VPC     ec2.VPCID
}

func (r *AttachInternetGateway) apply(t *tx) (Result, error) {
	was, vpc, err := t.gatewayAndVPC(r.Account, r.Region, r.Gateway, r.VPC)
	if err != nil {
		return Result{}, err
	}
	if was.VPC != "" {
		return Result{}, ec2.Errorf("Resource.AlreadyAssociated", "resource %s is already attached to network %s", was.ID, was.VPC)
	}
	if t.gatewayOf(vpc.ID) != nil {
		return Result{}, ec2.Errorf("InvalidParameterValue", "Network %s already has an internet gateway attached", vpc.ID)
	}
	return t.attachGateway(was, vpc.ID), nil
}

// DetachInternetGateway disconnects a VPC from the internet. No interface in the VPC may have a
// public address. Routes to the gateway become black holes. Result: Gateway.
type DetachInternetGateway struct {
	Account ec2.AccountID
	Region  ec2.Region
	Gateway ec2.GatewayID
	VPC     ec2.VPCID
}

func (r *DetachInternetGateway) apply(t *tx) (Result, error) {
	was, vpc, err := t.gatewayAndVPC(r.Account, r.Region, r.Gateway, r.VPC)
	if err != nil {
		return Result{}, err
	}
	if was.VPC != vpc.ID {
		return Result{}, ec2.Errorf("Gateway.NotAttached", "resource %s is not attached to network %s", was.ID, vpc.ID)
	}
	if mapped := t.publicAddressesIn(vpc); len(mapped) > 0 {
		return Result{}, ec2.Errorf("DependencyViolation", "Network %s has some mapped public address(es). Please unmap those public address(es) before detaching the gateway. %s", vpc.ID, dependentObjects(mapped))
	}
	return t.attachGateway(was, ""), nil
}

// gatewayAndVPC returns the gateway and the VPC that a request names.
func (t *tx) gatewayAndVPC(account ec2.AccountID, region ec2.Region, id ec2.GatewayID, in ec2.VPCID) (*ec2.InternetGateway, *ec2.VPC, error) {
	g, err := t.gateway(account, region, id)
	if err != nil {
		return nil, nil, err
	}
	vpc, err := t.vpc(account, region, in)
	return g, vpc, err
}

// attachGateway attaches a gateway to a VPC, or detaches the gateway if vpc is "".
func (t *tx) attachGateway(was *ec2.InternetGateway, vpc ec2.VPCID) Result {
	g := *was
	g.VPC = vpc
	t.put(tableGateway, &g)
	return Result{Gateway: &g}
}

// publicAddressesIn returns texts that name the interfaces of a VPC with public addresses, and the
// addresses.
func (t *tx) publicAddressesIn(vpc *ec2.VPC) (ids []string) {
	for s := range rows[ec2.Subnet](t.Txn, tableSubnet, indexVPC, key(vpc.ID)) {
		for eni := range rows[ec2.Interface](t.Txn, tableInterface, indexSubnet, key(s.ID)) {
			for _, a := range eni.Addresses() {
				if a.Public.IsValid() {
					ids = append(ids, string(eni.ID)+" ("+a.Public.String()+")")
				}
			}
		}
	}
	return ids
}

// gatewayOf returns the internet gateway that is attached to a VPC, or nil.
func (t *tx) gatewayOf(vpc ec2.VPCID) *ec2.InternetGateway {
	return first[ec2.InternetGateway](t.Txn, tableGateway, indexVPC, key(vpc))
}
