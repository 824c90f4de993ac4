package state

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"palisade/ec2"
)

func (w *vpcWorld) template(name string, data map[string]string) *ec2.LaunchTemplate {
	w.t.Helper()
	return w.must(&CreateLaunchTemplate{Account: dev, Region: east, Name: name, Data: data}).Template
}

func (w *vpcWorld) tagsOf(id string) map[string]string {
	tags := make(map[string]string)
	for x := range w.state.View().Tags(id) {
		tags[x.Key] = x.Value
	}
	return tags
}

func TestVersionsOfALaunchTemplateAreNumberedAndNeverChange(t *testing.T) {
	w := newVPCWorld(t)
	lt := w.template("web", map[string]string{"ImageId": "ami-eca54085", "KeyName": "gsg"})
	sel := TemplateSelector{ID: lt.ID}
	second := w.must(&CreateLaunchTemplateVersion{Account: dev, Region: east, Template: sel, Source: 1, Data: map[string]string{"KeyName": "other"}}).TemplateVersion
	if want := map[string]string{"ImageId": "ami-eca54085", "KeyName": "other"}; second.Number != 2 || !maps.Equal(second.Data, want) {
		t.Errorf("a version from version 1 is number %d with %v, want 2 with %v", second.Number, second.Data, want)
	}
	third := w.must(&CreateLaunchTemplateVersion{Account: dev, Region: east, Template: TemplateSelector{Name: "web"}, Data: map[string]string{"InstanceType": "t3.micro"}}).TemplateVersion
	if want := map[string]string{"InstanceType": "t3.micro"}; third.Number != 3 || !maps.Equal(third.Data, want) {
		t.Errorf("a version without a source is number %d with %v, want 3 with %v", third.Number, third.Data, want)
	}
	w.must(&ModifyLaunchTemplate{dev, east, sel, 2})
	gone := w.must(&DeleteLaunchTemplateVersions{dev, east, sel, []int{3, 2, 7, 1}}).Versions
	if !slices.Equal(gone, []int{3, 1}) {
		t.Errorf("versions %v were deleted, want 3 and 1: 2 is the default one, and 7 does not exist", gone)
	}
	if n := w.must(&CreateLaunchTemplateVersion{Account: dev, Region: east, Template: sel, Data: third.Data}).TemplateVersion.Number; n != 4 {
		t.Errorf("the version after 3 is %d although 3 was deleted, want 4", n)
	}
	w.refused(&ModifyLaunchTemplate{dev, east, sel, 3}, "InvalidLaunchTemplateId.VersionNotFound")
	w.must(&DeleteLaunchTemplate{dev, east, sel})
	if left := slices.Collect(w.state.View().LaunchTemplateVersions(lt.ID)); len(left) > 0 {
		t.Errorf("a deleted template still has %d versions", len(left))
	}
}

func TestLaunchTemplatesAreRefusedWithCodesOfEC2(t *testing.T) {
	w := newVPCWorld(t)
	data := map[string]string{"ImageId": "ami-eca54085"}
	w.template("web", data)
	for _, c := range []struct {
		req  Request
		code string
	}{
		{&CreateLaunchTemplate{Account: dev, Region: east, Name: "web", Data: data}, "InvalidLaunchTemplateName.AlreadyExistsException"},
		{&CreateLaunchTemplate{Account: dev, Region: east, Name: "a b", Data: data}, "InvalidLaunchTemplateName.MalformedException"},
		{&CreateLaunchTemplate{Account: dev, Region: east, Name: "api"}, "MissingParameter"},
		{&CreateLaunchTemplate{Account: dev, Region: east, Name: "big", Data: map[string]string{"UserData": strings.Repeat("x", maxTemplateData)}}, "InvalidParameterValue"},
		{&DeleteLaunchTemplate{dev, east, TemplateSelector{}}, "MissingParameter"},
		{&DeleteLaunchTemplate{dev, east, TemplateSelector{"lt-0a1b2c3d", "web"}}, "InvalidParameterCombination"},
		{&DeleteLaunchTemplate{dev, east, TemplateSelector{ID: "lt-0a1b2c3d"}}, "InvalidLaunchTemplateId.NotFound"},
		{&DeleteLaunchTemplate{dev, east, TemplateSelector{ID: "web"}}, "InvalidLaunchTemplateId.Malformed"},
		{&DeleteLaunchTemplate{dev, east, TemplateSelector{Name: "api"}}, "InvalidLaunchTemplateName.NotFoundException"},
		{&DeleteLaunchTemplate{albert, east, TemplateSelector{Name: "web"}}, "InvalidLaunchTemplateName.NotFoundException"},
		{&CreateLaunchTemplateVersion{Account: dev, Region: east, Template: TemplateSelector{Name: "web"}, Source: 2}, "InvalidLaunchTemplateId.VersionNotFound"},
	} {
		w.refused(c.req, c.code)
	}
}

func TestARepeatedTokenMakesNoSecondLaunchTemplate(t *testing.T) {
	w := newVPCWorld(t)
	make := &CreateLaunchTemplate{Account: dev, Region: east, Name: "web", Data: map[string]string{"KeyName": "a"}, ClientToken: "t"}
	id := w.must(make).Template.ID
	if again := w.must(make).Template.ID; again != id {
		t.Errorf("the repeated request made %s, want %s again", again, id)
	}
	other := *make
	other.Name = "api"
	w.refused(&other, "IdempotentParameterMismatch")
	add := &CreateLaunchTemplateVersion{Account: dev, Region: east, Template: TemplateSelector{ID: id}, Data: map[string]string{"KeyName": "b"}, ClientToken: "v"}
	w.must(add)
	if n := w.must(add).TemplateVersion.Number; n != 2 {
		t.Errorf("the repeated request made version %d, want version 2 again", n)
	}
}

func TestLaunchTemplatesHaveLimits(t *testing.T) {
	w := newVPCWorld(t)
	w.must(&putSettings{ec2.Settings{TemplatesPerRegion: 2, TemplateVersionsPerRegion: 3}})
	data := map[string]string{"KeyName": "a"}
	lt := w.template("one", data)
	w.template("two", data)
	w.refused(&CreateLaunchTemplate{Account: dev, Region: east, Name: "three", Data: data}, "LaunchTemplateLimitExceeded")
	add := &CreateLaunchTemplateVersion{Account: dev, Region: east, Template: TemplateSelector{ID: lt.ID}, Data: data}
	w.must(add)
	w.refused(add, "LaunchTemplateVersionLimitExceeded")
}

// The tags of ours tell clients the template. Users can neither set them nor remove them.
func TestInstancesOfATemplateHaveItsTags(t *testing.T) {
	w := newVPCWorld(t)
	lt := w.template("web", map[string]string{"KeyName": "gsg"})
	from := &ec2.TemplateVersion{Template: lt.ID, Version: 1}
	tags := make(map[string]string)
	for n := range maxTags {
		tags["key"+strconv.Itoa(n)] = "x"
	}
	id := w.launch(func(r *RunInstances) { r.Template, r.Tags = from, tags }).ID
	got := w.tagsOf(string(id))
	if len(got) != maxTags+2 || got[ec2.TagLaunchTemplateID] != string(lt.ID) || got[ec2.TagLaunchTemplateVersion] != "1" {
		t.Errorf("the instance has %d tags, template %q and version %q; want %d, %s and 1", len(got), got[ec2.TagLaunchTemplateID], got[ec2.TagLaunchTemplateVersion], maxTags+2, lt.ID)
	}
	w.must(&DeleteTags{Account: dev, Region: east, Resources: []string{string(id)}})
	if got := w.tagsOf(string(id)); len(got) != 2 {
		t.Errorf("after all tags were deleted, the instance has %v, want the two tags of the template", got)
	}
	w.refused(&DeleteTags{Account: dev, Region: east, Resources: []string{string(id)}, Tags: []TagSelector{{Key: ec2.TagLaunchTemplateID}}}, "InvalidParameterValue")
	w.must(&DeleteLaunchTemplate{dev, east, TemplateSelector{ID: lt.ID}})
	w.refused(w.launching(func(r *RunInstances) { r.Template = from }), "InvalidLaunchTemplateId.NotFound")
}

func TestPlacementGroupsThatInstancesHaveAreNotDeleted(t *testing.T) {
	w := newVPCWorld(t)
	w.refused(w.launching(func(r *RunInstances) { r.Options.PlacementGroup = "near" }), "InvalidPlacementGroup.Unknown")
	for _, c := range []struct {
		req  CreatePlacementGroup
		code string
	}{
		{CreatePlacementGroup{Name: ""}, "MissingParameter"},
		{CreatePlacementGroup{Name: "x", Strategy: "far"}, "InvalidParameterValue"},
		{CreatePlacementGroup{Name: "x", Strategy: "partition", Partitions: 8}, "InvalidParameterValue"},
		{CreatePlacementGroup{Name: "x", Strategy: "cluster", Partitions: 2}, "InvalidParameterCombination"},
		{CreatePlacementGroup{Name: "x", Strategy: "cluster", Level: "rack"}, "InvalidParameterCombination"},
		{CreatePlacementGroup{Name: "x", Strategy: "spread", Level: "moon"}, "InvalidParameterValue"},
	} {
		c.req.Account, c.req.Region = dev, east
		w.refused(&c.req, c.code)
	}
	g := w.must(&CreatePlacementGroup{Account: dev, Region: east, Name: "near", Strategy: "partition"}).Placement
	if g.Partitions != 2 {
		t.Errorf("a partition group has %d partitions by default, want 2", g.Partitions)
	}
	w.refused(&CreatePlacementGroup{Account: dev, Region: east, Name: "near"}, "InvalidPlacementGroup.Duplicate")
	w.refused(w.launching(func(r *RunInstances) { r.Options.PlacementGroup, r.Options.Partition = "near", 3 }), "InvalidParameterValue")
	id := w.launch(func(r *RunInstances) { r.Options.PlacementGroup, r.Options.Partition = "near", 2 }).ID
	w.refused(&DeletePlacementGroup{dev, east, "near"}, "InvalidPlacementGroup.InUse")
	w.refused(&DeletePlacementGroup{albert, east, "near"}, "InvalidPlacementGroup.Unknown")
	w.must(&TerminateInstances{Account: dev, Region: east, Instances: []ec2.InstanceID{id}})
	w.report(id, ec2.Terminated)
	w.must(&DeletePlacementGroup{dev, east, "near"})
	w.must(&putSettings{ec2.Settings{PlacementGroupsPerRegion: 1}})
	w.must(&CreatePlacementGroup{Account: dev, Region: east, Name: "a"})
	w.refused(&CreatePlacementGroup{Account: dev, Region: east, Name: "b"}, "PlacementGroupLimitExceeded")
}

func TestOptionsChangeInTheStatesThatEC2Names(t *testing.T) {
	w := newVPCWorld(t)
	id := w.running()
	change := func(f func(*ModifyInstanceOptions)) *ModifyInstanceOptions {
		r := &ModifyInstanceOptions{Account: dev, Region: east, Instance: id}
		f(r)
		return r
	}
	w.must(change(func(r *ModifyInstanceOptions) {
		r.Metadata, r.Credits = &ec2.MetadataOptions{Tokens: "required"}, new("unlimited")
	}))
	w.must(change(func(r *ModifyInstanceOptions) { r.Metadata = &ec2.MetadataOptions{Hops: 3} }))
	if i := w.instance(id); *i.Metadata != (ec2.MetadataOptions{Tokens: "required", Hops: 3}) || i.Options.Credits != "unlimited" {
		t.Errorf("the instance has metadata options %+v and credits %q, want tokens required, 3 hops and unlimited", i.Metadata, i.Options.Credits)
	}
	w.refused(change(func(r *ModifyInstanceOptions) { r.Metadata = &ec2.MetadataOptions{Hops: 65} }), "InvalidParameterValue")
	w.refused(change(func(r *ModifyInstanceOptions) { r.Credits = new("endless") }), "InvalidParameterValue")
	w.refused(change(func(r *ModifyInstanceOptions) { r.Tenancy = new("dedicated") }), "IncorrectInstanceState")
	w.stop(id)
	w.must(change(func(r *ModifyInstanceOptions) { r.Tenancy = new("dedicated") }))
	w.refused(change(func(r *ModifyInstanceOptions) { r.Tenancy = new("host") }), "InsufficientHostCapacity")
	w.refused(change(func(r *ModifyInstanceOptions) { r.Partition = new(1) }), "InvalidParameterCombination")
}
