package query

import (
	"strconv"

	"palisade/ec2"
)

// groupFilters are the filters of DescribeSecurityGroups.
var groupFilters = func() filterable[*ec2.Group] {
	f := filterable[*ec2.Group]{
		"description": func(g *ec2.Group) []string { return []string{g.Description} },
		"group-id":    func(g *ec2.Group) []string { return []string{string(g.ID)} },
		"group-name":  func(g *ec2.Group) []string { return []string{g.Name} },
		"owner-id":    func(g *ec2.Group) []string { return []string{string(g.Account)} },
		"vpc-id":      func(g *ec2.Group) []string { return nonEmpty(g.VPC) },
	}
	for prefix, direction := range map[string]ec2.Direction{"ip-permission.": ec2.Ingress, "egress.ip-permission.": ec2.Egress} {
		for name, of := range ruleFilters {
			f[prefix+name] = func(g *ec2.Group) (values []string) {
				for i := range g.Rules {
					if g.Rules[i].Direction == direction {
						values = append(values, of(&g.Rules[i])...)
					}
				}
				return values
			}
		}
	}
	return f
}()

// ruleFilters return the values of one rule. A group passes if each filter matches at
// least one of its rules; two filters may match two different rules. A filter matches only
// values that answers show.
var ruleFilters = map[string]func(*ec2.Rule) []string{
	"cidr":           func(r *ec2.Rule) []string { return nonEmpty(cidrOf(r)) },
	"protocol":       func(r *ec2.Rule) []string { return []string{r.Protocol.String()} },
	"from-port":      func(r *ec2.Rule) []string { return portValue(r, r.From) },
	"to-port":        func(r *ec2.Rule) []string { return portValue(r, r.To) },
	"group-id":       func(r *ec2.Rule) []string { return nonEmpty(r.Source.Group.ID) },
	"group-name":     func(r *ec2.Rule) []string { return nonEmpty(r.Source.Group.Name) },
	"user-id":        func(r *ec2.Rule) []string { return nonEmpty(r.Source.Group.Account) },
	"ipv6-cidr":      func(r *ec2.Rule) []string { return nonEmpty(cidr6Of(r)) },
	"prefix-list-id": func(r *ec2.Rule) []string { return nonEmpty(r.Source.PrefixList) },
}

func portValue(r *ec2.Rule, port int) []string {
	if !r.Protocol.HasRange() {
		return nil
	}
	return []string{strconv.Itoa(port)}
}
