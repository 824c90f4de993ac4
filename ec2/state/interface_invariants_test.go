package state

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"palisade/ec2"
)

// After every command of a random history the interfaces keep their invariants. View.Try and a
// refused command change nothing. A copy of the State, which is restored from a snapshot now and
// then, stays equal to it.
func TestRandomHistoriesKeepInterfaceInvariants(t *testing.T) {
	const steps = 500
	done := make(map[string]int)
	for seed := range uint64(8) {
		history := &interfaceHistory{rng: rand.New(rand.NewPCG(seed, 5))}
		l := &invariants{t: t, leased: make(map[ec2.InterfaceID]*ec2.Interface), instances: make(map[ec2.InstanceID]*ec2.Instance), freed: make(map[ownedAddress]time.Time)}
		a, b := NewState(), NewState()
		todo := interfaceHistoryStart()
		for n := range steps {
			if n == len(interfaceHistoryStart()) {
				todo = furnish(a.View())
			}
			var req Request
			if len(todo) > 0 {
				req, todo = todo[0], todo[1:]
			} else {
				history.v = a.View()
				req = history.next()
			}
			cmd := Command{Time: epoch0.Add(time.Duration(n) * 7 * time.Second), Request: req}
			before := snapshotOf(t, a)
			tried := a.View().Try(req)
			_, err := a.Apply(uint64(n+1), cmd)
			_, again := b.Apply(uint64(n+1), cmd)
			if fmt.Sprint(err) != fmt.Sprint(again) || !sameRefusal(tried, err) {
				t.Fatalf("seed %d, %T %+v: Try returned %v, Apply %v, Apply of a restored copy %v\n%v", seed, req, req, tried, err, again, a.View())
			}
			if err != nil && !bytes.Equal(withoutIndex(before), withoutIndex(snapshotOf(t, a))) {
				t.Fatalf("seed %d: %T was refused with %v but changed the state\n%v", seed, req, err, a.View())
			}
			if err == nil {
				done[fmt.Sprintf("%T", req)]++
			}
			if n%8 == 0 {
				if b, err = Restore(bytes.NewReader(snapshotOf(t, b))); err != nil {
					t.Fatalf("seed %d, restore a snapshot after %T %+v: %v", seed, req, req, err)
				}
				if x, y := snapshotOf(t, a), snapshotOf(t, b); !bytes.Equal(x, y) {
					t.Fatalf("seed %d, after %T: the restored state differs:\n%s", seed, req, cmp.Diff(string(x), string(y)))
				}
			}
			l.check(a.ViewSince(l.seen), req)
			if t.Failed() {
				t.Fatalf("seed %d, step %d: the errors above came after %T %+v\n%v", seed, n, req, req, a.View())
			}
		}
	}
	for _, req := range slices.Concat(interfaceRequests, []Request{&RunInstances{}, &StopInstances{}, &StartInstances{}, &TerminateInstances{}, &FenceNode{}, &AssociateAddress{}, &Sweep{}}) {
		if done[fmt.Sprintf("%T", req)] < 10 {
			t.Errorf("%T succeeded %d times, want at least 10", req, done[fmt.Sprintf("%T", req)])
		}
	}
}

// sameRefusal compares the codes of two errors. The messages may differ, because Try uses the time
// of the State, which is a little earlier than the time of the command.
func sameRefusal(tried, applied error) bool {
	a, _ := tried.(*ec2.Error)
	b, _ := applied.(*ec2.Error)
	return (tried == nil) == (applied == nil) && (a == nil || a.Code == b.Code)
}

// invariants checks what must be true of interfaces and instances after every command. It remembers
// the rows before the command.
type invariants struct {
	t         *testing.T
	seen      *View
	leased    map[ec2.InterfaceID]*ec2.Interface // rows that Changes have delivered
	instances map[ec2.InstanceID]*ec2.Instance
	owners    map[ownedAddress]ec2.InterfaceID
	freed     map[ownedAddress]time.Time
	serial    uint64 // the last one assigned before the command
}

type ownedAddress struct {
	vni  ec2.VNI
	addr netip.Addr
}

func (l *invariants) check(v *View, req Request) {
	l.t.Helper()
	changes := v.Changes()
	for _, c := range changes.Interfaces {
		l.change(c.Before, c.After)
	}
	follow(l.leased, changes.Interfaces, func(i *ec2.Interface) ec2.InterfaceID { return i.ID }, l.t)
	follow(l.instances, changes.Instances, func(i *ec2.Instance) ec2.InstanceID { return i.ID }, l.t)
	l.addresses(v, req)
	epochs := make(map[uint64]bool)
	for i := range v.Interfaces() {
		if l.leased[i.ID] != i {
			l.t.Errorf("a consumer of changes has interface %+v, the view %+v", l.leased[i.ID], i)
		}
		if i.State == ec2.Active && (i.Epoch == 0 || epochs[i.Epoch]) {
			l.t.Errorf("active interface %+v has no epoch, or the epoch of another interface", i)
		}
		epochs[i.Epoch] = i.State == ec2.Active
		l.place(v, i)
	}
	for i := range v.Instances() {
		l.attachments(v, i)
	}
	for _, account := range []ec2.AccountID{dev, albert} {
		for e := range v.ElasticAddressesOf(account, east) {
			checkElastic(l.t, v, e)
		}
	}
	l.seen, l.serial = v, v.v.meta.Serial
}

// change checks that an interface keeps its MAC and its primary address. Each time the interface
// becomes Active, it must get an epoch above all earlier epochs, and it must keep that epoch while
// it is Active.
func (l *invariants) change(was, now *ec2.Interface) {
	if now == nil {
		return
	}
	if was != nil && (was.MAC != now.MAC || was.Private != now.Private || was.VNI != now.VNI) {
		l.t.Errorf("interface %+v changed to %+v, want the same MAC, address and network", was, now)
	}
	activated := now.State == ec2.Active && (was == nil || was.State != ec2.Active || was.Node != now.Node)
	switch {
	case activated && now.Epoch <= l.serial:
		l.t.Errorf("interface %+v became active with epoch %d, but serial %d was assigned before", now, now.Epoch, l.serial)
	case !activated && was != nil && now.Epoch != was.Epoch:
		l.t.Errorf("interface %+v changed its epoch to %d without becoming active", was, now.Epoch)
	}
}

// addresses checks that each address belongs to one interface, the one in the address table, and
// that no interface gets an address before the quarantine of that address is over, unless a request
// reassigns it.
func (l *invariants) addresses(v *View, req Request) {
	owners := make(map[ownedAddress]ec2.InterfaceID)
	own := func(vni ec2.VNI, a netip.Addr, i *ec2.Interface) {
		if !a.IsValid() {
			return
		}
		at := ownedAddress{vni, a}
		if owners[at] != "" {
			l.t.Errorf("address %s of network %d belongs to interfaces %s and %s", a, vni, owners[at], i.ID)
		}
		owners[at] = i.ID
	}
	for i := range v.Interfaces() {
		for _, pair := range i.Addresses() {
			own(i.VNI, pair.Private, i)
			own(publicVNI, pair.Public, i)
		}
	}
	elastic := make(map[ownedAddress]bool)
	for a := range rows[address](v.txn(), tableAddress, indexID, "") {
		at := ownedAddress{a.VNI, a.Addr}
		elastic[at] = a.Allocation != ""
		if a.Allocation == "" && owners[at] != a.Interface {
			l.t.Errorf("address %s of network %d belongs to interface %q, but to %q in the address table", a.Addr, a.VNI, owners[at], a.Interface)
		}
		if a.Interface != "" && a.Allocation != "" {
			l.t.Errorf("address row %+v has both an interface and an elastic address", a)
		}
	}
	_, reassigned := req.(*AssignPrivateAddresses)
	for at, id := range owners {
		if was := l.owners[at]; was != "" && was != id && !reassigned && !elastic[at] {
			l.t.Errorf("address %s went from interface %s to %s without quarantine", at.addr, was, id)
		}
		if since, freed := l.freed[at]; freed && l.owners[at] == "" && v.Time().Sub(since) < v.Settings().Quarantine {
			l.t.Errorf("address %s was leased again after %s, before its quarantine was over", at.addr, v.Time().Sub(since))
		}
		row := first[address](v.txn(), tableAddress, indexID, addressKey(at.vni, at.addr))
		if row == nil {
			l.t.Errorf("address %s of interface %s is not in the address table", at.addr, id)
		}
	}
	for at := range l.owners {
		if owners[at] == "" && !elastic[at] {
			l.freed[at] = v.Time()
		}
	}
	l.owners = owners
}

// place checks that an Active interface is at a member, attached to a running instance or an
// external device of that member, and that an Idle interface is at no node.
func (l *invariants) place(v *View, i *ec2.Interface) {
	if i.VPC == "" {
		return
	}
	if s, ok := v.Subnet(i.Subnet); !ok || s.VPC != i.VPC || !s.Leasable(i.Private) {
		l.t.Errorf("interface %+v does not fit its subnet %+v", i, s)
	}
	for _, id := range i.Groups {
		if g, ok := v.Group(id); !ok || g.VPC != i.VPC {
			l.t.Errorf("interface %s has group %+v, want a group of VPC %s", i.ID, g, i.VPC)
		}
	}
	n, ok := v.Node(i.Node)
	switch i.State {
	case ec2.Idle:
		if i.Node != "" || i.External != nil {
			l.t.Errorf("idle interface %+v has a node or an external device", i)
		}
		if o, ok := v.Instance(i.Instance); i.Instance != "" && (!ok || o.State != ec2.Stopped) {
			l.t.Errorf("idle interface %+v is attached to instance %+v, which is not stopped", i, o)
		}
		if i.Public.IsValid() && (&tx{Txn: v.txn()}).elasticAt(i.Public) == nil {
			l.t.Errorf("idle interface %+v has a public address that is not elastic", i)
		}
	case ec2.Active:
		o, has := v.Instance(i.Instance)
		runs := has && (o.State == ec2.Pending || o.State == ec2.Running) && o.Node == i.Node
		if !ok || !n.Member() || runs == (i.External != nil) || i.Attachment == nil || i.Attachment.Detaching {
			l.t.Errorf("active interface %+v with attachment %+v is at node %+v with instance %+v, want a member, and an external device or an instance that runs there", i, i.Attachment, n, o)
		}
	case ec2.Draining:
		if !ok || !n.Member() || i.Attachment == nil {
			l.t.Errorf("draining interface %+v is not attached, or its node %+v is not a member", i, n)
		}
	}
}

// attachments checks that an instance and its interfaces name each other.
func (l *invariants) attachments(v *View, i *ec2.Instance) {
	attached := slices.Collect(v.InterfacesAt(i.ID))
	primary, ok := v.Interface(i.Interface)
	if i.State == ec2.Terminated {
		if len(attached) != 0 || i.Interface != "" {
			l.t.Errorf("terminated instance %s has %d interfaces and primary interface %q, want none", i.ID, len(attached), i.Interface)
		}
		return
	}
	if i.VPC == "" {
		return
	}
	if !ok || primary.Instance != i.ID || primary.Attachment.DeviceIndex != 0 || !slices.Equal(primary.Groups, i.Groups) || primary.Subnet != i.Subnet {
		l.t.Errorf("instance %+v has primary interface %+v, want device index 0 and the groups and subnet of the instance", i, primary)
	}
	if len(attached) > v.Settings().InterfacesPerInstance {
		l.t.Errorf("instance %s has %d interfaces, want at most %d", i.ID, len(attached), v.Settings().InterfacesPerInstance)
	}
	devices := make(map[int]bool)
	for _, eni := range attached {
		if s, _ := v.Subnet(eni.Subnet); devices[eni.Attachment.DeviceIndex] || s.Zone != i.Zone || eni.VPC != i.VPC {
			l.t.Errorf("instance %s has interface %+v with attachment %+v, want a device index of its own, and the zone and VPC of the instance", i.ID, eni, eni.Attachment)
		}
		devices[eni.Attachment.DeviceIndex] = true
	}
}
