package query

import (
	_ "embed"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"palisade/ec2"
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
	return ec2.Errorf("InvalidAction", "The action %s is not valid for this web service.", quote(name))
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
func (c *call) refuseUnread(p *param) error {
	if onlyReads(c.action) {
		return nil
	}
	for _, u := range p.unread("", "", nil) {
		switch {
		case u.asksForNothing() || !u.decides():
		case slices.Contains(awsActions()[c.action], strings.SplitN(u.name, ".", 2)[0]):
			return ec2.Errorf("UnsupportedOperation", "The parameter %s of %s is not served here", quote(u.name), c.action)
		default:
			return unknownParameter(u.name)
		}
	}
	return nil
}

func onlyReads(action string) bool {
	return strings.HasPrefix(action, "Describe") || strings.HasPrefix(action, "Get") || strings.HasPrefix(action, "List")
}

func unknownParameter(name string) error {
	return ec2.Errorf("UnknownParameter", "The parameter %s is not recognized", quote(name))
}

// An unread parameter, and the part of its name from which on no field read it.
type unread struct {
	name, part, value string
}

// decides: a rule's parameters all do, whatever they are called; a placement group's name
// does not.
func (u unread) decides() bool {
	return strings.HasPrefix(u.name, "IpPermissions.") || decisive.MatchString(u.part) && !strings.HasPrefix(u.name, "Placement.")
}

// asksForNothing: clients name what they do not want.
func (u unread) asksForNothing() bool {
	switch strings.ToLower(u.value) {
	case "", "false", "disabled":
		return true
	case "0":
		return strings.HasSuffix(u.name, "Count")
	}
	return false
}

// unread lists, by name, what no field read below p, whose name is path and ends in last.
func (p *param) unread(path, last string, list []unread) []unread {
	for _, part := range slices.Sorted(maps.Keys(p.children)) {
		c, of := p.children[part], part
		if strings.Trim(part, "0123456789") == "" {
			of = last // "GroupName.1" is about a group's name
		}
		if c.read {
			list = c.unread(path+part+".", of, list)
			continue
		}
		c.each(path+part, func(name, value string) { list = append(list, unread{name, of, value}) })
	}
	return list
}

// each visits every parameter at or below p, whose name is path, in order.
func (p *param) each(path string, visit func(name, value string)) {
	if p.given {
		visit(path, p.value)
	}
	if path != "" {
		path += "."
	}
	for _, part := range slices.Sorted(maps.Keys(p.children)) {
		p.children[part].each(path+part, visit)
	}
}

func (p *param) readAll() {
	p.read = true
	for _, c := range p.children {
		c.readAll()
	}
}
