package ec2tools

import "testing"

func TestUsageErrorOfACLToolsSuggestsFix(t *testing.T) {
	wantUsageErrors(t, []usageCase{
		{"ec2-create-network-acl-entry -n 110", "which network ACL?"},
		{"ec2-create-network-acl-entry acl-5fb85d36 -P tcp -p 22 -r 0.0.0.0/0 --allow", "-n 110"},
		{"ec2-create-network-acl-entry acl-5fb85d36 -n 32767 -P tcp -p 22 -r 0.0.0.0/0 --allow", "1 to 32766"},
		{"ec2-create-network-acl-entry acl-5fb85d36 -n 0 -P tcp -p 22 -r 0.0.0.0/0 --allow", "1 to 32766"},
		{"ec2-create-network-acl-entry acl-5fb85d36 -n 110 -P tcp -p 22 -r 0.0.0.0/0", "--allow and --deny"},
		{"ec2-create-network-acl-entry acl-5fb85d36 -n 110 -P tcp -p 22 -r 0.0.0.0/0 --allow --deny", "--allow and --deny"},
		{"ec2-create-network-acl-entry acl-5fb85d36 -n 110 -P tcp -p 22 --allow", "-r 0.0.0.0/0"},
		{"ec2-create-network-acl-entry acl-5fb85d36 -n 110 -P tcp -p 22 -r 192.0.2.1 --allow", "-r 192.0.2.1/32"},
		{"ec2-create-network-acl-entry acl-5fb85d36 -n 110 -p 22 -r 0.0.0.0/0 --allow", "-P tcp"},
		{"ec2-create-network-acl-entry acl-5fb85d36 -n 110 -P tcp -r 0.0.0.0/0 --allow", "which tcp port?"},
		{"ec2-create-network-acl-entry acl-5fb85d36 -n 110 -P icmp -r 0.0.0.0/0 --allow", "-t 8:0"},
		{"ec2-delete-network-acl-entry acl-5fb85d36", "-n 110"},
		{"ec2-replace-network-acl-association aclassoc-33ae4b5a", "which network ACL?"},
		{"ec2-create-route rtb-1122334a -g igw-c3a643aa -r", "-r 203.0.113.25/32"},
	})
}
