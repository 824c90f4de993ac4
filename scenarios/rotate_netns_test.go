package scenarios

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"palisade/internal/lab"
	"palisade/internal/lab/labtest"
	"palisade/internal/netns"
	"palisade/internal/node/control"
)

const (
	rotateTCP = 5001 // an echo server in each instance
	rotateUDP = 5002 // where the packets of the instance on the fenced node arrive
	// echoWithin is how long an echo may take before its connection counts as lost. It covers several
	// retransmissions.
	echoWithin = 10 * time.Second
)

// A rotateFlow is a TCP connection between instances of two nodes, on which messages are echoed.
type rotateFlow struct {
	from, to string // nodes
	conn     net.Conn
	echoes   atomic.Int64
	lost     atomic.Pointer[error]
}

// runEchoes sends messages until the connection is closed, and notes the error of one that does not come
// back.
func (f *rotateFlow) runEchoes() {
	out, in := make([]byte, 64), make([]byte, 64)
	for i := 0; ; i++ {
		copy(out, fmt.Sprintf("%s > %s, message %d", f.from, f.to, i))
		_ = f.conn.SetDeadline(time.Now().Add(echoWithin))
		_, err := f.conn.Write(out)
		if err == nil {
			_, err = io.ReadFull(f.conn, in)
		}
		if err == nil && string(in) != string(out) {
			err = fmt.Errorf("the echo of %q is %q", out, in)
		}
		if err != nil {
			f.lost.Store(&err)
			return
		}
		f.echoes.Add(1)
		time.Sleep(5 * time.Millisecond)
	}
}

// A rotateTest is a lab with flows between its nodes.
type rotateTest struct {
	*testing.T
	lab   *labtest.Lab
	at    map[string]lab.InstanceStatus // an instance of each node
	flows []*rotateFlow

	sent, arrived atomic.Int64 // UDP packets of the node that will be fenced
}

// TestKeysAreReplacedUnderFlows: TCP connections between instances of different nodes carry data while each
// kind of key is replaced by hand, and while a voter is fenced, which replaces them all again. No connection
// between the other nodes may be lost. Once the fence is enforced, no packet of the fenced node may arrive,
// although its daemon still runs and sends with the keys that it had.
func TestKeysAreReplacedUnderFlows(t *testing.T) {
	r := &rotateTest{T: t, lab: labtest.Up(t, "rotate", "--nodes", "4"), at: map[string]lab.InstanceStatus{}}
	for tries := 0; len(r.at) < 4; tries++ {
		if tries == 12 {
			t.Fatalf("12 instances are on %d of 4 nodes", len(r.at))
		}
		in := r.lab.Launch(t)
		r.at[in.Node] = in
	}
	fenced := "node3" // a voter
	stay := []string{"node1", "node2", "node4"}
	r.open(stay)
	r.flood(fenced, stay[0])

	for _, kind := range []string{"gossip", "tunnels", "secrets", "ca"} {
		if out := r.lab.Do(t, "cluster", "rotate", kind); !strings.Contains(out, kind+": replaced on every node") {
			t.Errorf("cluster rotate %s says\n%s", kind, out)
		}
		r.alive("the rotation of " + kind)
	}
	if r.arrived.Load() == 0 {
		t.Fatalf("of %d packets of %s none arrived before the fence, so the test checks nothing", r.sent.Load(), fenced)
	}
	out := r.lab.Do(t, "cluster", "fence", fenced, "--yes")
	if !strings.Contains(out, "Replace them: ") {
		t.Errorf("fencing a voter does not list the access keys to replace:\n%s", out)
	}
	var s control.ClusterStatus
	labtest.Eventually(t, "the fence is enforced", func() bool {
		s = r.status()
		return s.Enforced
	})
	sent, arrived := r.sent.Load(), r.arrived.Load()
	refused := r.unknown(stay[0])
	labtest.Eventually(t, "all keys are replaced without the fenced node", func() bool {
		s = r.status()
		return len(s.Rotations) == 0
	})
	r.alive("the fence and the rotations that it caused")
	labtest.Eventually(t, "the fenced node has sent 100 packets more", func() bool { return r.sent.Load() >= sent+100 })
	if late := r.arrived.Load() - arrived; late != 0 {
		t.Errorf("%d packets of the fenced node arrived after the fence, want 0", late)
	}
	if more := r.unknown(stay[0]) - refused; more == 0 {
		t.Errorf("%s refused no datagram of the fenced node, so its daemon sent none and the test checks nothing", stay[0])
	} else {
		t.Logf("before the fence %d of %d packets of %s arrived; after it 0 of %d, and %d datagrams were refused", arrived, sent, fenced, r.sent.Load()-sent, more)
	}
	if len(s.Exposed) == 0 {
		t.Error("cluster status does not list the access keys to replace")
	}
	r.open(stay[:2]) // a new connection
	r.alive("a new connection")
}

func (r *rotateTest) status() (s control.ClusterStatus) {
	r.Helper()
	if err := json.Unmarshal([]byte(r.lab.Do(r, "cluster", "status", "--node", "node1", "--json")), &s); err != nil {
		r.Fatal(err)
	}
	return s
}

// unknown returns how many datagrams a node has refused because it has no keys with the sender.
func (r *rotateTest) unknown(node string) (count uint64) {
	r.Helper()
	out := r.lab.Do(r, "drops", "--json")
	for strings.HasPrefix(out, "palisade: ") { // the fenced node does not answer any more
		_, out, _ = strings.Cut(out, "\n")
	}
	var ports []control.PortDrops
	if err := json.Unmarshal([]byte(out), &ports); err != nil {
		r.Fatal(err)
	}
	for _, p := range ports {
		for _, v := range p.Verdicts {
			if string(p.Node) == node && v.Verdict == "tunnel-unknown" {
				count += v.Packets
			}
		}
	}
	return count
}

// open begins a flow from each of the nodes to each other.
func (r *rotateTest) open(nodes []string) {
	r.Helper()
	servers := map[string]net.Listener{}
	for _, node := range nodes {
		servers[node] = r.listen(node)
	}
	for _, from := range nodes {
		for _, to := range nodes {
			if from == to {
				continue
			}
			f := &rotateFlow{from: from, to: to}
			err := netns.Do(r.at[from].Namespace, func() (err error) {
				f.conn, err = net.DialTimeout("tcp4", fmt.Sprint(r.at[to].PrivateAddress, ":", servers[to].Addr().(*net.TCPAddr).Port), echoWithin)
				return err
			})
			if err != nil {
				r.Fatalf("%s > %s: %v", from, to, err)
			}
			r.flows = append(r.flows, f)
			var wg sync.WaitGroup
			wg.Go(f.runEchoes)
			r.Cleanup(func() {
				f.conn.Close() // ends runEchoes
				wg.Wait()
			})
		}
	}
}

// listen runs an echo server in the instance of a node.
func (r *rotateTest) listen(node string) net.Listener {
	r.Helper()
	var l net.Listener
	err := netns.Do(r.at[node].Namespace, func() (err error) {
		l, err = net.Listen("tcp4", fmt.Sprint(":", rotateTCP+10*len(r.flows)))
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	return l
}

// flood sends UDP packets from an instance of one node to one of another, until the test ends.
func (r *rotateTest) flood(from, to string) {
	r.Helper()
	var in net.PacketConn
	var out net.Conn
	err := netns.Do(r.at[to].Namespace, func() (err error) {
		in, err = net.ListenPacket("udp4", fmt.Sprint(":", rotateUDP))
		return err
	})
	if err == nil {
		err = netns.Do(r.at[from].Namespace, func() (err error) {
			out, err = net.Dial("udp4", fmt.Sprint(r.at[to].PrivateAddress, ":", rotateUDP))
			return err
		})
	}
	if err != nil {
		r.Fatal(err)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for b := make([]byte, 64); ; {
			if _, _, err := in.ReadFrom(b); err != nil {
				return
			}
			r.arrived.Add(1)
		}
	})
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(2 * time.Millisecond):
			}
			if _, err := out.Write([]byte("from the node that is fenced")); err == nil {
				r.sent.Add(1)
			}
		}
	})
	r.Cleanup(func() {
		close(done)
		in.Close()
		out.Close()
		wg.Wait()
	})
}

// alive checks that every flow has echoed since the call and that none was lost.
func (r *rotateTest) alive(during string) {
	r.Helper()
	before := map[*rotateFlow]int64{}
	for _, f := range r.flows {
		before[f] = f.echoes.Load()
	}
	labtest.Eventually(r, "every flow goes on after "+during, func() bool {
		return !slices.ContainsFunc(r.flows, func(f *rotateFlow) bool { return f.lost.Load() == nil && f.echoes.Load() < before[f]+3 })
	})
	lost := 0
	for _, f := range r.flows {
		if err := f.lost.Load(); err != nil {
			r.Errorf("during %s the connection %s > %s was lost: %v", during, f.from, f.to, *err)
			lost++
		}
	}
	r.Logf("%s: %d of %d connections lost", during, lost, len(r.flows))
}
