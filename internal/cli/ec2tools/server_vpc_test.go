package ec2tools

import (
	"regexp"
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/ec2/query"
	"palisade/ec2/state"
)

// id matches the digits of the id of a resource in a VPC.
const id = `[0-9a-f]{17}`

// vpcToolLines are the command lines of TestVPCToolsCreateAndDeleteAVPC, with patterns for
// their output.
var vpcToolLines = []struct{ line, want string }{
	{"ec2-describe-vpcs", `VPC\|vpc-` + id + `\|available\|172\.31\.0\.0/16\|[^|]+\|default\|true\n`},
	{"ec2-create-vpc 10.0.0.0/16", `VPC\|(?P<vpc>vpc-` + id + `)\|(pending|available)\|10\.0\.0\.0/16\|[^|]+\|default\n`},
	{"ec2-describe-vpcs -F is-default=false", `VPC\|vpc-` + id + `\|available\|10\.0\.0\.0/16\|[^|]*\|default\|false\n`},
	{"ec2-create-subnet -c $vpc -i 10.0.1.0/24", `SUBNET\|(?P<subnet>subnet-` + id + `)\|(pending|available)\|vpc-` + id + `\|10\.0\.1\.0/24\|251\|us-east-1a\n`},
	{"ec2-modify-subnet-attribute $subnet --map-public-ip-on-launch true", `RETURN\|true\n`},
	{"ec2-describe-subnets $subnet", `SUBNET\|subnet-` + id + `\|available\|vpc-` + id + `\|10\.0\.1\.0/24\|251\|us-east-1a\|false\|true\n`},
	{"ec2-create-internet-gateway", `INTERNETGATEWAY\|(?P<igw>igw-` + id + `)\n`},
	{"ec2-attach-internet-gateway $igw -c $vpc", `ATTACHMENT\|vpc-` + id + `\|attaching\n`},
	{"ec2-describe-internet-gateways $igw", `INTERNETGATEWAY\|igw-` + id + `\nATTACHMENT\|vpc-` + id + `\|available\n`},
	{"ec2-describe-route-tables -F vpc-id=$vpc", `ROUTETABLE\|rtb-` + id + `\|vpc-` + id + `
ROUTE\|local\|\|active\|10\.0\.0\.0/16\|\|\|CreateRouteTable
ASSOCIATION\|rtbassoc-` + id + `\|rtb-` + id + `\|main
`},
	{"ec2-create-route-table $vpc", `ROUTETABLE\|(?P<rtb>rtb-` + id + `)\|vpc-` + id + `\nROUTE\|local\|\|active\|10\.0\.0\.0/16\|\|\|CreateRouteTable\n`},
	{"ec2-create-route $rtb -r 0.0.0.0/0 -g $igw", `ROUTE\|igw-` + id + `\|\|\|0\.0\.0\.0/0\n`},
	{"ec2-replace-route $rtb -r 0.0.0.0/0 -g $igw", `ROUTE\|igw-` + id + `\|\|\|0\.0\.0\.0/0\n`},
	{"ec2-associate-route-table $rtb -s $subnet", `ASSOCIATION\|(?P<assoc>rtbassoc-` + id + `)\|rtb-` + id + `\|subnet-` + id + `\n`},
	{"ec2-replace-route-table-association $assoc -r $rtb", `ASSOCIATION\|(?P<assoc>rtbassoc-` + id + `)\|rtb-` + id + `\n`},
	{"ec2-create-network-acl $vpc", `NETWORKACL\|(?P<acl>acl-` + id + `)\|vpc-` + id + `
ENTRY\|egress\|32767\|deny\|0\.0\.0\.0/0\|all
ENTRY\|ingress\|32767\|deny\|0\.0\.0\.0/0\|all
`},
	{"ec2-create-network-acl-entry $acl -n 110 -r 0.0.0.0/0 -P udp -p 53 --allow", `ENTRY\|ingress\|110\|allow\|0\.0\.0\.0/0\|udp\|53\|53\n`},
	{"ec2-create-network-acl-entry $acl -n 110 -r 0.0.0.0/0 -P all --deny", `error Client\.NetworkAclEntryAlreadyExists: .*\n`},
	{"ec2-replace-network-acl-entry $acl -n 110 -r 10.0.0.0/8 -P icmp -t 8:-1 --deny", `ENTRY\|ingress\|110\|deny\|10\.0\.0\.0/8\|icmp\|8\|-1\n`},
	{"ec2-create-network-acl-entry $acl -n 120 --egress -r 0.0.0.0/0 -P tcp -p 1024-65535 --allow", `ENTRY\|egress\|120\|allow\|0\.0\.0\.0/0\|tcp\|1024\|65535\n`},
	{"ec2-describe-network-acls -F vpc-id=$vpc -F default=true", `NETWORKACL\|acl-` + id + `\|vpc-` + id + `\|default
ENTRY(?s:.*)ASSOCIATION\|(?P<aclassoc>aclassoc-` + id + `)\|subnet-` + id + `\|acl-` + id + `\n`},
	{"ec2-replace-network-acl-association $aclassoc -a $acl", `ASSOCIATION\|aclassoc-` + id + `\|acl-` + id + `\n`},
	{"ec2-describe-network-acls $acl", `NETWORKACL\|acl-` + id + `\|vpc-` + id + `
ENTRY\|egress\|120\|allow\|0\.0\.0\.0/0\|6\|1024\|65535
ENTRY\|egress\|32767\|deny\|0\.0\.0\.0/0\|all
ENTRY\|ingress\|110\|deny\|10\.0\.0\.0/8\|1\|8\|-1
ENTRY\|ingress\|32767\|deny\|0\.0\.0\.0/0\|all
ASSOCIATION\|aclassoc-` + id + `\|subnet-` + id + `\|acl-` + id + `
`},
	{"ec2-delete-network-acl-entry $acl -n 110", `RETURN\|true\n`},
	{"ec2-delete-network-acl $acl", `error Client\.DependencyViolation: .*\n`},
	{"ec2-create-group web -d web -c $vpc", `GROUP\|(?P<web>sg-` + id + `)\|web\|web\n`},
	{"ec2-create-group db -d db -c $vpc", `GROUP\|(?P<db>sg-` + id + `)\|db\|db\n`},
	{"ec2-authorize $web -P all -s 10.0.0.0/16", `GROUP\|sg-` + id + `\|\|\|\|\nPERMISSION\|\|\|ALLOWS\|all\|\|\|FROM\|CIDR\|10\.0\.0\.0/16\|ingress\n`},
	{"ec2-authorize $web -P 50", `GROUP(?s:.*)ALLOWS\|50\|\|\|FROM\|CIDR\|0\.0\.0\.0/0\|ingress\n`},
	{"ec2-authorize $db -P tcp -p 3306 -o $web", `GROUP(?s:.*)ALLOWS\|tcp\|3306\|3306\|FROM\|USER\|123456789012\|NAME web\|ID sg-` + id + `\|ingress\n`},
	{"ec2-authorize $db --egress -P udp -p 53 -s 10.0.0.2/32", `GROUP(?s:.*)ALLOWS\|udp\|53\|53\|TO\|CIDR\|10\.0\.0\.2/32\|egress\n`},
	{"ec2-revoke $db --egress -P all", `GROUP(?s:.*)ALLOWS\|all\|\|\|TO\|CIDR\|0\.0\.0\.0/0\|egress\n`},
	{"ec2-describe-group $db", `GROUP\|sg-` + id + `\|123456789012\|db\|db\|vpc-` + id + `
PERMISSION\|123456789012\|db\|ALLOWS\|tcp\|3306\|3306\|FROM\|USER\|123456789012\|ID sg-` + id + `\|ingress
PERMISSION\|123456789012\|db\|ALLOWS\|udp\|53\|53\|TO\|CIDR\|10\.0\.0\.2/32\|egress
`},
	{"ec2-revoke $db -P tcp -p 3307 -o $web", `error .*InvalidPermission\.NotFound.*\n`},
	{"ec2-run-instances ami-eca54085 -s $subnet -g $web --private-ip-address 10.0.1.9",
		`RESERVATION\|r-[0-9a-f]+\|123456789012\|\nINSTANCE\|(?P<i>i-` + id + `)\|ami-eca54085\|\|[^|]*\|pending\|(?s:.*)\|10\.0\.1\.9\|vpc-` + id + `\|subnet-` + id + `\|(?s:.*)\|sg-` + id + `\|default
NIC\|(?P<eni>eni-` + id + `)\|subnet-` + id + `\|(?s:.*)PRIVATEIPADDRESS\|10\.0\.1\.9\|[^|]*\|[^|]*\n`},
	{"ec2-modify-instance-attribute $i -g $web -g $db", `RETURN\|true\n`},
	{"ec2-modify-network-interface-attribute $eni --source-dest-check false", `RETURN\|true\n`},
	{"ec2-describe-instances $i", `RESERVATION(?s:.*)NIC\|eni-(?s:.*)\|false\nNICATTACHMENT\|eni-attach-` + id + `\|0\|attached\|(?s:.*)GROUP\|sg-` + id + `\|(web|db)\nGROUP\|sg-` + id + `\|(web|db)\nPRIVATEIPADDRESS\|10\.0\.1\.9(?s:.*)\n`},
	{"ec2-assign-private-ip-addresses -n $eni --secondary-private-ip-address 10.0.1.10", `RETURN\|true\n`},
	{"ec2-describe-network-interfaces $eni", `NETWORKINTERFACE\|(?s:.*)\|in-use\|(?s:.*)PRIVATEIPADDRESS\|10\.0\.1\.9\|(?s:.*)PRIVATEIPADDRESS\|10\.0\.1\.10\|(?s:.*)\n`},
	{"ec2-unassign-private-ip-addresses -n $eni --secondary-private-ip-address 10.0.1.10", `RETURN\|true\n`},
	{"ec2-create-network-interface $subnet -d second -g $db --private-ip-address 10.0.1.20", `NETWORKINTERFACE\|(?P<second>eni-` + id + `)\|subnet-` + id + `\|vpc-` + id + `\|us-east-1a\|second\|123456789012\|false\|(pending|available)\|02:[0-9a-f:]+\|10\.0\.1\.20\|(?s:.*)\n`},
	{"ec2-attach-network-interface $second -i $i -d 1", `ATTACHMENT\|(?P<attach>eni-attach-` + id + `)\n`},
	{"ec2-allocate-address -d vpc", `ADDRESS\|(?P<ip>198\.18\.[0-9.]+)\|\|vpc\|(?P<alloc>eipalloc-` + id + `)\n`},
	{"ec2-associate-address -a $alloc -n $second", `ADDRESS\|\|eni-` + id + `\|eipalloc-` + id + `\|(?P<eipassoc>eipassoc-` + id + `)\n`},
	{"ec2-describe-addresses $ip", `ADDRESS\|198[0-9.]+\|i-` + id + `\|vpc\|eipalloc-` + id + `\|eipassoc-` + id + `\|eni-` + id + `\|10\.0\.1\.20\n`},
	{"ec2-delete-vpc $vpc", `error Client\.DependencyViolation: .*\n`},
	{"ec2-disassociate-address -a $eipassoc", `ADDRESS\|eipassoc-` + id + `\n`},
	{"ec2-release-address -a $alloc", `ADDRESS\|eipalloc-` + id + `\n`},
	{"ec2-detach-network-interface $attach", `RETURN\|true\n`},
	{"ec2-delete-network-interface $second", `NETWORKINTERFACE\|eni-` + id + `\n`},
	{"ec2-terminate-instances $i", `INSTANCE\|i-` + id + `\|running\|shutting-down\n`},
	{"ec2-revoke $db -P tcp -p 3306 -o $web", `GROUP(?s:.*)\n`},
	{"ec2-delete-group $web", `RETURN\|true\n`},
	{"ec2-delete-group $db", `RETURN\|true\n`},
	{"ec2-disassociate-route-table $assoc", `RETURN\|true\n`},
	{"ec2-delete-route $rtb -r 0.0.0.0/0", `RETURN\|true\n`},
	{"ec2-delete-route-table $rtb", `ROUTETABLE\|rtb-` + id + `\n`},
	{"ec2-detach-internet-gateway $igw -c $vpc", `RETURN\|true\n`},
	{"ec2-delete-internet-gateway $igw", `INTERNETGATEWAY\|igw-` + id + `\n`},
	{"ec2-delete-subnet $subnet", `SUBNET\|subnet-` + id + `\n`},
	{"ec2-delete-network-acl $acl", `NETWORKACL\|acl-` + id + `\n`},
	{"ec2-delete-vpc $vpc", `VPC\|vpc-` + id + `\n`},
}

// TestVPCToolsCreateAndDeleteAVPC runs all the tools for VPCs against the API: they create a VPC
// and delete it again. Tools that change something run with --wait. Patterns match as in
// TestToolsPrintWhatTheServerAnswers; $NAME in a command line is what the group of that name
// matched in an earlier pattern.
func TestVPCToolsCreateAndDeleteAVPC(t *testing.T) {
	svc, c, j := newEnforcingServer(t)
	apply := func(r state.Request) {
		t.Helper()
		if _, _, err := c.Apply(t.Context(), state.Command{Request: r}); err != nil {
			t.Fatal(err)
		}
	}
	// captured has what the named groups matched. report applies what the node reports after
	// a tool, by the tool's name.
	captured := map[string]string{}
	report := map[string]func(){
		"ec2-run-instances": func() {
			i, _ := c.View().Instance(ec2.InstanceID(captured["i"]))
			lease, _ := c.View().Interface(i.Interface)
			apply(&state.ReportInstance{Instance: i.ID, InterfaceEpoch: lease.Epoch, State: ec2.Running})
		},
		"ec2-detach-network-interface": func() {
			lease, _ := c.View().Interface(ec2.InterfaceID(captured["second"]))
			apply(&state.ReportInterface{Interface: lease.ID, Epoch: lease.Epoch})
		},
		"ec2-terminate-instances": func() {
			lease, _ := c.View().Interface(ec2.InterfaceID(captured["eni"]))
			apply(&state.ReportInstance{Instance: ec2.InstanceID(captured["i"]), InterfaceEpoch: lease.Epoch, State: ec2.Terminated})
		},
	}
	for _, tc := range vpcToolLines {
		line := tc.line
		for name, value := range captured {
			line = regexp.MustCompile(`\$`+name+`\b`).ReplaceAllLiteralString(line, value)
		}
		tool, _, _ := strings.Cut(line, " ")
		if !strings.HasPrefix(tool, "ec2-describe-") {
			line += " --wait=enforced"
		}
		got := svc.runWith(t, j, line+" -O AKIDDEV", says(query.Enforced, ""))
		output, exit := got.stdout, 0
		want, refused := strings.CutPrefix(tc.want, "error ")
		if refused {
			output, exit = got.stderr, 1
		}
		re := regexp.MustCompile(`\A(?:` + want + `)\z`)
		m := re.FindStringSubmatch(strings.ReplaceAll(output, "\t", "|"))
		if m == nil || got.exit != exit {
			t.Fatalf("%s\n got exit %d:\n%s%s\nwant exit %d:\n%s", line, got.exit, strings.ReplaceAll(output, "\t", "|"), got.stderr, exit, want)
		}
		for n, name := range re.SubexpNames() {
			if name != "" {
				captured[name] = m[n]
			}
		}
		if then := report[tool]; then != nil {
			then()
		}
	}
}
