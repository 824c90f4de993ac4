package query

import (
	"cmp"
	"net/netip"
	"strings"
	"time"

	"palisade/ec2"
	"palisade/ec2/instancetype"
	"palisade/ec2/query/wire"
	"palisade/ec2/region"
)

type reservationItem struct {
	ID        string         `wire:"reservationId"`
	Owner     ec2.AccountID  `wire:"ownerId"`
	Groups    []groupName    `wire:"groupSet"`
	Instances []instanceItem `wire:"instancesSet"`
}

type groupName struct {
	ID   ec2.GroupID `wire:"groupId"`
	Name string      `wire:"groupName"`
}

type instanceItem struct {
	ID             ec2.InstanceID       `wire:"instanceId"`
	Image          string               `wire:"imageId"`
	State          stateItem            `wire:"instanceState"`
	PrivateDNS     wire.Present         `wire:"privateDnsName"`
	PublicDNS      wire.Present         `wire:"dnsName"`
	Reason         wire.Present         `wire:"reason"`
	KeyName        string               `wire:"keyName"`
	LaunchIndex    int                  `wire:"amiLaunchIndex"`
	ProductCodes   []tag                `wire:"productCodes"`
	Type           string               `wire:"instanceType"`
	LaunchTime     time.Time            `wire:"launchTime"`
	Placement      placementItem        `wire:"placement"`
	Monitoring     monitoringItem       `wire:"monitoring"`
	PrivateAddress string               `wire:"privateIpAddress"`
	PublicAddress  string               `wire:"ipAddress"`
	Groups         []groupName          `wire:"groupSet"`
	StateReason    *reasonItem          `wire:"stateReason"`
	Architecture   string               `wire:"architecture"`
	RootDevice     string               `wire:"rootDeviceType"`
	Disks          []instanceDeviceItem `wire:"blockDeviceMapping"`
	RootName       string               `wire:"rootDeviceName"`
	Virtualization string               `wire:"virtualizationType"`
	ClientToken    wire.Present         `wire:"clientToken"`
	Tags           []tag                `wire:"tagSet"`
	Interfaces     []nicItem            `wire:"networkInterfaceSet"` // EC2-Classic shows none
	*vpcInstanceItem
	fixedInstanceItem
}

// A vpcInstanceItem has the elements that only instances in a VPC show. The elements after
// the first three are for features that instances do not have here.
type vpcInstanceItem struct {
	VPC         ec2.VPCID      `wire:"vpcId"`
	Subnet      ec2.SubnetID   `wire:"subnetId"`
	Checked     *bool          `wire:"sourceDestCheck"`
	EBS         bool           `wire:"ebsOptimized"`
	ENA         bool           `wire:"enaSupport"`
	Platform    string         `wire:"platformDetails"`
	Usage       string         `wire:"usageOperation"`
	CPU         cpuItem        `wire:"cpuOptions"`
	Hibernation configuredItem `wire:"hibernationOptions"`
	Enclave     enabledItem    `wire:"enclaveOptions"`
	Metadata    metadataItem   `wire:"metadataOptions"`
	Names       hostnameType   `wire:"privateDnsNameOptions"`
	Maintenance recoveryItem   `wire:"maintenanceOptions"`
	Capacity    capacityItem   `wire:"capacityReservationSpecification"`
}

// A metadataItem shows the options of the metadata service as the launch asked for them, and by
// default the service as disabled, because none answers here. The state is always "applied":
// clients wait for it after a change.
type metadataItem struct {
	State    string `wire:"state"`
	Tokens   string `wire:"httpTokens"`
	Hops     int    `wire:"httpPutResponseHopLimit"`
	Endpoint string `wire:"httpEndpoint"`
	IPv6     string `wire:"httpProtocolIpv6"`
	Tags     string `wire:"instanceMetadataTags"`
}

// A hostnameType tells the form of instances' names. Here it is ip-name: ip-10-0-1-4.
type hostnameType struct {
	Type string `wire:"hostnameType"`
	A    bool   `wire:"enableResourceNameDnsARecord"`
	AAAA bool   `wire:"enableResourceNameDnsAAAARecord"`
}

type stateItem struct {
	Code int    `wire:"code"`
	Name string `wire:"name"`
}

type placementItem struct {
	Zone      string               `wire:"availabilityZone"`
	ZoneID    string               `wire:"availabilityZoneId"`
	Group     wire.Present         `wire:"groupName"`
	GroupID   ec2.PlacementGroupID `wire:"groupId"`
	Partition *int                 `wire:"partitionNumber"`
	Affinity  string               `wire:"affinity"`
	Tenancy   string               `wire:"tenancy"`
}

type monitoringItem struct {
	State string `wire:"state"`
}

type reasonItem struct {
	Code    string `wire:"code"`
	Message string `wire:"message"`
}

func newStateItem(s ec2.InstanceState) stateItem { return stateItem{int(s), s.String()} }

// newReservation makes the item of a launch. instances are those of the launch, at least
// one. Only reservations of EC2-Classic show groups.
func (c *call) newReservation(instances []*ec2.Instance) reservationItem {
	r := reservationItem{ID: instances[0].Reservation, Owner: c.account}
	if instances[0].VPC == "" {
		r.Groups = c.groupNames(instances[0].Groups)
	}
	for _, i := range instances {
		r.Instances = append(r.Instances, c.newInstanceItem(i))
	}
	return r
}

func (c *call) newInstanceItem(i *ec2.Instance) instanceItem {
	item := instanceItem{
		ID:             i.ID,
		Image:          i.Image,
		State:          newStateItem(i.State),
		KeyName:        i.KeyName,
		LaunchIndex:    i.LaunchIndex,
		Type:           i.Type,
		LaunchTime:     i.LaunchTime,
		Placement:      c.newPlacementItem(i),
		Monitoring:     newMonitoringItem(i),
		Groups:         c.groupNames(i.Groups),
		Architecture:   c.architectureOf(i),
		RootDevice:     "instance-store",
		Virtualization: "paravirtual",
		ClientToken:    wire.Present(i.ClientToken),
		Tags:           c.tags(string(i.ID)),
	}
	if i.RootDevice != "" {
		item.RootDevice, item.RootName = "ebs", i.RootDevice
	}
	item.Disks = c.devices(i)
	if code, message, ok := strings.Cut(i.StateReason, ": "); ok {
		item.StateReason = &reasonItem{code, message}
	}
	item.Reason, item.fixedInstanceItem = wire.Present(i.StateReason), newFixedInstanceItem(i)
	if i.VPC != "" {
		c.showVPC(&item, i)
		return item
	}
	if eni, ok := c.activeInterface(i); ok {
		item.PrivateAddress = eni.Private.String()
		item.PrivateDNS = wire.Present(privateName(eni.Region, eni.Private))
		if eni.Public.IsValid() {
			item.PublicAddress = eni.Public.String()
			item.PublicDNS = wire.Present(publicName(eni.Region, eni.Public))
		}
	}
	return item
}

// showVPC adds the elements of an instance in a VPC. A terminated instance has no
// interfaces, and shows neither its VPC nor its subnet.
func (c *call) showVPC(item *instanceItem, i *ec2.Instance) {
	item.Virtualization = "hvm"
	o := i.Options
	v := &vpcInstanceItem{
		Platform: "Linux/UNIX", Usage: "RunInstances", EBS: o.EBSOptimized, CPU: newCPUItem(i), Hibernation: configuredItem{o.Hibernation},
		Enclave: enabledItem{o.Enclave}, Names: hostnameType{cmp.Or(o.HostnameType, "ip-name"), o.ARecord, o.AAAARecord},
		Metadata: newMetadataItem(deref(i.Metadata)), Maintenance: recoveryItem{recoveryOf(i)}, Capacity: capacityItem{cmp.Or(o.Reservation, "open")},
	}
	item.vpcInstanceItem = v
	eni, ok := c.view.Interface(i.Interface)
	if !ok {
		return
	}
	primary := c.newInterfaceItem(eni)
	item.PrivateAddress, item.PrivateDNS = primary.PrivateAddress, wire.Present(primary.PrivateDNS)
	if a := primary.Association; a != nil {
		item.PublicAddress, item.PublicDNS = a.Public, a.PublicDNS
	}
	v.VPC, v.Subnet, v.Checked = i.VPC, i.Subnet, new(!eni.Unchecked)
	item.Interfaces = c.nics(i)
}

func newMetadataItem(m ec2.MetadataOptions) metadataItem {
	item := metadataItem{
		State: "applied", Tokens: cmp.Or(m.Tokens, "required"), Hops: cmp.Or(m.Hops, 1),
		Endpoint: cmp.Or(m.Endpoint, "disabled"), IPv6: cmp.Or(m.IPv6, "disabled"), Tags: cmp.Or(m.Tags, "disabled"),
	}
	return item
}

func (c *call) newPlacementItem(i *ec2.Instance) placementItem {
	zone := c.view.ZoneOf(i)
	item := placementItem{Zone: zone, ZoneID: region.ZoneID(zone), Group: wire.Present(i.Options.PlacementGroup), Affinity: i.Options.Affinity, Tenancy: tenancyOf(i)}
	if i.Options.PlacementGroup != "" {
		if g := c.view.FindPlacementGroup(i.Account, i.Region, i.Options.PlacementGroup); g != nil {
			item.GroupID = g.ID
		}
	}
	if i.Options.Partition != 0 {
		item.Partition = &i.Options.Partition
	}
	return item
}

func tenancyOf(i *ec2.Instance) string { return cmp.Or(i.Options.Tenancy, "default") }

// newCPUItem shows the cores of a launch, or those of the type.
func newCPUItem(i *ec2.Instance) cpuItem {
	cores, threads := i.Options.Cores, i.Options.ThreadsOfCore
	if known, ok := instancetype.Find(i.Type); ok {
		cores, threads = cmp.Or(cores, known.Cores), cmp.Or(threads, known.ThreadsPerCore)
	}
	return cpuItem{Cores: nonZero(cores), Threads: nonZero(threads), SEVSNP: i.Options.SEVSNP}
}

func nonZero(n int) *int {
	if n == 0 {
		return nil
	}
	return &n
}

// activeInterface returns the primary interface of an instance, and whether its lease is
// active.
func (c *call) activeInterface(i *ec2.Instance) (*ec2.Interface, bool) {
	eni, ok := c.view.Interface(i.Interface)
	return eni, ok && eni.State == ec2.Active
}

func (c *call) groupNames(ids []ec2.GroupID) []groupName {
	var names []groupName
	for _, id := range ids {
		item := groupName{ID: id}
		if g, ok := c.view.Group(id); ok { // a terminated instance's group may have been deleted
			item.Name = g.Name
		}
		names = append(names, item)
	}
	return names
}

func privateName(region ec2.Region, a netip.Addr) string {
	name := "ip-" + strings.ReplaceAll(a.String(), ".", "-")
	if region == "us-east-1" {
		return name + ".ec2.internal"
	}
	return name + "." + string(region) + ".compute.internal"
}

func publicName(region ec2.Region, a netip.Addr) string {
	name := "ec2-" + strings.ReplaceAll(a.String(), ".", "-")
	if region == "us-east-1" {
		return name + ".compute-1.amazonaws.com"
	}
	return name + "." + string(region) + ".compute.amazonaws.com"
}
