package ec2tools

import (
	"context"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

var describeGroupTool = tool{
	summary:  "list security groups and their rules",
	synopsis: []string{"[GROUP]... [-F NAME=VALUE]..."},
	example:  "ec2-describe-group default",
	flags: func(fs *pflag.FlagSet) action {
		filter := filterFlag(fs)
		return func(ctx context.Context, s *invocation, args []string) error {
			params := url.Values{}
			if err := filter(params); err != nil {
				return err
			}
			groups, err := s.groups(ctx, args, params)
			if err != nil {
				return err
			}
			for _, g := range groups {
				s.era.printGroup(s.out, g)
			}
			return nil
		}
	},
}

var createGroupTool = tool{
	changes:  true,
	summary:  "create a security group",
	synopsis: []string{"NAME -d DESCRIPTION [-c VPC]"},
	example:  `ec2-create-group Apache -d "Apache web server"`,
	flags: func(fs *pflag.FlagSet) action {
		description := fs.StringP("description", "d", "", "`TEXT` that describes the group; required")
		vpc := fs.StringP("vpc", "c", "", "`VPC` to create it in")
		return func(ctx context.Context, s *invocation, args []string) error {
			if err := checkNewGroup(fs, args, *description); err != nil {
				return err
			}
			params := url.Values{"GroupName": {args[0]}, "GroupDescription": {*description}}
			if *vpc != "" {
				params.Set("VpcId", *vpc)
			}
			var answer struct {
				ID string `xml:"groupId"`
			}
			if err := s.call(ctx, "CreateSecurityGroup", params, &answer); err != nil {
				return err
			}
			if s.era == era2006 {
				line(s.out, "GROUP", args[0], *description)
			} else {
				line(s.out, "GROUP", answer.ID, args[0], *description)
			}
			return nil
		}
	},
}

// checkNewGroup checks the arguments. The guides make the mistake of a description without
// quotes: ec2-create-group Apache -d Apache web server.
func checkNewGroup(fs *pflag.FlagSet, args []string, description string) error {
	switch {
	case len(args) == 0:
		return usagef(`which name? as in: Apache -d "Apache web server"`)
	case !fs.Changed("description"):
		return usagef(`a group needs a description: %s -d "TEXT"`, args[0])
	case len(args) > 1:
		words := append([]string{description}, args[1:]...)
		return usagef(`a description of several words needs quotes: %s -d "%s"`, args[0], strings.Join(words, " "))
	}
	return nil
}

var deleteGroupTool = tool{
	changes:  true,
	summary:  "delete a security group that has no instances",
	synopsis: []string{"GROUP"},
	example:  "ec2-delete-group Apache",
	flags: func(*pflag.FlagSet) action {
		return func(ctx context.Context, s *invocation, args []string) error {
			if len(args) != 1 {
				return usagef("name exactly one group, by name or id; a name with blanks needs quotes")
			}
			params := url.Values{}
			groupRef(params, "", args[0])
			if err := s.call(ctx, "DeleteSecurityGroup", params, &struct{}{}); err != nil {
				return err
			}
			if s.era == era2006 {
				line(s.out, "GROUP", args[0])
			} else {
				line(s.out, "RETURN", "true")
			}
			return nil
		}
	},
}

// A group is one item of DescribeSecurityGroups.
type group struct {
	Owner       string       `xml:"ownerId"`
	ID          string       `xml:"groupId"`
	Name        string       `xml:"groupName"`
	Description string       `xml:"groupDescription"`
	VPC         string       `xml:"vpcId"`
	Permissions []permission `xml:"ipPermissions>item"`
	Egress      []permission `xml:"ipPermissionsEgress>item"`
}

// A permission has rules with equal protocol and ports, one for each source.
type permission struct {
	Protocol string `xml:"ipProtocol"`
	From     *int   `xml:"fromPort"` // nil for a protocol without ports
	To       *int   `xml:"toPort"`
	Groups   []struct {
		Owner string `xml:"userId"`
		ID    string `xml:"groupId"`
		Name  string `xml:"groupName"`
	} `xml:"groups>item"`
	Ranges []struct {
		CIDR string `xml:"cidrIp"`
	} `xml:"ipRanges>item"`
	IPv6Ranges []struct {
		CIDR string `xml:"cidrIpv6"`
	} `xml:"ipv6Ranges>item"`
	PrefixLists []struct {
		ID string `xml:"prefixListId"`
	} `xml:"prefixListIds>item"`
}

// rulesOf returns a rule for each source of each permission, in the order of the answer.
func rulesOf(permissions []permission) []rule {
	var rules []rule
	for _, p := range permissions {
		r := rule{protocol: p.Protocol, from: number(p.From), to: number(p.To)}
		add := func(src source) {
			r.source = src
			rules = append(rules, r)
		}
		for _, g := range p.Groups {
			add(source{owner: g.Owner, name: g.Name, id: g.ID})
		}
		for _, c := range p.Ranges {
			add(source{cidr: c.CIDR})
		}
		for _, c := range p.IPv6Ranges {
			add(source{cidr: c.CIDR})
		}
		for _, l := range p.PrefixLists {
			add(source{prefixList: l.ID})
		}
	}
	return rules
}

func number(n *int) string {
	if n == nil {
		return ""
	}
	return strconv.Itoa(*n)
}

// The method groups returns the groups that refs name, by name or by id, or without refs
// all groups. params has further parameters of the call.
func (s *invocation) groups(ctx context.Context, refs []string, params url.Values) ([]group, error) {
	var ids, names []string
	for _, ref := range refs {
		if isGroupID(ref) {
			ids = append(ids, ref)
		} else {
			names = append(names, ref)
		}
	}
	numbered(params, "GroupId", ids)
	numbered(params, "GroupName", names)
	var answer struct {
		Groups []group `xml:"securityGroupInfo>item"`
	}
	if err := s.call(ctx, "DescribeSecurityGroups", params, &answer); err != nil {
		return nil, err
	}
	return answer.Groups, nil
}

// The method group returns the one group that ref names, by name or by id.
func (s *invocation) group(ctx context.Context, ref string) (group, error) {
	groups, err := s.groups(ctx, []string{ref}, url.Values{})
	if err != nil {
		return group{}, err
	}
	if len(groups) != 1 {
		return group{}, usagef("%q names %d groups; use an id, which ec2-describe-group lists", ref, len(groups))
	}
	return groups[0], nil
}
