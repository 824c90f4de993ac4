package gossip

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/testwait"
)

const (
	albert = ec2.AccountID("598916040194")
	region = ec2.Region("us-east-1")
)

func TestPresenceReachesAllNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t).start().waitAllAlive()
	one, two, three := w.nodes["node1"], w.nodes["node2"], w.nodes["node3"]
	mine := w.leases("node1")

	// It must take at most 2 s on an idle machine. Push/pull alone takes up to 30 s.
	testwait.Fastest(t, "down everywhere", 5*time.Second, func(int) time.Duration {
		one.gossip.SetPresence(nil)
		two.wantDown()
		three.wantDown()
		_, changed := two.gossip.Down()
		began := time.Now()
		one.gossip.SetPresence(slices.Concat(reportDown(mine[0]), reportUp(mine[1])))
		one.wantDown(mine[0])
		two.wantDown(mine[0])
		three.wantDown(mine[0])
		took := time.Since(began)
		<-changed
		return took
	})

	// A lease without an entry counts as up.
	began := time.Now()
	one.gossip.SetPresence(nil)
	two.wantDown()
	three.wantDown()
	t.Logf("up everywhere after %s", time.Since(began))

	// A lease that has ended is no longer listed as down.
	one.gossip.SetPresence(reportDown(mine...))
	two.wantDown(mine...)
	w.apply(&state.TerminateInstances{Account: albert, Region: region, Instances: []ec2.InstanceID{mine[0].Instance}})
	two.wantDown(mine[1])
}

func TestGossipPartitionChangesNothingAndHeals(t *testing.T) {
	t.Parallel()
	w := newWorld(t).start().waitAllAlive()
	one, two, three := w.nodes["node1"], w.nodes["node2"], w.nodes["node3"]
	one.gossip.SetPresence(reportDown(w.leases("node1")[0]))
	three.gossip.SetPresence(reportDown(w.leases("node3")[0]))
	settled := []*ec2.Interface{w.leases("node1")[0], w.leases("node3")[0]}
	for _, c := range w.nodes {
		c.wantDown(settled...)
	}

	heal := three.isolate()
	_, changed := two.gossip.Down()
	suspected := false
	testwait.Until(t, "each side calls the other dead", func() string {
		for name, c := range w.nodes {
			for _, m := range c.gossip.Members() {
				suspected = suspected || m.Gossip == "suspect"
				if (name == "node3") != (m.Node == "node3") && m.Gossip != "dead" {
					return fmt.Sprintf("%s is %s to %s", m.Node, m.Gossip, name)
				}
			}
		}
		return ""
	})
	gone := time.Now().Add(one.gossip.cfg.ForgetDeadAfter)
	testwait.Until(t, "memberlist has given up", func() string { return testwait.Unless(time.Now().After(gone), "not yet") })
	t.Logf("the node was suspect first: %t", suspected)
	select {
	case <-changed:
		t.Error("memberlist reported a node dead, and that changed which leases are down")
	default:
	}
	for _, c := range w.nodes {
		if differs := c.downDiffers(settled...); differs != "" {
			t.Errorf("leases at %s during the partition: %s", c.name, differs)
		}
	}

	// A change at node3 during the partition reaches the other nodes after the partition.
	three.gossip.SetPresence(reportDown(w.leases("node3")...))
	began := time.Now()
	heal()
	w.waitAllAlive()
	two.wantDown(w.leases("node1")[0], w.leases("node3")[0], w.leases("node3")[1])
	t.Logf("healed after %s", time.Since(began))
}

// If the clock was set back, a restarted node has a lower boot than before. It must raise its
// boot, because the other nodes would reject its documents as replays.
func TestNodeReportsAfterClockWasSetBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t).start().waitAllAlive()
	one, two := w.nodes["node1"], w.nodes["node2"]
	mine := w.leases("node1")
	one.gossip.SetPresence(reportUp(mine...))
	testwait.Until(t, "node2 has node1's document", func() string {
		_, ok := two.gossip.board.sealed("node1")
		return testwait.Unless(ok, "no")
	})
	one.stopGossip()
	one.stopPeer()

	one.startPeer(1000) // a boot far below that of the first start
	one.gossip.SetPresence(reportDown(mine...))
	one.start()
	two.wantDown(mine...)
}

func TestMetaFitsMemberlistLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one := w.nodes["node1"].gossip
	one.SetPresence(reportDown(w.leases("node1")...))
	one.updateMeta()
	meta := delegate{one}.NodeMeta(memberlist.MetaMaxSize)
	if len(meta) > memberlist.MetaMaxSize {
		t.Fatalf("the meta has %d bytes, and memberlist panics above %d", len(meta), memberlist.MetaMaxSize)
	}
	c, enforced, ok := decodeMeta("node1", meta)
	if !ok || c != one.board.ownClaim() || enforced != w.view().Index() {
		t.Errorf("decodeMeta: claim %+v, enforced %d, ok %t; want claim %+v, enforced %d, ok", c, enforced, ok, one.board.ownClaim(), w.view().Index())
	}
}

func TestEnforcedIndexReachesAllNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t).start().waitAllAlive()
	for _, name := range []string{"web", "app", "db"} {
		w.apply(&state.CreateSecurityGroup{Account: albert, Region: region, Name: name, Description: "test"})
	}
	for _, c := range w.nodes {
		testwait.Until(t, string(c.name)+" has the enforced index of all nodes", func() string {
			for _, m := range c.gossip.Members() {
				if m.Enforced != w.view().Index() {
					return fmt.Sprintf("enforced index of %s: %d, want %d", m.Node, m.Enforced, w.view().Index())
				}
			}
			return ""
		})
	}
}

func TestRunEndsEveryGoroutine(t *testing.T) {
	w := newWorld(t).start().waitAllAlive()
	idle, err := net.DialTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(w.ip(2), 0)), net.TCPAddrFromAddrPort(w.nodes["node1"].gossip.cfg.Address))
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close() // a stream that sends nothing
	for _, c := range w.nodes {
		c.stopGossip()
	}
	testwait.Until(t, "all goroutines have ended", func() string {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		for one := range strings.SplitSeq(string(stacks), "\n\n") {
			if strings.Contains(one, "hashicorp/memberlist.") || strings.Contains(one, "gossip.(*Gossip") {
				return one
			}
		}
		return ""
	})
}
