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

// decodeList refuses a child that is not a number: "IpRanges.1CidrIp" is a misprint in the
// EC2 User Guide of 2012, and ignoring it would drop a source. It also refuses a value of
// a list without a number, because a Describe that ignored it would show everything.
func decodeList(p *Param, path string, v reflect.Value) error {
	if p.Value != "" {
		return ec2.Errorf("InvalidParameterValue", "The parameter %[1]s is a list: its values are %[1]s.1, %[1]s.2 and so on", path)
	}
	numbers := make(map[int]*Param)
	for name, c := range p.Children {
		n, err := strconv.ParseUint(name, 10, 31)
		if _, twice := numbers[int(n)]; err != nil || twice {
			return Unknown(path + "." + name)
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
