package state

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"palisade/ec2"
)

func (r *replay) tags(id string) string {
	var list []string
	for tag := range r.state.View().Tags(id) {
		list = append(list, tag.Key+"="+tag.Value)
	}
	return strings.Join(list, " ")
}

func TestTagsAreReplacedAndDeleted(t *testing.T) {
	r := newReplay(t)
	web := string(r.must(&CreateSecurityGroup{Account: albert, Region: east, Name: "web", Description: "web"}).Group.ID)
	i := string(r.run(1)[0].ID)
	empty, other := "", "other"
	for _, step := range []struct {
		req  Request
		want string // of web
	}{
		{&CreateTags{albert, east, []string{web, i}, map[string]string{"Name": "a", "stage": "test", "none": ""}}, "Name=a none= stage=test"},
		{&CreateTags{albert, east, []string{web}, map[string]string{"Name": "b"}}, "Name=b none= stage=test"},
		{&DeleteTags{albert, east, []string{web}, []TagSelector{{"stage", &other}, {"Name", &empty}, {"away", nil}}}, "Name=b none= stage=test"},
		{&DeleteTags{albert, east, []string{web}, []TagSelector{{"none", &empty}, {"Name", nil}}}, "stage=test"},
		{&DeleteTags{albert, east, []string{web}, nil}, ""},
	} {
		r.must(step.req)
		if got := r.tags(web); got != step.want {
			t.Errorf("after %+v the tags are %q, want %q", step.req, got, step.want)
		}
	}
	if got := r.tags(i); got != "Name=a none= stage=test" {
		t.Errorf("the tags of the other resource are %q, want Name=a none= stage=test", got)
	}
	if all := slices.Collect(r.state.View().TagsOf(albert, east)); len(all) != 3 {
		t.Errorf("the account has %d tags, want 3", len(all))
	}
}

func TestInvalidTagsAreRefusedForAllResources(t *testing.T) {
	r := newReplay(t)
	made := r.must(&CreateSecurityGroup{Account: albert, Region: east, Name: "web", Description: "web"}).Group
	web := string(made.ID)
	rule := string(r.must(&AuthorizeRules{Account: albert, Region: east, Group: GroupSelector{ID: made.ID}, Rules: []RuleSpec{{Protocol: ec2.TCP, From: 80, To: 80, Group: ec2.GroupRef{Account: albert, ID: made.ID}}}}).Rules[0].ID)
	marys := string(r.must(&CreateSecurityGroup{Account: mary, Region: east, Name: "web", Description: "web"}).Group.ID)
	one := map[string]string{"k": "v"}
	many := make(map[string]string)
	for n := range 51 {
		many[fmt.Sprintf("k%d", n)] = "v"
	}
	for _, c := range []struct {
		ids  []string
		tags map[string]string
		code string
	}{
		{nil, one, "MissingParameter"},
		{[]string{web}, nil, "MissingParameter"},
		{[]string{web, "blah"}, one, "InvalidID"},
		{[]string{web, "sg-"}, one, "InvalidID"},
		{[]string{web, "sg-0123456789abcdef01"}, one, "InvalidID"},
		{[]string{web, marys}, one, "InvalidGroup.NotFound"},
		{[]string{web, "sgr-00000000000000000"}, one, "InvalidSecurityGroupRuleId.NotFound"},
		{[]string{web, "i-00000000"}, one, "InvalidInstanceID.NotFound"},
		{[]string{web, "eni-00000000"}, one, "InvalidNetworkInterfaceID.NotFound"},
		{[]string{web, "vpc-00000000"}, one, "InvalidVpcID.NotFound"},
		{[]string{web, "subnet-00000000"}, one, "InvalidSubnetID.NotFound"},
		{[]string{web, "igw-00000000"}, one, "InvalidInternetGatewayID.NotFound"},
		{[]string{web, "rtb-00000000"}, one, "InvalidRouteTableID.NotFound"},
		{[]string{web, "acl-00000000"}, one, "InvalidNetworkAclID.NotFound"},
		{[]string{web, "eipalloc-00000000"}, one, "InvalidAllocationID.NotFound"},
		{[]string{web}, many, "TagLimitExceeded"},
		{[]string{web}, map[string]string{"a": "", "": "v"}, "InvalidParameterValue"},
		{[]string{web}, map[string]string{"AWS:x": "v"}, "InvalidParameterValue"},
		{[]string{web}, map[string]string{strings.Repeat("é", 128): "v"}, "InvalidParameterValue"},
		{[]string{web}, map[string]string{"k": strings.Repeat("é", 256)}, "InvalidParameterValue"},
		{[]string{web}, map[string]string{"k": "\x00"}, "InvalidParameterValue"},
		{[]string{web}, map[string]string{"k\xff": "v"}, "InvalidParameterValue"},
	} {
		r.refused(&CreateTags{albert, east, c.ids, c.tags}, c.code)
	}
	r.refused(&DeleteTags{albert, east, []string{web, marys}, nil}, "InvalidGroup.NotFound")
	r.refused(&DeleteTags{albert, east, []string{web}, []TagSelector{{Key: "aws:x"}}}, "InvalidParameterValue")

	delete(many, "k50")
	many[strings.Repeat("é", 127)] = strings.Repeat("é", 255)
	delete(many, "k49")
	r.must(&CreateTags{albert, east, []string{rule}, many})
	r.refused(&CreateTags{albert, east, []string{web, rule}, one}, "TagLimitExceeded")
	r.must(&CreateTags{albert, east, []string{web, rule}, map[string]string{"k0": "new"}})
}
