//go:build soak

package scenarios

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"palisade/internal/lab"
	"palisade/internal/lab/labtest"
	"palisade/internal/netns"
)

// TestSoakReusedAddressInheritsNoAccess gives the addresses of terminated instances to new ones, again and
// again, because the pool has no other free addresses. Of two instances that have the same address one after
// the other, the target admits the first, and the group of the first admits the target. The first has an
// open connection to the target when it is terminated. The target does not admit the second. From its start,
// the second sends to the target
//
//   - SYNs from the source ports that the first used, and
//   - segments of the first one's connection.
//
// The target sends probes to the address all the time. No probe to or from the second may arrive.
func TestSoakReusedAddressInheritsNoAccess(t *testing.T) {
	t.Run("quarantine 1s", func(t *testing.T) {
		l := newSoakLab(t, "soakreuse", "--classic-pool", "10.10.0.0/28", "--quarantine", "1s")
		l.reuse(4, 25, time.Second)
	})
	t.Run("quarantine 60s", func(t *testing.T) {
		l := newSoakLab(t, "soakreuse", "--classic-pool", "10.10.0.0/28")
		l.reuse(1, 1, time.Minute)
	})
}

// A reuser is the state that the goroutines of the test share. The mutex guards the fields after it.
type reuser struct {
	*soakLab
	api    *soakAPI
	target netip.AddrPort

	mu      sync.Mutex
	tenants []*tenant             // index: serial
	ports   map[netip.Addr]uint16 // source port of the last held connection, by address
	wrong   []string              // descriptions of probes that should not have arrived
}

// A tenant is one of the instances that have the same address one after the other.
type tenant struct {
	soakInstance
	group   string
	serial  int
	address netip.Addr
	prober  *prober
	held    net.Conn // the connection of a privileged tenant
	port    uint16   // the source port of held; in a common tenant, of the last privileged tenant's

	stop context.CancelFunc
	done chan struct{}

	sent    int // probes that it sent; the reuser's mutex guards this and the next two fields
	arrived int // probes that it sent and that arrived at the target
	visited int // probes of the target that arrived at it
	err     error
}

const (
	privileged = "privileged"
	common     = "common"
	heldPort   = 40000 // source port of the first held connection, above those of probes
	reusePorts = 1000  // number of source ports of probes, from firstProbePort on
	targetPort = 8000
)

// reuse gives addresses to privileged and common instances by turns. lanes is the number of addresses. In each
// of rounds, each address has one instance of either group.
func (l *soakLab) reuse(lanes, rounds int, quarantine time.Duration) {
	t := l.t
	r := &reuser{soakLab: l, api: l.api("mary"), ports: map[netip.Addr]uint16{}}
	l.groups(r.api, "target", privileged, common)
	for group, rule := range map[string]soakRule{
		"target":   {protocol: "tcp", port: targetPort, group: privileged},
		privileged: {protocol: "tcp", port: 80, group: "target"},
	} {
		if _, err := r.api.authorize(group, rule); err != nil {
			t.Fatal(err)
		}
	}
	node := l.leader()
	target := l.launchIn(r.api, []string{node}, "target")["target"][node]
	r.target = netip.AddrPortFrom(netip.MustParseAddr(target.PrivateAddress), targetPort)
	r.hold(target)
	watch(t, target, targetPort, r.seen)
	lane := r.fill(lanes)

	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	fromTarget := proberAt(t, target)
	number := uint32(0)
	wg.Go(func() {
		pace(ctx, 2*time.Millisecond, func() {
			// An error does not matter: a probe that was not sent does not arrive.
			_ = fromTarget.syn(netip.AddrPortFrom(lane[int(number)%len(lane)], 80), number)
			number++
		})
	})

	begin, freed := time.Now(), time.Now()
	var rests []time.Duration
	reused, probes, reached := 0, 0, 0
	for round := range rounds {
		for _, group := range []string{privileged, common} {
			tenants := r.launch(group, lanes)
			rests = append(rests, time.Since(freed))
			for _, x := range tenants {
				if !slices.Contains(lane, x.address) {
					t.Fatalf("round %d: instance %s has the address %v, want one of %v", round, x.ID, x.address, lane)
				}
			}
			r.settle(tenants)
			for _, x := range tenants {
				switch group {
				case privileged:
					reached += x.arrived
				case common:
					reused++
					probes += x.sent
				}
			}
			freed = r.terminate(tenants)
		}
		if r.mu.Lock(); len(r.wrong) > 0 {
			t.Errorf("round %d: %d probes arrived although no rule admits them:\n%s", round, len(r.wrong), strings.Join(r.wrong[:min(10, len(r.wrong))], "\n"))
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
	}
	t.Logf("address reuse, %d nodes, quarantine %v: %d addresses reused in %v, %d probes of common instances, 0 arrived; "+
		"%d probes of privileged ones arrived; an address was unused for %s to %s s",
		len(l.nodes), quarantine, reused, time.Since(begin).Round(time.Second), probes, reached,
		fmt.Sprintf("%.2f", percentile(rests[1:], 0).Seconds()), fmt.Sprintf("%.2f", percentile(rests[1:], 100).Seconds()))
	if shortest := percentile(rests[1:], 0); shortest < quarantine {
		t.Errorf("an address was leased again after %v, want %v or more, the quarantine", shortest, quarantine)
	}
	if probes < 100*reused {
		t.Errorf("void: common instances sent %d probes on %d reused addresses, want %d or more", probes, reused, 100*reused)
	}
}

// hold accepts connections in the target and keeps them open. The target sends nothing on them, not even
// keepalives, because these could reach a common instance.
func (r *reuser) hold(target lab.InstanceStatus) {
	var listener net.Listener
	r.inside(target, func() (err error) {
		quiet := net.ListenConfig{KeepAlive: -1}
		listener, err = quiet.Listen(r.t.Context(), "tcp4", r.target.String())
		return err
	})
	var wg sync.WaitGroup
	r.t.Cleanup(func() {
		listener.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
		}
	})
}

// fill launches instances until the pool has no free address. Then it terminates as many as there are lanes, and
// returns their addresses.
func (r *reuser) fill(lanes int) []netip.Addr {
	t := r.t
	var all []soakInstance
	for {
		list, err := tryRun(r.api, "default", "", 1)
		if full(err) {
			break
		}
		if err != nil {
			t.Fatalf("fill the pool: %v", err)
		}
		all = append(all, list...)
	}
	if len(all) <= lanes {
		t.Fatalf("the pool has %d addresses, want more than %d, the number of lanes", len(all), lanes)
	}
	labtest.Eventually(r.t, "the pool's instances run", func() bool {
		return !slices.ContainsFunc(r.Status(r.t).Instances, func(in lab.InstanceStatus) bool { return in.State != "running" })
	})
	var lane []netip.Addr
	var ids []string
	for _, in := range r.Status(r.t).Instances {
		i := slices.IndexFunc(all, func(x soakInstance) bool { return x.ID == in.ID })
		if i >= 0 && len(ids) < lanes {
			ids = append(ids, in.ID)
			lane = append(lane, netip.MustParseAddr(in.PrivateAddress))
		}
	}
	r.terminateIDs(ids)
	return lane
}

// full reports whether err is the API's answer that no address is free.
func full(err error) bool {
	answer, ok := errors.AsType[*refusal](err)
	return ok && strings.HasPrefix(answer.Code, "Insufficient")
}

// launch starts count instances of a group as soon as addresses are free, and sends probes from each as
// soon as it has a network.
func (r *reuser) launch(group string, count int) []*tenant {
	t := r.t
	var list []soakInstance
	for since := range ticks(t, 100*time.Millisecond, time.Now()) {
		var err error
		list, err = tryRun(r.api, group, "", count)
		if err == nil {
			break
		}
		if !full(err) || since > 90*time.Second {
			t.Fatalf("launch %d instances in group %s after %v: %v", count, group, since, err)
		}
	}
	var tenants []*tenant
	for _, in := range list {
		ctx, stop := context.WithCancel(t.Context())
		x := &tenant{soakInstance: in, group: group, stop: stop, done: make(chan struct{})}
		t.Cleanup(stop)
		r.mu.Lock()
		x.serial = len(r.tenants)
		r.tenants = append(r.tenants, x)
		r.mu.Unlock()
		ready := make(chan struct{})
		go func() {
			defer close(x.done)
			r.runTenant(ctx, x, ready)
		}()
		tenants = append(tenants, x)
		defer func() {
			if <-ready; x.err != nil {
				t.Fatalf("%s in %s: %v", x.ID, group, x.err)
			}
		}()
	}
	return tenants
}

func (r *reuser) namespace(x *tenant) string { return r.Name + "-" + x.ID }

// runTenant sends probes from an instance until ctx ends. It closes ready when x has its address and prober,
// or x.err says why not.
func (r *reuser) runTenant(ctx context.Context, x *tenant, ready chan struct{}) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; <-tick.C {
		if x.address, x.err = addressIn(r.namespace(x)); x.err == nil {
			break
		}
		if time.Now().After(deadline) {
			close(ready)
			return
		}
	}
	if x.prober, x.err = newProber(r.namespace(x), x.address); x.err != nil {
		close(ready)
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer x.prober.close()
	_ = x.prober.tcp.SetReadBuffer(1 << 20) // runVisited reads from it; newProber made the buffer minimal
	wg.Go(func() { r.runVisited(x) })
	r.mu.Lock()
	if x.group == privileged {
		// Use a new port, because the target still has the connections of earlier tenants.
		r.ports[x.address] = heldPort + uint16(x.serial)
	}
	x.port = r.ports[x.address]
	r.mu.Unlock()
	close(ready)
	n := 0
	pace(ctx, 2*time.Millisecond, func() {
		number := uint32(x.serial)<<16 | uint32(n)&0xffff
		err := x.prober.segment(uint16(firstProbePort+n%reusePorts), r.target, number, flagSYN)
		if x.group == common {
			err = errors.Join(err, x.prober.segment(x.port, r.target, number, flagACK))
		}
		n++
		if err == nil {
			r.mu.Lock()
			x.sent++
			r.mu.Unlock()
		}
	})
}

// runVisited counts the target's probes that arrive at a tenant, until the tenant's prober is closed. It
// skips other segments, because the target's kernel may answer what this tenant sends on the former
// tenant's connection.
func (r *reuser) runVisited(x *tenant) {
	buffer := make([]byte, 2048)
	for {
		n, _, err := x.prober.tcp.ReadFromIP(buffer)
		if err != nil {
			return
		}
		if n < 20 || binary.BigEndian.Uint16(buffer[14:]) != probeWindow {
			continue
		}
		r.mu.Lock()
		x.visited++
		if x.group == common {
			r.wrong = append(r.wrong, fmt.Sprintf("a probe of the target reached %s, on %v, although no rule admits it", x.ID, x.address))
		}
		r.mu.Unlock()
	}
}

// addressIn returns the private address of the instance with this namespace, or an error if its network is
// not configured yet.
func addressIn(namespace string) (address netip.Addr, err error) {
	if !netns.Exists(namespace) {
		return address, fmt.Errorf("no namespace %s", namespace)
	}
	err = netns.Do(namespace, func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := link.Addrs()
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().Is4() {
				address = prefix.Addr()
				return nil
			}
		}
		return errors.New("eth0 has no IPv4 address yet")
	})
	return address, err
}

// seen records that a probe arrived at the target.
func (r *reuser) seen(a arrival) {
	r.mu.Lock()
	defer r.mu.Unlock()
	serial := int(a.number >> 16)
	if serial >= len(r.tenants) {
		return
	}
	x := r.tenants[serial]
	x.arrived++
	if x.group == common {
		r.wrong = append(r.wrong, fmt.Sprintf("a probe of %s, which is not in the privileged group, reached the target from %v, port %d (%d probes of that instance have arrived)", x.ID, a.from, a.port, x.arrived))
	}
}

// settle waits until each privileged tenant has exchanged probes with the target, and each common tenant has sent
// 200 probes. Then it opens a connection from each privileged tenant to the target.
func (r *reuser) settle(tenants []*tenant) {
	for _, x := range tenants {
		enough := func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return x.group == common && x.sent >= 200 || x.group == privileged && x.arrived > 0 && x.visited > 0
		}
		labtest.Eventually(r.t, fmt.Sprintf("instance %s, on %v in group %s, has sent and received enough probes", x.ID, x.address, x.group), enough)
		if x.group != privileged {
			continue
		}
		err := netns.Do(r.namespace(x), func() (err error) {
			d := net.Dialer{Timeout: 10 * time.Second, KeepAlive: -1, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(x.address, x.port))}
			x.held, err = d.Dial("tcp4", r.target.String())
			return err
		})
		if err != nil {
			r.t.Fatalf("connect from %s to the target: %v", x.ID, err)
		}
	}
}

// terminate terminates the tenants, which send probes until their end. It waits until their namespaces are
// removed, and returns the time at which the API acknowledged the termination.
func (r *reuser) terminate(tenants []*tenant) time.Time {
	var ids []string
	for _, x := range tenants {
		ids = append(ids, x.ID)
	}
	at := r.terminateIDs(ids)
	labtest.Eventually(r.t, "the namespaces of the terminated instances are removed", func() bool {
		return !slices.ContainsFunc(tenants, func(x *tenant) bool { return netns.Exists(r.namespace(x)) })
	})
	for _, x := range tenants {
		x.stop()
		<-x.done
		if x.held != nil {
			x.held.Close() // the open socket has kept the namespace, which has no name any more
		}
	}
	return at
}

func (r *reuser) terminateIDs(ids []string) time.Time {
	r.t.Helper()
	params := url.Values{}
	for i, id := range ids {
		params.Set(fmt.Sprintf("InstanceId.%d", i+1), id)
	}
	at, err := r.api.call("TerminateInstances", params, nil)
	if err != nil {
		r.t.Fatalf("terminate %v: %v", ids, err)
	}
	return at
}
