package query

import (
	"strconv"

	"palisade/ec2"
)

// instanceFilters look at an instance as it is shown: what an answer does not show, no
// filter finds.
func (c *call) instanceFilters() filterable[*ec2.Instance] {
	shown := func(of func(instanceItem) string) func(*ec2.Instance) []string {
		return func(i *ec2.Instance) []string {
			if value := of(c.newInstanceItem(i)); value != "" {
				return []string{value}
			}
			return nil
		}
	}
	groups := func(of func(groupName) string) func(*ec2.Instance) []string {
		return func(i *ec2.Instance) (values []string) {
			for _, g := range c.groupNames(i) {
				values = append(values, of(g))
			}
			return values
		}
	}
	groupID := groups(func(g groupName) string { return string(g.ID) })
	name := groups(func(g groupName) string { return g.Name })
	return filterable[*ec2.Instance]{
		"architecture":        shown(func(i instanceItem) string { return i.Architecture }),
		"availability-zone":   shown(func(i instanceItem) string { return i.Placement.Zone }),
		"client-token":        shown(func(i instanceItem) string { return i.ClientToken }),
		"dns-name":            shown(func(i instanceItem) string { return i.PublicDNS }),
		"group-id":            groupID,
		"group-name":          name,
		"image-id":            shown(func(i instanceItem) string { return i.Image }),
		"instance-id":         shown(func(i instanceItem) string { return string(i.ID) }),
		"instance-state-code": shown(func(i instanceItem) string { return strconv.Itoa(i.State.Code) }),
		"instance-state-name": shown(func(i instanceItem) string { return i.State.Name }),
		"instance-type":       shown(func(i instanceItem) string { return i.Type }),
		"instance.group-id":   groupID,
		"instance.group-name": name,
		"ip-address":          shown(func(i instanceItem) string { return i.PublicAddress }),
		"key-name":            shown(func(i instanceItem) string { return i.KeyName }),
		"launch-index":        shown(func(i instanceItem) string { return strconv.Itoa(i.LaunchIndex) }),
		"owner-id":            func(i *ec2.Instance) []string { return []string{string(i.Account)} },
		"private-dns-name":    shown(func(i instanceItem) string { return i.PrivateDNS }),
		"private-ip-address":  shown(func(i instanceItem) string { return i.PrivateAddress }),
		"reservation-id":      func(i *ec2.Instance) []string { return []string{i.Reservation} },
		"state-reason-code": shown(func(i instanceItem) string {
			if i.StateReason == nil {
				return ""
			}
			return i.StateReason.Code
		}),
		"subnet-id": func(*ec2.Instance) []string { return nil },
		"vpc-id":    func(*ec2.Instance) []string { return nil },
	}
}
