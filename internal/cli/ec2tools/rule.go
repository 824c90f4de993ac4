package ec2tools

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

var authorizeTool = tool{
	changes:  true,
	summary:  "add rules to a security group",
	synopsis: ruleSynopsis,
	example: `ec2-authorize default -P tcp -p 22 -s 203.0.113.25/32
ec2-authorize MySQL -P tcp -p 3306 -u 495219933132 -o Apache`,
	flags: ruleFlags("AuthorizeSecurityGroup"),
}

var revokeTool = tool{
	changes:  true,
	summary:  "remove rules from a security group",
	synopsis: ruleSynopsis,
	example:  `ec2-revoke default -P tcp -p 22 -s 203.0.113.25/32`,
	flags:    ruleFlags("RevokeSecurityGroup"),
}

var ruleSynopsis = []string{
	"GROUP [-P tcp|udp] -p PORT|FROM-TO [-s CIDR]...",
	"GROUP -P icmp -t TYPE:CODE [-s CIDR]...   or, in a VPC: GROUP-ID -P all [-s CIDR]...",
	"GROUP [-P PROTOCOL -p PORT | -t TYPE:CODE] [-u ACCOUNT] -o SOURCE-GROUP ...",
}

// ruleOptions are the options of ec2-authorize and ec2-revoke, as text.
type ruleOptions struct {
	protocol, ports, icmp string
	cidrs, groups, owners []string
	egress                bool
}

// ruleFlags declares the options of a tool that performs an action, whose name is call
// followed by Ingress or Egress.
func ruleFlags(call string) func(*pflag.FlagSet) action {
	return func(fs *pflag.FlagSet) action {
		var o ruleOptions
		fs.StringVarP(&o.protocol, "protocol", "P", "", "`PROTOCOL`: tcp (the default), udp or icmp; in a VPC also a number, or all")
		fs.StringVarP(&o.ports, "port-range", "p", "", "`PORTS`: 22, 8000-8010, or -1 for all")
		fs.StringVarP(&o.icmp, "icmp-type-code", "t", "", "ICMP `TYPE:CODE`: 8:0, or -1:-1 for all")
		fs.StringArrayVarP(&o.cidrs, "cidr", "s", nil, "source (with --egress: destination) as a `CIDR`; everybody if neither -s nor -o is given")
		fs.StringArrayVarP(&o.groups, "source-group", "o", nil, "source `GROUP`; without -P, for every protocol and port")
		fs.StringArrayVarP(&o.owners, "source-group-user", "u", nil, "`ACCOUNT` of the source group; your own if left out")
		fs.BoolVar(&o.egress, "egress", false, "the rules are for egress (only in a VPC)")
		return func(ctx context.Context, s *invocation, args []string) error {
			if err := o.checkGroup(args); err != nil {
				return err
			}
			rules, err := o.rules()
			if err != nil {
				return err
			}
			return s.changeRules(ctx, call, args[0], rules, o.direction())
		}
	}
}

func (o *ruleOptions) direction() direction {
	if o.egress {
		return egress
	}
	return ingress
}

// checkGroup checks that exactly one group is named. An example of the EC2 User Guide
// forgets the group ("To add a rule": ec2-authorize -p 22 -s…); the tool does not guess a
// group.
func (o *ruleOptions) checkGroup(args []string) error {
	switch {
	case len(args) == 0:
		return usagef("which group? give its name first, as in: default -p 22 -s 203.0.113.25/32")
	case len(args) == 1:
		return nil
	}
	if _, err := netip.ParsePrefix(args[1]); err == nil {
		return usagef("%s has no option before it; a CIDR block needs -s: -s %s", args[1], args[1])
	}
	return usagef("one group at a time: unexpected %s after %s; a name with blanks needs quotes", strings.Join(args[1:], ", "), args[0])
}

// rules returns the rules that the options describe, one for each protocol and source.
func (o *ruleOptions) rules() ([]rule, error) {
	sources, err := o.sources()
	if err != nil {
		return nil, err
	}
	ranges, err := o.ranges()
	if err != nil {
		return nil, err
	}
	var rules []rule
	for _, src := range sources {
		for _, r := range ranges {
			r.source = src
			rules = append(rules, r)
		}
	}
	return rules, nil
}

// sources reads -s, -o and -u. If neither -s nor -o is given, the source is everybody (EC2
// User Guide, "Adding a Security Group Rule": ec2-authorize default -p 80).
func (o *ruleOptions) sources() ([]source, error) {
	switch {
	case len(o.cidrs) > 0 && len(o.groups) > 0:
		return nil, usagef("-s and -o cannot be used together; run the command once with each")
	case len(o.groups) == 0 && len(o.owners) > 0:
		return nil, usagef("-u %s gives the owner of a group, but not the group; add -o GROUP", o.owners[0])
	case len(o.owners) > 1 && len(o.owners) != len(o.groups):
		return nil, usagef("%d -u for %d -o; give none, one for all, or one for each", len(o.owners), len(o.groups))
	case len(o.groups) > 0:
		return o.groupSources()
	case len(o.cidrs) == 0:
		return []source{{cidr: "0.0.0.0/0"}}, nil
	}
	var sources []source
	for _, text := range o.cidrs {
		cidr, err := parseCIDR("-s", text)
		if err != nil {
			return nil, err
		}
		sources = append(sources, source{cidr: cidr})
	}
	return sources, nil
}

func (o *ruleOptions) groupSources() ([]source, error) {
	var sources []source
	for i, ref := range o.groups {
		var src source
		if ref == "" {
			return nil, usagef("-o is empty; %s", hints["source-group"])
		}
		if isGroupID(ref) {
			src.id = ref
		} else {
			src.name = ref
		}
		switch {
		case len(o.owners) == 1:
			src.owner = o.owners[0]
		case len(o.owners) > 1:
			src.owner = o.owners[i]
		}
		// Account numbers are often written as 1111-2222-3333.
		src.owner = strings.ReplaceAll(src.owner, "-", "")
		sources = append(sources, src)
	}
	return sources, nil
}

// parseCIDR returns the value text of option with its host bits cleared, as the service shows it. An
// address without prefix length is an error, because it could mean /32 or /0.
func parseCIDR(option, text string) (string, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return "", usagef("%s %s has no prefix length; for this address only: %s %s/%d", option, text, option, text, addr.BitLen())
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return "", usagef("%s %q is not a CIDR block; %s", option, text, cidrHint(option))
	}
	return p.Masked().String(), nil
}

// ranges reads -P, -p and -t. It returns rules without a source.
func (o *ruleOptions) ranges() ([]rule, error) {
	protocol := strings.ToLower(o.protocol)
	if name, ok := protocolNames[protocol]; ok {
		protocol = name
	}
	if protocol == "" {
		switch {
		case o.icmp != "":
			protocol = "icmp"
		case o.ports != "":
			protocol = "tcp"
		case len(o.groups) > 0:
			// EC2 Developer Guide (2006), "Group Access Rights": a source group
			// is admitted on all protocols and ports.
			return []rule{
				{protocol: "tcp", from: "0", to: "65535"},
				{protocol: "udp", from: "0", to: "65535"},
				{protocol: "icmp", from: "-1", to: "-1"},
			}, nil
		default:
			return nil, usagef("which port? %s", hints["port-range"])
		}
	}
	switch protocol {
	case "tcp", "udp":
		if o.icmp != "" {
			return nil, usagef("-t is for icmp; for %s %s", protocol, hints["port-range"])
		}
		if o.ports == "" {
			return nil, usagef("which %s port? %s", protocol, hints["port-range"])
		}
		from, to, err := parsePorts(o.ports)
		return []rule{{protocol: protocol, from: from, to: to}}, err
	case "icmp":
		if o.ports != "" {
			return nil, usagef("icmp has no ports; %s", hints["icmp-type-code"])
		}
		if o.icmp == "" {
			return nil, usagef("which icmp messages? %s", hints["icmp-type-code"])
		}
		from, to, err := parseTypeCode(o.icmp)
		return []rule{{protocol: protocol, from: from, to: to}}, err
	}
	if _, err := strconv.ParseUint(protocol, 10, 8); err != nil && protocol != allProtocols {
		return nil, usagef("-P %s: %s", o.protocol, hints["protocol"])
	}
	if o.ports != "" || o.icmp != "" {
		return nil, usagef("-P %s has no ports: leave -p and -t out, or name tcp, udp or icmp", o.protocol)
	}
	return []rule{{protocol: protocol}}, nil
}

// allProtocols is the API's protocol of a rule for all protocols. The tools read and print
// "all".
const allProtocols = "-1"

// protocolNames has the protocols to which the API gives names, and "all".
var protocolNames = map[string]string{"6": "tcp", "17": "udp", "1": "icmp", "all": allProtocols}

// parsePorts reads 22, 8000-8010, or -1 for every port.
func parsePorts(text string) (from, to string, err error) {
	if text == "-1" {
		return "0", "65535", nil
	}
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		last = first
	}
	a, errA := strconv.ParseUint(first, 10, 16)
	b, errB := strconv.ParseUint(last, 10, 16)
	switch {
	case errA != nil || errB != nil:
		return "", "", usagef("-p %s is not a port or a range of ports between 0 and 65535; %s", text, hints["port-range"])
	case a > b:
		return "", "", usagef("-p %s: the first port is greater than the last; write -p %d-%d", text, b, a)
	}
	return strconv.FormatUint(a, 10), strconv.FormatUint(b, 10), nil
}

// parseTypeCode reads 8:0 or -1:-1; -1 is any.
func parseTypeCode(text string) (typ, code string, err error) {
	t, c, ok := strings.Cut(text, ":")
	a, errA := strconv.Atoi(t)
	b, errB := strconv.Atoi(c)
	if !ok || errA != nil || errB != nil || a < -1 || a > 255 || b < -1 || b > 255 {
		return "", "", usagef("-t %s is not an ICMP type and code, each -1 to 255; %s", text, hints["icmp-type-code"])
	}
	return strconv.Itoa(a), strconv.Itoa(b), nil
}

// changeRules adds the rules to the group ref or removes them, all or none, and prints them.
// It looks up the group first, because the answer does not contain the group's id and name.
func (s *invocation) changeRules(ctx context.Context, call, ref string, rules []rule, d direction) error {
	g, err := s.group(ctx, ref)
	if err != nil {
		return err
	}
	known := make(map[source]source)
	for i, r := range rules {
		src, ok := known[r.source]
		if !ok {
			if src, err = s.resolve(ctx, r.source); err != nil {
				return err
			}
			known[r.source] = src
		}
		rules[i].source = src
	}
	params := url.Values{"GroupId": {g.ID}}
	for i, r := range rules {
		r.params(params, fmt.Sprintf("IpPermissions.%d.", i+1))
	}
	suffix := map[direction]string{ingress: "Ingress", egress: "Egress"}[d]
	var answer struct {
		Unknown []permission `xml:"unknownIpPermissionSet>item"`
	}
	if err := s.call(ctx, call+suffix, params, &answer); err != nil {
		return err
	}
	if missing := rulesOf(answer.Unknown); len(missing) > 0 {
		return s.errNoSuchRules(g, rules, missing, d)
	}
	s.era.printRules(s.out, g, rules, d)
	return nil
}

// errNoSuchRules reports rules that could not be revoked because the group does not have
// them. EC2-Classic reports success; but for a person this is a typing error that leaves a
// port open.
func (s *invocation) errNoSuchRules(g group, asked, missing []rule, d direction) error {
	texts := make([]string, len(missing))
	for i, r := range missing {
		texts[i] = strings.Join(s.era.ruleColumns(r, d)[1:], " ")
	}
	rest := "nothing was removed"
	if len(missing) < len(asked) {
		rest = "the other rules were removed"
	}
	return fmt.Errorf("group %s has no rule %s: %s; ec2-describe-group %s lists its rules", g.Name, strings.Join(texts, ", nor "), rest, g.Name)
}

// resolve adds owner, name and id to a source group of the caller's account. Groups of other
// accounts cannot be looked up and stay unchanged.
func (s *invocation) resolve(ctx context.Context, src source) (source, error) {
	if src.cidr != "" || src.owner != "" {
		return src, nil
	}
	g, err := s.group(ctx, src.name+src.id)
	if err != nil {
		return source{}, err
	}
	return source{owner: g.Owner, name: g.Name, id: g.ID}, nil
}

// params adds the rule as an entry of IpPermissions. Its parameters begin with prefix.
func (r rule) params(params url.Values, prefix string) {
	params.Set(prefix+"IpProtocol", r.protocol)
	if r.from != "" {
		params.Set(prefix+"FromPort", r.from)
		params.Set(prefix+"ToPort", r.to)
	}
	switch {
	case isIPv6(r.source.cidr):
		params.Set(prefix+"Ipv6Ranges.1.CidrIpv6", r.source.cidr)
	case r.source.cidr != "":
		params.Set(prefix+"IpRanges.1.CidrIp", r.source.cidr)
	default:
		if r.source.id != "" {
			params.Set(prefix+"Groups.1.GroupId", r.source.id)
		} else {
			params.Set(prefix+"Groups.1.GroupName", r.source.name)
		}
		if r.source.owner != "" {
			params.Set(prefix+"Groups.1.UserId", r.source.owner)
		}
	}
}
