# A boto3 program, from creating a VPC to modifying a rule. It uses resources, waiters,
# paginators and the returned dictionaries. It prints the addresses that the test probes, and
# ends at the first assertion that fails.
import sys

import boto3
import botocore.exceptions

endpoint = sys.argv[1]
resource = boto3.resource("ec2", endpoint_url=endpoint)
client = resource.meta.client


def refused(code, call, **parameters):
    try:
        call(**parameters)
    except botocore.exceptions.ClientError as e:
        assert e.response["Error"]["Code"] == code, e
        return e.response["Error"]["Message"]
    raise AssertionError(f"{call} was not refused")


who = boto3.client("sts", endpoint_url=endpoint).get_caller_identity()
assert who["Arn"].startswith("arn:aws:"), who

# Every operation that only reads and needs no parameter has an answer with all of its lists.
for operation in client.meta.service_model.operation_names:
    model = client.meta.service_model.operation_model(operation)
    if not operation.startswith(("Describe", "Get", "List")) or model.input_shape.required_members or operation == "DescribeSpotDatafeedSubscription":
        continue
    try:
        answer = getattr(client, botocore.xform_name(operation))()
        absent = [name for name, shape in model.output_shape.members.items() if shape.type_name == "list" and name not in answer]
        assert not absent and not answer.get("NextToken"), (operation, answer)
    except botocore.exceptions.ClientError as e:
        assert e.response["Error"]["Code"] == "MissingParameter", e  # newer models say that the parameter is required

ssm = boto3.client("ssm", endpoint_url=endpoint)
latest = "/aws/service/ami-amazon-linux-latest/"
parameter = ssm.get_parameter(Name=latest + "al2023-ami-kernel-6.1-x86_64")["Parameter"]
named = max(
    client.describe_images(Owners=["amazon"], Filters=[{"Name": "name", "Values": ["al2023-ami-2023*-kernel-6.1-x86_64"]}])["Images"],
    key=lambda i: i["CreationDate"])
assert parameter["Value"] == named["ImageId"] and parameter["Type"] == "String", (parameter, named["Name"])
assert named["RootDeviceType"] == "ebs" and named["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is False, named
both = ssm.get_parameters(Names=[parameter["Name"], "/no/such"])
assert [p["Value"] for p in both["Parameters"]] == [named["ImageId"]] and both["InvalidParameters"] == ["/no/such"], both
below = [p["Name"] for page in ssm.get_paginator("get_parameters_by_path").paginate(Path=latest) for p in page["Parameters"]]
assert parameter["Name"] in below and len(below) == len(set(below)) > 10, below
refused("ParameterNotFound", ssm.get_parameter, Name="/no/such")

vpc = resource.create_vpc(CidrBlock="10.20.0.0/16", TagSpecifications=[{"ResourceType": "vpc", "Tags": [{"Key": "Name", "Value": "boto"}]}])
vpc.wait_until_available()
assert vpc.cidr_block == "10.20.0.0/16" and not vpc.is_default and vpc.tags == [{"Key": "Name", "Value": "boto"}]
subnet = vpc.create_subnet(CidrBlock="10.20.1.0/24")
client.get_waiter("subnet_available").wait(SubnetIds=[subnet.id])
gateway = resource.create_internet_gateway()
gateway.attach_to_vpc(VpcId=vpc.id)
table = list(vpc.route_tables.all())[0]
table.create_route(DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway.id)
assert {r.destination_cidr_block: r.gateway_id for r in table.routes} == {"10.20.0.0/16": "local", "0.0.0.0/0": gateway.id}

group = vpc.create_security_group(GroupName="boto", Description="of boto3")
client.get_waiter("security_group_exists").wait(GroupIds=[group.id])
# The dictionary would not have the key of a missing list.
assert group.ip_permissions == []
assert group.ip_permissions_egress == [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}], "Ipv6Ranges": [], "PrefixListIds": [], "UserIdGroupPairs": []}], group.ip_permissions_egress
made = group.authorize_ingress(IpPermissions=[{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "203.0.113.77/24", "Description": "the office"}], "UserIdGroupPairs": [{"GroupId": group.id}]}])
assert {r.get("CidrIpv4") for r in made["SecurityGroupRules"]} == {None, "203.0.113.0/24"}, made
group.reload()
assert group.ip_permissions == [{
    "FromPort": 22, "IpProtocol": "tcp", "ToPort": 22, "IpRanges": [{"CidrIp": "203.0.113.0/24", "Description": "the office"}],
    "Ipv6Ranges": [], "PrefixListIds": [], "UserIdGroupPairs": [{"GroupId": group.id, "UserId": group.owner_id}],
}], group.ip_permissions
assert "already exists" in refused("InvalidPermission.Duplicate", group.authorize_ingress, IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="203.0.113.0/24")
refused("DryRunOperation", group.authorize_ingress, IpProtocol="tcp", FromPort=23, ToPort=23, CidrIp="203.0.113.0/24", DryRun=True)
refused("InvalidPermission.NotFound", group.revoke_ingress, IpProtocol="tcp", FromPort=23, ToPort=23, CidrIp="203.0.113.0/24")
refused("InvalidGroup.NotFound", client.describe_security_groups, GroupIds=["sg-00000000000000000"])
refused("InvalidParameterValue", group.authorize_ingress, IpProtocol="tcp", FromPort=23, ToPort=23, CidrIp="203.0.113.5")

rules = [r for page in client.get_paginator("describe_security_group_rules").paginate(Filters=[{"Name": "group-id", "Values": [group.id]}], PaginationConfig={"PageSize": 5}) for r in page["SecurityGroupRules"]]
assert len(rules) == 3 and sum(r["IsEgress"] for r in rules) == 1, rules
everything = next(r for r in rules if r["IsEgress"])
assert (everything["IpProtocol"], everything["FromPort"], everything["ToPort"]) == ("-1", -1, -1), everything

[instance] = resource.create_instances(
    ImageId="ami-fba54092", MinCount=1, MaxCount=1, InstanceType="t3.micro",
    NetworkInterfaces=[{"DeviceIndex": 0, "SubnetId": subnet.id, "Groups": [group.id], "AssociatePublicIpAddress": True}],
    TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "boto"}]}])
instance.wait_until_running()
instance.reload()
assert instance.state == {"Code": 16, "Name": "running"} and instance.vpc_id == vpc.id and instance.subnet_id == subnet.id
assert [g["GroupId"] for g in instance.security_groups] == [group.id] and instance.tags == [{"Key": "Name", "Value": "boto"}]
assert [i.id for i in resource.instances.filter(Filters=[{"Name": "tag:Name", "Values": ["bot?"]}, {"Name": "vpc-id", "Values": [vpc.id]}])] == [instance.id]
client.get_waiter("instance_status_ok").wait(InstanceIds=[instance.id])
volume = resource.create_volume(AvailabilityZone=subnet.availability_zone, Size=10, VolumeType="gp3", Encrypted=True)
client.get_waiter("volume_available").wait(VolumeIds=[volume.id])
volume.attach_to_instance(InstanceId=instance.id, Device="/dev/sdf")
client.get_waiter("volume_in_use").wait(VolumeIds=[volume.id])
assert [v.id for v in instance.volumes.all()] == [volume.id]
refused("VolumeInUse", volume.delete)
volume.detach_from_instance()
client.get_waiter("volume_available").wait(VolumeIds=[volume.id])
volume.delete()
client.get_waiter("volume_deleted").wait(VolumeIds=[volume.id])
[nic] = instance.network_interfaces
assert nic.private_ip_address == instance.private_ip_address and nic.status == "in-use"
refused("DependencyViolation", group.delete)
refused("DependencyViolation", vpc.delete)

print(instance.id, instance.private_ip_address, instance.public_ip_address, flush=True)
sys.stdin.readline()  # until the test has sent its probes
cidr = next(r for r in rules if r.get("CidrIpv4") == "203.0.113.0/24")
client.modify_security_group_rules(GroupId=group.id, SecurityGroupRules=[{"SecurityGroupRuleId": cidr["SecurityGroupRuleId"], "SecurityGroupRule": {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "CidrIpv4": "203.0.113.0/24"}}])
print("the port is changed", flush=True)
sys.stdin.readline()

instance.terminate()
instance.wait_until_terminated()
group.delete()
gateway.detach_from_vpc(VpcId=vpc.id)
gateway.delete()
subnet.delete()
vpc.delete()
refused("InvalidVpcID.NotFound", client.describe_vpcs, VpcIds=[vpc.id])
print("gone", flush=True)
