package wire

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"palisade/ec2"
)

// A placement is a struct field, whose parameter is Placement.AvailabilityZone.
type placement struct {
	Zone string `wire:"AvailabilityZone"`
}

type page struct {
	Max *int `wire:"MaxResults"`
}

// A filter is an element of a list of structures, with a list of its own.
type filter struct {
	Name   string   `wire:"Name"`
	Values []string `wire:"Value"`
}

type request struct {
	Names     []string  `wire:"GroupName"`
	Count     int       `wire:"Count"`
	Force     bool      `wire:"Force"`
	Placement placement `wire:"Placement"`
	Profile   *struct{} `wire:"Profile"`
	Filters   []filter  `wire:"Filter"`
	page
}

func TestDecodeFillsStruct(t *testing.T) {
	five := 5
	for _, c := range []struct {
		form string
		want request
	}{
		{"", request{}},
		{"GroupName.10=c&GroupName.3=a&GroupName.7=b", request{Names: []string{"a", "b", "c"}}},
		{"GroupName.0=a", request{Names: []string{"a"}}},
		{"GroupName=a", request{Names: []string{"a"}}},
		{"GroupName=", request{}}, // the Go SDK's empty list
		{"Filter.1.Name=x&Filter.1.Value=a", request{Filters: []filter{{"x", []string{"a"}}}}},
		{"Filter.Name=x&Filter.Value=a", request{Filters: []filter{{"x", []string{"a"}}}}},
		{"Filter.Name=x&Filter.Value.1=a&Filter.Value.2=b", request{Filters: []filter{{"x", []string{"a", "b"}}}}},
		{"Filter=", request{}},
		{"Count=-1&Force=TRUE", request{Count: -1, Force: true}},
		{"Force=0", request{}},
		{"Placement.AvailabilityZone=us-east-1a", request{Placement: placement{"us-east-1a"}}},
		{"MaxResults=5", request{page: page{&five}}},
		{"Profile.Name=x", request{Profile: new(struct{})}},
		{"Unknown=x&X-Amz-Date=y", request{}},
	} {
		var got request
		p, err := Parse(c.form, "")
		if err == nil {
			err = Decode(p, &got)
		}
		if err != nil {
			t.Errorf("parse and decode %s: %v", c.form, err)
		}
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(request{})); diff != "" {
			t.Errorf("%s decodes to (-want +got):\n%s", c.form, diff)
		}
	}
}

func TestDecodeRefusesParametersThatDoNotFit(t *testing.T) {
	for _, c := range []struct{ form, code string }{
		{"GroupName=a&GroupName.1=b", "InvalidParameterCombination"},
		{"GroupName=a&GroupName.x=b", "UnknownParameter"},
		{"Filter=a", "InvalidParameterValue"},
		{"Filter.Name=x&Filter.1.Value=a", "InvalidParameterCombination"},
		{"Filter.Nam=x", "UnknownParameter"},
		{"Filter.Name=x&Filter.Valu=a", "UnknownParameter"},
		{"Filter.1Name=x", "UnknownParameter"},
		{"GroupName.x=a", "UnknownParameter"},
		{"GroupName.1=a&GroupName.01=b", "UnknownParameter"},
		{"Count=x", "InvalidParameterValue"},
		{"Count=2147483648", "InvalidParameterValue"},
		{"Force=perhaps", "InvalidParameterValue"},
		{"Placement=us-east-1a", "UnknownParameter"},
		{"a=1&a=2", "InvalidParameterValue"},
		{"a.b.c.d.e.f.g.h.i=1", "InvalidParameterValue"},
		{"%zz", "MalformedQueryString"},
		{"a=%00", "InvalidCharacter"},
		{strings.Repeat("&a=b", MaxParams), "RequestEntityTooLarge"},
	} {
		p, err := Parse("", c.form)
		if err == nil {
			err = Decode(p, new(request))
		}
		if e, ok := errors.AsType[*ec2.Error](err); !ok || e.Code != c.code {
			t.Errorf("%.60s: got %v, want %s", c.form, err, c.code)
		}
	}
}

func TestUnreadListsParametersThatNoFieldHas(t *testing.T) {
	p, err := Parse("", "Placement.AvailabilityZone=a&Placement.Tenancy.1=b&GroupName.1=c&Other.1.Name=d&Profile.Name=e")
	if err != nil {
		t.Fatal(err)
	}
	if err := Decode(p, new(request)); err != nil {
		t.Fatal(err)
	}
	want := []Unread{{"Other.1.Name", "Other", "d"}, {"Placement.Tenancy.1", "Tenancy", "b"}}
	if diff := cmp.Diff(want, p.Unread()); diff != "" {
		t.Errorf("unread parameters (-want +got):\n%s", diff)
	}
}

func TestEncodeWritesElements(t *testing.T) {
	type item struct {
		Name string `wire:"name"`
	}
	type embedded struct {
		On bool `wire:"on"`
	}
	answer := struct {
		Text    string    `wire:"text"`
		Empty   string    `wire:"empty"`
		Number  int       `wire:"number"`
		Present Present   `wire:"present"`
		Missing *int      `wire:"missing"`
		Time    time.Time `wire:"time"`
		Never   time.Time `wire:"never"`
		Items   []item    `wire:"items"`
		None    []item    `wire:"none"`
		IDs     []string  `wire:"ids,groupId"`
		*embedded
	}{
		Text: `a <b> & "c"`, Items: []item{{"x"}, {"y"}}, IDs: []string{"a", "b"}, Time: time.Date(2026, 11, 28, 1, 2, 3, 4e6, time.UTC), embedded: &embedded{true},
	}
	var b bytes.Buffer
	Encode(&b, &answer)
	want := `<text>a &lt;b&gt; &amp; &#34;c&#34;</text><number>0</number><present/><time>2026-11-28T01:02:03.004Z</time>` +
		`<items><item><name>x</name></item><item><name>y</name></item></items><none/><ids><groupId>a</groupId><groupId>b</groupId></ids><on>true</on>`
	if got := b.String(); got != want {
		t.Errorf("encoded %s\nwant    %s", got, want)
	}
}

// FuzzParse checks that Parse accepts only parameters that are valid in XML and JSON,
// and at most MaxParams of them.
func FuzzParse(f *testing.F) {
	f.Add("Filter.1.Name=x&Filter.1.Value.10=a&Filter.1.Value.9=b&DryRun=TRUE")
	f.Add("a.b.c.d.e.f.g.h.i=1")
	f.Add("Tag.1.Key=%E2%80%AE&Tag.1.Value=%00")
	f.Fuzz(func(t *testing.T, form string) {
		p, err := Parse("", form)
		if _, ok := errors.AsType[*ec2.Error](err); err != nil && !ok {
			t.Errorf("Parse(%q) failed with %v, want an *ec2.Error", form, err)
		}
		if err != nil {
			return
		}
		p.Each(func(name, value string) {
			if !printable(name + value) {
				t.Errorf("Parse accepted %q, which XML or JSON cannot carry", name+"="+value)
			}
		})
		if n := strings.Count(form, "&"); n >= MaxParams {
			t.Errorf("Parse accepted %d parameters, want at most %d", n+1, MaxParams)
		}
	})
}
