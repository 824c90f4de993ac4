package query

import (
	_ "embed"
	"regexp"
	"slices"
	"strings"
	"sync"

	"palisade/ec2"
	"palisade/ec2/query/wire"
)

// awsText is what AWS has, served here or not: an Action a line, and behind it the first
// parts of its parameters' names. TestAWSHasTheseActions writes it anew.
//
//go:embed aws.txt
var awsText string

// awsActions are the parameters of every Action that AWS has.
var awsActions = sync.OnceValue(func() map[string][]string {
	all := make(map[string][]string)
	for line := range strings.Lines(awsText) {
		words := strings.Fields(line)
		all[words[0]] = words[1:]
	}
	return all
})

// noSuchAction tells an Action that AWS has and we do not from one that nobody has.
func noSuchAction(name string) error {
	if _, ok := awsActions()[name]; ok {
		return ec2.Errorf("UnsupportedOperation", "The action %s is not served here", name)
	}
	return ec2.Errorf("InvalidAction", "The action %s is not valid for this web service.", wire.Quote(name))
}

// decisive are the words of a parameter that says who reaches whom.
var decisive = regexp.MustCompile(`(?i)` + strings.Join([]string{
	`cidr`, `ipv[46]`, `privateip`, `publicip`, `prefix`, `secondary`, // addresses
	`permission`, `securitygroup`, `^groups?(id|name)?$`, `egress`, `ingress`, `protocol`, `ports?$`, `^portrange`, `icmp`, // rules
	`vpc`, `subnet`, `networkinterface`, `acl`, `route`, `gateway`, `peering`, `vpcendpoint`, `corenetwork`, `ipam`, // networks
	`sourcedest`, `tracking`, `launchtemplate`,
}, "|"))

// refuseUnread refuses a parameter that changes what is admitted and that no field read:
// whoever sent it would take for enforced what is not even stored. The rest is ignored,
// as newer clients send what older services never heard of; so is everything where
// nothing is changed. (EC2 itself answers UnknownParameter to all that it does not know.)
func (c *call) refuseUnread(p *wire.Param) error {
	if onlyReads(c.action) {
		return nil
	}
	for _, u := range p.Unread() {
		switch {
		case asksForNothing(u) || !decides(u):
		case slices.Contains(awsActions()[c.action], strings.SplitN(u.Name, ".", 2)[0]):
			return ec2.Errorf("UnsupportedOperation", "The parameter %s of %s is not served here", wire.Quote(u.Name), c.action)
		default:
			return wire.Unknown(u.Name)
		}
	}
	return nil
}

func onlyReads(action string) bool {
	return strings.HasPrefix(action, "Describe") || strings.HasPrefix(action, "Get") || strings.HasPrefix(action, "List")
}

// decides reports whether a parameter may change who reaches whom. Every parameter of a
// rule does, whatever its name; the name of a placement group does not.
func decides(u wire.Unread) bool {
	return strings.HasPrefix(u.Name, "IpPermissions.") || decisive.MatchString(u.Part) && !strings.HasPrefix(u.Name, "Placement.")
}

// asksForNothing reports whether a parameter only says what the client does not want.
func asksForNothing(u wire.Unread) bool {
	switch strings.ToLower(u.Value) {
	case "", "false", "disabled":
		return true
	case "0":
		return strings.HasSuffix(u.Name, "Count")
	}
	return false
}
