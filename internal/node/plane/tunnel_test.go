package plane_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/node/plane"
	"palisade/internal/node/plane/planetest"
	"palisade/internal/peer"
	vswitch "palisade/switch"
	"palisade/switch/overlay"
)

// nobody is a table of members without members.
type nobody struct{}

func (nobody) Check(string, []byte) error    { return errors.New("no member") }
func (nobody) Address(string) (string, bool) { return "", false }

// The overlay gets the other members, with the addresses of their tunnels, and loses those that were
// fenced.
func TestOverlayGetsTheOtherMembers(t *testing.T) {
	loopback := netip.MustParseAddrPort("127.0.0.1:0")
	identity, err := peer.Init(t.TempDir(), string(planetest.Node), netip.MustParseAddrPort("192.0.2.11:7400"))
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	p, err := peer.New(peer.Config{Identity: identity, Listen: loopback, Nodes: nobody{}, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	tunnels, err := overlay.New(overlay.Config{Peer: p, Node: string(planetest.Node), Listen: loopback})
	if err != nil {
		t.Fatal(err)
	}
	// The index file, tracker and switch of a Fixture, with an overlay.
	f := planetest.New(t)
	tracker, err := conntrack.Open(conntrack.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tracker.Close() })
	sw, err := vswitch.New(vswitch.Config{Tracker: tracker, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sw.Close)
	f.Plane = plane.New(plane.Config{Node: planetest.Node, MTU: 1400, Switch: sw, Tracker: tracker, Overlay: tunnels, EnforcedIndex: f.EnforcedIndex, Logger: quiet})
	f.View = nil // the new Plane begins with the whole state
	if err := f.Plane.OpenTunnel(); err != nil {
		t.Fatal(err)
	}
	f.CatchUp()
	port := sw.Snapshot().TunnelPort()
	if port == nil || port.MTU != 1400 || port.Port == nil || port.Port.Name() != "tunnel" {
		t.Fatalf("the tunnel port is %+v, want one with MTU 1400", port)
	}
	remotes := func() string {
		text := ""
		for _, s := range tunnels.Status() {
			text += fmt.Sprintf("%s %d %v;", s.Node, s.Number, s.Address)
		}
		return text
	}
	if got := remotes(); got != "" {
		t.Errorf("a cluster of one has tunnels to %s", got)
	}
	var want string
	for i, name := range []ec2.NodeID{"node2", "node3", "node4"} {
		f.Do(&state.PutNode{Node: ec2.Node{ID: name, Zone: "us-east-1a", Role: ec2.NonVoter, Address: fmt.Sprintf("192.0.2.%d:7400", 12+i)}})
		n, _ := f.View.Node(name)
		want += fmt.Sprintf("%s %d 192.0.2.%d:7402;", name, n.Number, 12+i)
	}
	f.Do(&state.PutNode{Node: ec2.Node{ID: "node0", Zone: "us-east-1a", Role: ec2.NonVoter}}) // not reachable yet
	if got := remotes(); got != want {
		t.Errorf("the tunnels lead to\n%s, want\n%s", got, want)
	}
	f.Do(&state.FenceNode{Node: "node2"})
	if got := remotes(); got != want[len(remotesOf(want, 1)):] {
		t.Errorf("after node2 was fenced the tunnels lead to\n%s, want those to node3 and node4", got)
	}
	if got := plane.TunnelAddress(netip.MustParseAddrPort("192.0.2.9:7400"), overlay.VXLAN); got != netip.MustParseAddrPort("192.0.2.9:4789") {
		t.Errorf("the VXLAN address of a node is %v", got)
	}
	if err := f.Plane.OpenTunnel(); err == nil {
		t.Error("a second tunnel port was opened")
	}
}

// remotesOf returns the first n entries of a list that remotes returns.
func remotesOf(list string, n int) string {
	for i, r := range list {
		if r == ';' {
			if n--; n == 0 {
				return list[:i+1]
			}
		}
	}
	return list
}
