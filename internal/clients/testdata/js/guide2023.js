// The Node.js program of the guide of 2023. The guide's text lacks brackets, CIDRs and the
// line that configures the keys; they are added here. The endpoint is the lab's, the keys come
// from the environment, and the program fails when a call fails.
const AWS = require("aws-sdk");

AWS.config.update({
    accessKeyId: process.env.AWS_ACCESS_KEY_ID,
    secretAccessKey: process.env.AWS_SECRET_ACCESS_KEY,
    region: "us-east-1",
    endpoint: process.env.AWS_ENDPOINT_URL,
});

const ec2 = new AWS.EC2({apiVersion: '2016-11-15'});

let vpc = null;

function fail(...words) {
    console.log(...words);
    process.exitCode = 1;
}

ec2.describeVpcs(function(err, data) {
    if(err) {
        fail("Cannot retrieve a VPC", err);
    } else {
        vpc = data.Vpcs[0].VpcId;
        // Define Security Group parameters:
        const securityGroupParams = {
            Description: "SG for SSH and HTTP traffic",
            GroupName: "ssh-http-sg",
            VpcId: vpc
        };
        // Create Security Group
        ec2.createSecurityGroup(securityGroupParams, (err, data) => {
            if(err) {
                fail("Error creating security group: ", err);
            } else {
                const SecurityGroupId = data.GroupId;
                console.log("Security Group created with ID: ", SecurityGroupId);
                // Define Security Group Rules:
                const paramsIngress = {
                    GroupId: SecurityGroupId,
                    IpPermissions: [
                        {
                            IpProtocol: "tcp",
                            FromPort: 22,
                            ToPort: 22,
                            IpRanges: [{CidrIp: "0.0.0.0/0"}]
                        },
                        {
                            IpProtocol: "tcp",
                            FromPort: 80,
                            ToPort: 80,
                            IpRanges: [{CidrIp: "0.0.0.0/0"}]
                        }
                    ]
                };
                // Add inbound rules
                ec2.authorizeSecurityGroupIngress(paramsIngress, (err, data) => {
                    if(err) {
                        fail("Error adding inbound rules: ", err);
                    } else {
                        console.log("Inbound rules added to the security group successfully!", data);
                    }
                });
            }
        });
    }
});
