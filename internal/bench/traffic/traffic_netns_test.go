package traffic

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	vishnetns "github.com/vishvananda/netns"

	"palisade/internal/netns"
	"palisade/internal/netns/netnstest"
)

// TestMain runs the test binary as the process at an endpoint if it was started as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		if err := Serve(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const (
	sinkPort   = 5210
	echoPort   = 5202
	acceptPort = 5203
)

// pair makes two agents at the two ends of a veth pair:
//
//	pal-traffic-PID-client [eth0 192.0.2.1] === [eth0 192.0.2.2] pal-traffic-PID-server
func pair(t *testing.T) (client, server *Agent) {
	netnstest.NeedRoot(t)
	names := []string{fmt.Sprintf("pal-traffic-%d-client", os.Getpid()), fmt.Sprintf("pal-traffic-%d-server", os.Getpid())}
	for _, name := range names {
		if err := netns.New(name); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := netns.Delete(name); err != nil {
				t.Error(err)
			}
		})
	}
	if err := netns.Do(names[0], func() error { return addVeth(names[1]) }); err != nil {
		t.Fatal(err)
	}
	for i, address := range []netip.Addr{clientAddress, serverAddress} {
		if err := netns.Do(names[i], func() error { return configure(address) }); err != nil {
			t.Fatal(err)
		}
	}
	agents := []*Agent{start(t, names[0]), start(t, names[1])}
	err := agents[1].Listen(t.Context(), Listen{Address: serverAddress, Sink: sinkPort, SinkPorts: 2, Echo: echoPort, Accept: acceptPort})
	if err != nil {
		t.Fatal(err)
	}
	return agents[0], agents[1]
}

func addVeth(peer string) error {
	other, err := vishnetns.GetFromPath(netns.Path(peer))
	if err != nil {
		return err
	}
	defer other.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = "eth0", net.HardwareAddr(clientMAC[:])
	return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(other), PeerHardwareAddr: net.HardwareAddr(serverMAC[:])})
}

func configure(address netip.Addr) error {
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	return errors.Join(
		netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(24, 32)}}),
		netlink.LinkSetUp(link))
}

func start(t *testing.T, namespace string) *Agent {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	a, err := NewAgent(exec.Command(self, "serve"), func(cmd *exec.Cmd) error { return netns.Do(namespace, cmd.Start) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// settled waits until the sink has counted want datagrams since before.
func settled(t *testing.T, server *Agent, before Count, want uint64) Count {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := server.Count(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := c.Received + c.Dropped - before.Received - before.Dropped
		if got == want {
			return c
		}
		if got > want || time.Now().After(deadline) {
			t.Fatalf("the sink counts %d datagrams, want %d", got, want)
		}
	}
}

// At a low rate the backlog of a veth pair is never full, so every frame arrives.
func TestSinkCountsEveryFrameThatWasSent(t *testing.T) {
	client, server := pair(t)
	for _, tc := range []struct {
		name        string
		size, flows int
	}{
		{"one flow, smallest frames", 64, 1},
		{"60,000 flows to two ports, largest frames", 1500, 60_000},
	} {
		s := stream64()
		s.Size, s.Flows, s.SinkPorts, s.Rate, s.For = tc.size, tc.flows, 2, 2000, 200*time.Millisecond
		before, err := server.Count(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		sent, err := client.Send(t.Context(), s)
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		after := settled(t, server, before, sent.Offered)
		if after.At <= before.At {
			t.Errorf("the sink's clock went from %v to %v, want it to advance", before.At, after.At)
		}
		// Delays can lower the rate. It may exceed the limit only by the frames of one
		// step.
		if rate := float64(sent.Offered-pacedStep) / sent.Took.Seconds(); sent.Offered == 0 || rate > s.Rate {
			t.Errorf("%s: sent %d frames in %v, want some and at most %v each second", tc.name, sent.Offered, sent.Took, s.Rate)
		}
	}
}

func TestFloodDeliversNoMoreThanItOffers(t *testing.T) {
	client, server := pair(t)
	s := stream64()
	s.For = 100 * time.Millisecond
	before, err := server.Count(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	sent, err := client.Send(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	after, err := server.Count(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := after.Received + after.Dropped - before.Received - before.Dropped
	if got == 0 || got > sent.Offered-sent.Refused {
		t.Errorf("%d frames arrived, want some and at most the %d offered less the %d refused", got, sent.Offered, sent.Refused)
	}
}

// Nobody reads the socket, so its buffer fills up.
func TestDropsOfAFullSocketAreCounted(t *testing.T) {
	client, _ := pair(t)
	namespace := fmt.Sprintf("pal-traffic-%d-server", os.Getpid())
	var fd int
	err := netns.Do(namespace, func() (err error) {
		fd, err = bound(netip.AddrPortFrom(serverAddress, 5230), 2)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s := stream64()
	s.Port, s.Size, s.Rate, s.For = 5230, 1500, 5000, time.Second
	sent, err := client.Send(t.Context(), s) // more bytes than rmem_default
	if err != nil {
		t.Fatal(err)
	}
	drops, err := socketDrops(fd)
	if err != nil || drops == 0 || uint64(drops) > sent.Offered {
		t.Errorf("the socket dropped %d of %d datagrams, %v; want at least 1", drops, sent.Offered, err)
	}
}

func TestAgentMeasuresRoundTripsAndConnections(t *testing.T) {
	client, _ := pair(t)
	for _, protocol := range []string{"udp", "tcp"} {
		l, err := client.RoundTrips(t.Context(), RoundTrips{Protocol: protocol, To: netip.AddrPortFrom(serverAddress, echoPort), Count: 200})
		if err != nil {
			t.Fatal(err)
		}
		if l.P50 <= 0 || l.P99 < l.P50 || l.Count != 200 {
			t.Errorf("%s: got latency %+v, want 200 round trips with a p50 above 0 and a p99 not below it", protocol, l)
		}
	}
	c, err := client.Connect(t.Context(), Connect{To: netip.AddrPortFrom(serverAddress, acceptPort), Parallel: 8, For: 200 * time.Millisecond})
	if err != nil || c.Made == 0 || c.Failed != 0 {
		t.Errorf("Connect returned %+v, %v; want connections and no failure", c, err)
	}
	// No server listens on this port: the request fails, and the process continues.
	if _, err := client.Connect(t.Context(), Connect{To: netip.AddrPortFrom(serverAddress, 9), Parallel: 1, For: time.Millisecond}); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("connections to a closed port: got error %v, want a refusal", err)
	}
	if _, err := client.RoundTrips(t.Context(), RoundTrips{Protocol: "udp", To: netip.AddrPortFrom(serverAddress, echoPort), Count: 1}); err != nil {
		t.Error(err)
	}
}

func TestAgentKillsItsProcessWhenTheContextEnds(t *testing.T) {
	client, _ := pair(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	s := stream64()
	s.For = time.Hour
	if _, err := client.Send(ctx, s); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Send returned %v, want the error of the deadline", err)
	}
	if _, err := client.Count(t.Context()); err == nil {
		t.Error("the killed process still answers")
	}
}
