package query

func init() {
	for name, d := range map[string]description{
		"AcceptVpcPeeringConnection":        {"Accepts a request to peer a VPC of the account; the peering is active at once.", "The state provisioning is never shown."},
		"AssociateSecurityGroupVpc":         {"Lets interfaces in another VPC of the region have a group.", "The association is there at once."},
		"CreateVpcPeeringConnection":        {"Requests to peer two VPCs, also of two accounts or regions.", "The state initiating-request is never shown: the answer has the state that follows it."},
		"DeleteVpcPeeringConnection":        {"Deletes a peering, or takes a request back.", "The state deleting is never shown."},
		"DescribeVpcPeeringConnections":     {"Shows the peerings and requests of both sides.", ""},
		"DisassociateSecurityGroupVpc":      {"Ends the use of a group in another VPC.", "A rule of a group of that VPC that names the group prevents it too."},
		"ModifyVpcPeeringConnectionOptions": {"Sets whether names resolve to private addresses from the peer.", "Names are not resolved here, so the option is kept and shown only; options of ClassicLink are UnsupportedOperation."},
		"RejectVpcPeeringConnection":        {"Rejects a request to peer a VPC of the account.", ""},
	} {
		descriptions[name] = d
	}
}
