package query

import (
	"cmp"
	"slices"
	"strconv"

	"palisade/ec2"
	"palisade/ec2/region"
)

// instanceStatusActions show the status checks of instances.
var instanceStatusActions = map[string]handler{
	"DescribeInstanceStatus": action(describeInstanceStatus),
}

type describeInstanceStatusRequest struct {
	InstanceIDs []ec2.InstanceID `wire:"InstanceId"`
	All         bool             `wire:"IncludeAllInstances"`
	listed
}

type describeInstanceStatusAnswer struct {
	Statuses  []instanceStatusItem `wire:"instanceStatusSet"`
	NextToken string               `wire:"nextToken"`
}

type instanceStatusItem struct {
	ID       ec2.InstanceID `wire:"instanceId"`
	Zone     string         `wire:"availabilityZone"`
	ZoneID   string         `wire:"availabilityZoneId"`
	Operator operatorItem   `wire:"operator"`
	Events   []tag          `wire:"eventsSet"`
	State    stateItem      `wire:"instanceState"`
	System   statusSummary  `wire:"systemStatus"`
	Instance statusSummary  `wire:"instanceStatus"`
}

type statusSummary struct {
	Status  string         `wire:"status"`
	Details []statusDetail `wire:"details"`
}

type statusDetail struct {
	Name   string `wire:"name"`
	Status string `wire:"status"`
}

// newStatus derives a status check from the state that the node has reported: a running
// instance passes.
func newStatus(s ec2.InstanceState) statusSummary {
	switch s {
	case ec2.Running:
		return statusSummary{"ok", []statusDetail{{"reachability", "passed"}}}
	case ec2.Pending:
		return statusSummary{"initializing", []statusDetail{{"reachability", "initializing"}}}
	}
	return statusSummary{Status: "not-applicable"}
}

func (s statusSummary) reachability() []string {
	return valuesOf(s.Details, func(d statusDetail) string { return d.Status })
}

var instanceStatusFilters = filterable[instanceStatusItem]{
	"availability-zone":            func(i instanceStatusItem) []string { return nonEmpty(i.Zone) },
	"application-status.status":    never[instanceStatusItem],
	"attached-ebs-status.status":   never[instanceStatusItem],
	"availability-zone-id":         func(i instanceStatusItem) []string { return nonEmpty(i.ZoneID) },
	"event.not-before-deadline":    never[instanceStatusItem],
	"operator.managed":             func(i instanceStatusItem) []string { return boolean(i.Operator.Managed) },
	"operator.principal":           never[instanceStatusItem],
	"event.code":                   never[instanceStatusItem],
	"event.description":            never[instanceStatusItem],
	"event.instance-event-id":      never[instanceStatusItem],
	"event.not-after":              never[instanceStatusItem],
	"event.not-before":             never[instanceStatusItem],
	"instance-state-code":          func(i instanceStatusItem) []string { return nonEmpty(strconv.Itoa(i.State.Code)) },
	"instance-state-name":          func(i instanceStatusItem) []string { return nonEmpty(i.State.Name) },
	"instance-status.reachability": func(i instanceStatusItem) []string { return i.Instance.reachability() },
	"instance-status.status":       func(i instanceStatusItem) []string { return nonEmpty(i.Instance.Status) },
	"system-status.reachability":   func(i instanceStatusItem) []string { return i.System.reachability() },
	"system-status.status":         func(i instanceStatusItem) []string { return nonEmpty(i.System.Status) },
}

// describeInstanceStatus shows running instances, or all instances if
// IncludeAllInstances is set.
func describeInstanceStatus(c *call, r *describeInstanceStatusRequest) (*describeInstanceStatusAnswer, error) {
	if err := r.checkNoIDs(len(r.InstanceIDs), "instancesSet"); err != nil {
		return nil, err
	}
	if err := instanceStatusFilters.check(r.Filters); err != nil {
		return nil, err
	}
	instances, err := c.selectInstances(r.InstanceIDs)
	if err != nil {
		return nil, err
	}
	id := func(i instanceStatusItem) string { return string(i.ID) }
	tags := taggedBy(c, id)
	var items []instanceStatusItem
	for _, i := range instances {
		item := instanceStatusItem{
			ID: i.ID, Zone: c.view.ZoneOf(i), State: newStateItem(i.State), System: newStatus(i.State), Instance: newStatus(i.State),
		}
		item.ZoneID = region.ZoneID(item.Zone)
		if (r.All || i.State == ec2.Running) && instanceStatusFilters.match(item, r.Filters, tags) {
			items = append(items, item)
		}
	}
	slices.SortFunc(items, func(a, b instanceStatusItem) int { return cmp.Compare(a.ID, b.ID) })
	items, next, err := page(items, id, r.paged)
	if err != nil {
		return nil, err
	}
	return &describeInstanceStatusAnswer{items, next}, nil
}
