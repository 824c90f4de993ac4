// guide2023.js with the SDK v3 and an instance in the group. It uses commands, a paginator, a
// waiter, and the names of errors.
import assert from "node:assert/strict";
import {
  AuthorizeSecurityGroupIngressCommand, CreateSecurityGroupCommand, DescribeSecurityGroupsCommand, DescribeVpcsCommand,
  EC2Client, RevokeSecurityGroupIngressCommand, RunInstancesCommand, DescribeInstancesCommand,
  paginateDescribeSecurityGroupRules, waitUntilInstanceRunning,
} from "@aws-sdk/client-ec2";

const ec2 = new EC2Client({});
const { Vpcs } = await ec2.send(new DescribeVpcsCommand({}));
assert.equal(Vpcs.length, 1);
assert.equal(Vpcs[0].IsDefault, true);

const { GroupId, $metadata } = await ec2.send(new CreateSecurityGroupCommand({
  GroupName: "ssh-http-sg-v3", Description: "SG for SSH and HTTP traffic", VpcId: Vpcs[0].VpcId,
  TagSpecifications: [{ ResourceType: "security-group", Tags: [{ Key: "by", Value: "v3 & <others>" }] }],
}));
assert.match($metadata.requestId, /^[0-9a-f-]{36}$/);
const permission = (port, CidrIp) => ({ IpProtocol: "tcp", FromPort: port, ToPort: port, IpRanges: [{ CidrIp }] });
const { SecurityGroupRules } = await ec2.send(new AuthorizeSecurityGroupIngressCommand({ GroupId, IpPermissions: [permission(22, "0.0.0.0/0"), permission(80, "0.0.0.0/0")] }));
assert.equal(SecurityGroupRules.length, 2);

await assert.rejects(ec2.send(new AuthorizeSecurityGroupIngressCommand({ GroupId, IpPermissions: [permission(80, "0.0.0.0/0")] })), {
  name: "InvalidPermission.Duplicate", message: 'the specified rule "peer: 0.0.0.0/0, TCP, from port: 80, to port: 80, ALLOW" already exists',
});
const { SecurityGroups: [group] } = await ec2.send(new DescribeSecurityGroupsCommand({ Filters: [{ Name: "tag:by", Values: ["v3 & *"] }] }));
assert.equal(group.GroupId, GroupId);
assert.deepEqual(group.Tags, [{ Key: "by", Value: "v3 & <others>" }]);
assert.deepEqual(group.IpPermissions.map((p) => p.FromPort), [22, 80]);
const rules = [];
for await (const page of paginateDescribeSecurityGroupRules({ client: ec2, pageSize: 5 }, { Filters: [{ Name: "group-id", Values: [GroupId] }] })) {
  rules.push(...page.SecurityGroupRules);
}
assert.equal(rules.length, 3);

const { Instances: [{ InstanceId }] } = await ec2.send(new RunInstancesCommand({ ImageId: "ami-fba54092", InstanceType: "t3.micro", MinCount: 1, MaxCount: 1, SecurityGroupIds: [GroupId] }));
await waitUntilInstanceRunning({ client: ec2, maxWaitTime: 30, minDelay: 1 }, { InstanceIds: [InstanceId] });
const { Reservations: [{ Instances: [instance] }] } = await ec2.send(new DescribeInstancesCommand({ InstanceIds: [InstanceId] }));
console.log(instance.InstanceId, instance.PrivateIpAddress, instance.PublicIpAddress);

process.stdin.once("data", async () => {
  await ec2.send(new RevokeSecurityGroupIngressCommand({ GroupId, SecurityGroupRuleIds: [SecurityGroupRules[1].SecurityGroupRuleId] }));
  console.log("port 80 is closed");
  process.stdin.destroy();
});
