package query

import (
	"strconv"

	"palisade/ec2/query/wire"
)

// interfaceFilters are the filters of EC2's API Reference, "DescribeNetworkInterfaces".
var interfaceFilters = func() filterable[interfaceItem] {
	of := func(value func(interfaceItem) string) func(interfaceItem) []string {
		return func(i interfaceItem) []string { return nonEmpty(value(i)) }
	}
	attachment := func(value func(*attachmentItem) string) func(interfaceItem) []string {
		return func(i interfaceItem) []string {
			if i.Attachment == nil {
				return nil
			}
			return nonEmpty(value(i.Attachment))
		}
	}
	association := func(value func(publicItem) string) func(interfaceItem) []string {
		return func(i interfaceItem) []string { return nonEmpty(value(deref(i.Association))) }
	}
	addresses := func(value func(nicAddress) string) func(interfaceItem) []string {
		return func(i interfaceItem) []string { return valuesOf(i.Addresses, value) }
	}
	return filterable[interfaceItem]{
		"addresses.association.owner-id":    addresses(func(a nicAddress) string { return deref(a.Association).Owner }),
		"addresses.association.ip-owner-id": addresses(func(a nicAddress) string { return deref(a.Association).Owner }),
		"addresses.association.public-ip":   addresses(func(a nicAddress) string { return deref(a.Association).Public }),
		"addresses.primary":                 addresses(func(a nicAddress) string { return strconv.FormatBool(a.Primary) }),
		"addresses.private-ip-address":      addresses(func(a nicAddress) string { return a.Address }),
		"association.allocation-id":         association(func(a publicItem) string { return string(a.Allocation) }),
		"association.association-id":        association(func(a publicItem) string { return a.ID }),
		"association.ip-owner-id":           association(func(a publicItem) string { return a.Owner }),
		"association.public-dns-name":       association(func(a publicItem) string { return string(a.PublicDNS) }),
		"association.public-ip":             association(func(a publicItem) string { return a.Public }),
		"attachment.attach-time":            attachment(func(a *attachmentItem) string { return wire.FormatTime(a.Time) }),
		"attachment.attachment-id":          attachment(func(a *attachmentItem) string { return string(a.ID) }),
		"attachment.delete-on-termination":  attachment(func(a *attachmentItem) string { return strconv.FormatBool(a.DeleteOnTermination) }),
		"attachment.device-index":           attachment(func(a *attachmentItem) string { return strconv.Itoa(a.DeviceIndex) }),
		"attachment.instance-id":            attachment(func(a *attachmentItem) string { return string(a.Instance) }),
		"attachment.instance-owner-id":      attachment(func(a *attachmentItem) string { return string(a.InstanceOwner) }),
		"attachment.status":                 attachment(func(a *attachmentItem) string { return a.Status }),
		"availability-zone":                 of(func(i interfaceItem) string { return i.Zone }),
		"availability-zone-id":              of(func(i interfaceItem) string { return i.ZoneID }),
		"operator.managed":                  of(func(i interfaceItem) string { return strconv.FormatBool(i.Operator.Managed) }),
		"operator.principal":                never[interfaceItem],
		"description":                       of(func(i interfaceItem) string { return string(i.Description) }),
		"group-id": func(i interfaceItem) []string {
			return valuesOf(i.Groups, func(g groupName) string { return string(g.ID) })
		},
		"group-name":                  func(i interfaceItem) []string { return valuesOf(i.Groups, func(g groupName) string { return g.Name }) },
		"interface-type":              of(func(i interfaceItem) string { return i.Type }),
		"ipv6-addresses.ipv6-address": never[interfaceItem],
		"mac-address":                 of(func(i interfaceItem) string { return i.MAC }),
		"network-interface-id":        of(func(i interfaceItem) string { return string(i.ID) }),
		"owner-id":                    of(func(i interfaceItem) string { return string(i.Owner) }),
		"private-dns-name":            of(func(i interfaceItem) string { return i.PrivateDNS }),
		"private-ip-address":          addresses(func(a nicAddress) string { return a.Address }),
		"requester-id":                of(func(i interfaceItem) string { return i.Requester }),
		"requester-managed":           of(func(i interfaceItem) string { return strconv.FormatBool(i.Managed) }),
		"source-dest-check":           of(func(i interfaceItem) string { return strconv.FormatBool(i.Checked) }),
		"status":                      of(func(i interfaceItem) string { return i.Status }),
		"subnet-id":                   of(func(i interfaceItem) string { return string(i.Subnet) }),
		"vpc-id":                      of(func(i interfaceItem) string { return string(i.VPC) }),
	}
}()
