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

// peerPort is the TCP port on which nodes speak Raft, call each other and exchange keys. Gossip and tunnels
// use the next two ports.
const peerPort = 7400

const (
	// leaderless is how long TestSoakTrafficContinuesWithoutLeader keeps the cluster without a leader.
	leaderless = 2 * time.Minute
	// settlesWithin bounds the time from the cut until every node knows that there is no leader.
	settlesWithin = 10 * time.Second
	// writableWithin bounds the time from the end of the cut until a change is accepted.
	writableWithin = 10 * time.Second
)

// TestSoakTrafficContinuesWithoutLeader leaves the cluster without a leader for two minutes: every node drops
// TCP packets to and from the port of Raft. Gossip and tunnels still work. Meanwhile, between two nodes in
// both directions, an existing connection must keep echoing, new connections of a friend must succeed, and
// probes of a foe must not arrive. The API must answer Unavailable. When the nodes no longer drop the
// packets, the API must accept changes again.
func TestSoakTrafficContinuesWithoutLeader(t *testing.T) {
	if soakNodes(t) < 3 {
		t.Fatalf("PALISADE_SOAK_NODES=%d: a cluster of one always has a leader", soakNodes(t))
	}
	l := newSoakLab(t, "soaknoleader")
	api := l.api("mary")
	l.groups(api, "target", "friend", "foe")
	_, err := api.authorize("target",
		soakRule{protocol: "udp", port: volleyPort, group: "friend"},
		soakRule{protocol: "tcp", port: volleyPort, group: "friend"},
		soakRule{protocol: "tcp", port: 80, group: "friend"})
	if err != nil {
		t.Fatal(err)
	}
	led := l.leader()
	nodes := []string{led, l.others(led)[0]}
	placed := l.launchIn(api, nodes, "target", "friend", "foe")
	traffic := &leaderlessTraffic{volley: newVolley(t, placed, nodes, volleyPort)}
	labtest.Eventually(l.t, "allowed probes arrive", func() bool { return traffic.volley.try() })

	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for i, node := range nodes {
		friend, target := placed["friend"][node], placed["target"][nodes[1-i]]
		e := l.echo(friend, target, volleyPort)
		v := &visitor{friend.Namespace, target.PrivateAddress + ":80", 0, nil}
		traffic.echoes, traffic.visitors = append(traffic.echoes, e), append(traffic.visitors, v)
		wg.Go(func() { e.runEcho(ctx, 100*time.Millisecond) })
		wg.Go(func() { v.runVisits(ctx, 250*time.Millisecond) })
	}
	wg.Go(func() { pace(ctx, 2*time.Millisecond, traffic.volley.shoot) })

	drop := fmt.Sprintf("add table inet soak; add chain inet soak in { type filter hook input priority raw; }; "+
		"add rule inet soak in tcp dport %d drop; add rule inet soak in tcp sport %d drop", peerPort, peerPort)
	for _, n := range l.nodes {
		l.must(n.Name, "nft", drop)
	}
	l.expectUnavailable(api)
	for _, n := range l.nodes {
		l.must(n.Name, "nft", "delete table inet soak")
	}
	again := l.awaitWritable(api)
	stop()
	wg.Wait()
	traffic.check(t, fmt.Sprintf("no leader for %v, %d nodes, writable %s ms after the heal", leaderless, len(l.nodes), ms(again)))
}

// expectUnavailable sends requests to every node for the time leaderless. It fails the test if a node answers
// a request with anything but Unavailable.
func (l *soakLab) expectUnavailable(api *soakAPI) {
	t := l.t
	t.Helper()
	for since := range ticks(t, 5*time.Second, time.Now()) {
		if since > leaderless {
			return
		}
		if since < settlesWithin {
			continue
		}
		for _, n := range l.nodes {
			at := api.at(t, n.API)
			at.client.Timeout = 5 * time.Second
			rule := soakRule{protocol: "tcp", port: 10000 + int(since.Seconds()), cidr: "203.0.113.1/32"}
			_, err := at.authorize("target", rule)
			if r, ok := errors.AsType[*refusal](err); !ok || r.Code != "Unavailable" {
				t.Errorf("authorize at %s, %v after the cut: error %v, want Unavailable", n.Name, since.Round(time.Second), err)
			} else if since < settlesWithin+5*time.Second {
				t.Logf("%s: %s", n.Name, r.Message)
			}
			if _, err := at.rules(); err == nil {
				t.Errorf("describe at %s, %v after the cut: it succeeded, want an error", n.Name, since.Round(time.Second))
			}
		}
	}
}

// awaitWritable waits until the API accepts a change and returns how long that took.
func (l *soakLab) awaitWritable(api *soakAPI) time.Duration {
	t := l.t
	t.Helper()
	begin := time.Now()
	for since := range ticks(t, 50*time.Millisecond, begin) {
		_, err := api.authorize("target", soakRule{protocol: "tcp", port: 20000 + int(since.Milliseconds()), cidr: "203.0.113.1/32"})
		if err == nil {
			break
		}
		if since > 3*writableWithin {
			t.Errorf("%v after the heal the API still accepts no change: %v", since, err)
			break
		}
	}
	again := time.Since(begin)
	if again > writableWithin {
		t.Errorf("the API accepted a change %v after the heal, want at most %v", again, writableWithin)
	}
	return again
}

// leaderlessTraffic is the traffic of TestSoakTrafficContinuesWithoutLeader.
type leaderlessTraffic struct {
	volley   *volley
	echoes   []*echo    // existing connections
	visitors []*visitor // new connections
}

// check logs the results and fails the test if one is wrong.
func (f *leaderlessTraffic) check(t *testing.T, what string) {
	t.Helper()
	sent, loss := f.volley.len(), f.volley.lost()
	var worst time.Duration
	echoed, made := 0, 0
	for _, e := range f.echoes {
		echoed += len(e.took)
		worst = max(worst, percentile(e.took, 100))
		if e.err != nil {
			t.Errorf("an existing connection failed: %v", e.err)
		}
	}
	for _, v := range f.visitors {
		made += v.made
		if len(v.failed) > 0 {
			t.Errorf("%d of %d allowed new connections failed, the first: %v", len(v.failed), v.made+len(v.failed), v.failed[0])
		}
	}
	wrong := f.volley.wrong.Load()
	t.Logf("%s: %d echoes on existing connections, the slowest %s ms; %d new connections; %d probes, %d admitted wrongly, %d of %d allowed lost",
		what, echoed, ms(worst), made, sent, wrong, len(loss), sent/2)
	if wrong > 0 {
		t.Errorf("%d forbidden probes arrived, want 0", wrong)
	}
	if sent < 20_000 || echoed < 1000 || made < 500 {
		t.Errorf("void: %d probes, %d echoes and %d new connections were made, want 20000, 1000 and 500 or more", sent, echoed, made)
	}
	if len(loss) > sent/200 {
		t.Errorf("%d of %d allowed probes were lost, want at most %d", len(loss), sent/2, sent/200)
	}
}

// len returns the number of probes sent.
func (v *volley) len() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.sent)
}

// ticks returns an iterator that yields the time since begin every interval, until t ends.
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

// An echo is a TCP connection whose remote end echoes lines.
type echo struct {
	conn net.Conn
	took []time.Duration
	err  error // the error that ended the exchange; nil: none
}

// echo connects the instance from to a listener in the instance to, and returns the connection.
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

// runEcho sends a line every interval and waits for its echo, until ctx ends or an exchange fails.
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
				e.err = fmt.Errorf("the echo of %q is %q", line, got)
			}
		}
		if e.err != nil {
			return
		}
		e.took = append(e.took, time.Since(sent))
	}
}

// second returns the second of two results.
func second(_ int, err error) error { return err }

// A visitor makes one connection after another.
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
