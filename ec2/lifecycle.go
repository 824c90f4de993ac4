package ec2

import (
	"strings"
)

const (
	reasonUser = "Client.UserInitiatedShutdown: User initiated shutdown"

	// reasonInstance begins a node's report of an instance that has shut itself down.
	reasonInstance = "Client.InstanceInitiatedShutdown:"
)

// TerminateInstances ends instances for good. Their addresses leave every set with this
// command; what of their interfaces is deleted with them goes when the node has taken the
// ports down and reports so. Result: Instances.
type TerminateInstances struct {
	Account   AccountID
	Region    Region
	Instances []InstanceID
}

func (r *TerminateInstances) apply(t *tx) (Result, error) {
	return t.eachInstance(r.Account, r.Region, r.Instances, func(i Instance) (Instance, error) {
		if i.State == Terminated || i.State == ShuttingDown {
			return i, nil
		}
		if i.TerminationProtected {
			return i, Errorf("OperationNotPermitted", "The instance '%s' may not be terminated. Modify its 'disableApiTermination' instance attribute and try again.", i.ID)
		}
		if i.State == Stopped { // at no node: nothing to wait for
			i.State, i.Ended = Terminated, t.meta.Time
			t.disconnect(&i)
		} else {
			t.drain(&i)
			i.State = ShuttingDown
		}
		i.StateReason = reasonUser
		return i, nil
	})
}

// StopInstances ends instances so that they can be started again. Result: Instances.
type StopInstances struct {
	Account   AccountID
	Region    Region
	Instances []InstanceID
}

func (r *StopInstances) apply(t *tx) (Result, error) {
	return t.eachInstance(r.Account, r.Region, r.Instances, func(i Instance) (Instance, error) {
		switch i.State {
		case Stopped, Stopping:
			return i, nil
		case Running:
			if i.StopProtected {
				return i, Errorf("OperationNotPermitted", "The instance '%s' may not be stopped. Modify its 'disableApiStop' instance attribute and try again.", i.ID)
			}
			t.drain(&i)
			i.State, i.StateReason = Stopping, reasonUser
			return i, nil
		}
		return i, Errorf("IncorrectInstanceState", "The instance '%s' is not in a state from which it can be stopped.", i.ID)
	})
}

// StartInstances brings stopped instances back: in EC2-Classic on a new interface with new
// addresses (EC2 User Guide 2012, "Stopping and Starting Instances"), in a VPC on those
// that they have. Result: Instances.
type StartInstances struct {
	Account   AccountID
	Region    Region
	Instances []InstanceID
}

func (r *StartInstances) apply(t *tx) (Result, error) {
	return t.eachInstance(r.Account, r.Region, r.Instances, func(i Instance) (Instance, error) {
		switch i.State {
		case Pending, Running:
			return i, nil
		case Stopped:
			if err := t.placeAnew(&i); err != nil {
				return i, err
			}
			if err := t.connect(&i); err != nil {
				return i, err
			}
			i.State, i.StateReason, i.LaunchTime = Pending, "", t.meta.Time
			return i, nil
		}
		return i, Errorf("IncorrectInstanceState", "The instance '%s' is not in a state from which it can be started.", i.ID)
	})
}

// connect gives an instance that starts its place in the network.
func (t *tx) connect(i *Instance) error {
	if i.VPC != "" {
		return t.reconnect(i)
	}
	network := classicNetwork(t.Txn, i.Region)
	if network == nil || !t.newLeaser(network).lease(i) {
		return Errorf("InsufficientAddressCapacity", "There is no free address for instance '%s'", i.ID)
	}
	return nil
}

// RebootInstances has instances that run boot again, on the interfaces and with the
// addresses that they have. Result: Instances.
type RebootInstances struct {
	Account   AccountID
	Region    Region
	Instances []InstanceID
}

func (r *RebootInstances) apply(t *tx) (Result, error) {
	return t.eachInstance(r.Account, r.Region, r.Instances, func(i Instance) (Instance, error) {
		if i.State != Running {
			return i, Errorf("IncorrectInstanceState", "The instance '%s' is not in a state from which it can be rebooted.", i.ID)
		}
		i.Boot = t.serial()
		return i, nil
	})
}

// ReportInstance is what a node says about an instance of its own: that it runs, or
// that it has ended and all of its ports are down. InterfaceEpoch is the lease of its
// primary interface that the node speaks of; a report about another lease is old and
// changes nothing. Result: Instances.
type ReportInstance struct {
	Instance       InstanceID
	InterfaceEpoch uint64
	State          InstanceState // Running, Stopped or Terminated
	Reason         string        // "" keeps the user's
}

func (r *ReportInstance) apply(t *tx) (Result, error) {
	if r.State != Running && r.State != Stopped && r.State != Terminated {
		return Result{}, Errorf("InvalidParameterValue", "a node reports running, stopped or terminated, not %s", r.State)
	}
	was := first[Instance](t.Txn, tableInstance, indexID, key(r.Instance))
	if was == nil || was.Interface == "" {
		return Result{}, nil
	}
	lease := first[Interface](t.Txn, tableInterface, indexID, key(was.Interface))
	if lease.Epoch != r.InterfaceEpoch || was.State == Stopped {
		return Result{}, nil
	}

	i := *was
	switch {
	case r.State == Running && i.State != Pending:
		return Result{}, nil
	case r.State == Running:
		i.State = Running
	case r.State == Terminated || i.State == ShuttingDown || i.TerminateOnShutdown && strings.HasPrefix(r.Reason, reasonInstance):
		i.State, i.Ended = Terminated, t.meta.Time
		t.disconnect(&i)
	default:
		i.State = Stopped
		t.disconnect(&i)
	}
	if r.Reason != "" && i.StateReason == "" {
		i.StateReason = Clip(r.Reason)
	}
	t.put(tableInstance, &i)
	return Result{Instances: []Change[Instance]{{Before: was, After: &i}}}, nil
}

// Sweep gives back addresses that have rested long enough, and forgets instances that
// have been terminated long enough and join tokens that have expired. The leader proposes it when View.SweepDue says so;
// what is due is decided here, by the State's own time.
//
// With Confirmed, what each node confirmed to enforce, an address also waits until every
// member has enforced the command that freed it: until then some node may still admit
// packets of its last owner.
type Sweep struct {
	Confirmed map[NodeID]uint64 `json:",omitzero"` // nil: time alone decides. Empty: nobody has confirmed
}

func (r *Sweep) apply(t *tx) (Result, error) {
	everywhere := confirmedBy(t.Txn, r.Confirmed)
	var rested []*address
	for a := range rows[address](t.Txn, tableAddress, indexID, "") {
		if a.rests() && a.FreedIndex <= everywhere && !a.due(t.meta).After(t.meta.Time) {
			rested = append(rested, a)
		}
	}
	for _, a := range rested {
		t.del(tableAddress, a)
	}
	var gone []*Instance
	for i := range rows[Instance](t.Txn, tableInstance, indexID, "") {
		if i.State == Terminated && !forgottenAt(i, t.meta).After(t.meta.Time) {
			gone = append(gone, i)
		}
	}
	for _, i := range gone {
		t.untag(string(i.ID))
		t.del(tableInstance, i)
	}
	t.dropExpiredTokens()
	return Result{}, nil
}

// eachInstance finds every instance of a request before it changes the first.
func (t *tx) eachInstance(account AccountID, region Region, ids []InstanceID, change func(Instance) (Instance, error)) (Result, error) {
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
		result.Instances = append(result.Instances, Change[Instance]{Before: was, After: &now})
	}
	return result, nil
}
