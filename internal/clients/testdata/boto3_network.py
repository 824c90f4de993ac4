# A boto3 program that builds the second half of a VPC: a network ACL, a NAT gateway, a managed prefix list, a
# peering and routes to an interface. It uses resources, waiters and paginators. It prints a line at each point
# where the test sends its probes, and ends at the first assertion that fails.
import sys

import boto3
import botocore.exceptions

resource = boto3.resource("ec2", endpoint_url=sys.argv[1])
client = resource.meta.client


def refused(code, call, **parameters):
    try:
        call(**parameters)
    except botocore.exceptions.ClientError as e:
        assert e.response["Error"]["Code"] == code, e
        return e.response["Error"]["Message"]
    raise AssertionError(f"{call} was not refused")


def pause(*words):
    print(*words, flush=True)
    sys.stdin.readline()


def pages(operation, key, **parameters):
    return [x for page in client.get_paginator(operation).paginate(PaginationConfig={"PageSize": 5}, **parameters) for x in page[key]]


def launch(subnet, group, **parameters):
    [i] = resource.create_instances(ImageId="ami-fba54092", MinCount=1, MaxCount=1, SubnetId=subnet.id, SecurityGroupIds=[group.id], **parameters)
    return i


vpc = resource.create_vpc(CidrBlock="10.63.0.0/16")
peer = resource.create_vpc(CidrBlock="10.64.0.0/16")
public, private = vpc.create_subnet(CidrBlock="10.63.1.0/24"), vpc.create_subnet(CidrBlock="10.63.2.0/24")
far = peer.create_subnet(CidrBlock="10.64.1.0/24")
client.modify_subnet_attribute(SubnetId=public.id, MapPublicIpOnLaunch={"Value": True})
gateway = resource.create_internet_gateway()
gateway.attach_to_vpc(VpcId=vpc.id)
main = list(vpc.route_tables.all())[0]
table = vpc.create_route_table()
table.create_route(DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway.id)
table.associate_with_subnet(SubnetId=public.id)
peers_table = list(peer.route_tables.all())[0]

# A managed prefix list, as the source of a rule.
visitors = client.create_managed_prefix_list(
    PrefixListName="visitors", AddressFamily="IPv4", MaxEntries=3, Entries=[{"Cidr": "203.0.113.0/24", "Description": "office"}],
    TagSpecifications=[{"ResourceType": "prefix-list", "Tags": [{"Key": "Name", "Value": "boto"}]}])["PrefixList"]["PrefixListId"]
[found] = pages("describe_managed_prefix_lists", "PrefixLists", Filters=[{"Name": "prefix-list-name", "Values": ["visitors"]}])
assert (found["PrefixListId"], found["Version"], found["MaxEntries"], found["AddressFamily"]) == (visitors, 1, 3, "IPv4"), found
group = vpc.create_security_group(GroupName="boto", Description="of boto3")
group.authorize_ingress(IpPermissions=[{"IpProtocol": "tcp", "FromPort": 7000, "ToPort": 7009, "PrefixListIds": [{"PrefixListId": visitors}]}])
group.authorize_ingress(IpProtocol="tcp", FromPort=7010, ToPort=7019, CidrIp="10.0.0.0/8")
assert group.ip_permissions[0]["PrefixListIds"] or group.ip_permissions[1]["PrefixListIds"], group.ip_permissions
assert [a["ResourceId"] for a in pages("get_managed_prefix_list_associations", "PrefixListAssociations", PrefixListId=visitors)] == [group.id]
peers_group = peer.create_security_group(GroupName="boto", Description="of boto3")

web, app, reports = launch(public, group), launch(private, group), launch(far, peers_group)
for i in web, app, reports:
    i.wait_until_running()
    i.reload()
    print(i.id, i.private_ip_address, i.public_ip_address or i.private_ip_address, flush=True)
pause("launched")

client.modify_managed_prefix_list(PrefixListId=visitors, CurrentVersion=1, AddEntries=[{"Cidr": "198.51.100.0/24"}], RemoveEntries=[{"Cidr": "203.0.113.0/24"}])
assert [e["Cidr"] for e in pages("get_managed_prefix_list_entries", "Entries", PrefixListId=visitors)] == ["198.51.100.0/24"]
assert [e["Cidr"] for e in pages("get_managed_prefix_list_entries", "Entries", PrefixListId=visitors, TargetVersion=1)] == ["203.0.113.0/24"]
pause("the list is changed")
client.restore_managed_prefix_list_version(PrefixListId=visitors, PreviousVersion=1, CurrentVersion=2)

# A network ACL of its own for the public subnet.
acl = vpc.create_network_acl(TagSpecifications=[{"ResourceType": "network-acl", "Tags": [{"Key": "Name", "Value": "boto"}]}])
assert not acl.is_default and [e["RuleNumber"] for e in acl.entries] == [32767, 32767], acl.entries
[default] = [a for a in vpc.network_acls.all() if a.is_default]
[association] = [a["NetworkAclAssociationId"] for a in default.associations if a["SubnetId"] == public.id]
acl.create_entry(RuleNumber=100, Egress=False, Protocol="6", RuleAction="allow", CidrBlock="0.0.0.0/0", PortRange={"From": 7000, "To": 7000})
acl.create_entry(RuleNumber=100, Egress=True, Protocol="6", RuleAction="allow", CidrBlock="0.0.0.0/0", PortRange={"From": 1024, "To": 65535})
refused("NetworkAclEntryAlreadyExists", acl.create_entry, RuleNumber=100, Egress=True, Protocol="6", RuleAction="deny", CidrBlock="0.0.0.0/0", PortRange={"From": 1, "To": 2})
association = acl.replace_association(AssociationId=association)["NewAssociationId"]
acl.reload()
assert {(e["RuleNumber"], e["Egress"], e["Protocol"], e.get("PortRange", {}).get("From")) for e in acl.entries} == {
    (100, False, "6", 7000), (100, True, "6", 1024), (32767, False, "-1", None), (32767, True, "-1", None)}, acl.entries
assert [a["SubnetId"] for a in acl.associations] == [public.id]
pause("the ACL lets port 7000 in")
acl.replace_entry(RuleNumber=100, Egress=False, Protocol="6", RuleAction="deny", CidrBlock="0.0.0.0/0", PortRange={"From": 7000, "To": 7000})
acl.create_entry(RuleNumber=110, Egress=False, Protocol="-1", RuleAction="allow", CidrBlock="0.0.0.0/0")
acl.create_entry(RuleNumber=110, Egress=True, Protocol="-1", RuleAction="allow", CidrBlock="0.0.0.0/0")
pause("the ACL denies port 7000")
refused("DependencyViolation", acl.delete)
default.replace_association(AssociationId=association)
acl.delete_entry(RuleNumber=110, Egress=False)
acl.delete()
refused("InvalidNetworkAclID.NotFound", client.describe_network_acls, NetworkAclIds=[acl.id])

# A NAT gateway for the private subnet.
allocation = client.allocate_address(Domain="vpc")
nat = client.create_nat_gateway(SubnetId=public.id, AllocationId=allocation["AllocationId"])["NatGateway"]["NatGatewayId"]
client.get_waiter("nat_gateway_available").wait(NatGatewayIds=[nat])
[found] = pages("describe_nat_gateways", "NatGateways", Filters=[{"Name": "vpc-id", "Values": [vpc.id]}])
assert found["NatGatewayAddresses"][0]["PublicIp"] == allocation["PublicIp"] and found["ConnectivityType"] == "public", found
main.create_route(DestinationCidrBlock="0.0.0.0/0", NatGatewayId=nat)
refused("InvalidIPAddress.InUse", client.release_address, AllocationId=allocation["AllocationId"])
pause("the private subnet has a NAT gateway")
client.delete_nat_gateway(NatGatewayId=nat)
client.get_waiter("nat_gateway_deleted").wait(NatGatewayIds=[nat])
assert [r.state for r in main.routes if r.nat_gateway_id == nat] == ["blackhole"]
client.release_address(AllocationId=allocation["AllocationId"])

# A peering with the other VPC, and a rule for its group.
peering = client.create_vpc_peering_connection(VpcId=vpc.id, PeerVpcId=peer.id)["VpcPeeringConnection"]
connection = resource.VpcPeeringConnection(peering["VpcPeeringConnectionId"])
assert peering["Status"]["Code"] in ("initiating-request", "pending-acceptance"), peering
connection.wait_until_exists()
assert connection.accept()["VpcPeeringConnection"]["Status"]["Code"] in ("active", "provisioning")
connection.reload()
assert connection.status["Code"] == "active", connection.status
main.create_route(DestinationCidrBlock=peer.cidr_block, VpcPeeringConnectionId=connection.id)
peers_table.create_route(DestinationCidrBlock=vpc.cidr_block, VpcPeeringConnectionId=connection.id)
group.authorize_ingress(IpPermissions=[{"IpProtocol": "tcp", "FromPort": 7021, "ToPort": 7021, "UserIdGroupPairs": [{"GroupId": peers_group.id, "VpcId": peer.id, "UserId": group.owner_id}]}])
references = client.describe_security_group_references(GroupId=[peers_group.id])["SecurityGroupReferenceSet"]
assert [(r["ReferencingVpcId"], r["VpcPeeringConnectionId"]) for r in references] == [(vpc.id, connection.id)], references
pause("the VPCs are peers")
connection.delete()
client.get_waiter("vpc_peering_connection_deleted").wait(VpcPeeringConnectionIds=[connection.id])
[stale] = pages("describe_stale_security_groups", "StaleSecurityGroupSet", VpcId=vpc.id)
assert stale["GroupId"] == group.id, stale
pause("the peering is deleted")

for i in web, app, reports:
    i.terminate()
for i in web, app, reports:
    i.wait_until_terminated()
group.delete()
refused("InvalidPrefixListID.NotFound", client.delete_managed_prefix_list, PrefixListId="pl-00000000000000000")
client.delete_managed_prefix_list(PrefixListId=visitors)
peers_group.delete()
for s in public, private, far:
    s.delete()
table.delete()
gateway.detach_from_vpc(VpcId=vpc.id)
gateway.delete()
vpc.delete()
peer.delete()
print("gone", flush=True)
