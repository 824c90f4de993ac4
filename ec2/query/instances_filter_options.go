package query

import (
	"strconv"

	"palisade/ec2/query/wire"
	"palisade/ec2/region"
)

// instanceOptionFilters are filters of "DescribeInstances" on options of instances. Only
// instances in a VPC show options.
var instanceOptionFilters = func() filterable[shownInstance] {
	of := func(value func(*vpcInstanceItem) string) func(shownInstance) []string {
		return func(s shownInstance) []string {
			if s.item.vpcInstanceItem == nil {
				return nil
			}
			return nonEmpty(value(s.item.vpcInstanceItem))
		}
	}
	f := filterable[shownInstance]{
		"availability-zone-id": func(s shownInstance) []string { return nonEmpty(region.ZoneID(s.item.Placement.Zone)) },
		"capacity-reservation-specification.capacity-reservation-preference": of(func(v *vpcInstanceItem) string { return v.Capacity.Preference }),
		"current-instance-boot-mode":                                         func(s shownInstance) []string { return nonEmpty(s.item.BootMode) },
		"ebs-optimized":                                                      of(func(v *vpcInstanceItem) string { return strconv.FormatBool(v.EBS) }),
		"ena-support":                                                        of(func(v *vpcInstanceItem) string { return strconv.FormatBool(v.ENA) }),
		"enclave-options.enabled":                                            of(func(v *vpcInstanceItem) string { return strconv.FormatBool(v.Enclave.Enabled) }),
		"hibernation-options.configured":                                     of(func(v *vpcInstanceItem) string { return strconv.FormatBool(v.Hibernation.Configured) }),
		"hypervisor":                                                         func(s shownInstance) []string { return nonEmpty(s.item.Hypervisor) },
		"maintenance-options.auto-recovery":                                  of(func(v *vpcInstanceItem) string { return v.Maintenance.Recovery }),
		"metadata-options.http-endpoint":                                     of(func(v *vpcInstanceItem) string { return v.Metadata.Endpoint }),
		"metadata-options.http-protocol-ipv4":                                of(func(v *vpcInstanceItem) string { return v.Metadata.Endpoint }),
		"metadata-options.http-protocol-ipv6":                                of(func(v *vpcInstanceItem) string { return v.Metadata.IPv6 }),
		"metadata-options.http-put-response-hop-limit":                       of(func(v *vpcInstanceItem) string { return strconv.Itoa(v.Metadata.Hops) }),
		"metadata-options.http-tokens":                                       of(func(v *vpcInstanceItem) string { return v.Metadata.Tokens }),
		"metadata-options.instance-metadata-tags":                            of(func(v *vpcInstanceItem) string { return v.Metadata.Tags }),
		"metadata-options.state":                                             of(func(v *vpcInstanceItem) string { return v.Metadata.State }),
		"network-performance-options.bandwidth-weighting":                    func(s shownInstance) []string { return nonEmpty(deref(s.item.Performance).Weighting) },
		"operator.managed":                                                   func(s shownInstance) []string { return boolean(s.item.Operator.Managed) },
		"platform-details":                                                   of(func(v *vpcInstanceItem) string { return v.Platform }),
		"usage-operation":                                                    of(func(v *vpcInstanceItem) string { return v.Usage }),
		"usage-operation-update-time": func(s shownInstance) []string {
			if s.item.UsageTime.IsZero() {
				return nil
			}
			return nonEmpty(wire.FormatTime(s.item.UsageTime))
		},
		"private-dns-name-options.enable-resource-name-dns-a-record":    of(func(v *vpcInstanceItem) string { return strconv.FormatBool(v.Names.A) }),
		"private-dns-name-options.enable-resource-name-dns-aaaa-record": of(func(v *vpcInstanceItem) string { return strconv.FormatBool(v.Names.AAAA) }),
		"private-dns-name-options.hostname-type":                        of(func(v *vpcInstanceItem) string { return v.Names.Type }),
	}
	for _, name := range []string{
		"boot-mode", "capacity-reservation-id", "capacity-reservation-specification.capacity-reservation-target.capacity-reservation-id",
		"capacity-reservation-specification.capacity-reservation-target.capacity-reservation-resource-group-arn", "host-id", "iam-instance-profile.id",
		"ipv6-address", "operator.principal", "outpost-arn", "product-code.type", "tpm-support",
	} {
		f[name] = never[shownInstance]
	}
	return f
}()

// innerInterfaceFilters are filters of "DescribeInstances" on the interfaces of an instance that
// "DescribeNetworkInterfaces" does not have.
var innerInterfaceFilters = func() filterable[interfaceItem] {
	association := func(value func(publicItem) string) func(interfaceItem) []string {
		return func(i interfaceItem) []string {
			return valuesOf(i.Addresses, func(a nicAddress) string { return value(deref(a.Association)) })
		}
	}
	f := filterable[interfaceItem]{
		"addresses.association.allocation-id":   association(func(a publicItem) string { return string(a.Allocation) }),
		"addresses.association.association-id":  association(func(a publicItem) string { return a.ID }),
		"addresses.association.public-dns-name": association(func(a publicItem) string { return string(a.PublicDNS) }),
		"addresses.private-dns-name": func(i interfaceItem) []string {
			return valuesOf(i.Addresses, func(a nicAddress) string { return a.DNS })
		},
		"attachment.network-card-index": func(i interfaceItem) []string {
			if i.Attachment == nil {
				return nil
			}
			return nonEmpty(strconv.Itoa(i.Attachment.NetworkCard))
		},
		"ipv6-native":     func(interfaceItem) []string { return boolean(false) },
		"public-dns-name": func(i interfaceItem) []string { return nonEmpty(string(deref(i.Association).PublicDNS)) },
		"tag-key":         func(i interfaceItem) []string { return valuesOf(i.Tags, func(t tag) string { return t.Key }) },
		"tag-value":       func(i interfaceItem) []string { return valuesOf(i.Tags, func(t tag) string { return t.Value }) },
	}
	for _, name := range []string{
		"addresses.association.carrier-ip", "addresses.association.customer-owned-ip", "association.carrier-ip", "association.customer-owned-ip",
		"deny-all-igw-traffic", "ipv4-prefixes.ipv4-prefix", "ipv6-address", "ipv6-addresses.is-primary-ipv6", "ipv6-prefixes.ipv6-prefix", "outpost-arn",
	} {
		f[name] = never[interfaceItem]
	}
	return f
}()
