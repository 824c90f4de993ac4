package query

import (
	"encoding/base64"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"palisade/ec2"
	"palisade/ec2/query/wire"
	"palisade/ec2/state"
)

type describeTemplatesRequest struct {
	IDs   []ec2.LaunchTemplateID `wire:"LaunchTemplateId"`
	Names []string               `wire:"LaunchTemplateName"`
	listed
}

type describeTemplatesAnswer struct {
	Templates []templateItem `wire:"launchTemplates"`
	NextToken string         `wire:"nextToken"`
}

var templateListing = listing[templateItem]{
	kind: "lt",
	id:   func(t templateItem) string { return string(t.ID) },
	filters: filterable[templateItem]{
		"create-time":          func(t templateItem) []string { return nonEmpty(wire.FormatTime(t.Created)) },
		"launch-template-name": func(t templateItem) []string { return nonEmpty(t.Name) },
	},
}

func describeTemplates(c *call, r *describeTemplatesRequest) (*describeTemplatesAnswer, error) {
	var ids []string
	for _, id := range r.IDs {
		if _, err := c.view.FindLaunchTemplate(c.account, c.region, state.TemplateSelector{ID: id}); err != nil {
			return nil, err
		}
		ids = append(ids, string(id))
	}
	for _, name := range r.Names {
		t, err := c.view.FindLaunchTemplate(c.account, c.region, state.TemplateSelector{Name: name})
		if err != nil {
			return nil, err
		}
		ids = append(ids, string(t.ID))
	}
	items, next, err := describe(c, templateListing, c.view.LaunchTemplatesOf(c.account, c.region), c.newTemplateItem, ids, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeTemplatesAnswer{items, next}, nil
}

type describeVersionsRequest struct {
	templateRequest
	Versions []string `wire:"LaunchTemplateVersion"`
	Min      string   `wire:"MinVersion"`
	Max      string   `wire:"MaxVersion"`
	listed
}

type describeVersionsAnswer struct {
	Versions  []versionItem `wire:"launchTemplateVersionSet"`
	NextToken string        `wire:"nextToken"`
}

// versionListing sorts the newest version first, as EC2 does.
var versionListing = listing[versionItem]{
	id: func(v versionItem) string { return fmt.Sprintf("%s/%010d", v.ID, 1<<32-v.Number) },
	filters: filterable[versionItem]{
		"create-time":             func(v versionItem) []string { return nonEmpty(wire.FormatTime(v.Created)) },
		"ebs-optimized":           func(v versionItem) []string { return optionalBool(v.Data.EBS) },
		"host-resource-group-arn": func(v versionItem) []string { return nonEmpty(deref(v.Data.Placement).HostGroup) },
		"http-endpoint":           func(v versionItem) []string { return nonEmpty(deref(v.Data.Metadata).Endpoint) },
		"http-protocol-ipv4":      func(v versionItem) []string { return nonEmpty(deref(v.Data.Metadata).Endpoint) },
		"http-tokens":             func(v versionItem) []string { return nonEmpty(deref(v.Data.Metadata).Tokens) },
		"iam-instance-profile":    func(v versionItem) []string { return nonEmpty(deref(v.Data.Profile).ARN) },
		"image-id":                func(v versionItem) []string { return nonEmpty(v.Data.Image) },
		"instance-type":           func(v versionItem) []string { return nonEmpty(v.Data.Type) },
		"is-default-version":      func(v versionItem) []string { return boolean(v.Default) },
		"kernel-id":               func(v versionItem) []string { return nonEmpty(v.Data.Kernel) },
		"license-configuration-arn": func(v versionItem) []string {
			return valuesOf(v.Data.Licenses, func(l licenseItem) string { return l.ARN })
		},
		"network-card-index": func(v versionItem) []string {
			return valuesOf(v.Data.Interfaces, func(n templateInterfaceItem) string {
				if n.Card == nil {
					return ""
				}
				return strconv.Itoa(*n.Card)
			})
		},
		"ram-disk-id": func(v versionItem) []string { return nonEmpty(v.Data.RAMDisk) },
	},
}

func optionalBool(b *bool) []string {
	if b == nil {
		return nil
	}
	return boolean(*b)
}

// describeTemplateVersions shows versions of one template, or the latest or default versions of all
// templates.
func describeTemplateVersions(c *call, r *describeVersionsRequest) (*describeVersionsAnswer, error) {
	if err := versionListing.filters.check(r.Filters); err != nil {
		return nil, err
	}
	all := c.view.LaunchTemplatesOf(c.account, c.region)
	one := r.ID != "" || r.Name != ""
	onlyNames := len(r.Versions) > 0 && !slices.ContainsFunc(r.Versions, func(v string) bool { return v != latestVersion && v != defaultVersion })
	if one || !onlyNames {
		t, err := c.view.FindLaunchTemplate(c.account, c.region, r.selector())
		if err != nil {
			return nil, err
		}
		all = slices.Values([]*ec2.LaunchTemplate{t})
	}
	items, err := c.versions(all, r)
	if err != nil {
		return nil, err
	}
	items, next, err := versionListing.pick(c, items, nil, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeVersionsAnswer{items, next}, nil
}

func (c *call) versions(templates iter.Seq[*ec2.LaunchTemplate], r *describeVersionsRequest) (items []versionItem, err error) {
	for t := range templates {
		wanted, err := r.wanted(t)
		if err != nil {
			return nil, err
		}
		for v := range c.view.LaunchTemplateVersions(t.ID) {
			if !wanted(v.Number) {
				continue
			}
			item, err := newVersionItem(t, v)
			if err != nil {
				return nil, err
			}
			items = append(items, item)
		}
		for _, text := range r.Versions {
			number, err := versionNumber(t, text)
			if err != nil {
				return nil, err
			}
			if _, err := c.view.LaunchTemplateVersion(t.ID, number); err != nil && text != latestVersion {
				return nil, err // the latest one may have been deleted
			}
		}
	}
	return items, nil
}

// wanted returns a function that reports whether a request asks for the version with a number.
func (r *describeVersionsRequest) wanted(t *ec2.LaunchTemplate) (func(int) bool, error) {
	low, high := 0, t.Latest
	var err error
	if r.Min != "" {
		if low, err = versionNumber(t, r.Min); err != nil {
			return nil, err
		}
	}
	if r.Max != "" {
		if high, err = versionNumber(t, r.Max); err != nil {
			return nil, err
		}
	}
	if len(r.Versions) > 0 && (r.Min != "" || r.Max != "") {
		return nil, ec2.Errorf("InvalidParameterCombination", "The parameter LaunchTemplateVersion cannot be used with MinVersion or MaxVersion")
	}
	var numbers []int
	for _, text := range r.Versions {
		number, err := versionNumber(t, text)
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, number)
	}
	return func(n int) bool {
		return n >= low && n <= high && (len(numbers) == 0 || slices.Contains(numbers, n))
	}, nil
}

type templateDataAnswer struct {
	Data templateDataItem `wire:"launchTemplateData"`
}

// getTemplateData shows the parameters that would launch an instance like an existing one.
func getTemplateData(c *call, r *oneInstanceRequest) (*templateDataAnswer, error) {
	i, err := c.view.FindInstance(c.account, c.region, r.Instance)
	if err != nil {
		return nil, err
	}
	item := templateDataItem{
		Image: i.Image, Type: i.Type, Key: i.KeyName, NoTerminate: &i.TerminationProtected, NoStop: &i.StopProtected, OnShutdown: "stop",
		EBS: &i.Options.EBSOptimized, Monitoring: &enabledItem{i.Monitored},
		Placement: &templatePlacementItem{Zone: c.view.ZoneOf(i), Group: i.Options.PlacementGroup, Tenancy: tenancyOf(i)},
		Enclave:   &enabledItem{i.Options.Enclave}, Hibernation: &configuredItem{i.Options.Hibernation},
	}
	if i.TerminateOnShutdown {
		item.OnShutdown = "terminate"
	}
	if len(i.UserData) > 0 {
		item.UserData = base64.StdEncoding.EncodeToString(i.UserData)
	}
	if i.VPC == "" {
		item.GroupIDs = valuesOf(c.groupNames(i.Groups), func(g groupName) string { return string(g.ID) })
	} else {
		for _, nic := range c.nics(i) {
			item.Interfaces = append(item.Interfaces, newTemplateNIC(nic))
		}
	}
	volumes := make(map[ec2.VolumeID]*ec2.Volume)
	for v := range c.view.VolumesAt(i.ID) {
		volumes[v.ID] = v
	}
	for _, d := range c.devices(i) {
		item.Volumes = append(item.Volumes, newTemplateVolume(d, volumes[d.EBS.Volume]))
	}
	ours := func(t tag) bool { return strings.HasPrefix(t.Key, "aws:") } // which a launch cannot set
	if tags := slices.DeleteFunc(c.tags(string(i.ID)), ours); len(tags) > 0 {
		item.Tags = []templateTagsItem{{"instance", tags}}
	}
	return &templateDataAnswer{item}, nil
}

func newTemplateVolume(d instanceDeviceItem, v *ec2.Volume) templateVolumeItem {
	item := templateVolumeItem{Device: d.Device, EBS: &templateVolEBSItem{
		Encrypted: &v.Encrypted, Delete: &d.EBS.DeleteOnTermination, IOPS: nonZero(v.IOPS), Key: v.KMSKey, Snapshot: v.Snapshot, Size: nonZero(v.Size),
		Type: v.Type, Throughput: nonZero(v.Throughput),
	}}
	if v.Type != "gp3" && v.Type != "io1" && v.Type != "io2" {
		item.EBS.IOPS = nil // a launch cannot choose it
	}
	return item
}

func newTemplateNIC(nic nicItem) templateInterfaceItem {
	item := templateInterfaceItem{
		DeviceIndex: &nic.Attachment.DeviceIndex, Description: string(nic.Description), Subnet: nic.Subnet,
		DeleteOnTermination: &nic.Attachment.DeleteOnTermination, Groups: valuesOf(nic.Groups, func(g groupName) string { return string(g.ID) }),
	}
	for _, a := range nic.Addresses {
		item.Addresses = append(item.Addresses, templateAddressItem{a.Primary, a.Address})
	}
	return item
}
