package state

import "palisade/ec2"

// MonitorInstances turns detailed monitoring of instances on or off. Result: Instances.
type MonitorInstances struct {
	Account   ec2.AccountID
	Region    ec2.Region
	Instances []ec2.InstanceID
	On        bool
}

func (r *MonitorInstances) apply(t *tx) (Result, error) {
	found, err := t.instances(r.Account, r.Region, r.Instances)
	if err != nil {
		return Result{}, err
	}
	var result Result
	for _, was := range found {
		i := *was
		i.Monitored = r.On
		t.put(tableInstance, &i)
		result.Instances = append(result.Instances, Change[ec2.Instance]{Before: was, After: &i})
	}
	return result, nil
}

// ModifyInstanceOptions changes the options of an instance that are not nil. Placement and CPU
// options can change only while the instance is stopped. Result: Instances.
type ModifyInstanceOptions struct {
	Account  ec2.AccountID
	Region   ec2.Region
	Instance ec2.InstanceID

	Metadata *ec2.MetadataOptions `json:",omitempty"` // only the fields that are not zero

	PlacementGroup *string `json:",omitempty"` // "": none
	Partition      *int    `json:",omitempty"`
	Tenancy        *string `json:",omitempty"` // "": default
	Affinity       *string `json:",omitempty"`
	Cores          *int    `json:",omitempty"`
	ThreadsOfCore  *int    `json:",omitempty"`

	Credits      *string `json:",omitempty"`
	NoRecovery   *bool   `json:",omitempty"`
	Reservation  *string `json:",omitempty"`
	HostnameType *string `json:",omitempty"`
	ARecord      *bool   `json:",omitempty"`
	AAAARecord   *bool   `json:",omitempty"`
	EBSOptimized *bool   `json:",omitempty"`
}

func (r *ModifyInstanceOptions) apply(t *tx) (Result, error) {
	was, err := t.instance(r.Account, r.Region, r.Instance)
	if err != nil {
		return Result{}, err
	}
	i := *was
	if i.State == ec2.Terminated || i.State == ec2.ShuttingDown {
		return Result{}, ec2.Errorf("IncorrectInstanceState", "Cannot modify instance '%s': it is %s.", i.ID, i.State)
	}
	stopped := r.PlacementGroup != nil || r.Partition != nil || r.Tenancy != nil || r.Affinity != nil || r.Cores != nil || r.ThreadsOfCore != nil || r.EBSOptimized != nil
	if stopped && i.State != ec2.Stopped {
		return Result{}, ec2.Errorf("IncorrectInstanceState", "The instance '%s' is not in the 'stopped' state.", i.ID)
	}
	o := &i.Options
	if r.PlacementGroup != nil && *r.PlacementGroup == "" {
		o.Partition = 0
	}
	set(&o.PlacementGroup, r.PlacementGroup)
	set(&o.Partition, r.Partition)
	set(&o.Tenancy, r.Tenancy)
	set(&o.Affinity, r.Affinity)
	set(&o.Cores, r.Cores)
	set(&o.ThreadsOfCore, r.ThreadsOfCore)
	set(&o.Credits, r.Credits)
	set(&o.NoRecovery, r.NoRecovery)
	set(&o.Reservation, r.Reservation)
	set(&o.HostnameType, r.HostnameType)
	set(&o.ARecord, r.ARecord)
	set(&o.AAAARecord, r.AAAARecord)
	set(&o.EBSOptimized, r.EBSOptimized)
	if err := t.checkOptions(r.Account, r.Region, o); err != nil {
		return Result{}, err
	}
	if r.Metadata != nil {
		if i.Metadata, err = mergedMetadata(i.Metadata, *r.Metadata); err != nil {
			return Result{}, err
		}
	}
	t.put(tableInstance, &i)
	return Result{Instances: []Change[ec2.Instance]{{Before: was, After: &i}}}, nil
}

func set[T any](of *T, to *T) {
	if to != nil {
		*of = *to
	}
}

// mergedMetadata returns options with the fields of change that are not zero.
func mergedMetadata(was *ec2.MetadataOptions, change ec2.MetadataOptions) (*ec2.MetadataOptions, error) {
	now := ec2.MetadataOptions{}
	if was != nil {
		now = *was
	}
	for _, x := range []struct{ of, to *string }{
		{&now.Endpoint, &change.Endpoint}, {&now.Tokens, &change.Tokens}, {&now.Tags, &change.Tags}, {&now.IPv6, &change.IPv6},
	} {
		if *x.to != "" {
			*x.of = *x.to
		}
	}
	if change.Hops != 0 {
		now.Hops = change.Hops
	}
	return &now, checkMetadata(&now)
}
