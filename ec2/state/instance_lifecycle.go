package state

import (
	"strings"

	"palisade/ec2"
)

const (
	reasonUser = "Client.UserInitiatedShutdown: User initiated shutdown"

	// reasonInstance begins the StateReason of an instance that has shut itself down.
	reasonInstance = "Client.InstanceInitiatedShutdown:"
)

// TerminateInstances ends instances for good. Their addresses leave all groups with this command.
// Interfaces with DeleteOnTermination are deleted when the node reports that it has taken the
// ports down. Result: Instances.
type TerminateInstances struct {
	Account   ec2.AccountID
	Region    ec2.Region
	Instances []ec2.InstanceID
}

func (r *TerminateInstances) apply(t *tx) (Result, error) {
	return t.eachInstance(r.Account, r.Region, r.Instances, func(i ec2.Instance) (ec2.Instance, error) {
		if i.State == ec2.Terminated || i.State == ec2.ShuttingDown {
			return i, nil
		}
		if i.TerminationProtected {
			return i, ec2.Errorf("OperationNotPermitted", "The instance '%s' may not be terminated. Modify its 'disableApiTermination' instance attribute and try again.", i.ID)
		}
		if i.State == ec2.Stopped { // it is at no node, so no report will come
			i.State, i.Ended = ec2.Terminated, t.meta.Time
			t.disconnect(&i)
		} else {
			t.drain(&i)
			i.State = ec2.ShuttingDown
		}
		i.StateReason = reasonUser
		return i, nil
	})
}

// StopInstances stops instances. StartInstances can start them again. Result: Instances.
type StopInstances struct {
	Account   ec2.AccountID
	Region    ec2.Region
	Instances []ec2.InstanceID
}

func (r *StopInstances) apply(t *tx) (Result, error) {
	return t.eachInstance(r.Account, r.Region, r.Instances, func(i ec2.Instance) (ec2.Instance, error) {
		switch i.State {
		case ec2.Stopped, ec2.Stopping:
			return i, nil
		case ec2.Running:
			if i.StopProtected {
				return i, ec2.Errorf("OperationNotPermitted", "The instance '%s' may not be stopped. Modify its 'disableApiStop' instance attribute and try again.", i.ID)
			}
			t.drain(&i)
			i.State, i.StateReason = ec2.Stopping, reasonUser
			return i, nil
		}
		return i, ec2.Errorf("IncorrectInstanceState", "The instance '%s' is not in a state from which it can be stopped.", i.ID)
	})
}

// StartInstances starts stopped instances. In EC2-Classic an instance gets a new interface with
// new addresses (EC2 User Guide 2012, "Stopping and Starting Instances"), in a VPC it keeps its
// interfaces. Result: Instances.
type StartInstances struct {
	Account   ec2.AccountID
	Region    ec2.Region
	Instances []ec2.InstanceID
}

func (r *StartInstances) apply(t *tx) (Result, error) {
	return t.eachInstance(r.Account, r.Region, r.Instances, func(i ec2.Instance) (ec2.Instance, error) {
		switch i.State {
		case ec2.Pending, ec2.Running:
			return i, nil
		case ec2.Stopped:
			if err := t.chooseNode(&i); err != nil {
				return i, err
			}
			if err := t.connect(&i); err != nil {
				return i, err
			}
			i.State, i.StateReason, i.LaunchTime = ec2.Pending, "", t.meta.Time
			return i, nil
		}
		return i, ec2.Errorf("IncorrectInstanceState", "The instance '%s' is not in a state from which it can be started.", i.ID)
	})
}

// connect gives a starting EC2-Classic instance a new interface, or activates the interfaces that a
// VPC instance has.
func (t *tx) connect(i *ec2.Instance) error {
	if i.VPC != "" {
		return t.reconnect(i)
	}
	network := classicNetwork(t.Txn, i.Region)
	if network == nil || !t.newLeaser(network).lease(i) {
		return ec2.Errorf("InsufficientAddressCapacity", "There is no free address for instance '%s'", i.ID)
	}
	return nil
}

// RebootInstances makes running instances boot again, with the same interfaces and addresses.
// Result: Instances.
type RebootInstances struct {
	Account   ec2.AccountID
	Region    ec2.Region
	Instances []ec2.InstanceID
}

func (r *RebootInstances) apply(t *tx) (Result, error) {
	return t.eachInstance(r.Account, r.Region, r.Instances, func(i ec2.Instance) (ec2.Instance, error) {
		if i.State != ec2.Running {
			return i, ec2.Errorf("IncorrectInstanceState", "The instance '%s' is not in a state from which it can be rebooted.", i.ID)
		}
		i.Boot = t.serial()
		return i, nil
	})
}

// ReportInstance is a report of a node about an instance on it: that it runs, or that it has ended
// and all of its ports are down. InterfaceEpoch is the Epoch of its primary interface, as the node
// knows it. A report with another Epoch is about an earlier lease and changes nothing. Result:
// Instances.
type ReportInstance struct {
	Instance       ec2.InstanceID
	InterfaceEpoch uint64
	State          ec2.InstanceState // Running, Stopped or Terminated
	Reason         string            // "" keeps the reason of the user's request
}

func (r *ReportInstance) apply(t *tx) (Result, error) {
	if r.State != ec2.Running && r.State != ec2.Stopped && r.State != ec2.Terminated {
		return Result{}, ec2.Errorf("InvalidParameterValue", "a node reports running, stopped or terminated, not %s", r.State)
	}
	was := first[ec2.Instance](t.Txn, tableInstance, indexID, key(r.Instance))
	if was == nil || was.Interface == "" {
		return Result{}, nil
	}
	lease := first[ec2.Interface](t.Txn, tableInterface, indexID, key(was.Interface))
	if lease.Epoch != r.InterfaceEpoch || was.State == ec2.Stopped {
		return Result{}, nil
	}

	i := *was
	switch {
	case r.State == ec2.Running && i.State != ec2.Pending:
		return Result{}, nil
	case r.State == ec2.Running:
		i.State = ec2.Running
	case r.State == ec2.Terminated || i.State == ec2.ShuttingDown || i.TerminateOnShutdown && strings.HasPrefix(r.Reason, reasonInstance):
		i.State, i.Ended = ec2.Terminated, t.meta.Time
		t.disconnect(&i)
	default:
		i.State = ec2.Stopped
		t.disconnect(&i)
	}
	if r.Reason != "" && i.StateReason == "" {
		i.StateReason = ec2.Clip(r.Reason)
	}
	t.put(tableInstance, &i)
	return Result{Instances: []Change[ec2.Instance]{{Before: was, After: &i}}}, nil
}

// eachInstance changes the instances of a request. It finds all instances before it changes the
// first, so an unknown id changes nothing.
func (t *tx) eachInstance(account ec2.AccountID, region ec2.Region, ids []ec2.InstanceID, change func(ec2.Instance) (ec2.Instance, error)) (Result, error) {
	found, err := t.instances(account, region, ids)
	if err != nil {
		return Result{}, err
	}
	var result Result
	for _, was := range found {
		now, err := change(*was)
		if err != nil {
			return Result{}, err
		}
		if now.State != was.State || now.Boot != was.Boot {
			t.put(tableInstance, &now)
		}
		result.Instances = append(result.Instances, Change[ec2.Instance]{Before: was, After: &now})
	}
	return result, nil
}

// drain makes the interfaces of an instance Draining. Their addresses leave all groups, and the
// interfaces keep the addresses.
func (t *tx) drain(i *ec2.Instance) {
	interfaces := []*ec2.Interface{first[ec2.Interface](t.Txn, tableInterface, indexID, key(i.Interface))}
	if i.VPC != "" {
		interfaces = t.attached(i.ID)
	}
	for _, was := range interfaces {
		if was.State != ec2.Active {
			continue
		}
		eni := *was
		eni.State = ec2.Draining
		t.put(tableInterface, &eni)
	}
}

// disconnect takes an instance off its node, because all of its ports are down or the node is lost.
// In EC2-Classic the lease of the instance ends. In a VPC its interfaces become Idle; if the
// instance is terminated, they are deleted or detached.
func (t *tx) disconnect(i *ec2.Instance) {
	if i.State == ec2.Terminated {
		t.releaseVolumes(i.ID)
	}
	if i.VPC == "" {
		if lease := first[ec2.Interface](t.Txn, tableInterface, indexID, key(i.Interface)); lease != nil {
			t.release(lease)
		}
		i.Interface = ""
		return
	}
	for _, eni := range t.attached(i.ID) {
		switch {
		case eni.Attachment.Detaching:
			t.detach(eni)
		case i.State == ec2.Terminated:
			t.deleteOrDetach(eni)
		default:
			t.put(tableInterface, t.madeIdle(eni))
		}
	}
	if i.State == ec2.Terminated {
		i.Interface = ""
	}
}
