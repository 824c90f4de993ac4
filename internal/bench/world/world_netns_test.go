package world

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"palisade/internal/netns"
	"palisade/internal/netns/netnstest"
	"palisade/internal/process"
)

const (
	patience   = 30 * time.Second       // for an answer that must come
	impatience = 300 * time.Millisecond // for an answer that must not come
	deniedPort = LastPort + 1
)

// build makes a World. At the end of the test it is closed, and must leave nothing behind. If
// CI is set, a program that is not installed is a failure, because `make test` installs all.
func build(t *testing.T, b Builder, c Config) *World {
	t.Helper()
	netnstest.NeedRoot(t)
	if missing := b.Missing(); len(missing) > 0 {
		if os.Getenv("CI") != "" {
			t.Fatalf("CI is set, but these programs are not installed: %s", missing)
		}
		t.Skipf("not installed (make setup-rivals installs it): %s", missing)
	}
	w, err := b.Build(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		expectNothingLeft(t)
	})
	return w
}

func expectNothingLeft(t *testing.T) {
	t.Helper()
	own := fmt.Sprintf("%s%d-", prefix, os.Getpid())
	if left, err := netns.List(own); err != nil || len(left) > 0 {
		t.Errorf("the World left the namespaces %q, want none; %v", left, err)
	}
	if left, _ := filepath.Glob(fmt.Sprintf("%s%d-*", filesPath, os.Getpid())); len(left) > 0 {
		t.Errorf("the World left the files %q, want none", left)
	}
	children, err := process.List(func(pid int) bool {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		return strings.Contains(string(status), fmt.Sprintf("PPid:\t%d\n", os.Getpid()))
	})
	if err != nil || len(children) > 0 {
		t.Errorf("the World left the processes %v, want none; %v", children, err)
	}
}

// A contestant carries the traffic that the policy admits and, if it has a filter, no other.
func TestContestantsEnforceThePolicyOnOneNode(t *testing.T) {
	for _, b := range Contestants(SameNode) {
		t.Run(b.Name, func(t *testing.T) { testContestant(t, b) })
	}
}

func TestContestantsEnforceThePolicyOnTwoNodes(t *testing.T) {
	for _, b := range Contestants(TwoNodes) {
		t.Run(b.Name, func(t *testing.T) { testContestant(t, b) })
	}
}

func testContestant(t *testing.T, b Builder) {
	before, err := CPU()
	if err != nil {
		t.Fatal(err)
	}
	w := build(t, b, Config{})
	filters := b.Name != "relay" && b.Name != "vde2"
	if err := w.Verify(); filters && err == nil {
		t.Error("Verify accepted a World without traffic")
	}
	if err := exchange(w.Client(), w.Server(), "tcp4", FirstPort, "hello\n", patience); err != nil {
		t.Errorf("TCP to an admitted port: %v", err)
	}
	if err := exchange(w.Client(), w.Server(), "udp4", LastPort, "hello\n", patience); err != nil {
		t.Errorf("UDP to an admitted port: %v", err)
	}
	if err := w.Verify(); err != nil {
		t.Errorf("Verify refused a World that carried traffic: %v", err)
	}
	if memory, err := w.Memory(); err != nil || memory <= 0 || memory > 1<<30 {
		t.Errorf("memory is %d bytes, %v; want 1 to 2^30", memory, err)
	} else {
		t.Logf("memory: %.1f MB", float64(memory)/1e6)
	}
	if busy, err := CPU(); err != nil || busy <= before {
		t.Errorf("processor time is %v s, %v; want more than the %v s before", busy, err, before)
	}
	if w.Describe() == "" {
		t.Error("Describe returned no text")
	}
	t.Log(w.Describe())
	for _, network := range []string{"tcp4", "udp4"} {
		if err := exchange(w.Client(), w.Server(), network, deniedPort, "hello\n", impatience); filters && err == nil {
			t.Errorf("%s reached a port that no rule admits", network)
		}
		if err := exchange(w.Server(), w.Client(), network, FirstPort, "hello\n", impatience); filters && err == nil {
			t.Errorf("%s reached the client, to which no rule admits traffic", network)
		}
	}
}

// Each contestant is built with every Config that it supports, and then carries the largest
// packet of its endpoints' devices.
func TestContestantsCarryTheLargestPacketInEachConfig(t *testing.T) {
	large := Config{Rules: 1000, Members: 1000, Ports: 12, MTU: 9000}
	for name, c := range map[string]Config{"large": large, "small": {Rules: 2, Members: 1}, "no offloads": {NoOffloads: true}, "no conntrack": {NoConntrack: true}, "no seal": {NoSeal: true}} {
		for _, b := range slices.Concat(Contestants(SameNode), Contestants(TwoNodes)) {
			c := c
			if !b.Can(Config{Ports: c.Ports}) {
				c.Ports = 0
			}
			if !b.Can(Config{MTU: c.MTU}) {
				c.MTU = 0
			}
			if !b.Can(c) {
				continue
			}
			t.Run(fmt.Sprint(name, "/", b.Placement, "/", b.Name), func(t *testing.T) {
				w := build(t, b, c)
				line := strings.Repeat("x", w.MTU()-28-1) + "\n" // RFC 791, RFC 768: the headers' 28 bytes
				if err := exchange(w.Client(), w.Server(), "udp4", FirstPort, line, patience); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestBuildRefusesImpossibleSizes(t *testing.T) {
	for _, c := range []Config{{Rules: 1}, {Rules: maxRules + 1}, {Members: -1}, {Members: maxMembers + 1}, {Ports: 1}, {Ports: maxPorts + 1}} {
		if w, err := Contestants(SameNode)[0].Build(t.Context(), c); err == nil {
			t.Errorf("Build accepted %+v, want an error", c)
			_ = w.Close()
		}
	}
}

func TestInterruptedBuildLeavesNothingBehind(t *testing.T) {
	netnstest.NeedRoot(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, b := range slices.Concat(Contestants(SameNode), Contestants(TwoNodes)) {
		if w, err := b.Build(ctx, Config{}); err == nil { // this Builder does not check ctx
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		}
		expectNothingLeft(t)
	}
}

// exchange sends a line from one endpoint to another, which echoes it. It tries again until
// an echo arrives or within is over.
func exchange(from, to Endpoint, network string, port uint16, line string, within time.Duration) error {
	at := netip.AddrPortFrom(to.Address, port)
	stop, err := echo(to, network, at)
	if err != nil {
		return err
	}
	defer stop()
	deadline := time.Now().Add(within)
	for {
		err := askFrom(from, network, at, line, min(within, time.Second))
		if err == nil || !time.Now().Before(deadline) {
			return err
		}
	}
}

// askFrom sends a line and reads its echo.
func askFrom(from Endpoint, network string, at netip.AddrPort, line string, within time.Duration) error {
	var conn net.Conn
	if err := netns.Do(from.Namespace, func() (err error) {
		conn, err = net.DialTimeout(network, at.String(), within)
		return err
	}); err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(within))
	if _, err := conn.Write([]byte(line)); err != nil {
		return err
	}
	got, err := bufio.NewReaderSize(conn, len(line)).ReadString('\n')
	if err == nil && got != line {
		err = fmt.Errorf("the echo has %d bytes and differs from the line", len(got))
	}
	return err
}

// echo answers at an endpoint until stop is called.
func echo(e Endpoint, network string, at netip.AddrPort) (stop func(), err error) {
	if network == "udp4" {
		var conn net.PacketConn
		if err := netns.Do(e.Namespace, func() (err error) { conn, err = net.ListenPacket(network, at.String()); return err }); err != nil {
			return nil, err
		}
		go func() {
			b := make([]byte, 1<<16)
			for {
				n, peer, err := conn.ReadFrom(b)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				_, _ = conn.WriteTo(b[:n], peer) // after an error the client tries again
			}
		}()
		return func() { conn.Close() }, nil
	}
	var listener net.Listener
	if err := netns.Do(e.Namespace, func() (err error) { listener, err = net.Listen(network, at.String()); return err }); err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(conn).ReadString('\n')
			_, _ = conn.Write([]byte(line)) // after an error the client tries again
			conn.Close()
		}
	}()
	return func() { listener.Close() }, nil
}
