package afpacket

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"palisade/internal/netns"
)

// mark is the mark (SO_MARK) of every packet that the switch writes. The guard lets only such
// packets out. A process needs CAP_NET_ADMIN to set it.
const mark = 0x70616c69

// Take blocks a device for the host, on behalf of owner, and brings it up. It writes what Release
// must restore into the device's alias, where the next daemon finds it. If owner has taken the
// device already, Take renews the guard. It refuses a device that has another use.
func Take(c Config, owner string) error { return inside(c, owner, take) }

// Release restores the device to the state that Take found. It does nothing if the device is gone
// or another owner has taken it.
func Release(c Config, owner string) error { return inside(c, owner, release) }

// Check returns the error that Take would return, and changes nothing.
func Check(c Config, owner string) error {
	return inside(c, owner, func(name, owner string) error {
		link, err := find(name)
		if err != nil {
			return err
		}
		_, err = check(link, owner)
		return err
	})
}

// Taken returns the devices of the daemon's namespace that were taken, with their owners.
func Taken() (map[string]string, error) {
	links, err := netlink.LinkList()
	owners := map[string]string{}
	for _, l := range links {
		if f, taken := parseAlias(l.Attrs().Alias); taken {
			owners[l.Attrs().Name] = f.owner
		}
	}
	return owners, err
}

// Owner returns who has taken a device; "" if nobody has or the device is gone.
func Owner(c Config) (owner string, err error) {
	err = inside(c, "", func(name, _ string) error {
		link, err := netlink.LinkByName(name)
		if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
			return nil
		}
		if err != nil {
			return err
		}
		f, _ := parseAlias(link.Attrs().Alias)
		owner = f.owner
		return nil
	})
	return owner, err
}

func inside(c Config, owner string, do func(name, owner string) error) error {
	err := netns.Do(c.Namespace, func() error { return do(c.Name, owner) })
	if err != nil && c.Namespace != "" {
		return fmt.Errorf("namespace %q: %w", c.Namespace, err)
	}
	return err
}

func find(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
		return nil, fmt.Errorf("there is no device %s", name)
	}
	return link, err
}

// A savedState is the state of a device before it was taken.
type savedState struct {
	owner string
	up    bool
	ipv6  string // value of disable_ipv6; "" without IPv6
	alias string
}

const aliasPrefix = "palisade "

// String returns the alias that the device has while it is taken.
func (f savedState) String() string {
	return fmt.Sprintf("%s%s up=%t ipv6=%s was=%s", aliasPrefix, f.owner, f.up, f.ipv6, f.alias)
}

func parseAlias(alias string) (f savedState, ok bool) {
	rest, ok := strings.CutPrefix(alias, aliasPrefix)
	if !ok {
		return f, false
	}
	rest, f.alias, ok = strings.Cut(rest, " was=")
	if !ok {
		return f, false
	}
	n, err := fmt.Sscanf(rest, "%s up=%t ipv6=%s", &f.owner, &f.up, &f.ipv6)
	return f, n >= 2 && (err == nil || n == 2) // ipv6 may be empty
}

// check returns the state of a device before owner took it, or its state now if nobody has taken
// it. It fails if the device has another use.
func check(link netlink.Link, owner string) (savedState, error) {
	a := link.Attrs()
	if f, taken := parseAlias(a.Alias); taken {
		if f.owner != owner {
			return f, fmt.Errorf("device %s is in use: it belongs to %s", a.Name, f.owner)
		}
		return f, nil
	}
	if kind := link.Type(); kind != "tuntap" && kind != "tun" && kind != "veth" || a.EncapType != "ether" {
		return savedState{}, fmt.Errorf("device %s is neither a TAP nor a veth: it is a %s of type %s", a.Name, a.EncapType, kind)
	}
	if a.MasterIndex != 0 {
		master := fmt.Sprint(a.MasterIndex)
		if m, err := netlink.LinkByIndex(a.MasterIndex); err == nil {
			master = m.Attrs().Name
		}
		return savedState{}, fmt.Errorf("device %s is in use: it is a port of %s", a.Name, master)
	}
	addresses, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return savedState{}, fmt.Errorf("list the addresses of %s: %w", a.Name, err)
	}
	for _, address := range addresses {
		if !address.IP.IsLinkLocalUnicast() {
			return savedState{}, fmt.Errorf("device %s is in use: the host has address %s on it", a.Name, address.IPNet)
		}
	}
	kinds, err := filters(link)
	if err != nil {
		return savedState{}, fmt.Errorf("list the filters of %s: %w", a.Name, err)
	}
	if len(kinds) > 0 {
		return savedState{}, fmt.Errorf("device %s is in use: it has traffic filters (tc qdisc show dev %s)", a.Name, a.Name)
	}
	f := savedState{owner: owner, up: a.Flags&net.FlagUp != 0, alias: a.Alias}
	if f.ipv6, err = ipv6Setting(a.Name); err != nil {
		return f, err
	}
	if limit := 255; len(f.String()) > limit {
		return f, fmt.Errorf("device %s has an alias of %d bytes, which leaves no room for the state to restore", a.Name, len(a.Alias))
	}
	return f, nil
}

// filters returns those queueing disciplines of a device that can hold traffic filters.
func filters(link netlink.Link) ([]netlink.Qdisc, error) {
	all, err := netlink.QdiscList(link)
	return slices.DeleteFunc(all, func(q netlink.Qdisc) bool { return q.Type() != "clsact" && q.Type() != "ingress" }), err
}

func ipv6File(name string) string { return "/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6" }

func ipv6Setting(name string) (string, error) {
	value, err := os.ReadFile(ipv6File(name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(value)), err
}

func setIPv6(name, value string) error {
	if value == "" {
		return nil
	}
	return os.WriteFile(ipv6File(name), []byte(value), 0)
}

func take(name, owner string) error {
	link, err := find(name)
	if err != nil {
		return err
	}
	f, err := check(link, owner)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetAlias(link, f.String()); err != nil {
		return fmt.Errorf("mark device %s as taken: %w", name, err)
	}
	if f.ipv6 != "" {
		if err := setIPv6(name, "1"); err != nil {
			return fmt.Errorf("disable IPv6 on device %s: %w", name, err)
		}
	}
	if err := guard(link); err != nil {
		return fmt.Errorf("block device %s for the host: %w", name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set device %s up: %w", name, err)
	}
	return nil
}

func release(name, owner string) error {
	link, err := netlink.LinkByName(name)
	if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
		return nil
	}
	if err != nil {
		return err
	}
	f, taken := parseAlias(link.Attrs().Alias)
	if !taken || f.owner != owner {
		return nil
	}
	if !f.up {
		if err := netlink.LinkSetDown(link); err != nil {
			return fmt.Errorf("set device %s down: %w", name, err)
		}
	}
	guards, err := filters(link)
	if err != nil {
		return err
	}
	for _, q := range guards {
		if err := netlink.QdiscDel(q); err != nil {
			return fmt.Errorf("unblock device %s for the host: %w", name, err)
		}
	}
	return errors.Join(setIPv6(name, f.ipv6), netlink.LinkSetAlias(link, f.alias))
}

// guard drops what the device sends to the host's stack, after the packet socket has received it,
// and what the host sends through the device without the switch's mark.
func guard(link netlink.Link) error {
	index := link.Attrs().Index
	qdisc := &netlink.GenericQdisc{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Parent: netlink.HANDLE_CLSACT, Handle: netlink.MakeHandle(0xffff, 0),
	}, QdiscType: "clsact"}
	if err := netlink.QdiscReplace(qdisc); err != nil {
		return fmt.Errorf("add a clsact qdisc: %w", err)
	}
	for _, classifier := range []struct {
		name    string
		parent  uint32
		program []instruction
	}{{"palisade-in", netlink.HANDLE_MIN_INGRESS, dropAll}, {"palisade-out", netlink.HANDLE_MIN_EGRESS, dropUnmarked}} {
		fd, err := load(classifier.program)
		if err != nil {
			return fmt.Errorf("load a classifier: %w", err)
		}
		err = netlink.FilterReplace(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: classifier.parent, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
			Fd:          fd, Name: classifier.name, DirectAction: true,
		})
		if err := errors.Join(err, unix.Close(fd)); err != nil {
			return fmt.Errorf("add classifier %s: %w", classifier.name, err)
		}
	}
	return nil
}

// An instruction is one instruction of a BPF program, in the kernel's format (RFC 9669 §3.1).
type instruction struct {
	code      uint8
	registers uint8 // destination in the low four bits, source in the high four
	offset    int16
	immediate int32
}

// What a classifier may decide (include/uapi/linux/pkt_cls.h).
const (
	pass = 0 // TC_ACT_OK
	drop = 2 // TC_ACT_SHOT
)

const (
	moveImmediate = 0xb7 // registers: destination
	loadWord      = 0x61
	jumpIfEqual   = 0x15
	exit          = 0x95
	markAt        = 8 // in struct __sk_buff, which register 1 points to
)

var (
	dropAll      = []instruction{{moveImmediate, 0, 0, drop}, {exit, 0, 0, 0}}
	dropUnmarked = []instruction{
		{loadWord, 0x12, markAt, 0}, // r2 = mark of the packet
		{moveImmediate, 0, 0, pass},
		{jumpIfEqual, 0x02, 1, mark},
		{moveImmediate, 0, 0, drop},
		{exit, 0, 0, 0},
	}
)

// load loads a program into the kernel and returns its descriptor.
func load(program []instruction) (int, error) {
	license := []byte("GPL\x00")
	attr := struct {
		kind, count   uint32
		instructions  unsafe.Pointer
		license       unsafe.Pointer
		level, size   uint32
		log           uint64
		version, more uint32
	}{unix.BPF_PROG_TYPE_SCHED_CLS, uint32(len(program)), unsafe.Pointer(unsafe.SliceData(program)), unsafe.Pointer(unsafe.SliceData(license)), 0, 0, 0, 0, 0}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}
