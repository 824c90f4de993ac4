package query

import (
	"cmp"
	"encoding/base64"
	"slices"
	"strings"
	"time"

	"palisade/ec2"
)

// instanceActions are of instances.
var instanceActions = map[string]handler{
	"RunInstances":       action(runInstances),
	"DescribeInstances":  action(describeInstances),
	"TerminateInstances": action(terminateInstances),
	"StopInstances":      action(stopInstances),
	"StartInstances":     action(startInstances),
}

type runInstancesRequest struct {
	ImageID        string        `wire:"ImageId"`
	MinCount       *int          `wire:"MinCount"`
	MaxCount       *int          `wire:"MaxCount"`
	GroupNames     []string      `wire:"SecurityGroup"`
	GroupIDs       []ec2.GroupID `wire:"SecurityGroupId"`
	KeyName        string        `wire:"KeyName"`
	UserData       string        `wire:"UserData"`
	InstanceType   string        `wire:"InstanceType"`
	ClientToken    string        `wire:"ClientToken"`
	SubnetID       string        `wire:"SubnetId"`
	PrivateAddress string        `wire:"PrivateIpAddress"`
	Interfaces     []struct {
		DeviceIndex string `wire:"DeviceIndex"`
	} `wire:"NetworkInterface"`
	Placement struct {
		Zone string `wire:"AvailabilityZone"`
	} `wire:"Placement"`
}

type runInstancesAnswer struct {
	reservationItem
}

// defaultType is what EC2 launched when asked for no type.
const defaultType = "m1.small"

func runInstances(c *call, r *runInstancesRequest) (*runInstancesAnswer, error) {
	if r.SubnetID != "" || r.PrivateAddress != "" || len(r.Interfaces) > 0 {
		return nil, ec2.Errorf("InvalidParameterCombination", "Subnets, network interfaces and chosen addresses are not for instances in EC2-Classic")
	}
	if r.MinCount == nil || r.MaxCount == nil {
		return nil, ec2.Errorf("MissingParameter", "The request must contain the parameters MinCount and MaxCount")
	}
	data, err := base64.StdEncoding.DecodeString(r.UserData)
	if err != nil {
		return nil, ec2.Errorf("InvalidParameterValue", "Invalid BASE64 encoding of user data")
	}
	run := &ec2.RunInstances{
		Account:     c.account,
		Region:      c.region,
		Image:       r.ImageID,
		Type:        cmp.Or(r.InstanceType, defaultType),
		KeyName:     r.KeyName,
		UserData:    data,
		MinCount:    *r.MinCount,
		MaxCount:    *r.MaxCount,
		Zone:        r.Placement.Zone,
		ClientToken: r.ClientToken,
	}
	for _, id := range r.GroupIDs {
		if err := ec2.CheckGroupID(id); err != nil {
			return nil, err
		}
		run.Groups = append(run.Groups, ec2.GroupSelector{ID: id})
	}
	for _, name := range r.GroupNames {
		run.Groups = append(run.Groups, ec2.GroupSelector{Name: name})
	}
	result, err := c.apply(run)
	if err != nil {
		return nil, err
	}
	var made []*ec2.Instance
	for _, change := range result.Instances {
		made = append(made, change.After)
	}
	return &runInstancesAnswer{c.newReservation(made)}, nil
}

type describeInstancesRequest struct {
	InstanceIDs []ec2.InstanceID `wire:"InstanceId"`
	Filters     []filter         `wire:"Filter"`
	paged
}

type describeInstancesAnswer struct {
	Reservations []reservationItem `wire:"reservationSet"`
	NextToken    string            `wire:"nextToken"`
}

func describeInstances(c *call, r *describeInstancesRequest) (*describeInstancesAnswer, error) {
	if len(r.InstanceIDs) > 0 && r.MaxResults != nil {
		return nil, ec2.Errorf("InvalidParameterCombination", "The parameter instancesSet cannot be used with the parameter maxResults")
	}
	filters := c.instanceFilters()
	if err := filters.check(r.Filters); err != nil {
		return nil, err
	}
	instances, err := c.selectInstances(r.InstanceIDs)
	if err != nil {
		return nil, err
	}
	tags := taggedBy(c, func(i *ec2.Instance) string { return string(i.ID) })
	instances = slices.DeleteFunc(instances, func(i *ec2.Instance) bool { return !filters.match(i, r.Filters, tags) })
	instances, next, err := page(instances, func(i *ec2.Instance) string { return string(i.ID) }, r.paged)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(instances, func(a, b *ec2.Instance) int {
		return cmp.Or(a.LaunchTime.Compare(b.LaunchTime), cmp.Compare(a.Reservation, b.Reservation), a.LaunchIndex-b.LaunchIndex)
	})
	answer := &describeInstancesAnswer{NextToken: next}
	// A restarted instance has a launch time of its own, so a reservation need not
	// lie together.
	var order []string
	byReservation := make(map[string][]*ec2.Instance)
	for _, i := range instances {
		if byReservation[i.Reservation] == nil {
			order = append(order, i.Reservation)
		}
		byReservation[i.Reservation] = append(byReservation[i.Reservation], i)
	}
	for _, id := range order {
		answer.Reservations = append(answer.Reservations, c.newReservation(byReservation[id]))
	}
	return answer, nil
}

// selectInstances returns the caller's instances with these ids, or all, by id.
func (c *call) selectInstances(ids []ec2.InstanceID) ([]*ec2.Instance, error) {
	all := slices.Collect(c.view.InstancesOf(c.account, c.region))
	if len(ids) == 0 {
		return all, nil
	}
	wanted := make(map[ec2.InstanceID]bool)
	var missing []string
	for _, id := range ids {
		if err := ec2.CheckInstanceID(id); err != nil {
			return nil, err
		}
		if i, ok := c.view.Instance(id); !ok || i.Account != c.account || i.Region != c.region {
			missing = append(missing, string(id))
		}
		wanted[id] = true
	}
	if len(missing) > 0 {
		return nil, ec2.NoSuchInstances(missing)
	}
	return slices.DeleteFunc(all, func(i *ec2.Instance) bool { return !wanted[i.ID] }), nil
}

type changeStateRequest struct {
	InstanceIDs []ec2.InstanceID `wire:"InstanceId"`
	Force       bool             `wire:"Force"`
}

type changeStateAnswer struct {
	Instances []stateChange `wire:"instancesSet"`
}

type stateChange struct {
	ID       ec2.InstanceID `wire:"instanceId"`
	Current  stateItem      `wire:"currentState"`
	Previous stateItem      `wire:"previousState"`
}

func terminateInstances(c *call, r *changeStateRequest) (*changeStateAnswer, error) {
	return c.changeState(&ec2.TerminateInstances{Account: c.account, Region: c.region, Instances: r.InstanceIDs})
}

func stopInstances(c *call, r *changeStateRequest) (*changeStateAnswer, error) {
	return c.changeState(&ec2.StopInstances{Account: c.account, Region: c.region, Instances: r.InstanceIDs})
}

func startInstances(c *call, r *changeStateRequest) (*changeStateAnswer, error) {
	return c.changeState(&ec2.StartInstances{Account: c.account, Region: c.region, Instances: r.InstanceIDs})
}

func (c *call) changeState(r ec2.Request) (*changeStateAnswer, error) {
	result, err := c.apply(r)
	if err != nil {
		return nil, err
	}
	answer := &changeStateAnswer{}
	for _, i := range result.Instances {
		answer.Instances = append(answer.Instances, stateChange{i.After.ID, newStateItem(i.After.State), newStateItem(i.Before.State)})
	}
	return answer, nil
}

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
	ID             ec2.InstanceID `wire:"instanceId"`
	Image          string         `wire:"imageId"`
	State          stateItem      `wire:"instanceState"`
	PrivateDNS     string         `wire:"privateDnsName"`
	PublicDNS      string         `wire:"dnsName"`
	Reason         string         `wire:"reason"`
	KeyName        string         `wire:"keyName"`
	LaunchIndex    int            `wire:"amiLaunchIndex"`
	ProductCodes   []tag          `wire:"productCodes"`
	Type           string         `wire:"instanceType"`
	LaunchTime     time.Time      `wire:"launchTime"`
	Placement      placementItem  `wire:"placement"`
	Monitoring     monitoringItem `wire:"monitoring"`
	PrivateAddress string         `wire:"privateIpAddress"`
	PublicAddress  string         `wire:"ipAddress"`
	Groups         []groupName    `wire:"groupSet"`
	StateReason    *reasonItem    `wire:"stateReason"`
	Architecture   string         `wire:"architecture"`
	RootDevice     string         `wire:"rootDeviceType"`
	BlockDevices   []tag          `wire:"blockDeviceMapping"`
	Virtualization string         `wire:"virtualizationType"`
	ClientToken    string         `wire:"clientToken"`
	Tags           []tag          `wire:"tagSet"`
	Interfaces     []tag          `wire:"networkInterfaceSet"` // EC2-Classic shows none
}

type stateItem struct {
	Code int    `wire:"code"`
	Name string `wire:"name"`
}

type placementItem struct {
	Zone    string `wire:"availabilityZone"`
	Tenancy string `wire:"tenancy"`
}

type monitoringItem struct {
	State string `wire:"state"`
}

type reasonItem struct {
	Code    string `wire:"code"`
	Message string `wire:"message"`
}

func newStateItem(s ec2.InstanceState) stateItem { return stateItem{int(s), s.String()} }

// newReservation shows instances of one launch, at least one.
func (c *call) newReservation(instances []*ec2.Instance) reservationItem {
	r := reservationItem{ID: instances[0].Reservation, Owner: c.account, Groups: c.groupNames(instances[0])}
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
		Placement:      placementItem{Zone: c.view.ZoneOf(i), Tenancy: "default"},
		Monitoring:     monitoringItem{State: "disabled"},
		Groups:         c.groupNames(i),
		Architecture:   "x86_64",
		RootDevice:     "instance-store",
		Virtualization: "paravirtual",
		ClientToken:    i.ClientToken,
	}
	if code, message, ok := strings.Cut(i.StateReason, ": "); ok {
		item.Reason, item.StateReason = i.StateReason, &reasonItem{code, message}
	} else {
		item.Reason = i.StateReason
	}
	if eni, ok := c.activeInterface(i); ok {
		item.PrivateAddress = eni.Private.String()
		item.PrivateDNS = privateName(eni)
		if eni.Public.IsValid() {
			item.PublicAddress = eni.Public.String()
			item.PublicDNS = publicName(eni)
		}
	}
	return item
}

// activeInterface is where an instance's addresses are, unless they have left it.
func (c *call) activeInterface(i *ec2.Instance) (*ec2.Interface, bool) {
	eni, ok := c.view.Interface(i.Interface)
	return eni, ok && eni.State == ec2.Active
}

func (c *call) groupNames(i *ec2.Instance) []groupName {
	var names []groupName
	for _, id := range i.Groups {
		item := groupName{ID: id}
		if g, ok := c.view.Group(id); ok { // a terminated instance does not hold it
			item.Name = g.Name
		}
		names = append(names, item)
	}
	return names
}

func privateName(eni *ec2.Interface) string {
	name := "ip-" + strings.ReplaceAll(eni.Private.String(), ".", "-")
	if eni.Region == "us-east-1" {
		return name + ".ec2.internal"
	}
	return name + "." + string(eni.Region) + ".compute.internal"
}

func publicName(eni *ec2.Interface) string {
	name := "ec2-" + strings.ReplaceAll(eni.Public.String(), ".", "-")
	if eni.Region == "us-east-1" {
		return name + ".compute-1.amazonaws.com"
	}
	return name + "." + string(eni.Region) + ".compute.amazonaws.com"
}
