package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"palisade/internal/netns"
	"palisade/internal/packet"
	"palisade/internal/process"
)

const (
	mtu       = 1500
	iperfPort = 5201
	echoPort  = 5202
	ruleCount = 100
)

// The two endpoints of every contestant; each contestant is a world of its own.
var (
	onLink = netip.MustParsePrefix("10.10.0.0/24")
	client = endpoint{role: "client", address: netip.MustParseAddr("10.10.0.4"), mac: packet.MAC{2, 0, 0, 0, 0, 4}}
	server = endpoint{role: "server", address: netip.MustParseAddr("10.10.0.5"), mac: packet.MAC{2, 0, 0, 0, 0, 5}}
)

type endpoint struct {
	role    string
	address netip.Addr
	mac     packet.MAC
}

// A Contestant is two endpoints and what is between them. One goroutine uses it; close
// ends every process and goroutine it started.
type Contestant struct {
	name   string
	about  string
	verify func() error // that the traffic went through what it was meant to go through

	namespaces []string
	servers    []*exec.Cmd
	cleanup    []func() error // in reverse order
}

func (c *Contestant) namespace(role string) string {
	return fmt.Sprintf("%s%d-%s-%s", prefix, os.Getpid(), c.name, role)
}

// make makes a namespace without IPv6, which would announce itself between measurements.
func (c *Contestant) make(role string) error {
	name := c.namespace(role)
	if err := netns.New(name); err != nil {
		return err
	}
	c.namespaces = append(c.namespaces, name)
	return netns.Do(name, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetUp(lo), setting("net/ipv6/conf/default/disable_ipv6", "1"), setting("net/ipv6/conf/all/disable_ipv6", "1"))
	})
}

// setting writes a kernel setting of the network namespace the caller is in.
func setting(name, value string) error {
	err := os.WriteFile("/proc/sys/"+name, []byte(value), 0)
	if errors.Is(err, os.ErrNotExist) && strings.Contains(name, "ipv6") {
		return nil
	}
	return err
}

// plug gives an endpoint's device, made before, its addresses.
func (c *Contestant) plug(e endpoint) error {
	return netns.Do(c.namespace(e.role), func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		address := &netlink.Addr{IPNet: &net.IPNet{IP: e.address.AsSlice(), Mask: net.CIDRMask(onLink.Bits(), 32)}}
		return errors.Join(
			netlink.LinkSetHardwareAddr(link, net.HardwareAddr(e.mac[:])),
			netlink.LinkSetMTU(link, mtu),
			netlink.AddrAdd(link, address),
			netlink.LinkSetUp(link))
	})
}

// serve starts what the client talks to and waits until it listens.
func (c *Contestant) serve(ctx context.Context, config Config) error {
	address := server.address.String()
	for port, argv := range map[int][]string{
		iperfPort: {"iperf3", "-4", "-s", "-B", address, "-p", strconv.Itoa(iperfPort)},
		echoPort:  append(append([]string(nil), config.Echo...), "serve", netip.AddrPortFrom(server.address, echoPort).String()),
	} {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		if err := c.start(cmd, server); err != nil {
			return err
		}
		c.servers = append(c.servers, cmd)
		if err := awaitListener(ctx, cmd.Process.Pid, port); err != nil {
			return fmt.Errorf("%s: %w", argv[0], err)
		}
	}
	return nil
}

// start starts a command at an endpoint: a child is in its thread's namespace.
func (c *Contestant) start(cmd *exec.Cmd, at endpoint) error {
	err := netns.Do(c.namespace(at.role), cmd.Start)
	if err != nil {
		return fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	return nil
}

// awaitListener waits until a TCP port is open in the namespace of a process.
func awaitListener(ctx context.Context, pid, port int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	listening := fmt.Sprintf(":%04X 00000000:0000 0A", port)
	for {
		table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
		if err != nil {
			return err
		}
		if strings.Contains(string(table), listening) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("nothing listens on port %d: %w", port, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (c *Contestant) close() error {
	var errs []error
	for _, cmd := range c.servers {
		_ = cmd.Process.Kill() // it may have ended with the context
		_ = cmd.Wait()         // killed is no news
	}
	for i := len(c.cleanup) - 1; i >= 0; i-- {
		errs = append(errs, c.cleanup[i]())
	}
	for _, name := range c.namespaces {
		errs = append(errs, netns.Delete(name))
	}
	return errors.Join(errs...)
}

const (
	prefix    = "pal-bench-"
	arenaPath = "/dev/shm/" + prefix
)

// clearLeftovers removes what runs left behind that were killed.
func clearLeftovers(ctx context.Context) error {
	names, err := netns.List(prefix)
	if err != nil {
		return err
	}
	for _, name := range names {
		if running(strings.TrimPrefix(name, prefix)) {
			continue
		}
		inside, err := netns.Processes(name)
		if err != nil {
			return err
		}
		for _, id := range inside {
			if err := process.Kill(ctx, id); err != nil {
				return err
			}
		}
		if err := netns.Delete(name); err != nil {
			return err
		}
	}
	files, err := filepath.Glob(arenaPath + "*")
	if err != nil {
		return err
	}
	for _, file := range files {
		if !running(strings.TrimPrefix(file, arenaPath)) {
			err = errors.Join(err, os.Remove(file))
		}
	}
	return err
}

// running reports whether the process lives whose number a name begins with.
func running(name string) bool {
	digits, _, _ := strings.Cut(name, "-")
	pid, err := strconv.Atoi(digits)
	if err != nil {
		return true // not ours to remove
	}
	_, err = process.Of(pid)
	return !errors.Is(err, process.ErrGone)
}
