package instance

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"

	"palisade/ec2"
	"palisade/internal/netns"
)

// addWire adds a second veth pair between the two namespaces of a test, and the address 192.0.2.1 to
// the peer. The instance's side of the pair is not configured:
//
//	palisade-test-NAME-peer           palisade-test-NAME
//	  eth0 10.200.7.1/24 ------------- eth0 10.200.7.9/24
//	  eth1 10.200.8.1/24 ------------- eth1
//	  lo   192.0.2.1/32, strict reverse path
func addWire(t *testing.T, s Spec) {
	t.Helper()
	err := netns.Do(s.Namespace+"-peer", func() error {
		ns, err := vishnetns.GetFromPath(netns.Path(s.Namespace))
		if err != nil {
			return err
		}
		defer ns.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth1"
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth1", PeerNamespace: netlink.NsFd(ns)}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		eth, _ := netlink.ParseAddr("10.200.8.1/24")
		far, _ := netlink.ParseAddr("192.0.2.1/32")
		return errors.Join(netlink.AddrAdd(veth, eth), netlink.LinkSetUp(veth), netlink.AddrAdd(lo, far), netlink.LinkSetUp(lo))
	})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := fromPeer(s, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestRepliesLeaveByInterfaceOfRequest adds a second interface to a running instance, changes its
// addresses, and removes it. The peer pings each address from 192.0.2.1 and drops replies that arrive
// on the wrong interface.
func TestRepliesLeaveByInterfaceOfRequest(t *testing.T) {
	s := newSpec(t, "nics", DefaultImage)
	boot(t, s)
	addWire(t, s)
	ping := func(want bool, address string) {
		t.Helper()
		within := "1" // second
		if want {
			within = "10" // a reply is expected, but the machine may be busy
		}
		if out, err := fromPeer(s, "ping", "-n", "-c1", "-W"+within, "-I", "192.0.2.1", address); (err == nil) != want {
			t.Errorf("ping %s: %v, want success %v\n%s", address, err, want, out)
		}
	}
	rules := func() string {
		out, _ := inside(t, s, "ip", "rule")
		return out
	}
	nic := NIC{
		Device: "eth1", MAC: ec2.MAC{0x02, 0, 0, 0, 0, 10}, MTU: 1450, Gateway: netip.MustParseAddr("10.200.8.1"), Table: TableOf(1),
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.200.8.9/24"), netip.MustParsePrefix("10.200.8.10/24")},
	}
	for range 2 { // a second call must change nothing
		if err := Configure(s.Namespace, nic); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(rules(), "lookup 10001"); n != 2 {
		t.Errorf("table 10001 has %d routing rules, want 2, one for each address:\n%s", n, rules())
	}
	ping(true, "10.200.7.9")
	ping(true, "10.200.8.9")
	ping(true, "10.200.8.10")
	out, _ := inside(t, s, "ip", "route", "get", "192.0.2.1")
	if !strings.Contains(out, "dev eth0") {
		t.Errorf("the route for packets without a source address is %q, want by eth0", out)
	}

	nic.Addresses[1] = netip.MustParsePrefix("10.200.8.11/24")
	if err := Configure(s.Namespace, nic); err != nil {
		t.Fatal(err)
	}
	ping(false, "10.200.8.10")
	ping(true, "10.200.8.11")

	for range 2 {
		if err := Unplug(s.Namespace, nic); err != nil {
			t.Fatal(err)
		}
	}
	if out, _ := inside(t, s, "ip", "-br", "link"); strings.Contains(out, "eth1") || strings.Contains(rules(), "10001") {
		t.Errorf("after Unplug eth1 or a rule for table 10001 still exists:\n%s%s", out, rules())
	}
	ping(true, "10.200.7.9")
	if err := Unplug("palisade-test-none", nic); err != nil {
		t.Errorf("Unplug from a namespace that does not exist returned %v, want no error", err)
	}
}
