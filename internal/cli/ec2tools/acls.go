package ec2tools

import (
	"context"
	"net/url"
	"strconv"

	"github.com/spf13/pflag"
)

// The lines of network ACLs:
//
//	NETWORKACL   ID  VPC  [default]
//	ENTRY        ingress or egress  NUMBER  allow or deny  CIDR  PROTOCOL  [FROM  TO]
//	ASSOCIATION  ID  SUBNET  NETWORKACL
//
// PROTOCOL is a number or "all". FROM and TO are ports, or the type and code of ICMP; -1 is any.

type networkACL struct {
	ID           string     `xml:"networkAclId"`
	VPC          string     `xml:"vpcId"`
	Default      bool       `xml:"default"`
	Entries      []aclEntry `xml:"entrySet>item"`
	Associations []struct {
		ID     string `xml:"networkAclAssociationId"`
		ACL    string `xml:"networkAclId"`
		Subnet string `xml:"subnetId"`
	} `xml:"associationSet>item"`
	tags
}

type aclEntry struct {
	Number   string `xml:"ruleNumber"`
	Protocol string `xml:"protocol"`
	Action   string `xml:"ruleAction"`
	Egress   bool   `xml:"egress"`
	CIDR     string `xml:"cidrBlock"`
	IPv6     string `xml:"ipv6CidrBlock"`
	Ports    *struct {
		From string `xml:"from"`
		To   string `xml:"to"`
	} `xml:"portRange"`
	ICMP *struct {
		Type string `xml:"type"`
		Code string `xml:"code"`
	} `xml:"icmpTypeCode"`
}

func (a networkACL) rows() [][]string {
	first := []string{"NETWORKACL", a.ID, a.VPC}
	if a.Default {
		first = append(first, "default")
	}
	rows := [][]string{first}
	for _, e := range a.Entries {
		rows = append(rows, e.columns())
	}
	for _, as := range a.Associations {
		rows = append(rows, []string{"ASSOCIATION", as.ID, as.Subnet, as.ACL})
	}
	return append(rows, a.tags.rows("network-acl", a.ID)...)
}

func (e aclEntry) columns() []string {
	d := ingress
	if e.Egress {
		d = egress
	}
	protocol := e.Protocol
	if protocol == allProtocols {
		protocol = "all"
	}
	columns := []string{"ENTRY", string(d), e.Number, e.Action, e.CIDR + e.IPv6, protocol}
	switch {
	case e.Ports != nil:
		return append(columns, e.Ports.From, e.Ports.To)
	case e.ICMP != nil:
		return append(columns, e.ICMP.Type, e.ICMP.Code)
	}
	return columns
}

type newACL struct {
	ACL networkACL `xml:"networkAcl"`
}

var createACLTool = singleCall[newACL]{
	summary: "create a network ACL in a VPC; it denies everything until it has entries", synopsis: "VPC", example: "ec2-create-network-acl vpc-1a2b3c4d",
	call: "CreateNetworkAcl", param: "VpcId", need: "in which VPC? ec2-describe-vpcs lists them",
	show: func(_ url.Values, a newACL) [][]string {
		return a.ACL.rows()
	},
}.tool()

type networkACLs struct {
	ACLs []networkACL `xml:"networkAclSet>item"`
}

var describeACLsTool = listing[networkACLs]{
	summary: "list network ACLs, their entries and associations", synopsis: "[ACL]...", example: "ec2-describe-network-acls -F vpc-id=vpc-1a2b3c4d",
	call: "DescribeNetworkAcls", param: "NetworkAclId",
	show: func(a networkACLs) (rows [][]string) {
		for _, acl := range a.ACLs {
			rows = append(rows, acl.rows()...)
		}
		return rows
	},
}.tool()

const whichACL = "which network ACL? ec2-describe-network-acls lists them"

var deleteACLTool = singleCall[returned]{
	summary: "delete a network ACL that no subnet is associated with", synopsis: "ACL", example: "ec2-delete-network-acl acl-2cb85d45",
	call: "DeleteNetworkAcl", param: "NetworkAclId", need: whichACL,
	show: showParameter("NETWORKACL", "NetworkAclId"),
}.tool()

var replaceACLAssociationTool = singleCall[replacedAssociation]{
	summary: "replace the network ACL of a subnet", synopsis: "ASSOCIATION -a ACL",
	example: "ec2-replace-network-acl-association aclassoc-33ae4b5a -a acl-5fb85d36",
	call:    "ReplaceNetworkAclAssociation", param: "AssociationId",
	need:    "which association? as in: aclassoc-33ae4b5a; ec2-describe-network-acls lists them",
	options: []option{{long: "network-acl", short: "a", param: "NetworkAclId", usage: "the `ACL`", need: whichACL}},
	show: func(asked url.Values, a replacedAssociation) [][]string {
		return [][]string{{"ASSOCIATION", a.ID, asked.Get("NetworkAclId")}}
	},
}.tool()

var (
	createACLEntryTool  = aclEntryTool("ec2-create-network-acl-entry", "add an entry to a network ACL", "CreateNetworkAclEntry")
	replaceACLEntryTool = aclEntryTool("ec2-replace-network-acl-entry", "replace an entry of a network ACL", "ReplaceNetworkAclEntry")
)

// aclEntryOptions are the options of a tool that writes an entry, as text.
type aclEntryOptions struct {
	number, cidr string
	traffic      ruleOptions // its protocol, ports and ICMP messages
	egress       bool
	allow, deny  bool
}

func aclEntryTool(name, summary, call string) tool {
	return tool{
		changes:  true,
		summary:  summary,
		synopsis: []string{"ACL -n NUMBER [--egress] -P PROTOCOL -r CIDR [-p PORTS | -t TYPE:CODE] --allow|--deny"},
		example: name + " acl-5fb85d36 -n 110 -r 0.0.0.0/0 -P udp -p 53 --allow\n" +
			name + " acl-5fb85d36 -n 120 --egress -r 0.0.0.0/0 -P tcp -p 1024-65535 --allow",
		flags: func(fs *pflag.FlagSet) action {
			var o aclEntryOptions
			fs.StringVarP(&o.number, "rule-number", "n", "", "`NUMBER` of the entry, 1 to 32766; the lowest that matches a packet decides")
			fs.BoolVar(&o.egress, "egress", false, "the entry is for packets that leave the subnet")
			fs.StringVarP(&o.traffic.protocol, "protocol", "P", "", "`PROTOCOL`: tcp, udp, icmp, a number, or all")
			fs.StringVarP(&o.cidr, "cidr", "r", "", "source (with --egress: destination) as a `CIDR`")
			fs.StringVarP(&o.traffic.ports, "port-range", "p", "", "`PORTS`: 22, 1024-65535, or -1 for all")
			fs.StringVarP(&o.traffic.icmp, "icmp-type-code", "t", "", "ICMP `TYPE:CODE`: 8:0, or -1:-1 for all")
			fs.BoolVar(&o.allow, "allow", false, "let the packets pass")
			fs.BoolVar(&o.deny, "deny", false, "drop the packets")
			return func(ctx context.Context, s *invocation, args []string) error {
				params := url.Values{}
				if err := argument(params, "NetworkAclId", whichACL, args); err != nil {
					return err
				}
				entry, err := o.entry()
				if err != nil {
					return err
				}
				entry.params(params)
				if err := s.call(ctx, call, params, &returned{}); err != nil {
					return err
				}
				line(s.out, entry.columns()...)
				return nil
			}
		},
	}
}

// A newACLEntry is an entry to write. Its rule has the protocol and the ports, and the CIDR as source.
type newACLEntry struct {
	number, action string
	direction      direction
	rule
}

// entry returns the entry that the options describe.
func (o *aclEntryOptions) entry() (newACLEntry, error) {
	e := newACLEntry{action: "allow", direction: ingress}
	if o.egress {
		e.direction = egress
	}
	if o.deny {
		e.action = "deny"
	}
	var err error
	if e.number, err = entryNumber(o.number); err != nil {
		return e, err
	}
	switch {
	case o.allow == o.deny:
		return e, usagef("allow or deny? give one of --allow and --deny")
	case o.cidr == "":
		return e, usagef("for which addresses? as in: -r 0.0.0.0/0")
	case o.traffic.protocol == "":
		return e, usagef("which protocol? as in: -P tcp, or -P all")
	}
	rules, err := o.traffic.ranges()
	if err != nil {
		return e, err
	}
	e.rule = rules[0]
	e.source.cidr, err = parseCIDR("-r", o.cidr)
	return e, err
}

func (e newACLEntry) columns() []string {
	protocol := e.protocol
	if protocol == allProtocols {
		protocol = "all"
	}
	columns := []string{"ENTRY", string(e.direction), e.number, e.action, e.source.cidr, protocol}
	if e.from != "" {
		columns = append(columns, e.from, e.to)
	}
	return columns
}

// params sets the parameters of the entry. Its protocol is a number.
func (e newACLEntry) params(params url.Values) {
	params.Set("RuleNumber", e.number)
	params.Set("RuleAction", e.action)
	params.Set("Egress", strconv.FormatBool(e.direction == egress))
	params.Set("Protocol", e.protocol)
	for number, name := range protocolNames {
		if name == e.protocol && number != "all" {
			params.Set("Protocol", number)
		}
	}
	block := "CidrBlock"
	if isIPv6(e.source.cidr) {
		block = "Ipv6CidrBlock"
	}
	params.Set(block, e.source.cidr)
	switch {
	case e.from == "":
	case e.protocol == "icmp":
		params.Set("Icmp.Type", e.from)
		params.Set("Icmp.Code", e.to)
	default:
		params.Set("PortRange.From", e.from)
		params.Set("PortRange.To", e.to)
	}
}

// entryNumber reads the number of an entry. Greater numbers are the service's own.
func entryNumber(text string) (string, error) {
	switch n, err := strconv.ParseUint(text, 10, 32); {
	case text == "":
		return "", usagef("which number? as in: -n 110")
	case err != nil || n < 1 || n > 32766:
		return "", usagef("-n %s is not the number of an entry, 1 to 32766", text)
	}
	return text, nil
}

var deleteACLEntryTool = tool{
	changes:  true,
	summary:  "remove an entry from a network ACL",
	synopsis: []string{"ACL -n NUMBER [--egress]"},
	example:  "ec2-delete-network-acl-entry acl-5fb85d36 -n 110",
	flags: func(fs *pflag.FlagSet) action {
		number := fs.StringP("rule-number", "n", "", "`NUMBER` of the entry")
		egress := fs.Bool("egress", false, "the entry is for packets that leave the subnet")
		return func(ctx context.Context, s *invocation, args []string) error {
			params := url.Values{"Egress": {strconv.FormatBool(*egress)}}
			if err := argument(params, "NetworkAclId", whichACL, args); err != nil {
				return err
			}
			n, err := entryNumber(*number)
			if err != nil {
				return err
			}
			params.Set("RuleNumber", n)
			if err := s.call(ctx, "DeleteNetworkAclEntry", params, &returned{}); err != nil {
				return err
			}
			for _, columns := range showReturn(params, returned{}) {
				line(s.out, columns...)
			}
			return nil
		}
	},
}
