package query_test

import (
	"strings"
	"testing"
)

// A list parameter without a number is a list of one: neither ignored nor wider.
func TestListWithoutNumberIsAListOfOne(t *testing.T) {
	w := newWorld(t)
	const v = "&Version=2016-11-15"
	for _, form := range []string{
		"CreateKeyPair&KeyName=first", "CreateKeyPair&KeyName=second", "CreateSecurityGroup&GroupName=web&GroupDescription=x",
		"RunInstances&ImageId=ami-eca54085&MinCount=2&MaxCount=2&SecurityGroup=web",
	} {
		if code, message := w.ask(t, "albert", "Action="+form+v); code != "" {
			t.Fatalf("%s: %s %s", form, code, message)
		}
	}
	all := string(w.body(t, "albert", "Action=DescribeInstances"+v))
	_, id, _ := strings.Cut(all, "<instanceId>")
	id, _, _ = strings.Cut(id, "<")
	for _, c := range []struct {
		form, element string
		count         int
	}{
		{"DescribeKeyPairs&KeyName=first", "keyName", 1},
		{"DescribeKeyPairs&Filter.1.Name=key-name&Filter.1.Value=first", "keyName", 1},
		{"DescribeKeyPairs&Filter.Name=key-name&Filter.Value=first", "keyName", 1},
		{"DescribeKeyPairs&Filter.Name=key-name&Filter.Value.1=first&Filter.Value.2=second", "keyName", 2},
		{"DescribeSecurityGroups&GroupName=web", "groupDescription", 1},
		{"DescribeInstances&InstanceId=" + id, "instanceId", 1},
		{"DescribeInstances&Filter.1.Name=instance.group-name&Filter.1.Value=default", "instanceId", 0},
		{"DescribeInstanceStatus&IncludeAllInstances=true&InstanceId=" + id, "instanceId", 1},
		{"TerminateInstances&InstanceId=" + id, "instanceId", 1},
	} {
		body := string(w.body(t, "albert", "Action="+c.form+v))
		if got := strings.Count(body, "<"+c.element+">"); got != c.count {
			t.Errorf("%s: the answer has %d elements %s, want %d:\n%s", c.form, got, c.element, c.count, body)
		}
	}
	for _, c := range []struct{ form, code string }{
		{"DescribeKeyPairs&KeyName=third", "InvalidKeyPair.NotFound"},
		{"DescribeKeyPairs&KeyName=first&KeyName.1=second", "InvalidParameterCombination"},
		{"DescribeKeyPairs&Filter.Name=key-name&Filter.1.Value=first", "InvalidParameterCombination"},
		{"DescribeKeyPairs&Filter.Nam=key-name", "UnknownParameter"},
		{"TerminateInstances&InstanceId=" + id + "&InstanceId.2=" + id, "InvalidParameterCombination"},
	} {
		if code, _ := w.ask(t, "albert", "Action="+c.form+v); code != c.code {
			t.Errorf("%s: got %q, want %s", c.form, code, c.code)
		}
	}
}
