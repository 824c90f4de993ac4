package overlay

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
	vswitch "palisade/switch"
)

// TestRekeyLosesNoDatagram changes the keys of both nodes repeatedly under traffic.
func TestRekeyLosesNoDatagram(t *testing.T) {
	c := newCluster(t)
	n1, n2 := c.nodes[0], c.nodes[1]
	frame := packettest.Build(of("web", packet.ProtocolUDP, "10.10.0.4", "10.10.0.5", 1, 53))
	app := n2.ports["app"]
	sent, keys := uint64(0), map[*association]bool{}
	for deadline := time.Now().Add(patience); len(keys) < 5; {
		if time.Now().After(deadline) {
			t.Fatalf("only %d associations were made in time, want 5", len(keys))
		}
		s := n1.association(2)
		if !keys[s] {
			keys[s] = true
			c.nodes[len(keys)%2].overlay.rekey() // either node may cause it
		}
		for range 20 { // wait until these have arrived before sending more, so that the socket's buffer never gets full
			if err := n1.devices["web"].Send(frame); err != nil {
				t.Fatal(err)
			}
			sent++
		}
		eventually(t, fmt.Sprintf("frame number %d", sent), func() bool { return app.Counters().Verdicts[verdict.Forward] == sent })
		n2.devices["app"].Take()
	}
	if s := n2.overlay.Status()[0]; !s.Up || len(n2.overlay.peers["node1"].associations) > maxAssociations {
		t.Errorf("node2 keeps %d associations, want at most %d and the tunnel up; status %+v", len(n2.overlay.peers["node1"].associations), maxAssociations, s)
	}
}

// A replaced association receives for a minute, and no longer.
func TestReplacedAssociationReceivesForAMinute(t *testing.T) {
	c := newCluster(t)
	n1, n2 := c.nodes[0], c.nodes[1]
	old := n1.association(2)
	n1.overlay.rekey()
	eventually(t, "new association", func() bool { return n1.association(2) != old && n2.association(1).index != old.remoteIndex })
	send := func(at *vswitch.Port, want verdict.Verdict) {
		t.Helper()
		f := packettest.Build(of("web", packet.ProtocolUDP, "10.10.0.4", "10.10.0.5", 1, 53))
		before := at.Counters().Verdicts
		if err := n1.overlay.device.sendTo(old.sealed(0, packet.Origin{VNI: vni, Epoch: 1}, f), &old.to); err != nil {
			t.Fatal(err)
		}
		c.fate(at, before, want)
	}
	n2.overlay.retire(time.Now().Add(retireAfter - 10*time.Second))
	send(n2.ports["app"], verdict.Forward)
	n2.overlay.retire(time.Now().Add(retireAfter + time.Second))
	send(n2.tunnel, verdict.TunnelUnknown)
}

// After Renew a node reports the peers with which it still uses old keys. DropRenewed drops the old
// keys at once, and no key that is in use.
func TestRenewedTunnelsDropTheirOldKeys(t *testing.T) {
	c := newCluster(t)
	n1, n2 := c.nodes[0], c.nodes[1]
	old := n1.association(2)
	for _, n := range c.nodes {
		n.overlay.Renew(7)
		n.overlay.DropRenewed() // the old keys are still in use
	}
	f := packettest.Build(of("web", packet.ProtocolUDP, "10.10.0.4", "10.10.0.5", 1, 53))
	before := n2.ports["app"].Counters().Verdicts
	if err := n1.overlay.device.sendTo(old.sealed(0, packet.Origin{VNI: vni, Epoch: 1}, f), &old.to); err != nil {
		t.Fatal(err)
	}
	c.fate(n2.ports["app"], before, verdict.Forward)
	for _, n := range c.nodes {
		eventually(t, n.name+" uses new keys", func() bool {
			epoch, pending := n.overlay.Renewed()
			return epoch == 7 && len(pending) == 0
		})
	}
	if n1.association(2) == old {
		t.Error("node1 reports that it uses new keys, and sends with the old ones")
	}
	n2.overlay.DropRenewed()
	before = n2.tunnel.Counters().Verdicts
	if err := n1.overlay.device.sendTo(old.sealed(0, packet.Origin{VNI: vni, Epoch: 1}, f), &old.to); err != nil {
		t.Fatal(err)
	}
	c.fate(n2.tunnel, before, verdict.TunnelUnknown)
	n1.send("web", f, n2.ports["app"], verdict.Forward)
}

// A peer whose stream is gone keeps its keys when they are to be renewed, and is named as pending.
func TestPeerThatCannotBeReachedKeepsItsKeys(t *testing.T) {
	c := newCluster(t)
	n1, n2 := c.nodes[0], c.nodes[1]
	n2.stop()
	n1.overlay.Renew(7)
	n1.overlay.DropRenewed()
	if _, pending := n1.overlay.Renewed(); len(pending) != 1 || pending[0] != n2.name || n1.association(2) == nil {
		t.Errorf("pending %v, want [%s]; the association is kept: %t, want true", pending, n2.name, n1.association(2) != nil)
	}
}

// A restarted node is reached again within seconds, whichever node begins the exchange. Until then
// the other node keeps the old association.
func TestRestartedNodeIsReachedAgain(t *testing.T) {
	c := newCluster(t)
	for i, n := range c.nodes {
		other := c.nodes[1-i]
		before := other.association(n.number)
		n.stop()
		if other.association(n.number) != before {
			t.Errorf("%s has dropped its association with %s when that node stopped, want it kept until the restart", other.name, n.name)
		}
		began := time.Now()
		n.start()
		c.introduce()
		eventually(t, "new association with "+n.name, func() bool { return n.up() && other.association(n.number) != before })
		t.Logf("%s was reached again after %v", n.name, time.Since(began))
		n1, n2 := c.nodes[0], c.nodes[1]
		n1.send("web", packettest.Build(of("web", packet.ProtocolUDP, "10.10.0.4", "10.10.0.5", 1, 53)), n2.ports["app"], verdict.Forward)
	}
}

// The streams between the nodes end and do not come back, and the tunnels still work.
func TestAssociationSurvivesLossOfItsStream(t *testing.T) {
	c := newCluster(t)
	n1, n2 := c.nodes[0], c.nodes[1]
	c.table.Lock()
	clear(c.table.keys)
	c.table.Unlock()
	n1.peer.Drop("node2")
	n2.peer.Drop("node1")
	eventually(t, "problem", func() bool { return n1.overlay.Status()[0].Problem != "" })
	n1.send("web", packettest.Build(of("web", packet.ProtocolUDP, "10.10.0.4", "10.10.0.5", 1, 53)), n2.ports["app"], verdict.Forward)
}

// A node that is removed, or replaced under the same name, loses its association at once. A new
// association is made only with the key that the cluster knows.
func TestChangedPeerLosesItsAssociation(t *testing.T) {
	c := newCluster(t)
	n1, n2 := c.nodes[0], c.nodes[1]
	p, frame := one(packettest.Build(of("web", packet.ProtocolUDP, "10.10.0.4", "10.10.0.5", 1, 53)))
	changes := map[string]func(r *Remote){
		"number":  func(r *Remote) { r.Number = 9 },
		"address": func(r *Remote) { r.Address = netip.MustParseAddrPort("127.0.0.1:9") },
		"key":     func(r *Remote) { r.PublicKey = []byte("another") },
		"gone":    func(r *Remote) { *r = Remote{} },
	}
	for name, change := range changes {
		r := n1.remote()
		change(&r)
		n2.overlay.SetPeers([]Remote{r})
		if n2.association(1) != nil {
			t.Errorf("%s changed: node2 still has an association to send on", name)
		}
		before := n2.tunnel.Counters().Verdicts
		if _, err := n1.overlay.device.Send(queues-1, 2, packet.Origin{VNI: vni, Epoch: 1}, p, frame); err != nil {
			t.Fatal(err)
		}
		t.Log("changed property of node1:", name)
		c.fate(n2.tunnel, before, verdict.TunnelUnknown)
		if name == "key" {
			eventually(t, "refusal", func() bool { return strings.HasPrefix(n1.overlay.Status()[0].Problem, "exchange keys with node2") })
			if n2.association(1) != nil {
				t.Error("node2 has an association with a node whose key it does not know")
			}
		}
		n2.send("app", packettest.Build(of("app", packet.ProtocolUDP, "10.10.0.5", "10.10.0.4", 1, 53)), n2.ports["app"], verdict.TunnelDown)
		old := n1.association(2) // kept before a new association replaces it
		c.introduce()
		eventually(t, "new association", func() bool { return n2.up() && n1.association(2) != old })
	}
}
