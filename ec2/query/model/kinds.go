package model

import "strings"

// A Kind is a kind of resource that no account has here, with EC2's errors for ids of it.
type Kind struct {
	Prefix    string // of ids: "nat"; "" if ids have other forms too
	Malformed string // the code for an id of another form
	NotFound  string // the code for an id that names nothing
	Text      string // the message of NotFound, with %s for the id
}

// kinds has the kinds by the parameter that names one, if their codes or texts do not follow
// the general form of KindNamedBy (EC2 API Reference, "Error codes"; the codes that the
// Terraform provider expects; EC2, observed).
var kinds = map[string]Kind{
	"BundleId":                    {"bun", "InvalidBundleID.Malformed", "InvalidBundleID.NotFound", "The bundle ID '%s' does not exist"},
	"CapacityReservationId":       {"cr", "InvalidCapacityReservationId.Malformed", "InvalidCapacityReservationId.NotFound", "The capacity reservation '%s' does not exist"},
	"CarrierGatewayId":            {"cagw", "InvalidCarrierGatewayID.Malformed", "InvalidCarrierGatewayID.NotFound", "The carrier gateway ID '%s' does not exist"},
	"ClientVpnEndpointId":         {"cvpn-endpoint", "InvalidClientVpnEndpointId.Malformed", "InvalidClientVpnEndpointId.NotFound", "Endpoint %s does not exist"},
	"ConnectionNotificationId":    {"vpce-nfn", "InvalidConnectionNotification", "InvalidConnectionNotification", "The connection notification ID '%s' does not exist"},
	"ConversionTaskId":            {"", "InvalidConversionTaskId.Malformed", "InvalidConversionTaskId", "The conversion task ID '%s' does not exist"},
	"CustomerGatewayId":           {"cgw", "InvalidCustomerGatewayId.Malformed", "InvalidCustomerGatewayID.NotFound", "The customerGateway ID '%s' does not exist"},
	"EgressOnlyInternetGatewayId": {"eigw", "InvalidEgressOnlyInternetGatewayId.Malformed", "InvalidGatewayID.NotFound", "The eigw ID '%s' does not exist"},
	"ElasticGpuId":                {"egpu", "InvalidElasticGpuID.Malformed", "InvalidElasticGpuID.NotFound", "The elastic GPU ID '%s' does not exist"},
	"ExportTaskId":                {"", "InvalidExportTaskID.Malformed", "InvalidExportTaskID.NotFound", "The export task ID '%s' does not exist"},
	"FlowLogId":                   {"fl", "InvalidFlowLogId.Malformed", "InvalidFlowLogId.NotFound", "These flow log ids in the input list are not found: [TotalCount: 1] %s"},
	"FpgaImageId":                 {"afi", "InvalidFpgaImageID.Malformed", "InvalidFpgaImageID.NotFound", "The FPGA image ID '%s' does not exist"},
	"HostId":                      {"h", "InvalidHostID.Malformed", "InvalidHostID.NotFound", "The specified host '%s' could not be found"},
	"HostIdSet":                   {"h", "InvalidHostID.Malformed", "InvalidHostID.NotFound", "The specified host '%s' could not be found"},
	"HostReservationIdSet":        {"hr", "InvalidHostReservationId.Malformed", "InvalidHostReservationId.NotFound", "The host reservation ID '%s' does not exist"},
	"ImportTaskId":                {"", "InvalidConversionTaskId.Malformed", "InvalidConversionTaskId.Malformed", "The import task ID '%s' does not exist"},
	"InstanceConnectEndpointId":   {"eice", "InvalidInstanceConnectEndpointId.Malformed", "InvalidInstanceConnectEndpointId.NotFound", "The instance connect endpoint ID '%s' does not exist"},
	"LaunchTemplateId":            {"lt", "InvalidLaunchTemplateId.Malformed", "InvalidLaunchTemplateId.NotFound", "The specified launch template, with template ID %s, does not exist."},
	"LaunchTemplateName":          {"", "", "InvalidLaunchTemplateName.NotFoundException", "The specified launch template, with template name %s, does not exist."},
	"NatGatewayId":                {"nat", "NatGatewayMalformed", "NatGatewayNotFound", "The Nat Gateway %s was not found"},
	"PoolId":                      {"", "InvalidPoolID.Malformed", "InvalidPoolID.NotFound", "The pool ID '%s' does not exist"},
	"PrefixListId":                {"pl", "InvalidPrefixListId.Malformed", "InvalidPrefixListID.NotFound", "The prefix list ID '%s' does not exist"},
	"ReservedInstanceId":          {"", "InvalidReservedInstancesId", "InvalidReservedInstancesId", "The Reserved Instances ID '%s' does not exist"},
	"ReservedInstancesId":         {"", "InvalidReservedInstancesId", "InvalidReservedInstancesId", "The Reserved Instances ID '%s' does not exist"},
	"ReservedInstancesOfferingId": {"", "InvalidReservedInstancesOfferingId", "InvalidReservedInstancesOfferingId", "The Reserved Instances offering ID '%s' does not exist"},
	"ServiceId":                   {"vpce-svc", "InvalidVpcEndpointServiceId.Malformed", "InvalidVpcEndpointServiceId.NotFound", "The VpcEndpointService Id '%s' does not exist"},
	"ServiceName":                 {"", "", "InvalidServiceName", "The Vpc Endpoint Service '%s' does not exist"},
	"SnapshotId":                  {"snap", "InvalidSnapshotID.Malformed", "InvalidSnapshot.NotFound", "The snapshot '%s' does not exist."},
	"SpotFleetRequestId":          {"", "InvalidSpotFleetRequestId.Malformed", "InvalidSpotFleetRequestId.NotFound", "The spot fleet request ID '%s' does not exist"},
	"SpotInstanceRequestId":       {"", "InvalidSpotInstanceRequestID.Malformed", "InvalidSpotInstanceRequestID.NotFound", "The spot instance request ID '%s' does not exist"},
	"TransitGatewayAttachmentId":  {"tgw-attach", "InvalidTransitGatewayAttachmentID.Malformed", "InvalidTransitGatewayAttachmentID.NotFound", "Transit Gateway Attachment %s was deleted or does not exist."},
	"TransitGatewayConnectPeerId": {"tgw-connect-peer", "InvalidTransitGatewayConnectPeerID.Malformed", "InvalidTransitGatewayConnectPeerID.NotFound", "Transit Gateway Connect Peer %s was deleted or does not exist."},
	"TransitGatewayId":            {"tgw", "InvalidTransitGatewayID.Malformed", "InvalidTransitGatewayID.NotFound", "Transit Gateway %s was deleted or does not exist."},
	"TransitGatewayRouteTableId":  {"tgw-rtb", "InvalidRouteTableId.Malformed", "InvalidRouteTableID.NotFound", "Transit Gateway Route Table %s was deleted or does not exist."},
	"VpcEndpointId":               {"vpce", "InvalidVpcEndpointId.Malformed", "InvalidVpcEndpointId.NotFound", "The Vpc Endpoint Id '%s' does not exist"},
	"VpcPeeringConnectionId":      {"pcx", "InvalidVpcPeeringConnectionId.Malformed", "InvalidVpcPeeringConnectionID.NotFound", "The vpcPeeringConnection ID '%s' does not exist"},
	"VpnConnectionId":             {"vpn", "InvalidVpnConnectionID", "InvalidVpnConnectionID.NotFound", "The vpnConnection ID '%s' does not exist"},
	"VpnGatewayId":                {"vgw", "InvalidVpnGatewayID.Malformed", "InvalidVpnGatewayID.NotFound", "The vpnGateway ID '%s' does not exist"},
}

// sharedIDs are parameters that end like the id of a kind and are none, or name a kind that
// accounts can have here.
var sharedIDs = map[string]bool{
	"AllocationId": true, "AvailabilityZoneId": true, "ImageId": true, "InstanceId": true, "ResourceId": true, "RouteTableId": true,
	"SubnetId": true, "VolumeId": true, "VpcId": true, "VpnConnectionDeviceTypeId": true,
}

// KindNamedBy returns the kind that a parameter of an action names. It is false for a parameter
// that is no id, and for the id of a kind that accounts can have here. The codes of a kind
// that AWS's reference does not list have the form of most others.
func KindNamedBy(action, parameter string) (Kind, bool) {
	name := parameter
	if strings.HasSuffix(name, "Ids") {
		name = strings.TrimSuffix(name, "s")
	}
	if action == "DescribePublicIpv4Pools" && name == "PoolId" {
		return Kind{"ipv4pool-ec2", "InvalidPublicIpv4PoolID.Malformed", "InvalidPublicIpv4PoolID.NotFound", "The public IPv4 pool ID '%s' does not exist"}, true
	}
	if k, ok := kinds[name]; ok {
		return k, true
	}
	if !strings.HasSuffix(name, "Id") || sharedIDs[name] {
		return Kind{}, false
	}
	return Kind{Malformed: "Invalid" + name + ".Malformed", NotFound: "Invalid" + name + ".NotFound", Text: "The " + spaced(name) + " '%s' does not exist"}, true
}

// spaced writes the name of an id's parameter as words: "ipam pool ID" for IpamPoolId.
func spaced(name string) string {
	var b strings.Builder
	for i, r := range strings.TrimSuffix(name, "Id") {
		if i > 0 && 'A' <= r && r <= 'Z' {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String()) + " ID"
}

// WellFormed reports whether an id has the form of its kind: the prefix and 1 to 17 hex digits.
func (k Kind) WellFormed(id string) bool {
	if k.Prefix == "" {
		return id != ""
	}
	digits, ok := strings.CutPrefix(id, k.Prefix+"-")
	return ok && digits != "" && len(digits) <= 17 && strings.Trim(digits, "0123456789abcdef") == ""
}
