package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/instance"
	"palisade/internal/netns"
	vswitch "palisade/switch"
	"palisade/switch/afpacket"
	"palisade/switch/tap"
)

// outsideInterval is how often interfaces in front of what others made are looked after:
// nobody tells when a namespace or a device goes, or comes again.
const outsideInterval = 2 * time.Second

// An outsider is one interface in front of something that this node did not make: a network
// namespace, into which a device is put, or a device of the host that a machine holds.
type outsider struct {
	fleet *Fleet
	id    ec2.InterfaceID

	mu      sync.Mutex // held through a step
	lease   *ec2.Interface
	nic     instance.NIC // as it was configured, in a namespace
	problem string       // why it has no port; "" if it has one, or wants none
}

// Settle takes an interface that is in front of something to where the View in force wants it. It
// returns why the interface has no port, if it wants one.
func (f *Fleet) Settle(ctx context.Context, id ec2.InterfaceID) error {
	return f.outsider(id).step(ctx)
}

func (f *Fleet) outsider(id ec2.InterfaceID) *outsider {
	f.mu.Lock()
	defer f.mu.Unlock()
	o, ok := f.outsiders[id]
	if !ok {
		o = &outsider{fleet: f, id: id}
		f.outsiders[id] = o
	}
	return o
}

// isOutside reports whether an interface is in front of something at this node.
func (f *Fleet) isOutside(eni *ec2.Interface) bool {
	return eni != nil && eni.External != nil && eni.Node == f.Node
}

// adoptOutside gives the interfaces that were in front of something their ports back, and
// lets go of devices whose interface is gone.
func (f *Fleet) adoptOutside(ctx context.Context, view *state.View) {
	for eni := range view.Interfaces() {
		if f.isOutside(eni) {
			_ = f.outsider(eni.ID)
		}
	}
	f.stepOutside(ctx)
	owners, err := afpacket.Taken()
	if err != nil {
		f.Logger.Warn("the devices of this host were not looked through", "err", err)
	}
	for device, owner := range owners {
		if eni, ok := view.Interface(ec2.InterfaceID(owner)); !ok || !f.isOutside(eni) {
			if err := afpacket.Release(afpacket.Config{Name: device}, owner); err != nil {
				f.Logger.Warn("a device is not given back", "device", device, "err", err)
			}
		}
	}
	f.begin(f.runOutside)
}

// noticeOutside starts a step of every outsider, if a View changed one.
func (f *Fleet) noticeOutside(changes []state.Change[ec2.Interface]) {
	changed := false
	for _, c := range changes {
		for _, eni := range []*ec2.Interface{c.Before, c.After} {
			if f.isOutside(eni) {
				_ = f.outsider(eni.ID)
				changed = true
			}
		}
	}
	if changed {
		f.begin(f.stepOutside) // all: one that goes leaves its namespace to the next
	}
}

func (f *Fleet) runOutside(ctx context.Context) {
	tick := time.NewTicker(outsideInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		f.stepOutside(ctx)
	}
}

func (f *Fleet) stepOutside(ctx context.Context) {
	f.mu.Lock()
	all := slices.Collect(maps.Values(f.outsiders))
	f.mu.Unlock()
	for _, o := range all {
		_ = o.step(ctx) // it says so itself
	}
}

// step takes the interface to where the View in force wants it, and reports. It returns why
// it has no port, if it wants one.
func (o *outsider) step(ctx context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	f := o.fleet
	view := f.Plane.View()
	now, ok := view.Interface(o.id)
	if !ok || !f.isOutside(now) {
		o.close()
		f.mu.Lock()
		delete(f.outsiders, o.id)
		f.mu.Unlock()
		return nil
	}
	if o.lease != nil && (now.State != ec2.Active || now.Epoch != o.lease.Epoch || !o.stands()) {
		o.close()
	}
	if now.State != ec2.Active {
		o.undo(now) // what an earlier daemon has made
		f.report(ctx, &state.ReportInterface{Interface: now.ID, Epoch: now.Epoch})
		return nil
	}
	err := o.bringUp(view, now)
	o.tell(now, err)
	return err
}

// bringUp makes, or changes, what an active interface wants.
func (o *outsider) bringUp(view *state.View, now *ec2.Interface) error {
	nic := o.fleet.outsideNIC(view, now)
	switch {
	case o.lease == nil:
		return o.open(now, nic)
	case now.External.Namespace != "" && !reflect.DeepEqual(nic, o.nic):
		if err := o.configure(now, nic); err != nil {
			return err
		}
	}
	o.lease = now
	return nil
}

func (f *Fleet) outsideNIC(view *state.View, eni *ec2.Interface) instance.NIC {
	n := instance.NIC{Device: eni.External.Device, MAC: eni.MAC, MTU: f.MTU, Foreign: true, Alias: f.alias(eni.ID)}
	n.Addresses, n.Gateway = f.Link(view, eni)
	for o := range view.Interfaces() {
		if f.isOutside(o) && o.State == ec2.Active && o.External.Namespace == eni.External.Namespace && o.Epoch < eni.Epoch {
			n.Second = true
		}
	}
	return n
}

// open opens the device and gives the interface its port.
func (o *outsider) open(now *ec2.Interface, nic instance.NIC) error {
	device, err := o.openDevice(now)
	if err != nil {
		return err
	}
	if now.External.Namespace != "" { // before anything else: it gets its mark
		if err := o.configure(now, nic); err != nil {
			return errors.Join(err, device.Close())
		}
	}
	if err := o.fleet.Plane.Attach(now.Epoch, device); err != nil {
		return err
	}
	o.lease = now
	return nil
}

func (o *outsider) configure(now *ec2.Interface, nic instance.NIC) error {
	if err := instance.Configure(now.External.Namespace, nic); err != nil {
		return err
	}
	o.nic = nic
	return nil
}

// alias is what marks a device in a namespace as an interface's.
func (f *Fleet) alias(eni ec2.InterfaceID) string {
	return instance.AliasOf(string(eni), f.NamespacePrefix)
}

func (o *outsider) openDevice(eni *ec2.Interface) (vswitch.Device, error) {
	at := eni.External
	if at.Namespace == "" {
		if err := afpacket.Take(afpacket.Config{Name: at.Device}, string(eni.ID)); err != nil {
			return nil, err
		}
		return afpacket.Open(afpacket.Config{Name: at.Device})
	}
	if err := checkNamespace(at.Namespace); err != nil {
		return nil, err
	}
	if alias, there, err := aliasOf(at); err != nil || there && alias != o.fleet.alias(eni.ID) {
		return nil, errors.Join(err, fmt.Errorf("device %s of namespace %s is in use", at.Device, at.Namespace))
	}
	device, err := tap.Open(tap.Config{Name: at.Device, Namespace: at.Namespace})
	if err != nil {
		return nil, err
	}
	return device, nil
}

func checkNamespace(name string) error {
	if !netns.Exists(name) {
		return fmt.Errorf("there is no network namespace %s (ip netns list)", name)
	}
	return nil
}

// aliasOf is the alias of a device in a namespace, which says what interface it was made for.
func aliasOf(at *ec2.ExternalDevice) (alias string, there bool, err error) {
	err = netns.Do(at.Namespace, func() error {
		link, err := netlink.LinkByName(at.Device)
		if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
			return nil
		}
		if err != nil {
			return err
		}
		alias, there = link.Attrs().Alias, true
		return nil
	})
	return alias, there, err
}

// stands reports whether the device of the port is still there. A namespace that is gone has
// taken it along.
func (o *outsider) stands() bool {
	at := o.lease.External
	if at.Namespace == "" {
		owner, err := afpacket.Owner(afpacket.Config{Name: at.Device})
		return err != nil || owner == string(o.id)
	}
	if !netns.Exists(at.Namespace) {
		return false
	}
	alias, there, err := aliasOf(at)
	return err != nil || there && alias == o.fleet.alias(o.id)
}

// close closes the port, and takes away or gives back the device. An active interface may
// get another port.
func (o *outsider) close() {
	if o.lease == nil {
		return
	}
	if err := o.fleet.Plane.Detach(o.lease.Epoch); err != nil {
		o.fleet.Logger.Warn("a port did not close", "interface", o.id, "err", err)
	}
	o.undo(o.lease)
	o.lease = nil
}

func (o *outsider) undo(eni *ec2.Interface) {
	at := eni.External
	var err error
	if at.Namespace == "" {
		err = afpacket.Release(afpacket.Config{Name: at.Device}, string(eni.ID))
	} else if alias, there, _ := aliasOf(at); there && alias == o.fleet.alias(eni.ID) {
		err = instance.Unplug(at.Namespace, instance.NIC{Device: at.Device, Foreign: true})
	}
	if err != nil {
		o.fleet.Logger.Warn("a device is left behind", "interface", o.id, "device", at.Device, "err", err)
	}
}

// tell says once what is wrong, and when it is right again; the other nodes hear it too.
func (o *outsider) tell(eni *ec2.Interface, err error) {
	problem := ""
	if err != nil {
		problem = err.Error()
		o.fleet.Plane.Fail(eni)
	}
	if problem == o.problem {
		return
	}
	o.problem = problem
	if err != nil {
		o.fleet.Logger.Error("an interface has nothing behind it", "interface", o.id, "err", err)
	} else {
		o.fleet.Logger.Info("an interface works again", "interface", o.id)
	}
	o.fleet.Announce()
}

// CheckHostAttachment refuses what an interface cannot be put in front of, and names the device
// that a namespace gets.
func (f *Fleet) CheckHostAttachment(at *ec2.ExternalDevice) error {
	if at.Namespace == "" {
		return afpacket.Check(afpacket.Config{Name: at.Device}, "")
	}
	if err := checkNamespace(at.Namespace); err != nil {
		return err
	}
	devices, err := instance.Devices(at.Namespace)
	if err != nil {
		return err
	}
	if slices.Contains(devices, at.Device) {
		return fmt.Errorf("namespace %s has a device %s already", at.Namespace, at.Device)
	}
	for i := 0; at.Device == ""; i++ {
		if name := deviceName(i); !slices.Contains(devices, name) {
			at.Device = name
		}
	}
	return nil
}
