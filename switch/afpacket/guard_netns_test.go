package afpacket

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"palisade/internal/netns"
	"palisade/switch/tap"
)

// look returns what the host shows about a device, without queue and carrier, which the kernel changes.
func (b *bench) look(name string) string {
	b.Helper()
	link := regexp.MustCompile(` qdisc .* qlen \d+|,LOWER_UP|NO-CARRIER,`).ReplaceAllString(b.run("ip", "-o", "link", "show", name), "")
	_, link, _ = strings.Cut(link, ": ") // the number may change
	addresses := regexp.MustCompile(`(?m)^\d+: | (tentative|noprefixroute)|valid_lft.*$`).ReplaceAllString(b.run("ip", "-o", "-4", "address", "show", name), "")
	return link + addresses + b.run("tc", "qdisc", "show", "dev", name, "clsact") + b.run("sysctl", "net.ipv6.conf."+name+".disable_ipv6")
}

// TestReleaseRestoresTheDevice: name, MAC, MTU, queue, state, alias and link-local addresses are as before.
func TestReleaseRestoresTheDevice(t *testing.T) {
	b := newBench(t)
	b.run("ip", "link", "add", "veth0", "mtu", "1300", "type", "veth", "peer", "name", "eth0")
	for _, c := range []Config{vm0, {Name: "veth0", Namespace: host, Prefix: vm0.Prefix}} {
		for _, up := range []string{"down", "up"} {
			for _, alias := range []string{"", "the machine of was=up=false"} {
				b.run("ip", "link", "set", c.Name, up, "alias", alias)
				b.run("ip", "address", "replace", "169.254.9.1/16", "dev", c.Name)
				b.run("ip", "address", "replace", "169.254.9.2/24", "broadcast", "169.254.9.255", "scope", "link", "dev", c.Name)
				before := b.look(c.Name)
				b.takeTwice(c)
				for range 2 {
					if err := Release(c, "eni-1"); err != nil {
						t.Fatal(err)
					}
				}
				if after := b.look(c.Name); after != before {
					t.Errorf("device %s, %s with alias %q: after Release it is\n%swant it as before Take:\n%s", c.Name, up, alias, after, before)
				}
				if left, err := netns.List(c.Prefix); err != nil || len(left) != 0 {
					t.Errorf("after Release the namespaces %q exist: %v; want none", left, err)
				}
			}
		}
	}
	if err := Release(Config{Name: "none", Namespace: host}, "eni-1"); err != nil {
		t.Errorf("Release of a missing device: error %v, want none", err)
	}
}

// takeTwice takes a device, twice, and checks that another owner can neither take nor release it.
func (b *bench) takeTwice(c Config) {
	b.Helper()
	for range 2 {
		if err := Take(c, "eni-1"); err != nil {
			b.Fatal(err)
		}
	}
	if out := b.in(b.heldIn(c), "tc", "filter", "show", "dev", c.Name, "ingress"); !strings.Contains(out, "palisade-in") {
		b.Errorf("the device that is held has the ingress filters %q, want palisade-in", out)
	}
	for _, try := range []func(Config, string) error{Check, Take} {
		if err := try(c, "eni-2"); err == nil {
			b.Errorf("eni-2 may take device %s of eni-1", c.Name)
		}
	}
	if err := Check(c, ""); err == nil || !strings.Contains(err.Error(), "it belongs to eni-1") {
		b.Errorf("Check of a device of eni-1: error %v, want \"it belongs to eni-1\"", err)
	}
	if err := Release(c, "eni-2"); err != nil {
		b.Errorf("Release by eni-2 of a device of eni-1: error %v, want none", err)
	}
	if all, err := Taken(c); err != nil || !slices.Equal(all, []Taking{{c.Name, "eni-1"}}) {
		b.Errorf("Taken = %v, %v; want %s of eni-1 alone", all, err, c.Name)
	}
	b.heldIn(c)
}

// TestReleaseRenamesIfTheHostHasTheName: the device of the host keeps its name.
func TestReleaseRenamesIfTheHostHasTheName(t *testing.T) {
	b := newBench(t)
	if err := Take(vm0, "eni-1"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"vm0", "vm0-1"} {
		b.run("ip", "tuntap", "add", name, "mode", "tap")
	}
	if err := Check(vm0, ""); err == nil || !strings.Contains(err.Error(), "it belongs to eni-1") {
		t.Errorf("Check of another device vm0: error %v, want \"it belongs to eni-1\"", err)
	}
	if err := Release(vm0, "eni-1"); err == nil || !strings.Contains(err.Error(), "given back as vm0-2") {
		t.Errorf("Release: error %v, want one that names vm0-2", err)
	}
	if out := b.look("vm0-2"); strings.Contains(out, "palisade") {
		t.Errorf("after Release the device is\n%s", out)
	}
}

// TestUnopenedTAPWaitsInTheHost: a machine finds a persistent TAP by its name when it starts, and again
// when it starts anew. Until the switch has taken the TAP from the host nothing reaches the machine.
func TestUnopenedTAPWaitsInTheHost(t *testing.T) {
	b := newBench(t)
	b.run("ip", "link", "set", "vm0", "up", "alias", "mine")
	before := b.look("vm0")
	settled := func(want bool, when string) {
		t.Helper()
		if found, settled, err := Find(vm0, "eni-1"); !found || settled != want || err != nil {
			t.Errorf("%s: Find = %v, %v, %v; want found, settled %v", when, found, settled, err, want)
		}
	}
	start := func() {
		t.Helper()
		var err error
		if b.machine, err = tap.Open(tap.Config{Name: "vm0", Namespace: host}); err != nil {
			t.Fatal(err)
		}
	}
	_ = b.machine.Close()
	for round := range 2 {
		for range 2 {
			if err := Take(vm0, "eni-1"); err != nil {
				t.Fatal(err)
			}
		}
		if out := b.run("ip", "-o", "link", "show", "vm0"); strings.Contains(out, ",UP") || !strings.Contains(out, "palisade eni-1") {
			t.Errorf("the TAP waits as\n%swant it down and marked", out)
		}
		if left, err := netns.List(vm0.Prefix); err != nil || len(left) != 0 {
			t.Errorf("while the TAP waits the namespaces %q exist: %v; want none", left, err)
		}
		if err := Take(vm0, "eni-2"); err == nil || !strings.Contains(err.Error(), "it belongs to eni-1") {
			t.Errorf("Take by eni-2 of a TAP that waits: error %v, want \"it belongs to eni-1\"", err)
		}
		settled(true, "without a machine")
		start()
		settled(false, "with a machine")
		if reached, _ := b.intruder(b.machine, func() {}); len(reached) != 0 {
			t.Errorf("the intruder reached the machine in the ways %v before the switch took its TAP", reached)
		}
		if err := Take(vm0, "eni-1"); err != nil {
			t.Fatal(err)
		}
		settled(true, fmt.Sprintf("taken in round %d", round))
		b.heldIn(vm0)
		if round == 0 {
			_ = b.machine.Close()
			settled(false, "after the machine has ended")
		}
	}
	if err := Release(vm0, "eni-1"); err != nil {
		t.Fatal(err)
	}
	if after := b.look("vm0"); after != before {
		t.Errorf("after Release the TAP is\n%swant it as before Take:\n%s", after, before)
	}
}

// TestNextMachineMayBringANewTAP: the machine ends, and the next one makes a TAP of that name before
// the old one is back.
func TestNextMachineMayBringANewTAP(t *testing.T) {
	b := newBench(t)
	if err := Take(vm0, "eni-1"); err != nil {
		t.Fatal(err)
	}
	_ = b.machine.Close()
	var err error
	if b.machine, err = tap.Open(tap.Config{Name: "vm0", Namespace: host}); err != nil {
		t.Fatal(err)
	}
	b.run("ip", "link", "set", "vm0", "alias", "new")
	if err := Take(vm0, "eni-1"); err != nil {
		t.Fatal(err)
	}
	if out := b.in(b.heldIn(vm0), "ip", "-o", "link"); !strings.Contains(out, "was=new") {
		t.Errorf("the namespace has the devices\n%swant the new TAP", out)
	}
}

// TestDeviceOfTheOldGuardIsMoved: earlier versions left a taken device in the host's namespace, with a
// filter. The next Take moves it, and Release restores what the earlier version found.
func TestDeviceOfTheOldGuardIsMoved(t *testing.T) {
	b := newBench(t)
	before := b.look("vm0")
	b.run("ip", "link", "set", "vm0", "up", "alias", "palisade eni-1 up=false ipv6=0 was=")
	b.run("tc", "qdisc", "add", "dev", "vm0", "clsact")
	b.run("sysctl", "-w", "net.ipv6.conf.vm0.disable_ipv6=1")
	if found, settled, err := Find(vm0, "eni-1"); !found || settled || err != nil {
		t.Errorf("Find = %v, %v, %v; want found and not settled", found, settled, err)
	}
	if all, err := Taken(vm0); err != nil || !slices.Equal(all, []Taking{{"vm0", "eni-1"}}) {
		t.Errorf("Taken = %v, %v; want vm0 of eni-1", all, err)
	}
	if err := Take(vm0, "eni-1"); err != nil {
		t.Fatal(err)
	}
	b.heldIn(vm0)
	if err := Release(vm0, "eni-1"); err != nil {
		t.Fatal(err)
	}
	if after := b.look("vm0"); after != before {
		t.Errorf("after Release the device is\n%swant it as before the old guard:\n%s", after, before)
	}
}

// TestTakeCompletesWhatAKilledDaemonBegan: the daemon is killed after each step of Take and of Release.
func TestTakeCompletesWhatAKilledDaemonBegan(t *testing.T) {
	b := newBench(t)
	before := b.look("vm0")
	if err := Take(vm0, "eni-1"); err != nil {
		t.Fatal(err)
	}
	namespace := b.heldIn(vm0)
	toHost := func(link netlink.Link) error {
		f, err := os.Open(netns.Path(host))
		if err != nil {
			return err
		}
		defer f.Close()
		return netlink.LinkSetNsFd(link, int(f.Fd()))
	}
	steps := []struct {
		killed string
		undo   func() // of what the daemon had not done, or had done already
	}{
		{"moved, not up", func() { b.in(namespace, "ip", "link", "set", "vm0", "down") }},
		{"moved back, not restored", func() {
			if err := netns.Do(namespace, func() error {
				link, err := netlink.LinkByName("vm0")
				if err != nil {
					return err
				}
				return toHost(link)
			}); err != nil {
				t.Fatal(err)
			}
		}},
		{"namespace made, device not moved", func() {
			if err := netns.New(namespace); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for i, step := range steps {
		step.undo()
		if i == len(steps)-1 {
			break
		}
		if err := Take(vm0, "eni-1"); err != nil {
			t.Fatalf("%s: %v", step.killed, err)
		}
		if out := b.in(b.heldIn(vm0), "ip", "-o", "link", "show", "vm0"); !strings.Contains(out, ",UP") {
			t.Errorf("%s: after Take the device is\n%swant it up", step.killed, out)
		}
		if i == 1 {
			if err := Release(vm0, "eni-1"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if all, err := Taken(vm0); err != nil || !slices.Equal(all, []Taking{{"", "eni-1"}}) {
		t.Errorf("Taken = %v, %v; want an empty namespace of eni-1", all, err)
	}
	if err := Release(Config{Namespace: host, Prefix: vm0.Prefix}, "eni-1"); err != nil {
		t.Error(err)
	}
	if netns.Exists(namespace) || b.look("vm0") != before {
		t.Errorf("after Release the namespace exists: %v; the device is\n%swant\n%s", netns.Exists(namespace), b.look("vm0"), before)
	}
}
