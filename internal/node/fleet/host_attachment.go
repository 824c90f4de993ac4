package fleet

import (
	"cmp"
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

// attachmentInterval is how often the devices of host attachments are checked. The kernel does not
// notify the node when a namespace or a device is removed or made again.
const attachmentInterval = 2 * time.Second

// A hostAttachment is an interface that is attached to a network namespace which this node did not
// make, where it gets a new device, or to a TAP or veth of the host that a virtual machine or a
// container uses.
//
// The fleet owns it. Its mutex is held through a step; Fleet.mu and the plane's mutex are taken
// under it.
type hostAttachment struct {
	fleet *Fleet
	id    ec2.InterfaceID

	mu      sync.Mutex
	eni     *ec2.Interface // as it was attached; nil without a port
	nic     instance.NIC   // as it was configured in its namespace
	problem string         // why an active interface has no port; "" if it has one
}

// Settle attaches or detaches an interface as the View in force says. The error says why an active
// interface has no port.
func (f *Fleet) Settle(ctx context.Context, id ec2.InterfaceID) error {
	_, err := f.attachment(id).step(ctx)
	return err
}

func (f *Fleet) attachment(id ec2.InterfaceID) *hostAttachment {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, ok := f.attachments[id]
	if !ok {
		a = &hostAttachment{fleet: f, id: id}
		f.attachments[id] = a
	}
	return a
}

// isAttachedHere reports whether an interface is attached to a namespace or device of this node.
func (f *Fleet) isAttachedHere(eni *ec2.Interface) bool {
	return eni != nil && eni.External != nil && eni.Node == f.Node
}

// adoptAttachments opens the ports of attached interfaces again, and releases devices of the host
// whose interface is gone.
func (f *Fleet) adoptAttachments(ctx context.Context, view *state.View) {
	for eni := range view.Interfaces() {
		if f.isAttachedHere(eni) {
			_ = f.attachment(eni.ID)
		}
	}
	f.stepAttachments(ctx)
	taken, err := afpacket.Taken(f.device(""))
	if err != nil {
		f.Logger.Warn("devices of the host not listed: those of detached interfaces stay taken", "err", err)
	}
	for _, t := range taken {
		eni, ok := view.Interface(ec2.InterfaceID(t.Owner))
		if ok && f.isAttachedHere(eni) && eni.External.Namespace == "" && (t.Device == "" || t.Device == eni.External.Device) {
			continue
		}
		if err := afpacket.Release(f.device(t.Device), t.Owner); err != nil {
			f.Logger.Warn("device not released", "device", t.Device, "interface", t.Owner, "err", err)
		}
	}
	f.begin(f.runAttachments)
}

// noticeAttachments starts a step of every host attachment if a View changed one.
func (f *Fleet) noticeAttachments(changes []state.Change[ec2.Interface]) {
	changed := false
	for _, c := range changes {
		for _, eni := range []*ec2.Interface{c.Before, c.After} {
			if f.isAttachedHere(eni) {
				_ = f.attachment(eni.ID)
				changed = true
			}
		}
	}
	if changed {
		f.begin(f.stepAttachments) // a step of all, because the routes of other interfaces in the namespace may change too
	}
}

func (f *Fleet) runAttachments(ctx context.Context) {
	tick := time.NewTicker(attachmentInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		f.stepAttachments(ctx)
		if err := f.Plane.ReadUplinkMTU(); err != nil {
			f.Logger.Warn("packets to the uplink may be too large", "err", err)
		}
	}
}

func (f *Fleet) stepAttachments(ctx context.Context) {
	f.mu.Lock()
	all := slices.Collect(maps.Values(f.attachments))
	f.mu.Unlock()
	for _, a := range all {
		switch news, err := a.step(ctx); {
		case !news:
		case err != nil:
			f.Logger.Error("interface has no port", "interface", a.id, "err", err)
		default:
			f.Logger.Info("interface has its port again", "interface", a.id)
		}
	}
}

// step attaches or detaches the interface as the View in force says, and reports what it did to the
// cluster. The error says why an active interface has no port; news reports whether the error or
// its absence is new.
func (a *hostAttachment) step(ctx context.Context) (news bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.fleet
	view := f.Plane.View()
	now, ok := view.Interface(a.id)
	if !ok || !f.isAttachedHere(now) {
		a.close()
		f.mu.Lock()
		delete(f.attachments, a.id)
		f.mu.Unlock()
		return false, nil
	}
	if a.eni != nil {
		exists, settled := a.findDevice()
		switch {
		case now.State != ec2.Active || now.Epoch != a.eni.Epoch || !exists:
			a.close()
		case !settled:
			a.closePort() // open takes the device again
		}
	}
	if now.State != ec2.Active {
		a.removeDevice(now) // the previous daemon may have left the device
		f.report(ctx, &state.ReportInterface{Interface: now.ID, Epoch: now.Epoch})
		return false, nil
	}
	if err = a.bringUp(view, now); err == nil {
		a.readMTU()
	}
	return a.note(now, err), err
}

// readMTU tells the switch the MTU of the device, which its user can change at any time.
func (a *hostAttachment) readMTU() {
	at, mtu := a.eni.External, 0
	var err error
	if at.Namespace == "" {
		mtu, err = afpacket.MTU(a.fleet.device(at.Device), string(a.id))
	} else {
		err = netns.Do(at.Namespace, func() error {
			link, err := netlink.LinkByName(at.Device)
			if err == nil {
				mtu = link.Attrs().MTU
			}
			return err
		})
	}
	if err != nil {
		a.fleet.Logger.Warn("MTU of a device not read: packets to it may be too large", "interface", a.id, "device", at.Device, "err", err)
		return
	}
	a.fleet.Plane.SetMTU(a.eni.Epoch, mtu)
}

// bringUp gives an active interface its port, or configures its device again.
func (a *hostAttachment) bringUp(view *state.View, now *ec2.Interface) error {
	nic := a.fleet.attachmentNIC(view, now)
	switch {
	case a.eni == nil:
		return a.open(now, nic)
	case now.External.Namespace != "" && !reflect.DeepEqual(nic, a.nic):
		if err := a.configure(now, nic); err != nil {
			return err
		}
	}
	a.eni = now
	return nil
}

// open opens the device and gives the interface its port.
func (a *hostAttachment) open(now *ec2.Interface, nic instance.NIC) error {
	device, err := a.openDevice(now)
	if err != nil {
		return err
	}
	if now.External.Namespace != "" { // before Attach, because configure sets the alias by which findDevice recognizes the device
		if err := a.configure(now, nic); err != nil {
			return errors.Join(err, device.Close())
		}
	}
	if err := a.fleet.Plane.Attach(now.Epoch, device); err != nil {
		return err
	}
	a.eni = now
	return nil
}

func (a *hostAttachment) configure(now *ec2.Interface, nic instance.NIC) error {
	if err := instance.Configure(now.External.Namespace, nic); err != nil {
		return err
	}
	a.nic = nic
	return nil
}

// alias returns the kernel alias of the device that was made for an interface.
func (f *Fleet) alias(eni ec2.InterfaceID) string {
	return instance.AliasOf(string(eni), f.NamespacePrefix)
}

func (a *hostAttachment) openDevice(eni *ec2.Interface) (vswitch.Device, error) {
	at := eni.External
	if at.Namespace == "" {
		if err := afpacket.Take(a.fleet.device(at.Device), string(eni.ID)); err != nil {
			return nil, err
		}
		device, err := afpacket.Open(a.fleet.device(at.Device), string(eni.ID))
		if err != nil {
			return nil, err
		}
		return device, nil
	}
	if err := checkNamespace(at.Namespace); err != nil {
		return nil, err
	}
	if alias, found, err := aliasOf(at); err != nil || found && alias != a.fleet.alias(eni.ID) {
		return nil, errors.Join(err, fmt.Errorf("device %s of namespace %s is already in use", at.Device, at.Namespace))
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

// aliasOf returns the alias of a device in a namespace. found is false if there is no such device.
func aliasOf(at *ec2.ExternalDevice) (alias string, found bool, err error) {
	err = netns.Do(at.Namespace, func() error {
		link, err := netlink.LinkByName(at.Device)
		if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
			return nil
		}
		if err != nil {
			return err
		}
		alias, found = link.Attrs().Alias, true
		return nil
	})
	return alias, found, err
}

// device returns a device of the host.
func (f *Fleet) device(name string) afpacket.Config {
	return afpacket.Config{Name: name, Prefix: cmp.Or(f.NamespacePrefix, "palisade-")}
}

// HeldIn returns the network namespace that has the device of the host to which an interface is
// attached; "" if the host still has it, or the interface is attached to something else.
func (f *Fleet) HeldIn(eni *ec2.Interface) string {
	if !f.isAttachedHere(eni) || eni.External.Namespace != "" {
		return ""
	}
	namespace, err := afpacket.HeldIn(f.device(eni.External.Device), string(eni.ID))
	if err != nil {
		f.Logger.Warn("namespace of device not found", "interface", eni.ID, "device", eni.External.Device, "err", err)
	}
	return namespace
}

// findDevice reports whether the device of the port still exists and belongs to the interface, also if
// that cannot be read. The kernel removes a device with its namespace. settled is false for a TAP that
// a machine has opened or left.
func (a *hostAttachment) findDevice() (exists, settled bool) {
	at := a.eni.External
	if at.Namespace == "" {
		exists, settled, err := afpacket.Find(a.fleet.device(at.Device), string(a.id))
		return exists || err != nil, settled || err != nil
	}
	if !netns.Exists(at.Namespace) {
		return false, false
	}
	alias, found, err := aliasOf(at)
	return err != nil || found && alias == a.fleet.alias(a.id), true
}

// close removes the port and removes or releases the device. An active interface may get another
// port later.
func (a *hostAttachment) close() {
	if eni := a.eni; eni != nil {
		a.closePort()
		a.removeDevice(eni)
	}
}

func (a *hostAttachment) closePort() {
	if err := a.fleet.Plane.Detach(a.eni.Epoch); err != nil {
		a.fleet.Logger.Warn("port not closed", "interface", a.id, "err", err)
	}
	a.eni = nil
}

// removeDevice removes the device that the node made in a namespace, or releases a device of the
// host.
func (a *hostAttachment) removeDevice(eni *ec2.Interface) {
	at := eni.External
	var err error
	if at.Namespace == "" {
		err = afpacket.Release(a.fleet.device(at.Device), string(eni.ID))
	} else if alias, found, _ := aliasOf(at); found && alias == a.fleet.alias(eni.ID) {
		err = instance.Unplug(at.Namespace, instance.NIC{Device: at.Device, Foreign: true})
	}
	if err != nil {
		a.fleet.Logger.Warn("device not removed", "interface", a.id, "device", at.Device, "namespace", at.Namespace, "err", err)
	}
}

// note stores err, which says why an active interface has no port; nil if it has one. If err is
// new, note announces to the other nodes whether the lease is up, and returns true.
func (a *hostAttachment) note(eni *ec2.Interface, err error) (news bool) {
	problem := ""
	if err != nil {
		problem = err.Error()
		a.fleet.Plane.Fail(eni)
	}
	if problem == a.problem {
		return false
	}
	a.problem = problem
	a.fleet.Announce()
	return true
}

// CheckHostAttachment returns an error if no interface can be attached to at. If at names a
// namespace alone, it adds the name of an unused device.
func (f *Fleet) CheckHostAttachment(at *ec2.ExternalDevice) error {
	if at.Namespace == "" {
		return afpacket.Check(f.device(at.Device), "")
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
