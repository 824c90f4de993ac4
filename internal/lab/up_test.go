package lab

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestInvalidOptionsAreRefused(t *testing.T) {
	for _, o := range []Options{
		{Name: "a-b"}, {Name: "../x"}, {Name: "Lab"}, {Name: strings.Repeat("a", 17)}, {Nodes: -1}, {Nodes: 33}, {Port: 70000},
		{ClassicPools: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")}},
		{ClassicPools: []netip.Prefix{netip.MustParsePrefix("10.10.1.0/16")}},
		{Nodes: 2, Overlay: "gre"}, {Nodes: 1, Overlay: "vxlan"},
	} {
		if err := o.fill(); err == nil {
			t.Errorf("fill accepted the options %+v", o)
		}
	}
	for _, form := range []string{"", "sealed", "vxlan"} {
		o := Options{Nodes: 2, Overlay: form}
		if err := o.fill(); err != nil {
			t.Errorf("fill refused the overlay %q: %v", form, err)
		}
		l := &Lab{Nodes: []string{"node1", "node2"}, Overlay: form}
		if got := l.nodeConfig(1).Peer.Overlay; got != form {
			t.Errorf("in a lab with overlay %q, a node's configuration has the overlay %q", form, got)
		}
	}
}

// TestUnderlayGivesInstancesTheUsualMTU: 94 bytes more than 1500 for sealed tunnels, 50 for VXLAN, unless another is
// asked for.
func TestUnderlayGivesInstancesTheUsualMTU(t *testing.T) {
	for form, want := range map[string]int{"": 1500 + 94, "sealed": 1500 + 94, "vxlan": 1500 + 50} {
		o := Options{Nodes: 2, Overlay: form}
		if err := o.fill(); err != nil || o.UnderlayMTU != want {
			t.Errorf("overlay %q: the underlay has an MTU of %d, error %v, want %d", form, o.UnderlayMTU, err, want)
		}
		l := &Lab{Nodes: []string{"node1", "node2"}, UnderlayMTU: o.UnderlayMTU}
		if got := l.nodeConfig(1).Peer.MTU; got != want {
			t.Errorf("overlay %q: the configuration of a node has an MTU of %d, want %d", form, got, want)
		}
	}
	for mtu, want := range map[int]bool{1279: false, 1280: true, 1500: true, 9216: true, 9217: false, -1: false} {
		o := Options{Nodes: 2, UnderlayMTU: mtu}
		if err := o.fill(); (err == nil) != want {
			t.Errorf("an underlay with an MTU of %d: %v, want accepted: %v", mtu, err, want)
		}
	}
}

// Another goroutine removes the empty parent directory all the time, as Down of another lab does.
func TestMakeDirSurvivesRemovalOfParent(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "run")
	ended := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ended:
				return
			default:
				os.Remove(parent)
			}
		}
	}()
	for range 1000 {
		dir := filepath.Join(parent, "lab")
		if err := makeDir(dir); err != nil {
			t.Error(err)
			break
		}
		if err := os.Remove(dir); err != nil {
			t.Error(err)
			break
		}
	}
	close(ended)
	<-done
}
