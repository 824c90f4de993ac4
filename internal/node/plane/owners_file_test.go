package plane_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/bootfile"
	"palisade/internal/node/plane"
	"palisade/internal/node/plane/planetest"
	"palisade/internal/packet"
)

const (
	ownersHeader = 32 // bytes of the file of owners before the first record
	ownerRecord  = 32
)

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestKillBeforeForgettingKeepsNoConnectionOfEitherOwner: the daemon is killed when it has published the
// Snapshot with the next owner and has not yet dropped the connections of the former one. While no
// daemon runs, the former owner gets the address back, so the owner is as it was.
func TestKillBeforeForgettingKeepsNoConnectionOfEitherOwner(t *testing.T) {
	f := newOwnersTest(t, kindsOfAddress["elastic"], planetest.Node)
	f.connectAll()
	connections, stored := readFile(t, f.ArenaFile()), readFile(t, f.OwnersFile())
	move := func(do func(state.Request) state.Result, to *ec2.Interface) {
		do(&state.AssociateAddress{Account: planetest.Dev, Region: planetest.Region, Allocation: f.elastic.ID, Interface: to.ID, AllowReassociation: new(true)})
	}
	move(f.Do, f.next)
	if n := f.connections(f.moved); n != 0 {
		t.Fatalf("%d connections of the former owner are left, want 0", n)
	}
	after := readFile(t, f.OwnersFile())
	if !slices.Equal(after[:len(stored)], stored) || len(after) < len(stored)+2*ownerRecord {
		t.Fatalf("the file of owners has grown from %d to %d bytes, want at least two records more", len(stored), len(after))
	}
	f.Stop()
	move(f.Decide, f.old)
	writeFile(t, f.ArenaFile(), connections)
	writeFile(t, f.OwnersFile(), after[:len(stored)+ownerRecord])
	f.Restart(f.watch)
	f.check("killed", 0)

	// If it is killed before it stores anything, no Snapshot has the next owner.
	f.Stop()
	writeFile(t, f.ArenaFile(), connections)
	writeFile(t, f.OwnersFile(), after[:len(stored)+ownerRecord-1])
	f.Restart(f.watch)
	f.check("killed earlier", 2)
}

// TestIndexIsNotEnforcedBeforeConnectionsAreForgotten: the cluster leases a released address again
// when all nodes enforce the index of its release.
func TestIndexIsNotEnforcedBeforeConnectionsAreForgotten(t *testing.T) {
	f := newOwnersTest(t, kindsOfAddress["elastic"], planetest.Node)
	zone := f.Plane.Zone(f.watch.Epoch)
	for round := range 5 {
		for port := range uint16(4000) {
			p := &packet.Packet{Flow: packet.Flow{Src: f.moved, Dst: f.watch.Private, SrcPort: port, DstPort: 53, Protocol: packet.ProtocolUDP}, Segments: 1}
			var u conntrack.Tuple
			zone.Identify(&u, p)
			if v := zone.Admit(p, &u, time.Second, conntrack.Admission{Direction: conntrack.In}); v.Drops() {
				t.Fatalf("connection %d: verdict %v", port, v)
			}
		}
		to := f.next
		if round%2 == 1 {
			to = f.old
		}
		f.Decide(&state.AssociateAddress{Account: planetest.Dev, Region: planetest.Region, Allocation: f.elastic.ID, Interface: to.ID, AllowReassociation: new(true)})
		view := f.State.ViewSince(f.View)
		applied := make(chan error, 1)
		go func() { applied <- f.Plane.Apply(view) }()
		for f.Plane.Enforced() < view.Index() {
		}
		if n := f.connections(f.moved); n != 0 {
			t.Errorf("round %d: index %d is enforced and %d connections of the former owner are left, want 0", round, view.Index(), n)
		}
		if err := <-applied; err != nil {
			t.Fatal(err)
		}
		f.View = view
	}
}

// TestFirstPortOpensAfterFormerConnectionsAreForgotten: when a daemon has applied its first View, and
// before any device is a port, the connections of former owners are gone.
func TestFirstPortOpensAfterFormerConnectionsAreForgotten(t *testing.T) {
	k := kindsOfAddress["elastic"]
	f := newOwnersTest(t, k, planetest.Node)
	f.connectAll()
	f.Stop()
	k.leave(f, f.Decide)
	k.give(f, f.Decide)
	f.Start()
	f.View = nil
	f.CatchUp()
	f.check("before the first port", 0)
	if f.Plane.Enforced() != f.View.Index() {
		t.Errorf("index %d is enforced, want %d", f.Plane.Enforced(), f.View.Index())
	}
	f.Attach(f.watch)
	f.Tracker.PurgeUnknown()
	f.check("with its port", 0)
}

// TestRestartKeepsConnectionsOfAddressesThatWereGained: an interface gets further addresses while the
// daemon runs, and their connections outlive the daemon.
func TestRestartKeepsConnectionsOfAddressesThatWereGained(t *testing.T) {
	f := newOwnersTest(t, kindsOfAddress["elastic"], planetest.Node)
	secondary := f.Do(&state.AssignPrivateAddresses{Account: planetest.Dev, Region: planetest.Region, Interface: f.next.ID, Count: 1}).Addresses[0]
	elastic := f.Elastic(f.next, secondary)
	lease := f.register(f.Do, planetest.Node, state.InterfaceSpec{SecondaryCount: 1}, true)
	gained := []netip.Addr{secondary, elastic, lease.Private, lease.Public, lease.Secondary[0].Private}
	for _, host := range gained {
		f.connect(host)
	}
	for range 2 {
		f.Stop()
		f.Restart(f.watch)
		for _, host := range gained {
			if n := f.connections(host); n != 2 {
				t.Errorf("%d connections of %s are left, want 2", n, host)
			}
		}
	}
}

// TestSnapshotWaitsForTheOwnersFile: if the daemon were killed between the Snapshot and the record,
// the next one would not know that connections of two owners may be left.
func TestSnapshotWaitsForTheOwnersFile(t *testing.T) {
	k := kindsOfAddress["elastic"]
	f := newOwnersTest(t, k, planetest.Node)
	before := f.Switch.Snapshot().Generation
	if err := f.Plane.CloseOwners(); err != nil { // so that writes fail
		t.Fatal(err)
	}
	k.leave(f, f.Decide)
	err := f.Plane.Apply(f.State.ViewSince(f.View))
	if got := f.Switch.Snapshot().Generation; err == nil || got != before {
		t.Errorf("Apply returned error %v, and the Snapshot has generation %d; want an error and %d", err, got, before)
	}
}

// TestConnectionsOfAnotherClusterAreForgotten: a machine leaves its cluster and founds or joins
// another one, in which leases have the same epochs.
func TestConnectionsOfAnotherClusterAreForgotten(t *testing.T) {
	f := newOwnersTest(t, kindsOfAddress["elastic"], planetest.Node)
	f.connectAll()
	f.Stop()
	seed, another := []byte(f.State.View().Seed()), []byte(hex.EncodeToString([]byte("another cluster!")))
	f.restore(bytes.ReplaceAll(f.snapshot(), seed, another))
	if f.State.View().Seed() != string(another) {
		t.Fatal("the other cluster has the same seed")
	}
	f.Restart(f.watch)
	for _, host := range append(f.steadyHosts(), f.moved) {
		if n := f.connections(host); n != 0 {
			t.Errorf("%d connections of %s were made in another cluster, want 0", n, host)
		}
	}
}

// TestUpgradeFromReleaseWithoutOwnersKeepsConnections: an earlier release stored no owners. The
// connections stay, except those of addresses that have no owner now.
func TestUpgradeFromReleaseWithoutOwnersKeepsConnections(t *testing.T) {
	for _, kind := range []string{"private", "elastic"} {
		k := kindsOfAddress[kind]
		f := newOwnersTest(t, k, planetest.Node)
		for _, host := range append(f.steadyHosts()[:5], f.moved) { // without the address that nobody owns
			f.connect(host)
		}
		f.Stop()
		k.leave(f, f.Decide)
		if err := os.Remove(f.OwnersFile()); err != nil {
			t.Fatal(err)
		}
		f.Restart(f.watch)
		if n := f.connections(f.moved); n != 0 {
			t.Errorf("%s: %d connections of an address without an owner, want 0", kind, n)
		}
		for _, host := range f.steadyHosts()[:5] {
			if n := f.connections(host); n != 2 {
				t.Errorf("%s: %d connections of %s, want 2", kind, n, host)
			}
		}
	}
}

// TestFileOfOwnersIsWrittenAnewWhenItGrows: an address that changes its owner for ever does not fill
// the tmpfs, and the owners are right after that.
func TestFileOfOwnersIsWrittenAnewWhenItGrows(t *testing.T) {
	k := kindsOfAddress["elastic"]
	f := newOwnersTest(t, k, planetest.Node)
	for n := range 8 { // leases that have ended own nothing, although they have a port
		eni := f.Register(planetest.Node, fmt.Sprint("ended", n), f.Public)
		f.Do(&state.UnregisterInterface{Account: planetest.Dev, Region: planetest.Region, Interface: eni.ID})
	}
	const limit = 8 << 10
	f.Plane.RewriteOwnersAt(limit)
	largest, smaller := int64(0), false
	for n := 0; !smaller && n < 2*limit/ownerRecord; n++ {
		to := f.next
		if n%2 == 1 {
			to = f.old
		}
		f.Do(&state.AssociateAddress{Account: planetest.Dev, Region: planetest.Region, Allocation: f.elastic.ID, Interface: to.ID, AllowReassociation: new(true)})
		st, err := os.Stat(f.OwnersFile())
		if err != nil {
			t.Fatal(err)
		}
		smaller = st.Size() < largest
		largest = max(largest, st.Size())
	}
	if !smaller || largest > limit+4*ownerRecord {
		t.Errorf("the file of owners has grown to %d bytes, became smaller: %v; want that it is written anew at %d bytes", largest, smaller, limit)
	}
	f.connectAll()
	f.Stop()
	f.Restart(f.watch)
	f.check("restarted", 2)
}

// TestFileOfOwnersIsChecked: a record with a wrong checksum ends the file, and a
// file of another boot says nothing.
func TestFileOfOwnersIsChecked(t *testing.T) {
	f := newOwnersTest(t, kindsOfAddress["elastic"], planetest.Node)
	f.Stop()
	sound := readFile(t, f.OwnersFile())
	records := (len(sound) - ownersHeader) / ownerRecord
	for name, tt := range map[string]struct {
		change func(b []byte) []byte
		want   int // records; -1: unknown owners
	}{
		"unchanged":       {func(b []byte) []byte { return b }, records},
		"torn":            {func(b []byte) []byte { return b[:len(b)-1] }, records - 1},
		"damaged address": {func(b []byte) []byte { b[ownersHeader+3*ownerRecord+10] ^= 1; return b }, 3},
		"damaged epoch":   {func(b []byte) []byte { b[ownersHeader+3*ownerRecord+27] ^= 1; return b }, 3},
		"another boot":    {func(b []byte) []byte { b[8+15] ^= 1; return b }, -1},
		"another version": {func(b []byte) []byte { b[7] ^= 1; return b }, -1},
		"header alone":    {func(b []byte) []byte { return b[:ownersHeader] }, 0},
		"no header":       {func(b []byte) []byte { return b[:ownersHeader-1] }, -1},
		"empty":           {func(b []byte) []byte { return nil }, -1},
	} {
		writeFile(t, f.OwnersFile(), tt.change(slices.Clone(sound)))
		o, err := plane.OpenOwners(f.OwnersFile())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := o.Records(); got > tt.want || (got < 0) != (tt.want < 0) || name == "unchanged" && got == 0 {
			t.Errorf("%s: the owners of %d addresses are read, want at most %d", name, got, tt.want)
		}
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(f.OwnersFile(), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := plane.OpenOwners(f.OwnersFile()); err == nil || !strings.Contains(err.Error(), "mode 0666") {
		t.Errorf("a file of mode 0666: error %v, want one about its mode", err)
	}
	os.Chmod(f.OwnersFile(), 0o600)
	f.Restart(f.watch)
}

// TestFirstViewWaitsForTheOwnersFile: without it the next daemon would not know whose the connections are.
func TestFirstViewWaitsForTheOwnersFile(t *testing.T) {
	f := newOwnersTest(t, kindsOfAddress["elastic"], planetest.Node)
	f.Stop()
	f.Start()
	if err := f.Plane.CloseOwners(); err != nil { // so that writes fail
		t.Fatal(err)
	}
	refused := func() {
		t.Helper()
		err := f.Plane.Apply(f.State.View())
		if got := f.Switch.Snapshot().Generation; err == nil || got != 0 {
			t.Errorf("Apply returned error %v, and the Snapshot has generation %d; want an error and 0", err, got)
		}
	}
	refused()
	f.Stop()
	f.Start()
	beside := f.OwnersFile() + ".new"
	writeFile(t, beside, nil)
	if err := os.Chmod(beside, 0o666); err != nil { // somebody else may write to it
		t.Fatal(err)
	}
	refused()
}

// TestOwnersOfAKilledDaemonAreOverwritten: the file that replaces that of the owners has nothing of an
// earlier one, and no replaced file stays open.
func TestOwnersOfAKilledDaemonAreOverwritten(t *testing.T) {
	f := newOwnersTest(t, kindsOfAddress["elastic"], planetest.Node)
	f.connectAll()
	f.Stop()
	f.Restart(f.watch)
	sound := readFile(t, f.OwnersFile())
	boot, err := bootfile.Boot()
	if err != nil {
		t.Fatal(err)
	}
	if want := append([]byte("palown\x00\x01"), boot[:]...); !bytes.HasPrefix(sound, want) {
		t.Errorf("the file begins with %q, want %q", sound[:len(want)], want)
	}
	for range 3 {
		f.Stop()
		writeFile(t, f.OwnersFile()+".new", bytes.Repeat(sound, 2))
		f.Log.Reset()
		f.Restart(f.watch)
		if now := readFile(t, f.OwnersFile()); len(now) != len(sound) {
			t.Errorf("the file has %d bytes, want %d", len(now), len(sound))
		}
	}
	f.check("restarted", 2)
	if strings.Contains(f.Log.String(), "dropped") {
		t.Errorf("a daemon that keeps all connections has logged\n%s", f.Log)
	}
	opened := 0
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if path, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(path, f.OwnersFile()) {
			opened++
		}
	}
	if opened != 1 {
		t.Errorf("%d files of owners are open, want 1", opened)
	}
}

// TestConnectionsWithAnAddressThatNobodyOwnsAreKept: also if it had an owner until a moment before.
func TestConnectionsWithAnAddressThatNobodyOwnsAreKept(t *testing.T) {
	for kind, k := range kindsOfAddress {
		if kind == "own secondary" {
			continue // an interface has no connections with an address that is not its own
		}
		f := newOwnersTest(t, k, planetest.Node)
		f.connectAll()
		k.leave(f, f.Do)
		f.connect(f.moved)
		f.Stop()
		f.Restart(f.watch)
		f.check(kind, 2)
	}
}

// TestConnectionsOfAnEndedLeaseAreForgottenFirst: before any device is a port.
func TestConnectionsOfAnEndedLeaseAreForgottenFirst(t *testing.T) {
	f := newOwnersTest(t, kindsOfAddress["elastic"], planetest.Node)
	f.connectAll()
	f.Stop()
	f.Decide(&state.UnregisterInterface{Account: planetest.Dev, Region: planetest.Region, Interface: f.watch.ID})
	f.Start()
	f.View = nil
	f.CatchUp()
	if n := f.Tracker.Usage().Tracked; n != 0 {
		t.Errorf("%d connections of the ended lease are left, want 0", n)
	}
}
