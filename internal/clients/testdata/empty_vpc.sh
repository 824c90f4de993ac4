#!/bin/bash
# empty_vpc.sh VPC: deletes everything in a VPC, then the VPC. It asks for each kind of thing, whether there is one or not.
set -euo pipefail
vpc=$1

# ids KIND FILTER QUERY: the ids that `aws ec2 describe-KIND` finds, one on each line.
ids() {
  aws ec2 "describe-$1" --filters "$2" --query "$3" --output text | tr '\t' '\n' | sed '/^None$/d; /^$/d'
}
say() { echo "$*"; }

say "instances"
instances=$(ids instances "Name=vpc-id,Values=$vpc" 'Reservations[].Instances[?State.Name!=`terminated`][].InstanceId')
for instance in $instances; do
  aws ec2 modify-instance-attribute --instance-id "$instance" --no-disable-api-termination
done
if [ -n "$instances" ]; then
  aws ec2 terminate-instances --instance-ids $instances >/dev/null
  aws ec2 wait instance-terminated --instance-ids $instances
fi

say "NAT gateways"
for gateway in $(aws ec2 describe-nat-gateways --filter "Name=vpc-id,Values=$vpc" --query 'NatGateways[?State!=`deleted`].NatGatewayId' --output text); do
  aws ec2 delete-nat-gateway --nat-gateway-id "$gateway" >/dev/null
done

say "endpoints"
endpoints=$(ids vpc-endpoints "Name=vpc-id,Values=$vpc" 'VpcEndpoints[].VpcEndpointId')
[ -z "$endpoints" ] || aws ec2 delete-vpc-endpoints --vpc-endpoint-ids $endpoints

say "endpoint services"
ids vpc-endpoint-service-configurations Name=service-state,Values=Available 'ServiceConfigurations[].ServiceId'

say "peerings"
for side in requester accepter; do
  for peering in $(ids vpc-peering-connections "Name=$side-vpc-info.vpc-id,Values=$vpc" 'VpcPeeringConnections[].VpcPeeringConnectionId'); do
    aws ec2 delete-vpc-peering-connection --vpc-peering-connection-id "$peering"
  done
done

say "transit gateway attachments"
for attachment in $(ids transit-gateway-vpc-attachments "Name=vpc-id,Values=$vpc" 'TransitGatewayVpcAttachments[].TransitGatewayAttachmentId'); do
  aws ec2 delete-transit-gateway-vpc-attachment --transit-gateway-attachment-id "$attachment"
done

say "VPN gateways"
for gateway in $(ids vpn-gateways "Name=attachment.vpc-id,Values=$vpc" 'VpnGateways[].VpnGatewayId'); do
  aws ec2 detach-vpn-gateway --vpn-gateway-id "$gateway" --vpc-id "$vpc"
  aws ec2 delete-vpn-gateway --vpn-gateway-id "$gateway"
done
ids vpn-connections "Name=state,Values=available" 'VpnConnections[].VpnConnectionId'

say "flow logs"
for log in $(aws ec2 describe-flow-logs --filter "Name=resource-id,Values=$vpc" --query 'FlowLogs[].FlowLogId' --output text); do
  aws ec2 delete-flow-logs --flow-log-ids "$log"
done

say "egress-only and carrier gateways"
aws ec2 describe-egress-only-internet-gateways --query "EgressOnlyInternetGateways[?Attachments[?VpcId=='$vpc']].EgressOnlyInternetGatewayId" --output text
ids carrier-gateways "Name=vpc-id,Values=$vpc" 'CarrierGateways[].CarrierGatewayId'
ids local-gateway-route-table-vpc-associations "Name=vpc-id,Values=$vpc" 'LocalGatewayRouteTableVpcAssociations[].LocalGatewayRouteTableVpcAssociationId'

say "addresses and interfaces"
for interface in $(ids network-interfaces "Name=vpc-id,Values=$vpc" 'NetworkInterfaces[].NetworkInterfaceId'); do
  for association in $(ids addresses "Name=network-interface-id,Values=$interface" 'Addresses[].AssociationId'); do
    aws ec2 disassociate-address --association-id "$association"
  done
  attachment=$(aws ec2 describe-network-interfaces --network-interface-ids "$interface" --query 'NetworkInterfaces[0].Attachment.AttachmentId' --output text)
  if [ "$attachment" != None ]; then
    aws ec2 detach-network-interface --attachment-id "$attachment" --force
    aws ec2 wait network-interface-available --network-interface-ids "$interface"
  fi
  aws ec2 delete-network-interface --network-interface-id "$interface"
done
for address in $(aws ec2 describe-addresses --filters "Name=domain,Values=vpc" --query 'Addresses[?AssociationId==null].AllocationId' --output text); do
  aws ec2 release-address --allocation-id "$address"
done

# Groups that name each other cannot be deleted, so all rules go first.
say "rules of groups"
groups=$(ids security-groups "Name=vpc-id,Values=$vpc" 'SecurityGroups[?GroupName!=`default`].GroupId')
for group in $groups; do
  for direction in ingress:IpPermissions egress:IpPermissionsEgress; do
    rules=$(aws ec2 describe-security-groups --group-ids "$group" --query "SecurityGroups[0].${direction#*:}" --output json)
    [ "$rules" = "[]" ] || aws ec2 "revoke-security-group-${direction%:*}" --group-id "$group" --ip-permissions "$rules" >/dev/null
  done
done
left=$(ids security-group-rules "Name=tag:Keep,Values=no" 'SecurityGroupRules[].SecurityGroupRuleId')
[ -z "$left" ] || { echo "rules are left: $left" >&2; exit 1; }

say "groups"
for group in $groups; do
  aws ec2 delete-security-group --group-id "$group" >/dev/null
done

say "route tables"
for table in $(ids route-tables "Name=vpc-id,Values=$vpc" 'RouteTables[].RouteTableId'); do
  for association in $(aws ec2 describe-route-tables --route-table-ids "$table" --query 'RouteTables[0].Associations[?!Main].RouteTableAssociationId' --output text); do
    aws ec2 disassociate-route-table --association-id "$association"
  done
  main=$(aws ec2 describe-route-tables --route-table-ids "$table" --query 'length(RouteTables[0].Associations[?Main])' --output text)
  if [ "$main" = 0 ]; then
    aws ec2 delete-route-table --route-table-id "$table"
  else
    for cidr in $(aws ec2 describe-route-tables --route-table-ids "$table" --query 'RouteTables[0].Routes[?GatewayId!=`local`].DestinationCidrBlock' --output text); do
      aws ec2 delete-route --route-table-id "$table" --destination-cidr-block "$cidr"
    done
  fi
done

say "network ACLs"
for acl in $(ids network-acls "Name=vpc-id,Values=$vpc" 'NetworkAcls[?!IsDefault].NetworkAclId'); do
  aws ec2 delete-network-acl --network-acl-id "$acl"
done

say "subnets"
for subnet in $(ids subnets "Name=vpc-id,Values=$vpc" 'Subnets[].SubnetId'); do
  aws ec2 delete-subnet --subnet-id "$subnet"
done

say "internet gateways"
for gateway in $(ids internet-gateways "Name=attachment.vpc-id,Values=$vpc" 'InternetGateways[].InternetGatewayId'); do
  aws ec2 detach-internet-gateway --internet-gateway-id "$gateway" --vpc-id "$vpc"
  aws ec2 delete-internet-gateway --internet-gateway-id "$gateway"
done

say "further ranges"
for association in $(aws ec2 describe-vpcs --vpc-ids "$vpc" --query 'Vpcs[0].CidrBlockAssociationSet[?CidrBlock!=`'"$(aws ec2 describe-vpcs --vpc-ids "$vpc" --query 'Vpcs[0].CidrBlock' --output text)"'`].AssociationId' --output text); do
  aws ec2 disassociate-vpc-cidr-block --association-id "$association" >/dev/null
done

say "DHCP options"
options=$(aws ec2 describe-vpcs --vpc-ids "$vpc" --query 'Vpcs[0].DhcpOptionsId' --output text)
if [ "$options" != default ]; then
  aws ec2 associate-dhcp-options --dhcp-options-id default --vpc-id "$vpc"
  case $options in dopt-*) aws ec2 delete-dhcp-options --dhcp-options-id "$options" || true ;; esac
fi

aws ec2 delete-vpc --vpc-id "$vpc"
say "$vpc is gone"
