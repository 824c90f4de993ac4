package afpacket

import (
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// filters returns those queueing disciplines of a device that can hold traffic filters.
func filters(link netlink.Link) ([]netlink.Qdisc, error) {
	all, err := netlink.QdiscList(link)
	return slices.DeleteFunc(all, func(q netlink.Qdisc) bool { return q.Type() != "clsact" && q.Type() != "ingress" }), err
}

// A hook is a place where a filter of a device sees frames.
type hook struct {
	filter string
	parent uint32
}

var (
	ingress = hook{"palisade-in", netlink.HANDLE_MIN_INGRESS}
	egress  = hook{"palisade-out", netlink.HANDLE_MIN_EGRESS}
)

// dropAt drops all frames at hooks of a device. A packet socket has read a frame before the ingress
// hook sees it.
func dropAt(link netlink.Link, hooks ...hook) error {
	index := link.Attrs().Index
	qdisc := &netlink.GenericQdisc{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Parent: netlink.HANDLE_CLSACT, Handle: netlink.MakeHandle(0xffff, 0),
	}, QdiscType: "clsact"}
	if err := netlink.QdiscReplace(qdisc); err != nil {
		return fmt.Errorf("add a clsact qdisc: %w", err)
	}
	for _, h := range hooks {
		fd, err := load(dropAll)
		if err != nil {
			return fmt.Errorf("load a classifier: %w", err)
		}
		err = netlink.FilterReplace(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: h.parent, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
			Fd:          fd, Name: h.filter, DirectAction: true,
		})
		if err := errors.Join(err, unix.Close(fd)); err != nil {
			return fmt.Errorf("add classifier %s: %w", h.filter, err)
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

// dropAll returns TC_ACT_SHOT (include/uapi/linux/pkt_cls.h).
var dropAll = []instruction{{moveImmediate, 0, 0, 2}, {exit, 0, 0, 0}}

const (
	moveImmediate = 0xb7 // registers: destination
	exit          = 0x95
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
