package afpacket

import "testing"

// TestMTUIsThatOfBothEndsOfAVeth: the smaller one, wherever the other end is, and after each change. That of a TAP is
// its own.
func TestMTUIsThatOfBothEndsOfAVeth(t *testing.T) {
	b := newBench(t)
	b.run("ip", "link", "add", "veth0", "mtu", "1400", "type", "veth", "peer", "name", "eth0", "mtu", "1300")
	pair := vm0
	pair.Name = "veth0"
	if _, err := MTU(pair, "eni-1"); err == nil {
		t.Error("a device that was not taken has an MTU, want an error")
	}
	check := func(c Config, owner string, want int) {
		t.Helper()
		if got, err := MTU(c, owner); err != nil || got != want {
			t.Errorf("the MTU of %s is %d, error %v, want %d", c.Name, got, err, want)
		}
	}
	for c, owner := range map[Config]string{pair: "eni-1", vm0: "eni-2"} {
		if err := Take(c, owner); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = Release(c, owner) })
	}
	check(pair, "eni-1", 1300)
	check(vm0, "eni-2", 1500)
	b.run("ip", "link", "set", "eth0", "mtu", "9000")
	check(pair, "eni-1", 1400)
	b.in(b.heldIn(pair), "ip", "link", "set", "veth0", "mtu", "9000")
	b.run("ip", "link", "set", "eth0", "mtu", "1500")
	check(pair, "eni-1", 1500)
}
