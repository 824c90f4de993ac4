package query

import (
	"net/netip"

	"palisade/ec2"
	"palisade/ec2/query/wire"
)

// parseBlock reads a CIDR block and clears its host bits, as EC2 does. An empty text is the
// zero Prefix; Apply decides whether the block is required.
func parseBlock(text, parameter string) (block netip.Prefix, err error) {
	if text == "" {
		return netip.Prefix{}, nil
	}
	if block, err = ec2.ParseCIDR(text); err != nil {
		return netip.Prefix{}, ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter %s is invalid. This is not a valid CIDR block.", wire.Quote(text), parameter)
	}
	return block, nil
}

// unserved returns the error for a parameter that asks for something that is not served
// here.
func unserved(action, parameter string) error {
	return ec2.Errorf("UnsupportedOperation", "The parameter %s of %s is not served here", parameter, action)
}

// An askedFor says whether a parameter of a request asks for a feature that is not served.
type askedFor struct {
	parameter string
	asked     bool
}

// refuseAskedFor returns the error for the first parameter of the list that asks for such a
// feature, or nil.
func refuseAskedFor(action string, list []askedFor) error {
	for _, x := range list {
		if x.asked {
			return unserved(action, x.parameter)
		}
	}
	return nil
}

// checkGroupIDs returns EC2's error for the first id that does not have the form of a group
// id.
func checkGroupIDs(ids []ec2.GroupID) error {
	for _, id := range ids {
		if err := ec2.CheckGroupID(id); err != nil {
			return err
		}
	}
	return nil
}

// parseAddress reads an IPv4 address. An empty text is the zero Addr.
func parseAddress(text string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is4() {
		return netip.Addr{}, ec2.Errorf("InvalidParameterValue", "invalid value for parameter address: [%s]", wire.Quote(text))
	}
	return a, nil
}

func parseAddresses(list []string) (addresses []netip.Addr, err error) {
	for _, text := range list {
		a, err := parseAddress(text)
		if err != nil {
			return nil, err
		}
		if a.IsValid() {
			addresses = append(addresses, a)
		}
	}
	return addresses, nil
}

// The value of an attribute is the element value, or in a request the parameter Value,
// below the attribute's name. The field for that parameter is nil if the request does not
// modify the attribute.
type (
	boolValue struct {
		Value bool `wire:"value"`
	}
	textValue struct {
		Value string `wire:"value"`
	}
	boolParam struct {
		Value *bool `wire:"Value"`
	}
	textParam struct {
		Value *string `wire:"Value"`
	}
)

// onlyOne returns an error unless exactly one of given is true: a request must change one
// attribute.
func onlyOne(given ...bool) error {
	count := 0
	for _, is := range given {
		if is {
			count++
		}
	}
	switch count {
	case 0:
		return ec2.Errorf("MissingParameter", "The request must contain the attribute to change and its value")
	case 1:
		return nil
	}
	return ec2.Errorf("InvalidParameterCombination", "Fields for multiple attribute types specified")
}

func unknownAttribute(name string) error {
	return ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter attribute is invalid. Unknown attribute.", wire.Quote(name))
}
