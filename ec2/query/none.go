package query

import (
	"fmt"
	"reflect"
	"sync"

	"palisade/ec2"
	"palisade/ec2/query/model"
	"palisade/ec2/query/wire"
)

// otherAction returns the handler of an action that no theme has. An action that only reads
// is about resources that no account can have here, so it shows none. Other actions get an
// error: one code for an action of AWS, another for a name that AWS does not have either.
func otherAction(name string) (handler, error) {
	a, ok := model.Lookup(name)
	if !ok {
		return handler{}, ec2.Errorf("InvalidAction", "The action %s is not valid for this web service.", wire.Quote(name))
	}
	if why := model.WhyRefused(name); why != "" {
		return handler{}, ec2.Errorf("UnsupportedOperation", "The action %s is not served here: %s", name, why)
	}
	return showsNone(a), nil
}

// A noneRequest has what the actions that show none read, beside their ids.
type noneRequest struct {
	DryRun  bool     `wire:"DryRun"`
	Filters []filter `wire:"Filter"`
	Other   []filter `wire:"Filters"` // of two actions about imports
	paged
}

// showsNone returns the handler of an action that shows resources which no account has here:
// its answer has an empty list, and each id is one that does not exist.
func showsNone(a *model.Action) handler {
	h := handler{request: reflect.TypeFor[noneRequest](), answer: emptyAnswer(a)}
	h.do = func(c *call, p *wire.Param) (any, error) {
		var r noneRequest
		if err := wire.Decode(p, &r); err != nil {
			return nil, err
		}
		if err := noneFilters().check(append(r.Filters, r.Other...)); err != nil {
			return nil, err
		}
		for _, m := range a.Parameters {
			if err := c.checkNamed(a, m, p); err != nil {
				return nil, err
			}
		}
		if r.NextToken != "" {
			return nil, ec2.Errorf("InvalidNextToken", "The token '%s' is invalid", wire.Quote(r.NextToken))
		}
		if r.DryRun {
			return nil, dryRunSucceeded()
		}
		return reflect.New(h.answer).Interface(), nil
	}
	return h
}

// emptyAnswer returns a type that is encoded as an empty element for each list of the answer.
func emptyAnswer(a *model.Action) reflect.Type {
	var fields []reflect.StructField
	for _, m := range a.Answer {
		if m.List {
			name := fmt.Sprintf("List%d", len(fields))
			fields = append(fields, reflect.StructField{Name: name, Type: reflect.TypeFor[[]tag](), Tag: reflect.StructTag(`wire:"` + m.Name + `"`)})
		}
	}
	return reflect.StructOf(fields)
}

// noneFilters are the filters of an action that shows none. Nothing passes them. They are
// those of all actions in AWS's reference, because EC2 takes more than the reference lists:
// AWS's own script for VPCs that cannot be deleted asks DescribeVpnConnections by vpc-id.
var noneFilters = sync.OnceValue(func() filterable[tag] {
	f := make(filterable[tag])
	for _, name := range model.Filters() {
		f[name] = never[tag]
	}
	return f
})

// checkNamed checks a parameter of an action that shows none. An id of the kind that the
// action shows is an error, and so is an id of another kind that names no resource.
func (c *call) checkNamed(a *model.Action, m model.Member, p *wire.Param) error {
	if m.Name == "Filter" || m.Name == "Filters" || m.Name == "MaxResults" {
		return nil
	}
	if m.Required && p.Children[m.Name] == nil {
		return ec2.Missing(m.Name)
	}
	kind, ofNone := model.KindNamedBy(a.Name, m.Name)
	find := existing[m.Name]
	if !ofNone && find == nil {
		return nil
	}
	ids, err := wire.Texts(p, m.Name, m.List)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if ofNone && !kind.WellFormed(id) {
			return ec2.Errorf(kind.Malformed, `Invalid id: "%s" (expecting "%s-...")`, wire.Quote(id), kind.Prefix)
		}
	}
	for _, id := range ids {
		if ofNone {
			return ec2.Errorf(kind.NotFound, kind.Text, wire.Quote(id))
		}
		if err := find(c, id); err != nil {
			return err
		}
	}
	return nil
}

// existing finds resources that accounts have here, by the parameter that names one.
var existing = map[string]func(c *call, id string) error{
	"AllocationId": func(c *call, id string) error {
		e, ok := c.view.ElasticAddress(ec2.AllocationID(id))
		if !ok || e.Account != c.account || e.Region != c.region {
			return ec2.NoSuch("eipalloc", id)
		}
		return nil
	},
	"ImageId": func(_ *call, id string) error {
		if !imageID.MatchString(id) {
			return ec2.Errorf("InvalidAMIID.Malformed", `Invalid id: "%s" (expecting "ami-...")`, wire.Quote(id))
		}
		return nil
	},
	"InstanceId": func(c *call, id string) error {
		_, err := c.view.FindInstance(c.account, c.region, ec2.InstanceID(id))
		return err
	},
	"PublicIp": func(c *call, address string) error {
		for e := range c.view.ElasticAddressesOf(c.account, c.region) {
			if e.Public.String() == address {
				return nil
			}
		}
		return ec2.Errorf("InvalidAddress.NotFound", "Address '%s' not found.", wire.Quote(address))
	},
	"SubnetId": func(c *call, id string) error {
		_, err := c.view.FindSubnet(c.account, c.region, ec2.SubnetID(id))
		return err
	},
	"VolumeId": func(_ *call, id string) error {
		return ec2.Errorf("InvalidVolume.NotFound", "The volume '%s' does not exist.", wire.Quote(id))
	},
	"VpcId": func(c *call, id string) error {
		_, err := c.view.FindVPC(c.account, c.region, ec2.VPCID(id))
		return err
	},
}
