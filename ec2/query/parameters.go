package query

import (
	"regexp"
	"strings"

	"palisade/ec2"
	"palisade/ec2/query/model"
	"palisade/ec2/query/wire"
)

// decisive matches names of parameters that decide which traffic is admitted.
var decisive = regexp.MustCompile(`(?i)` + strings.Join([]string{
	`cidr`, `ipv[46]`, `privateip`, `publicip`, `prefix`, `secondary`, // addresses
	`permission`, `securitygroup`, `^groups?(id|name)?$`, `egress`, `ingress`, `protocol`, `ports?$`, `^portrange`, `icmp`, // rules
	`vpc`, `subnet`, `networkinterface`, `acl`, `route`, `gateway`, `peering`, `vpcendpoint`, `corenetwork`, `ipam`, // networks
	`sourcedest`, `tracking`, `launchtemplate`,
}, "|"))

// refuseUnread refuses a parameter that no field read and that decides which traffic is
// admitted: its sender would believe that it is enforced. It ignores other parameters,
// because newer clients send parameters that older services do not know, and all unread
// parameters of actions that only read. (EC2 refuses every parameter that it does not
// know.)
func (c *call) refuseUnread(p *wire.Param) error {
	if onlyReads(c.action) {
		return nil
	}
	aws, _ := model.Lookup(c.action)
	for _, u := range p.Unread() {
		switch {
		case asksForNothing(u) || !decides(u):
		case aws.HasParameter(strings.SplitN(u.Name, ".", 2)[0]):
			return ec2.Errorf("UnsupportedOperation", "The parameter %s of %s is not served here", wire.Quote(u.Name), c.action)
		default:
			return wire.Unknown(u.Name)
		}
	}
	return nil
}

func onlyReads(action string) bool { return model.OnlyReads(action) }

// decides reports whether a parameter may decide which traffic is admitted. Every
// parameter of a rule does, whatever its name; the name of a placement group does not.
func decides(u wire.Unread) bool {
	return strings.HasPrefix(u.Name, "IpPermissions.") || decisive.MatchString(u.Part) && !strings.HasPrefix(u.Name, "Placement.")
}

// asksForNothing reports whether a parameter only turns something off, so that it is safe
// to ignore.
func asksForNothing(u wire.Unread) bool {
	switch strings.ToLower(u.Value) {
	case "", "false", "disabled":
		return true
	case "0":
		return strings.HasSuffix(u.Name, "Count")
	}
	return false
}
