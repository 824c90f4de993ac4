package query

import (
	"cmp"
	"slices"

	"palisade/ec2"
	"palisade/ec2/state"
)

// instanceActions launch instances and change their state.
var instanceActions = map[string]handler{
	"RunInstances":       action(runInstances),
	"DescribeInstances":  action(describeInstances),
	"TerminateInstances": action(terminateInstances),
	"StopInstances":      action(stopInstances),
	"StartInstances":     action(startInstances),
	"RebootInstances":    action(rebootInstances),
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
	if err := r.checkNoIDs(len(r.InstanceIDs), "instancesSet"); err != nil {
		return nil, err
	}
	if err := instanceFilters.check(r.Filters); err != nil {
		return nil, err
	}
	instances, err := c.selectInstances(r.InstanceIDs)
	if err != nil {
		return nil, err
	}
	instances = c.filterInstances(instances, r.Filters)
	instances, next, err := page(instances, func(i *ec2.Instance) string { return string(i.ID) }, r.paged)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(instances, func(a, b *ec2.Instance) int {
		return cmp.Or(a.LaunchTime.Compare(b.LaunchTime), cmp.Compare(a.Reservation, b.Reservation), a.LaunchIndex-b.LaunchIndex)
	})
	answer := &describeInstancesAnswer{NextToken: next}
	// Instances are sorted by launch time. A restarted instance has a new launch time, so
	// the instances of one reservation need not follow each other.
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

func (c *call) filterInstances(instances []*ec2.Instance, filters []filter) []*ec2.Instance {
	if len(filters) == 0 {
		return instances
	}
	tags := taggedBy(c, func(s shownInstance) string { return string(s.ID) })
	return slices.DeleteFunc(instances, func(i *ec2.Instance) bool { return !instanceFilters.match(c.showInstance(i), filters, tags) })
}

// selectInstances returns the caller's instances with these ids, or without ids all of
// them, sorted by id.
func (c *call) selectInstances(ids []ec2.InstanceID) ([]*ec2.Instance, error) {
	if len(ids) == 0 {
		return slices.Collect(c.view.InstancesOf(c.account, c.region)), nil
	}
	found, err := c.view.FindInstances(c.account, c.region, ids)
	slices.SortFunc(found, func(a, b *ec2.Instance) int { return cmp.Compare(a.ID, b.ID) })
	return found, err
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

// noInstances is EC2's error for a change of instances that names none (AWS, observed).
func noInstances() error {
	return ec2.Errorf("InvalidParameterCombination", "No instances specified")
}

func terminateInstances(c *call, r *changeStateRequest) (*changeStateAnswer, error) {
	return c.changeState(r, &state.TerminateInstances{Account: c.account, Region: c.region, Instances: r.InstanceIDs})
}

func stopInstances(c *call, r *changeStateRequest) (*changeStateAnswer, error) {
	return c.changeState(r, &state.StopInstances{Account: c.account, Region: c.region, Instances: r.InstanceIDs})
}

func startInstances(c *call, r *changeStateRequest) (*changeStateAnswer, error) {
	return c.changeState(r, &state.StartInstances{Account: c.account, Region: c.region, Instances: r.InstanceIDs})
}

func rebootInstances(c *call, r *changeStateRequest) (*returned, error) {
	if len(r.InstanceIDs) == 0 {
		return nil, noInstances()
	}
	if _, err := c.apply(&state.RebootInstances{Account: c.account, Region: c.region, Instances: r.InstanceIDs}); err != nil {
		return nil, err
	}
	return &done, nil
}

func (c *call) changeState(r *changeStateRequest, change state.Request) (*changeStateAnswer, error) {
	if len(r.InstanceIDs) == 0 {
		return nil, noInstances()
	}
	result, err := c.apply(change)
	if err != nil {
		return nil, err
	}
	answer := &changeStateAnswer{}
	for _, i := range result.Instances {
		answer.Instances = append(answer.Instances, stateChange{i.After.ID, newStateItem(i.After.State), newStateItem(i.Before.State)})
	}
	return answer, nil
}
