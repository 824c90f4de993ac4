package query

import (
	"maps"
	"strconv"

	"palisade/ec2"
	"palisade/ec2/query/wire"
)

// A shownInstance is an instance with the items that answers show of it. Filters match
// only these.
type shownInstance struct {
	*ec2.Instance
	item       instanceItem
	interfaces []interfaceItem
}

func (c *call) showInstance(i *ec2.Instance) shownInstance {
	s := shownInstance{Instance: i, item: c.newInstanceItem(i)}
	for _, x := range s.item.Interfaces {
		if eni, ok := c.view.Interface(x.ID); ok {
			s.interfaces = append(s.interfaces, c.newInterfaceItem(eni))
		}
	}
	return s
}

// instanceFilters are the filters of EC2's API Reference, "DescribeInstances".
var instanceFilters = func() filterable[shownInstance] {
	of := func(value func(instanceItem) string) func(shownInstance) []string {
		return func(s shownInstance) []string { return nonEmpty(value(s.item)) }
	}
	groupIDs := func(s shownInstance) []string {
		return valuesOf(s.item.Groups, func(g groupName) string { return string(g.ID) })
	}
	groupNames := func(s shownInstance) []string {
		return valuesOf(s.item.Groups, func(g groupName) string { return g.Name })
	}
	all := filterable[shownInstance]{
		"architecture":        of(func(i instanceItem) string { return i.Architecture }),
		"availability-zone":   of(func(i instanceItem) string { return i.Placement.Zone }),
		"client-token":        of(func(i instanceItem) string { return string(i.ClientToken) }),
		"dns-name":            of(func(i instanceItem) string { return string(i.PublicDNS) }),
		"group-id":            groupIDs,
		"group-name":          groupNames,
		"image-id":            of(func(i instanceItem) string { return i.Image }),
		"instance-id":         of(func(i instanceItem) string { return string(i.ID) }),
		"instance-state-code": of(func(i instanceItem) string { return strconv.Itoa(i.State.Code) }),
		"instance-state-name": of(func(i instanceItem) string { return i.State.Name }),
		"instance-type":       of(func(i instanceItem) string { return i.Type }),
		"instance.group-id":   groupIDs,
		"instance.group-name": groupNames,
		"ip-address":          of(func(i instanceItem) string { return i.PublicAddress }),
		"key-name":            of(func(i instanceItem) string { return i.KeyName }),
		"launch-index":        of(func(i instanceItem) string { return strconv.Itoa(i.LaunchIndex) }),
		"launch-time":         of(func(i instanceItem) string { return wire.FormatTime(i.LaunchTime) }),
		"monitoring-state":    of(func(i instanceItem) string { return i.Monitoring.State }),
		"owner-id":            func(s shownInstance) []string { return nonEmpty(string(s.Account)) },
		"private-dns-name":    of(func(i instanceItem) string { return string(i.PrivateDNS) }),
		"private-ip-address":  of(func(i instanceItem) string { return i.PrivateAddress }),
		"reason":              of(func(i instanceItem) string { return string(i.Reason) }),
		"reservation-id":      func(s shownInstance) []string { return nonEmpty(s.Reservation) },
		"root-device-type":    of(func(i instanceItem) string { return i.RootDevice }),
		"state-reason-code":   of(func(i instanceItem) string { return deref(i.StateReason).Code }),
		"state-reason-message": of(func(i instanceItem) string {
			return deref(i.StateReason).Message
		}),
		"subnet-id":            of(func(i instanceItem) string { return string(deref(i.vpcInstanceItem).Subnet) }),
		"affinity":             of(func(i instanceItem) string { return i.Placement.Affinity }),
		"placement-group-name": of(func(i instanceItem) string { return string(i.Placement.Group) }),
		"placement-partition-number": func(s shownInstance) []string {
			if p := s.item.Placement.Partition; p != nil {
				return nonEmpty(strconv.Itoa(*p))
			}
			return nil
		},
		"tenancy":             of(func(i instanceItem) string { return i.Placement.Tenancy }),
		"virtualization-type": of(func(i instanceItem) string { return i.Virtualization }),
		"vpc-id":              of(func(i instanceItem) string { return string(deref(i.vpcInstanceItem).VPC) }),
		"source-dest-check": func(s shownInstance) []string {
			if v := s.item.vpcInstanceItem; v != nil && v.Checked != nil {
				return nonEmpty(strconv.FormatBool(*v.Checked))
			}
			return nil
		},
	}
	for _, name := range []string{
		"iam-instance-profile.arn", "instance-lifecycle", "kernel-id",
		"platform", "product-code", "ramdisk-id", "requester-id", "spot-instance-request-id",
	} {
		all[name] = never[shownInstance]
	}
	for _, filters := range []filterable[interfaceItem]{interfaceFilters, innerInterfaceFilters} {
		for name, values := range filters {
			all["network-interface."+name] = eachOf(func(s shownInstance) []interfaceItem { return s.interfaces }, values)
		}
	}
	maps.Copy(all, instanceOptionFilters)
	maps.Copy(all, deviceFilters())
	return all
}()
