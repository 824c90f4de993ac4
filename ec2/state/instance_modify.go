package state

import (
	"slices"

	"palisade/ec2"
)

// ModifyInstance changes the attributes that are not nil or empty. Type and UserData can change
// only while the instance is stopped. Result: Instances.
type ModifyInstance struct {
	Account   ec2.AccountID
	Region    ec2.Region
	Instance  ec2.InstanceID
	Groups    []ec2.GroupID `json:",omitempty"` // of its only interface
	Unchecked *bool         `json:",omitempty"` // turns the source/destination check of its only interface off or on

	Type     *string `json:",omitempty"`
	UserData *[]byte `json:",omitempty"`

	TerminationProtected *bool `json:",omitempty"`
	StopProtected        *bool `json:",omitempty"`
	TerminateOnShutdown  *bool `json:",omitempty"`

	Volumes []VolumeRetention `json:",omitempty"`
}

func (r *ModifyInstance) apply(t *tx) (Result, error) {
	was, err := t.instance(r.Account, r.Region, r.Instance)
	if err != nil {
		return Result{}, err
	}
	i := *was
	if i.State == ec2.Terminated || i.State == ec2.ShuttingDown {
		return Result{}, ec2.Errorf("IncorrectInstanceState", "Cannot modify instance '%s': it is %s.", i.ID, i.State)
	}
	if r.Type != nil || r.UserData != nil {
		if err := r.boot(&i); err != nil {
			return Result{}, err
		}
	}
	if len(r.Groups) > 0 || r.Unchecked != nil {
		if err := r.network(t, &i); err != nil {
			return Result{}, err
		}
	}
	for _, x := range []struct {
		of *bool
		to *bool
	}{
		{&i.TerminationProtected, r.TerminationProtected},
		{&i.StopProtected, r.StopProtected},
		{&i.TerminateOnShutdown, r.TerminateOnShutdown},
	} {
		if x.to != nil {
			*x.of = *x.to
		}
	}
	if err := t.retain(i.ID, r.Volumes); err != nil {
		return Result{}, err
	}
	t.put(tableInstance, &i)
	return Result{Instances: []Change[ec2.Instance]{{Before: was, After: &i}}}, nil
}

// The method boot changes the type and the user data.
func (r *ModifyInstance) boot(i *ec2.Instance) error {
	if i.State != ec2.Stopped {
		return ec2.Errorf("IncorrectInstanceState", "The instance '%s' is not in the 'stopped' state.", i.ID)
	}
	if r.Type != nil {
		if *r.Type == "" || !ec2.Printable(*r.Type, 64) {
			return ec2.Errorf("InvalidInstanceAttributeValue", "Invalid value '%s' for InstanceType.", ec2.Clip(*r.Type))
		}
		i.Type = *r.Type
	}
	if r.UserData != nil {
		if len(*r.UserData) > maxUserData {
			return ec2.Errorf("InvalidParameterValue", "User data is limited to %d bytes", maxUserData)
		}
		i.UserData = *r.UserData
	}
	return nil
}

// The method network changes the groups and the source/destination check of the instance's only
// interface.
func (r *ModifyInstance) network(t *tx, i *ec2.Instance) error {
	if i.VPC == "" {
		return ec2.Errorf("InvalidParameterValue", "The groups of instance '%s' are those of its launch, and its source is always checked: it is in EC2-Classic", i.ID)
	}
	interfaces := t.attached(i.ID)
	if len(interfaces) > 1 {
		return ec2.Errorf("InvalidInstanceID", "There are multiple interfaces attached to instance '%s'. Please specify an interface ID for the operation instead.", i.ID)
	}
	eni := *interfaces[0]
	if len(r.Groups) > 0 {
		groups, err := t.interfaceGroups(r.Account, r.Region, i.VPC, r.Groups)
		if err != nil {
			return asInstanceError(err)
		}
		eni.Groups, i.Groups = groups, slices.Clone(groups)
	}
	if r.Unchecked != nil {
		eni.Unchecked = *r.Unchecked
	}
	t.put(tableInterface, &eni)
	return nil
}
