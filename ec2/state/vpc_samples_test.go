package state

import (
	"net/netip"

	"palisade/ec2"
)

// vpcSamples returns one request of each type of vpcRequests, aclRequests, peeringRequests and tagRequests, with all fields set.
func vpcSamples() []Request {
	tags := map[string]string{"Name": "web", "stage": ""}
	return []Request{
		&CreateTags{albert, east, []string{"sg-455b6c31", "i-cfd732a6"}, tags},
		&CreateNetworkACL{albert, east, "vpc-0a1b2c3d", tags, "token"},
		&DeleteNetworkACL{albert, east, "acl-0a1b2c3d"},
		&ReplaceACLAssociation{albert, east, "aclassoc-0a1b2c3d", "acl-0a1b2c3d"},
		&CreateACLEntry{albert, east, "acl-0a1b2c3d", ec2.ACLEntry{Number: 100, Egress: true, Allow: true, CIDR: allIPv4}},
		&ReplaceACLEntry{albert, east, "acl-0a1b2c3d", ec2.ACLEntry{Number: 100, Egress: true, Allow: true, CIDR: allIPv4}},
		&DeleteACLEntry{albert, east, "acl-0a1b2c3d", 100, true},
		&DeleteTags{albert, east, []string{"sg-455b6c31"}, []TagSelector{{"Name", nil}, {"stage", new("")}}},
		&CreateVPC{albert, east, netip.MustParsePrefix("10.0.0.0/16"), tags},
		&DeleteVPC{albert, east, "vpc-0a1b2c3d"},
		&ModifyVPC{albert, east, "vpc-0a1b2c3d", new(false), new(true)},
		&CreateDefaultVPC{albert, east},
		&AssociateVPCBlock{albert, east, "vpc-0a1b2c3d", netip.MustParsePrefix("10.1.0.0/16")},
		&DisassociateVPCBlock{albert, east, "vpc-cidr-assoc-0a1b2c3d"},
		&CreateSubnet{albert, east, "vpc-0a1b2c3d", netip.MustParsePrefix("10.0.1.0/24"), "us-east-1a", tags},
		&CreateDefaultSubnet{albert, east, "us-east-1a"},
		&DeleteSubnet{albert, east, "subnet-0a1b2c3d"},
		&ModifySubnet{albert, east, "subnet-0a1b2c3d", new(false)},
		&CreateInternetGateway{albert, east, tags},
		&DeleteInternetGateway{albert, east, "igw-0a1b2c3d"},
		&AttachInternetGateway{albert, east, "igw-0a1b2c3d", "vpc-0a1b2c3d"},
		&DetachInternetGateway{albert, east, "igw-0a1b2c3d", "vpc-0a1b2c3d"},
		&CreateRouteTable{albert, east, "vpc-0a1b2c3d", tags, "token"},
		&DeleteRouteTable{albert, east, "rtb-0a1b2c3d"},
		&CreateRoute{Account: albert, Region: east, RouteTable: "rtb-0a1b2c3d", Destination: allIPv4, Gateway: "igw-0a1b2c3d"},
		&ReplaceRoute{Account: albert, Region: east, RouteTable: "rtb-0a1b2c3d", Destination: allIPv4, Gateway: "igw-0a1b2c3d"},
		&DeleteRoute{Account: albert, Region: east, RouteTable: "rtb-0a1b2c3d", Destination: allIPv4},
		&AssociateRouteTable{albert, east, "rtb-0a1b2c3d", "subnet-0a1b2c3d"},
		&DisassociateRouteTable{albert, east, "rtbassoc-0a1b2c3d"},
		&ReplaceRouteTableAssociation{albert, east, "rtbassoc-0a1b2c3d", "rtb-0a1b2c3d"},
		&AllocateAddress{albert, east, tags},
		&ReleaseAddress{albert, east, "eipalloc-0a1b2c3d"},
		&AssociateAddress{albert, east, "eipalloc-0a1b2c3d", "i-cfd732a6", "eni-0a1b2c3d", netip.MustParseAddr("10.0.1.4"), new(true)},
		&DisassociateAddress{albert, east, "eipassoc-0a1b2c3d"},
		&CreateVPCPeering{albert, east, "vpc-0a1b2c3d", "200000000002", "eu-west-1", "vpc-0a1b2c3e", tags},
		&AcceptVPCPeering{"200000000002", "eu-west-1", "pcx-0a1b2c3d"},
		&RejectVPCPeering{"200000000002", "eu-west-1", "pcx-0a1b2c3d"},
		&DeleteVPCPeering{"200000000002", "eu-west-1", "pcx-0a1b2c3d"},
		&ModifyVPCPeering{"200000000002", "eu-west-1", "pcx-0a1b2c3d", new(true), new(false)},
		&AssociateGroupVPC{albert, east, "sg-0a1b2c3d", "vpc-0a1b2c3d"},
		&DisassociateGroupVPC{albert, east, "sg-0a1b2c3d", "vpc-0a1b2c3d"},
	}
}
