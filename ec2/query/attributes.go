package query

import (
	"palisade/ec2"
	"palisade/ec2/query/wire"
)

// Values of attributes are elements and parameters of their own. A parameter is nil if
// the attribute is not to be modified.
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

// onlyOne refuses a request that does not change exactly one attribute.
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
