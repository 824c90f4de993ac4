package wire

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"palisade/ec2"
)

// Decode fills the struct that into points to. A field's `wire` tag is the name of its
// parameter: a scalar (a pointer tells absent from zero), a struct
// ("Placement.AvailabilityZone"), or a list, whose numbers may start anywhere and have
// gaps ("GroupName.1", "GroupName.3"). It ignores parameters that no field has; Unread
// lists them.
func Decode(p *Param, into any) error {
	return decodeStruct(p, "", reflect.ValueOf(into).Elem())
}

func decodeStruct(p *Param, path string, v reflect.Value) error {
	if v.NumField() == 0 {
		p.readAll() // an empty struct tells only whether it was given
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
		if c := p.Children[name]; c != nil {
			if err := decodeValue(c, path+name, v.Field(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

func decodeValue(p *Param, path string, v reflect.Value) error {
	p.read = true
	switch v.Kind() {
	case reflect.Pointer:
		if !p.given && v.Type().Elem().Kind() != reflect.Struct {
			return nil
		}
		v.Set(reflect.New(v.Type().Elem()))
		return decodeValue(p, path, v.Elem())
	case reflect.Struct:
		if p.Value != "" {
			return Unknown(path)
		}
		return decodeStruct(p, path+".", v)
	case reflect.Slice:
		return decodeList(p, path, v)
	case reflect.String:
		v.SetString(p.Value)
	case reflect.Int:
		n, err := strconv.ParseInt(p.Value, 10, 32)
		if err != nil {
			return ec2.Errorf("InvalidParameterValue", "Invalid value '%s' for %s. It must be an integer.", Quote(p.Value), path)
		}
		v.SetInt(n)
	case reflect.Bool:
		switch strings.ToLower(p.Value) {
		case "true", "1":
			v.SetBool(true)
		case "false", "0":
		default:
			return ec2.Errorf("InvalidParameterValue", "Invalid value '%s' for %s. It must be true or false.", Quote(p.Value), path)
		}
	default:
		panic(fmt.Sprintf("wire: parameter %s has type %s", path, v.Type()))
	}
	return nil
}

// decodeList reads a list. A value without a number is the only element: Libcloud sends
// KeyName for KeyName.1, and EC2 takes it. So are the fields of a struct without a number,
// Filter.Name for Filter.1.Name. An empty value is an empty list, because the Go SDK sends
// that. Numbers beside an element without a number are refused, and so is a child that is
// neither a number nor a field: "IpRanges.1CidrIp" is a misprint in the EC2 User Guide of
// 2012, and ignoring it would drop a source.
func decodeList(p *Param, path string, v reflect.Value) error {
	elem := v.Type().Elem()
	numbers := make(map[int]*Param)
	for name, c := range p.Children {
		n, err := strconv.ParseUint(name, 10, 31)
		if err != nil && isFieldOf(elem, name) {
			continue
		}
		if _, twice := numbers[int(n)]; err != nil || twice {
			return Unknown(path + "." + name)
		}
		numbers[int(n)] = c
	}
	single := len(numbers) < len(p.Children) || p.Value != ""
	switch {
	case p.Value != "" && elem.Kind() == reflect.Struct:
		return ec2.Errorf("InvalidParameterValue", "The parameter %[1]s is a list of structures: give the members of %[1]s.1, %[1]s.2 and so on", path)
	case single && len(numbers) > 0:
		return ec2.Errorf("InvalidParameterCombination", "The list %[1]s has elements with a number and one without: number all of them, %[1]s.1, %[1]s.2 and so on", path)
	case single:
		numbers[1] = p
	}
	for _, n := range slices.Sorted(maps.Keys(numbers)) {
		item := reflect.New(elem).Elem()
		at := fmt.Sprintf("%s.%d", path, n)
		if single {
			at = path
		}
		if err := decodeValue(numbers[n], at, item); err != nil {
			return err
		}
		v.Set(reflect.Append(v, item))
	}
	return nil
}

// isFieldOf reports whether name is the first part of a parameter of a list's element.
func isFieldOf(elem reflect.Type, name string) bool {
	if elem.Kind() != reflect.Struct {
		return false
	}
	for i, known := range namesOf(elem) {
		if known.own == name || known.own == "" && isFieldOf(elem.Field(i).Type, name) {
			return true
		}
	}
	return false
}

// Texts returns the values of one parameter: of a list, or of a scalar that is given.
func Texts(p *Param, name string, isList bool) (list []string, err error) {
	c := p.Children[name]
	if c == nil {
		return nil, nil
	}
	if !isList {
		c.read = true
		return []string{c.Value}, nil
	}
	err = decodeValue(c, name, reflect.ValueOf(&list).Elem())
	return list, err
}
