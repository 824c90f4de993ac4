package instance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// namespaceLimits bound the kernel memory of one network namespace that is charged to no cgroup. The
// instance's root cannot change these limits, because /proc/sys is read-only inside.
var namespaceLimits = map[string]string{
	"core/somaxconn":                      maxBacklog,
	"ipv4/tcp_max_tw_buckets":             "4096",    // connections in TIME-WAIT
	"ipv4/ipfrag_high_thresh":             "4194304", // bytes of fragments to be reassembled; Linux's default
	"ipv6/ip6frag_high_thresh":            "4194304",
	"ipv4/neigh/default/unres_qlen_bytes": "65536", // bytes of packets that wait for a neighbour's answer
}

// maxBacklog is the number of connections of one listener that can wait to be accepted.
const maxBacklog = "128"

// configureNamespace sets loopback up, sets namespaceLimits and disables IPv6 in the network
// namespace of the current thread, which is new.
func configureNamespace() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	for name, value := range namespaceLimits {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	// EC2-Classic has no IPv6. With IPv6 the kernel would send router solicitations and multicast
	// reports, which the switch would count as drops.
	for _, scope := range []string{"all", "default"} {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+scope+"/disable_ipv6", []byte("1"), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("disable IPv6: %w", err)
		}
	}
	return nil
}

// All network namespaces of the machine share one neighbour table, whose limits can be set only in
// the machine's first network namespace. With Linux's default of 1,024 entries, an instance that
// sends ARP requests for every address of its subnet would leave no entry for the node's own
// neighbours.
const (
	neighboursBegin = 131072 // number of entries above which the kernel removes unused ones
	neighboursMax   = 262144
	neighbourLimits = "/proc/sys/net/ipv4/neigh/default/gc_thresh"
)

// MakeRoomForNeighbours raises the limits of the machine's neighbour table and leaves them raised.
// The caller must be in the first network namespace of the machine, or be able to enter it.
func MakeRoomForNeighbours() error {
	err := raiseNeighbours()
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return onLostThread(func() error { return inFirstNamespace(raiseNeighbours) })
}

func inFirstNamespace(fn func() error) error {
	first, err := unix.Open("/proc/1/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the first network namespace: %w", err)
	}
	defer unix.Close(first)
	if err := unix.Setns(first, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the first network namespace: %w", err)
	}
	return fn()
}

func raiseNeighbours() error {
	for _, limit := range []struct {
		number string
		least  int
	}{{"3", neighboursMax}, {"2", neighboursBegin}} {
		path := neighbourLimits + limit.number
		now, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if n, err := strconv.Atoi(strings.TrimSpace(string(now))); err == nil && n >= limit.least {
			continue
		}
		if err := os.WriteFile(path, []byte(strconv.Itoa(limit.least)), 0); err != nil {
			return err
		}
	}
	return nil
}
