//go:build soak

package scenarios

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"palisade/internal/lab"
	"palisade/internal/lab/labtest"
	"palisade/internal/netns"
)

// peerPort is where the nodes speak TCP: Raft, calls, the exchange of keys. Gossip and
// tunnels have the ports behind it.
const peerPort = 7400

// TestSoakNoLeader takes the leader from everybody for two minutes: every node drops what
// arrives by TCP at, or from, the port of Raft; gossip and tunnels go on. Across nodes, both
// ways, a connection from before keeps echoing, a friend's new ones succeed, and a
// foe's never do. The API says that it cannot decide. When the cut is healed, it can.
func TestSoakNoLeader(t *testing.T) {
	const (
		cut      = 2 * time.Minute
		settles  = 10 * time.Second // until every node must have noticed
		writable = 10 * time.Second
		port     = 9000
	)
	if soakNodes(t) < 3 {
		t.Fatalf("PALISADE_SOAK_NODES=%d: a cluster of one always has a leader", soakNodes(t))
	}
	l := newSoakLab(t, "soaknoleader")
	api := l.api("mary")
	l.groups(api, "target", "friend", "foe")
	_, err := api.authorize("target",
		soakRule{protocol: "udp", port: port, group: "friend"},
		soakRule{protocol: "tcp", port: port, group: "friend"},
		soakRule{protocol: "tcp", port: 80, group: "friend"})
	if err != nil {
		t.Fatal(err)
	}
	led := l.leader()
	nodes := []string{led, l.others(led)[0]}
	placed := l.launchIn(api, nodes, "target", "friend", "foe")
	volley := newVolley(t, placed, nodes, port)
	labtest.Eventually(l.t, "what is allowed arrives", func() bool { return volley.try() })

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	var echoes []*echo
	var visits []*visitor
	for i, node := range nodes {
		friend, target := placed["friend"][node], placed["target"][nodes[1-i]]
		e := l.echo(friend, target, port)
		v := &visitor{friend.Namespace, target.PrivateAddress + ":80", 0, nil}
		echoes, visits = append(echoes, e), append(visits, v)
		wg.Go(func() { e.runEcho(ctx, 100*time.Millisecond) })
		wg.Go(func() { v.runVisits(ctx, 250*time.Millisecond) })
	}
	wg.Go(func() { pace(ctx, 2*time.Millisecond, volley.shoot) })
	defer wg.Wait()
	defer stop()

	drop := fmt.Sprintf("add table inet soak; add chain inet soak in { type filter hook input priority raw; }; "+
		"add rule inet soak in tcp dport %d drop; add rule inet soak in tcp sport %d drop", peerPort, peerPort)
	for _, n := range l.nodes {
		l.must(n.Name, "nft", drop)
	}
	begin := time.Now()
	for since := range ticks(t, 5*time.Second, begin) {
		if since > cut {
			break
		}
		if since < settles {
			continue
		}
		for _, n := range l.nodes {
			at := api.at(t, n.API)
			at.client.Timeout = 5 * time.Second
			rule := soakRule{protocol: "tcp", port: 10000 + int(since.Seconds()), cidr: "203.0.113.1/32"}
			_, err := at.authorize("target", rule)
			if r, ok := errors.AsType[*refusal](err); !ok || r.Code != "Unavailable" {
				t.Errorf("authorize at %s, %v after the cut: %v; Unavailable is due", n.Name, since.Round(time.Second), err)
			} else if since < settles+5*time.Second {
				t.Logf("%s: %s", n.Name, r.Message)
			}
			if _, err := at.rules(); err == nil {
				t.Errorf("describe at %s, %v after the cut: it answered", n.Name, since.Round(time.Second))
			}
		}
	}
	for _, n := range l.nodes {
		l.must(n.Name, "nft", "delete table inet soak")
	}
	healed := time.Now()
	var again time.Duration
	for since := range ticks(t, 50*time.Millisecond, healed) {
		if _, err = api.authorize("target", soakRule{protocol: "tcp", port: 20000 + int(since.Milliseconds()), cidr: "203.0.113.1/32"}); err == nil {
			again = time.Since(healed)
			break
		}
		if since > 3*writable {
			t.Errorf("not writable %v after the heal: %v", since, err)
			break
		}
	}
	stop()
	wg.Wait()

	sent, loss := volley.len(), volley.lost()
	var worst time.Duration
	echoed, made := 0, 0
	for _, e := range echoes {
		echoed += len(e.took)
		worst = max(worst, percentile(e.took, 100))
		if e.err != nil {
			t.Errorf("the connection from before: %v", e.err)
		}
	}
	for _, v := range visits {
		made += v.made
		if len(v.failed) > 0 {
			t.Errorf("%d of %d new permitted connections failed, the first: %v", len(v.failed), v.made+len(v.failed), v.failed[0])
		}
	}
	t.Logf("no leader for %v, %d nodes: %d echoes on connections from before, the slowest %s ms; %d new connections made; "+
		"%d probes, %d admitted wrongly, %d of %d allowed lost; writable %s ms after the heal",
		cut, len(l.nodes), echoed, ms(worst), made, sent, volley.wrong.Load(), len(loss), sent/2, ms(again))
	if n := volley.wrong.Load(); n > 0 {
		t.Errorf("%d forbidden probes arrived", n)
	}
	if sent < 20_000 || echoed < 1000 || made < 500 {
		t.Errorf("void: %d probes, %d echoes, %d new connections", sent, echoed, made)
	}
	if len(loss) > sent/200 {
		t.Errorf("%d of %d allowed probes were lost", len(loss), sent/2)
	}
	if again > writable {
		t.Errorf("writable %v after the heal, at most %v", again, writable)
	}
}

func (v *volley) len() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.sent)
}

// ticks yields the time since begin, every interval, until the loop ends.
func ticks(t *testing.T, interval time.Duration, begin time.Time) func(func(time.Duration) bool) {
	return func(yield func(time.Duration) bool) {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for yield(time.Since(begin)) {
			select {
			case <-tick.C:
			case <-t.Context().Done():
				return
			}
		}
	}
}

// An echo is one TCP connection that is used all the time.
type echo struct {
	conn net.Conn
	took []time.Duration
	err  error // that ended it
}

// echo connects one instance to a listener in another.
func (l *soakLab) echo(from, to lab.InstanceStatus, port uint16) *echo {
	l.t.Helper()
	address := netip.AddrPortFrom(netip.MustParseAddr(to.PrivateAddress), port)
	var listener *net.TCPListener
	l.inside(to, func() (err error) {
		listener, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(address))
		return err
	})
	l.t.Cleanup(func() { listener.Close() })
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			_, _ = io.Copy(conn, conn)
			conn.Close()
		}
	}()
	e := &echo{}
	l.inside(from, func() (err error) {
		e.conn, err = net.DialTimeout("tcp4", address.String(), 10*time.Second)
		return err
	})
	l.t.Cleanup(func() { e.conn.Close() })
	return e
}

// runEcho sends a line every interval and waits for it to come back.
func (e *echo) runEcho(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	back := bufio.NewReader(e.conn)
	for ; ctx.Err() == nil; <-tick.C {
		sent := time.Now()
		line := fmt.Sprintf("line %d\n", len(e.took))
		e.err = errors.Join(e.conn.SetDeadline(sent.Add(10*time.Second)), second(io.WriteString(e.conn, line)))
		if e.err == nil {
			var got string
			if got, e.err = back.ReadString('\n'); e.err == nil && got != line {
				e.err = fmt.Errorf("%q came back for %q", got, line)
			}
		}
		if e.err != nil {
			return
		}
		e.took = append(e.took, time.Since(sent))
	}
}

func second(_ int, err error) error { return err }

// A visitor makes one connection after another, as any client would.
type visitor struct {
	namespace string
	address   string
	made      int
	failed    []error
}

func (v *visitor) runVisits(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for ; ctx.Err() == nil; <-tick.C {
		err := netns.Do(v.namespace, func() error {
			conn, err := net.DialTimeout("tcp4", v.address, 5*time.Second)
			if err == nil {
				err = conn.Close()
			}
			return err
		})
		if err != nil {
			v.failed = append(v.failed, fmt.Errorf("%s: %w", time.Now().Format(time.TimeOnly), err))
			continue
		}
		v.made++
	}
}
