package query

import (
	"errors"
	"reflect"
	"testing"

	"palisade/ec2"
	"palisade/ec2/query/wire"
)

// The codec panics on a field of a type that it does not support. This test finds such a
// field before a request does.
func TestCodecSupportsEveryRequestAndAnswerType(t *testing.T) {
	for name, h := range actions {
		checkRequestType(t, name, h.request)
		checkAnswerType(t, name, h.answer)
	}
}

func checkRequestType(t *testing.T, path string, typ reflect.Type) {
	t.Helper()
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice:
		checkRequestType(t, path, typ.Elem())
	case reflect.Struct:
		for i := range typ.NumField() {
			f := typ.Field(i)
			if f.Tag.Get("wire") == "" && !f.Anonymous {
				t.Errorf("%s.%s has no name on the wire", path, f.Name)
			}
			checkRequestType(t, path+"."+f.Name, f.Type)
		}
	case reflect.String, reflect.Int, reflect.Bool:
	default:
		t.Errorf("%s: parameters cannot be read into a %s", path, typ)
	}
}

func checkAnswerType(t *testing.T, path string, typ reflect.Type) {
	t.Helper()
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice:
		checkAnswerType(t, path, typ.Elem())
	case reflect.Struct:
		for i := range typ.NumField() {
			f := typ.Field(i)
			if typ.PkgPath() == "time" {
				return
			}
			if f.Tag.Get("wire") == "" && !f.Anonymous {
				t.Errorf("%s.%s has no element", path, f.Name)
			}
			checkAnswerType(t, path+"."+f.Name, f.Type)
		}
	case reflect.String, reflect.Int, reflect.Bool:
	default:
		t.Errorf("%s: a %s cannot be written", path, typ)
	}
}

// FuzzParseParams decodes a form into the request of every Action. A form that cannot be
// decoded must give an *ec2.Error, which is the caller's mistake.
func FuzzParseParams(f *testing.F) {
	for _, seed := range []string{
		"Action=RunInstances&MinCount=1&MaxCount=+7&SecurityGroup.3=a&SecurityGroup.1=b&Placement.AvailabilityZone=us-east-1a",
		"IpPermissions.1.Groups.2.UserId=1&IpPermissions.1.IpRanges.1.CidrIp=0.0.0.0%2F0&IpPermissions.1.FromPort=-1",
		"Filter.1.Name=x&Filter.1.Value.10=a&Filter.1.Value.9=b&DryRun=TRUE",
		"GroupName.1=a&GroupName.01=b", "GroupName=&GroupName.=1", "a.b.c.d.e.f.g.h.i=1", "%zz", "a;b", "X-Amz-Date=1&x=%FF",
		"Tag.1.Key=%E2%80%AE&Tag.1.Value=%00",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, form string) {
		for name, h := range actions {
			p, err := wire.Parse("", form)
			if err == nil {
				err = wire.Decode(p, reflect.New(h.request).Interface())
			}
			if err == nil {
				err = (&call{action: name}).refuseUnread(p)
			}
			if _, ok := errors.AsType[*ec2.Error](err); err != nil && !ok {
				t.Errorf("decoding %q for %s failed with %v, want an *ec2.Error", form, name, err)
			}
		}
	})
}
