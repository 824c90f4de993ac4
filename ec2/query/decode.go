package query

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"palisade/ec2"
)

// A param is a parameter by the parts of its name: the one named "Filter.1.Name" is
// the child "Name" of the child "1" of the child "Filter".
type param struct {
	value    string
	given    bool
	read     bool // by a field, or it is what a field's parameters are children of
	children map[string]*param
}

// maxDepth bounds the parts of a name; EC2's longest have five.
const maxDepth = 8

// set files a value under its name; false if the name is taken or too deep.
func (p *param) set(name, value string) bool {
	parts := strings.SplitN(name, ".", maxDepth+1)
	if len(parts) > maxDepth {
		return false
	}
	for _, part := range parts {
		child := p.children[part]
		if child == nil {
			child = new(param)
			if p.children == nil {
				p.children = make(map[string]*param)
			}
			p.children[part] = child
		}
		p = child
	}
	if p.given {
		return false
	}
	p.value, p.given = value, true
	return true
}

// take reads a parameter that is not an Action's.
func (p *param) take(name string) string {
	c := p.children[name]
	if c == nil {
		return ""
	}
	c.read = true
	return c.value
}

// decode fills a struct from parameters. A field's `wire` tag is its name: a scalar
// (pointers tell absent from zero), a struct ("Placement.AvailabilityZone"), or a list
// numbered from anywhere with gaps ("GroupName.1", "GroupName.3"). What becomes of a
// parameter that no field has, refuseUnread says.
func decode(p *param, into any) error {
	return decodeStruct(p, "", reflect.ValueOf(into).Elem())
}

func decodeStruct(p *param, path string, v reflect.Value) error {
	if v.NumField() == 0 {
		p.readAll() // that it is given is all that matters
	}
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if field.Anonymous {
			if err := decodeStruct(p, path, v.Field(i)); err != nil {
				return err
			}
			continue
		}
		name := field.Tag.Get("wire")
		if c := p.children[name]; c != nil {
			if err := decodeValue(c, path+name, v.Field(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

func decodeValue(p *param, path string, v reflect.Value) error {
	p.read = true
	switch v.Kind() {
	case reflect.Pointer:
		if !p.given && v.Type().Elem().Kind() != reflect.Struct {
			return nil
		}
		v.Set(reflect.New(v.Type().Elem()))
		return decodeValue(p, path, v.Elem())
	case reflect.Struct:
		if p.value != "" {
			return unknownParameter(path)
		}
		return decodeStruct(p, path+".", v)
	case reflect.Slice:
		return decodeList(p, path, v)
	case reflect.String:
		v.SetString(p.value)
	case reflect.Int:
		n, err := strconv.ParseInt(p.value, 10, 32)
		if err != nil {
			return ec2.Errorf("InvalidParameterValue", "Invalid value '%s' for %s. It must be an integer.", quote(p.value), path)
		}
		v.SetInt(n)
	case reflect.Bool:
		switch strings.ToLower(p.value) {
		case "true", "1":
			v.SetBool(true)
		case "false", "0":
		default:
			return ec2.Errorf("InvalidParameterValue", "Invalid value '%s' for %s. It must be true or false.", quote(p.value), path)
		}
	default:
		panic(fmt.Sprintf("query: parameter %s has type %s", path, v.Type()))
	}
	return nil
}

// decodeList refuses a child that is no number: "IpRanges.1CidrIp" is a misprint in the
// EC2 User Guide of 2012, and to drop it would drop a source. So would dropping a list's
// value that has no number; without it, a Describe would show everything.
func decodeList(p *param, path string, v reflect.Value) error {
	if p.value != "" {
		return ec2.Errorf("InvalidParameterValue", "The parameter %[1]s is a list: its values are %[1]s.1, %[1]s.2 and so on", path)
	}
	numbers := make(map[int]*param)
	for name, c := range p.children {
		n, err := strconv.ParseUint(name, 10, 31)
		if _, twice := numbers[int(n)]; err != nil || twice {
			return unknownParameter(path + "." + name)
		}
		numbers[int(n)] = c
	}
	for _, n := range slices.Sorted(maps.Keys(numbers)) {
		item := reflect.New(v.Type().Elem()).Elem()
		if err := decodeValue(numbers[n], fmt.Sprintf("%s.%d", path, n), item); err != nil {
			return err
		}
		v.Set(reflect.Append(v, item))
	}
	return nil
}
