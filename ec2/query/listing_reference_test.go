package query_test

import (
	"encoding/xml"
	"flag"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"palisade/ec2/query"
	"palisade/ec2/query/model"
)

// Every Describe that is served takes every filter of AWS's reference. A filter whose name is
// that of an element which an item shows passes exactly the items that show the value. A filter
// on a property that no item shows passes nothing. testdata/filters.txt says for each filter
// which elements it is compared with; -update writes it, to be read before it is committed.
func TestEveryFilterOfReferenceMatchesWhatIsShown(t *testing.T) {
	w := newWorld(t)
	w.populate(t)
	var got strings.Builder
	for _, name := range query.ActionNames() {
		a, ok := model.Lookup(name)
		if !ok || len(a.Filters) == 0 {
			continue
		}
		items := w.itemsOf(t, a, "")
		for _, filter := range a.Filters {
			if filter == "tag" { // tags: TestGroupsAreFiltered and others
				continue
			}
			paths := pathsOf(items, name, filter)
			fmt.Fprintf(&got, "%s %s: %s\n", name, filter, strings.Join(paths, " "))
			w.checkFilter(t, a, filter, items, paths)
		}
	}
	golden := filepath.Join("testdata", "filters.txt")
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(golden, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("what filters are compared with differs from %s (-want +got); -update writes it:\n%s", golden, diff)
	}
}

// comparedWith has the elements that a filter is compared with if its name does not say so. A
// property that a resource has but does not show there is "-".
var comparedWith = map[string]string{
	"DescribeImages image-allowed":                                "-",
	"DescribeImages manifest-location":                            "imageLocation",
	"DescribeImages owner-alias":                                  "imageOwnerAlias",
	"DescribeImages owner-id":                                     "imageOwnerId",
	"DescribeImages public-ssm-parameter-name":                    "-",
	"DescribeImages state":                                        "imageState",
	"DescribeAvailabilityZones state":                             "zoneState",
	"DescribeInstanceImageMetadata image-allowed":                 "-",
	"DescribeInstanceImageMetadata instance-state-name":           "instanceState.name",
	"DescribeInstanceImageMetadata owner-alias":                   "imageMetadata.imageOwnerAlias",
	"DescribeInstanceImageMetadata owner-id":                      "instanceOwnerId",
	"DescribeInstanceStatus instance-state-code":                  "instanceState.code",
	"DescribeInstanceStatus instance-state-name":                  "instanceState.name",
	"DescribeInstanceStatus instance-status.reachability":         "instanceStatus.details.status",
	"DescribeInstanceStatus system-status.reachability":           "systemStatus.details.status",
	"DescribeInstances instance-state-code":                       "instances.instanceState.code",
	"DescribeInstances instance-state-name":                       "instances.instanceState.name",
	"DescribeInstances instance.group-id":                         "instances.group.groupId",
	"DescribeInstances instance.group-name":                       "instances.group.groupName",
	"DescribeInstances launch-index":                              "instances.amiLaunchIndex",
	"DescribeInstances metadata-options.http-protocol-ipv4":       "instances.metadataOptions.httpEndpoint",
	"DescribeInstances monitoring-state":                          "instances.monitoring.state",
	"DescribeInstances network-interface.group-id":                "instances.networkInterface.group.groupId",
	"DescribeInstances network-interface.group-name":              "instances.networkInterface.group.groupName",
	"DescribeInstances network-interface.public-dns-name":         "instances.networkInterface.association.publicDnsName",
	"DescribeInstances state-reason-code":                         "instances.stateReason.code",
	"DescribeInstances state-reason-message":                      "instances.stateReason.message",
	"DescribeDhcpOptions key":                                     "dhcpConfiguration.key",
	"DescribeDhcpOptions value":                                   "dhcpConfiguration.value.value",
	"DescribeInstanceTypes ebs-info.ebs-optimized-support":        "ebsInfo.ebsOptimizedSupport",
	"DescribeInstanceTypes processor-info.supported-architecture": "processorInfo.supportedArchitectures",
	"DescribeInstanceTypes supported-boot-mode":                   "supportedBootModes",
	"DescribeInstanceTypes supported-root-device-type":            "supportedRootDeviceTypes",
	"DescribeInstanceTypes supported-usage-class":                 "supportedUsageClasses",
	"DescribeInstanceTypes supported-virtualization-type":         "supportedVirtualizationTypes",
	"DescribeInstances placement-group-name":                      "instances.placement.groupName",
	"DescribeInstances placement-partition-number":                "instances.placement.partitionNumber",
	"DescribeLaunchTemplateVersions host-resource-group-arn":      "launchTemplateData.placement.hostResourceGroupArn",
	"DescribeLaunchTemplateVersions http-protocol-ipv4":           "launchTemplateData.metadataOptions.httpEndpoint",
	"DescribeLaunchTemplateVersions iam-instance-profile":         "launchTemplateData.iamInstanceProfile.arn",
	"DescribeLaunchTemplateVersions is-default-version":           "defaultVersion",
	"DescribeLaunchTemplateVersions license-configuration-arn":    "launchTemplateData.license.licenseConfigurationArn",
	"DescribeLaunchTemplateVersions ram-disk-id":                  "launchTemplateData.ramDiskId",
	"DescribeKeyPairs fingerprint":                                "keyFingerprint",
	"DescribeNetworkAcls association.association-id":              "association.networkAclAssociationId",
	"DescribeNetworkAcls entry.cidr":                              "entry.cidrBlock",
	"DescribeNetworkAcls entry.ipv6-cidr":                         "entry.ipv6CidrBlock",
	"DescribeNetworkInterfaces addresses.association.owner-id":    "privateIpAddresses.association.ipOwnerId",
	"DescribeNetworkInterfaces private-ip-address":                "privateIpAddresses.privateIpAddress",
	"DescribeRegions endpoint":                                    "regionEndpoint",
	"DescribeSecurityGroups description":                          "groupDescription",
	"DescribeSubnets cidr":                                        "cidrBlock",
	"DescribeVpcClassicLink is-classic-link-enabled":              "classicLinkEnabled",
	"DescribeVpcs cidr":                                           "cidrBlock",
	"DescribeVpcs cidr-block-association.state":                   "cidrBlockAssociation.cidrBlockState.state",
	"DescribeVolumeStatus volume-status.details-name":             "volumeStatus.details.name",
	"DescribeVolumeStatus volume-status.details-status":           "volumeStatus.details.status",

	"DescribeInstances network-interface.addresses.association.allocation-id":  "-",
	"DescribeInstances network-interface.addresses.association.association-id": "-",
	"DescribeInstances network-interface.association.allocation-id":            "-",
	"DescribeInstances network-interface.association.association-id":           "-",
	"DescribeInstances network-interface.attachment.instance-id":               "-",
	"DescribeInstances network-interface.attachment.instance-owner-id":         "-",
	"DescribeInstances network-interface.availability-zone":                    "-",
	"DescribeInstances network-interface.ipv6-native":                          "-",
	"DescribeInstances network-interface.requester-managed":                    "-",
	"DescribeInstances network-interface.tag-key":                              "-",
	"DescribeInstances network-interface.tag-value":                            "-",
}

func init() {
	for name, element := range map[string]string{
		"delete-on-termination": "deleteOnTermination", "encrypted": "encrypted", "snapshot-id": "snapshotId", "volume-size": "volumeSize", "volume-type": "volumeType",
	} {
		comparedWith["DescribeImages block-device-mapping."+name] = "blockDeviceMapping.ebs." + element
	}
	for name, element := range map[string]string{"attach-time": "attachTime", "delete-on-termination": "deleteOnTermination", "status": "status", "volume-id": "volumeId"} {
		comparedWith["DescribeInstances block-device-mapping."+name] = "instances.blockDeviceMapping.ebs." + element
	}
	for prefix, element := range map[string]string{"ip-permission.": "ipPermissions", "egress.ip-permission.": "ipPermissionsEgress"} {
		for name, below := range map[string]string{
			"cidr": "ipRanges.cidrIp", "from-port": "fromPort", "to-port": "toPort", "protocol": "ipProtocol", "ipv6-cidr": "ipv6Ranges.cidrIpv6",
			"group-id": "groups.groupId", "group-name": "groups.groupName", "user-id": "groups.userId",
		} {
			comparedWith["DescribeSecurityGroups "+prefix+name] = element + "." + below
		}
	}
}

// An item has the texts of the elements of one resource, by path: "placement.availabilityZone".
type item map[string][]string

func (w *world) checkFilter(t *testing.T, a *model.Action, filter string, items []item, paths []string) {
	t.Helper()
	switch {
	case slices.Equal(paths, []string{"-"}):
	case len(paths) == 0:
		if n := len(w.itemsOf(t, a, filterForm(filter, "*"))); n > 0 {
			t.Errorf("%s: the filter %s passes %d resources, although none shows such an element", a.Name, filter, n)
		}
	}
	counts := countsByValue(items, paths)
	for i, value := range slices.Sorted(maps.Keys(counts)) {
		if i == 5 {
			break // there are hundreds of images
		}
		want := counts[value]
		if n := len(w.itemsOf(t, a, filterForm(filter, value))); n != want {
			t.Errorf("%s: the filter %s passes %d resources for %q, want %d: those that show it in %v", a.Name, filter, n, value, want, paths)
		}
	}
	if n := len(w.itemsOf(t, a, filterForm(filter, noSuchValue(filter)))); n > 0 {
		t.Errorf("%s: the filter %s passes %d resources for a value that none shows", a.Name, filter, n)
	}
}

func noSuchValue(filter string) string {
	if filter == "group-id" {
		return "sg-00000000000000000" // another form is an error
	}
	return "no-such-value"
}

// countsByValue returns how many items show each value in one of the paths.
func countsByValue(items []item, paths []string) map[string]int {
	counts := make(map[string]int)
	for _, x := range items {
		shown := make(map[string]bool)
		for _, path := range paths {
			for _, value := range x[path] {
				shown[value] = true
			}
		}
		for value := range shown {
			counts[value]++
		}
	}
	return counts
}

func filterForm(filter, value string) string {
	return fmt.Sprintf("&Filter.1.Name=%s&Filter.1.Value.1=%s", filter, url.QueryEscape(value))
}

// pathsOf returns the paths of the elements that a filter is compared with.
func pathsOf(items []item, action, filter string) []string {
	if known, ok := comparedWith[action+" "+filter]; ok {
		if known != "-" && !slices.ContainsFunc(items, func(x item) bool { return len(x[known]) > 0 }) {
			return nil
		}
		return []string{known}
	}
	name := strings.ToLower(strings.ReplaceAll(strings.Replace(filter, "addresses.", "privateIpAddresses.", 1), "-", ""))
	if filter == "tag-key" {
		name = "tag.key"
	}
	var exact, found []string
	for _, x := range items {
		for path := range x {
			switch p := strings.ToLower(path); {
			case p == name || p == "instances."+name:
				exact = append(exact, path)
			case strings.HasSuffix(p, "."+name):
				found = append(found, path)
			}
		}
	}
	if len(exact) > 0 {
		found = exact
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// itemsOf returns what an action shows, with further parameters.
func (w *world) itemsOf(t *testing.T, a *model.Action, parameters string) []item {
	t.Helper()
	form := "Action=" + a.Name + "&Version=2016-11-15" + parameters
	switch a.Name {
	case "GetSecurityGroupsForVpc":
		form += "&VpcId=" + w.defaultVPC(t)
	case "DescribeLaunchTemplateVersions":
		form += "&LaunchTemplateName=web"
	case "DescribeInstanceStatus":
		form += "&IncludeAllInstances=true"
	}
	var root xmlElement
	body := w.body(t, "dev", form)
	if err := xml.Unmarshal(body, &root); err != nil {
		t.Fatal(err)
	}
	if root.XMLName.Local == "Response" {
		t.Errorf("%s: %s", strings.TrimPrefix(form, "Action="), body)
	}
	var items []item
	for _, list := range root.Children {
		for _, x := range list.Children {
			if x.XMLName.Local == "item" {
				items = append(items, make(item))
				items[len(items)-1].read("", x.Children)
			}
		}
	}
	return items
}

func (x item) read(path string, elements []xmlElement) {
	for _, e := range elements {
		at := path
		if name := e.XMLName.Local; name != "item" {
			at = strings.TrimPrefix(path+"."+strings.TrimSuffix(name, "Set"), ".")
		}
		if text := strings.TrimSpace(e.Text); text != "" {
			x[at] = append(x[at], text)
		}
		x.read(at, e.Children)
	}
}

// Names of filters that are not in the reference, and that clients send (Ansible's ec2_vpc_net:
// cidr-block; older references: the others).
func TestOtherNamesOfFiltersAreTaken(t *testing.T) {
	w := newWorld(t)
	w.populate(t)
	for _, c := range []struct {
		action, filter, value string
		count                 int
	}{
		{"DescribeVpcs", "cidr-block", "172.31.0.0/16", 1},
		{"DescribeVpcs", "cidr-block", "10.2.0.0/16", 0},
		{"DescribeVpcs", "cidrBlock", "172.31.0.0/16", 1},
		{"DescribeVpcs", "isDefault", "true", 1},
		{"DescribeVpcs", "dhcpOptionsId", "dopt-00000000", 0},
		{"DescribeInstances", "group-name", "web", 1},
		{"DescribeInstances", "tag-value", "web", 0},
		{"DescribeNetworkInterfaces", "group-name", "web", 1},
		{"DescribeVpcs", "tag-value", "lab", 1},
	} {
		a, _ := model.Lookup(c.action)
		if n := len(w.itemsOf(t, a, filterForm(c.filter, c.value))); n != c.count {
			t.Errorf("%s: the filter %s passes %d resources for %s, want %d", c.action, c.filter, n, c.value, c.count)
		}
	}
}

func (w *world) defaultVPC(t *testing.T) string {
	t.Helper()
	return elementOf(string(w.body(t, "dev", "Action=DescribeVpcs&Version=2016-11-15&Filter.1.Name=is-default&Filter.1.Value.1=true")), "vpcId")
}

// elementOf returns the text of the first element with a name.
func elementOf(document, name string) string {
	_, rest, _ := strings.Cut(document, "<"+name+">")
	text, _, _ := strings.Cut(rest, "<")
	return text
}

// populate makes resources of every kind for the account dev.
func (w *world) populate(t *testing.T) {
	t.Helper()
	call := func(form string) string {
		t.Helper()
		body := string(w.body(t, "dev", "Action="+form+"&Version=2016-11-15"))
		if code := elementOf(body, "Code"); code != "" {
			t.Fatalf("%s: %s", form, body)
		}
		return body
	}
	vpc := w.defaultVPC(t)
	subnet := elementOf(call("DescribeSubnets"), "subnetId")
	gateway := elementOf(call("DescribeInternetGateways"), "internetGatewayId")
	call("CreateNatGateway&ConnectivityType=private&SubnetId=" + subnet + "&TagSpecification.1.ResourceType=natgateway&TagSpecification.1.Tag.1.Key=Name&TagSpecification.1.Tag.1.Value=out")
	call("CreateVpc&CidrBlock=10.1.0.0/16&TagSpecification.1.ResourceType=vpc&TagSpecification.1.Tag.1.Key=Name&TagSpecification.1.Tag.1.Value=lab")
	group := elementOf(call("CreateSecurityGroup&GroupName=web&GroupDescription=servers&VpcId="+vpc), "groupId")
	rule := "AuthorizeSecurityGroup%s&GroupId=" + group + "&IpPermissions.1.IpProtocol=tcp&IpPermissions.1.FromPort=80&IpPermissions.1.ToPort=443"
	call(fmt.Sprintf(rule, "Ingress") + "&IpPermissions.1.IpRanges.1.CidrIp=192.0.2.0/24&IpPermissions.1.Groups.1.GroupId=" + group)
	call(fmt.Sprintf(rule, "Egress") + "&IpPermissions.1.IpRanges.1.CidrIp=203.0.113.0/24")
	call("CreateKeyPair&KeyName=key")
	launched := call("RunInstances&ImageId=ami-eca54085&MinCount=1&MaxCount=1&KeyName=key&ClientToken=token&SecurityGroupId.1=" + group)
	call("RunInstances&ImageId=ami-fba54092&InstanceType=t3.micro&MinCount=2&MaxCount=2&MetadataOptions.HttpTokens=optional&MetadataOptions.HttpEndpoint=enabled")
	call("RunInstances&ImageId=ami-0123456789abcdef0&MinCount=1&MaxCount=1&BlockDeviceMapping.1.DeviceName=/dev/sdf&BlockDeviceMapping.1.Ebs.VolumeSize=10&BlockDeviceMapping.1.Ebs.Encrypted=true&BlockDeviceMapping.1.Ebs.DeleteOnTermination=false")
	volume := elementOf(call("CreateVolume&AvailabilityZone=us-east-1a&Size=5&VolumeType=io2&Iops=200&MultiAttachEnabled=true&SnapshotId=snap-0a1b2c3d"), "volumeId")
	call("ModifyVolume&Size=6&VolumeId=" + volume)
	w.report(t)
	eni := elementOf(call("CreateNetworkInterface&Description=second&SecondaryPrivateIpAddressCount=1&SubnetId="+subnet), "networkInterfaceId")
	call("AttachNetworkInterface&DeviceIndex=1&InstanceId=" + elementOf(launched, "instanceId") + "&NetworkInterfaceId=" + eni)
	w.report(t)
	call("CreateNetworkInterface&SubnetId=" + subnet)
	call("AssociateAddress&NetworkInterfaceId=" + eni + "&AllocationId=" + elementOf(call("AllocateAddress&Domain=vpc"), "allocationId"))
	call("AllocateAddress&Domain=vpc")
	table := elementOf(call("CreateRouteTable&VpcId="+vpc), "routeTableId")
	call("CreateRoute&DestinationCidrBlock=0.0.0.0/0&RouteTableId=" + table + "&GatewayId=" + gateway)
	call("AssociateRouteTable&RouteTableId=" + table + "&SubnetId=" + subnet)
	call("StopInstances&InstanceId.1=" + elementOf(launched, "instanceId"))
	w.report(t)
	call("CreateTags&ResourceId.1=" + eni + "&Tag.1.Key=Name&Tag.1.Value=second")
	w.populateLaunches(call)
}

// populateLaunches makes launch templates, placement groups and DHCP options.
func (w *world) populateLaunches(call func(string) string) {
	call("CreatePlacementGroup&GroupName=near&Strategy=spread")
	call("CreatePlacementGroup&GroupName=far&Strategy=partition&TagSpecification.1.ResourceType=placement-group&TagSpecification.1.Tag.1.Key=Name&TagSpecification.1.Tag.1.Value=x")
	call("RunInstances&ImageId=ami-fba54092&InstanceType=t3.micro&MinCount=1&MaxCount=1&Placement.GroupName=far&Placement.PartitionNumber=2")
	call("CreateDhcpOptions&DhcpConfiguration.1.Key=domain-name&DhcpConfiguration.1.Value.1=example.com&DhcpConfiguration.2.Key=ntp-servers&DhcpConfiguration.2.Value.1=10.0.0.1&DhcpConfiguration.2.Value.2=10.0.0.2")
	const data = "&LaunchTemplateName=web&LaunchTemplateData.ImageId=ami-fba54092&LaunchTemplateData.InstanceType=t3.micro&LaunchTemplateData.EbsOptimized=true"
	call("CreateLaunchTemplate" + data + "&LaunchTemplateData.IamInstanceProfile.Arn=arn:x&TagSpecification.1.ResourceType=launch-template&TagSpecification.1.Tag.1.Key=Name&TagSpecification.1.Tag.1.Value=x")
	call("CreateLaunchTemplateVersion" + data + "&LaunchTemplateData.MetadataOptions.HttpTokens=required&LaunchTemplateData.MetadataOptions.HttpEndpoint=enabled&LaunchTemplateData.KernelId=aki-1&LaunchTemplateData.RamDiskId=ari-1" +
		"&LaunchTemplateData.LicenseSpecification.1.LicenseConfigurationArn=arn:y&LaunchTemplateData.NetworkInterface.1.NetworkCardIndex=1&LaunchTemplateData.Placement.HostResourceGroupArn=arn:z")
	call("CreateLaunchTemplate&LaunchTemplateName=api&LaunchTemplateData.KeyName=key")
}
