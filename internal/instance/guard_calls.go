package instance

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// answer receives one guarded call from listener and answers it.
func (g *guard) answer(listener int) {
	q, err := receiveCall(listener)
	if err != nil {
		return // the calling thread has ended
	}
	switch q.call {
	case unix.SYS_SOCKET:
		fd, err := g.socket(int32(q.args[0]), int32(q.args[1]), int32(q.args[2]))
		if err != nil {
			q.fail(err)
			return
		}
		q.give(fd, q.args[1]&unix.SOCK_CLOEXEC != 0)
		unix.Close(fd)
	case unix.SYS_SETSOCKOPT:
		g.begin(q, g.setOption)
	case unix.SYS_LISTEN:
		g.begin(q, g.listen)
	case unix.SYS_FCNTL:
		g.lock(q)
	default:
		q.fail(unix.EPERM)
	}
}

// begin runs the function answer for a call on a new goroutine, because it can take long. If
// maxOptions goroutines run, the call fails with ENOBUFS.
func (g *guard) begin(q *guardedCall, answer func(*guardedCall)) {
	select {
	case g.options <- struct{}{}:
		go func() {
			answer(q)
			<-g.options
		}()
	default:
		q.fail(unix.ENOBUFS)
	}
}

// listen executes listen(2) for the calling process. Connections that are not accepted yet are
// charged to no cgroup, so an instance may have only maxListeners listening TCP sockets.
func (g *guard) listen(q *guardedCall) {
	fd, err := q.descriptor(int(int32(q.args[0])))
	if err != nil {
		q.fail(err)
		return
	}
	q.fail(g.setListening(fd, int(int32(q.args[1]))))
	unix.Close(fd)
}

func (g *guard) setListening(fd, backlog int) error {
	if family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil {
		return err
	} else if family == unix.AF_UNIX { // connections of a unix socket are charged to the connecting process
		return unix.Listen(fd, backlog)
	}
	g.listens.Lock()
	defer g.listens.Unlock()
	if listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil {
		return err
	} else if listening == 0 {
		if n, err := g.diag.listeners(); err != nil || n >= maxListeners {
			return unix.ENOBUFS
		}
	}
	return unix.Listen(fd, backlog)
}

// locksUncounted is the number of lock requests that the guard admits between two counts of the
// locks. A request adds at most two locks, when it splits an existing lock.
const locksUncounted = 512

// lock admits a request to lock or unlock a file if the instance has fewer than maxLocks locks. It
// cannot admit only unlocking, because the argument that says which of the two is requested can
// change after the check. A process with too many locks can release them by closing the files.
func (g *guard) lock(q *guardedCall) {
	if g.requests == 0 || g.locks >= maxLocks {
		n, err := countLocks()
		if err != nil {
			n = maxLocks
		}
		g.locks, g.requests = n, locksUncounted
	}
	if g.locks >= maxLocks {
		q.fail(unix.ENOLCK)
		return
	}
	g.requests--
	q.proceed()
}

// countLocks returns the number of file locks of the processes in our network namespace.
func countLocks() (int, error) {
	table, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0, err
	}
	var own unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &own); err != nil {
		return 0, err
	}
	of := map[string]int{}
	for line := range strings.Lines(string(table)) {
		// A line is "12: POSIX  ADVISORY  WRITE 4711 00:1f:1042 0 EOF", or "12: -> POSIX …" for a
		// process that waits for a lock. 4711 is the pid.
		f := strings.Fields(strings.Replace(line, "-> ", "", 1))
		if len(f) > 4 {
			of[f[4]]++
		}
	}
	sum := 0
	for pid, n := range of {
		var its unix.Stat_t
		if unix.Stat("/proc/"+pid+"/ns/net", &its) == nil && its.Ino == own.Ino && its.Dev == own.Dev {
			sum += n
		}
	}
	return sum, nil
}

// socket makes a socket and returns its descriptor. If the instance already has the maximum of such
// sockets, it returns ENOBUFS: socket(2) says that too little memory is available until other sockets
// are closed. EMFILE and ENFILE would mean a limit of the process or of the machine.
func (g *guard) socket(family, kind, protocol int32) (int, error) {
	now, err := countSockets()
	if err != nil {
		return -1, unix.ENOBUFS
	}
	var have, most int
	switch family {
	case unix.AF_PACKET:
		have, most = now["PACKET"], maxPacketSockets
	case unix.AF_NETLINK:
		have, most = now["NETLINK"]-g.before["NETLINK"], maxNetlinkSockets
	default:
		have, most = now["RAW"]+now["RAWv6"], maxRawSockets
	}
	if have >= most {
		return -1, unix.ENOBUFS
	}
	return unix.Socket(int(family), int(kind)|unix.SOCK_CLOEXEC, int(protocol))
}

// countSockets returns the number of sockets of each protocol in the guard's network namespace, from
// /proc/net/protocols. Other files, such as /proc/net/netlink, do not show unbound sockets.
func countSockets() (map[string]int, error) {
	table, err := os.ReadFile("/proc/self/net/protocols")
	if err != nil {
		return nil, err
	}
	sockets := map[string]int{}
	for line := range strings.Lines(string(table)) {
		// A line is "PACKET   1472      3      -1   NI       0   no   kernel …"; 3 is the number of
		// sockets.
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		if n, err := strconv.Atoi(f[2]); err == nil {
			sockets[f[0]] = n
		}
	}
	return sockets, nil
}

// setOption sets a socket option for the calling process.
func (g *guard) setOption(q *guardedCall) {
	value, err := q.value()
	if err != nil {
		q.fail(err)
		return
	}
	fd, err := q.descriptor(int(int32(q.args[0])))
	if err != nil {
		q.fail(err)
		return
	}
	defer unix.Close(fd)
	level, option := int(int32(q.args[1])), int(int32(q.args[2]))
	if level == unix.SOL_SOCKET && option == unix.SO_ATTACH_FILTER {
		filter, err := q.filter(value)
		if err == nil {
			err = g.attach(fd, filter)
		}
		q.fail(err)
		return
	}
	q.fail(g.set(fd, level, option, value))
}

// attach sets the filter of a packet, raw or netlink socket if the filter is short enough. The kernel
// translates a filter into memory that is charged to no cgroup. Other sockets may have no filter,
// because the number of these sockets is not bounded.
func (g *guard) attach(fd int, filter []unix.SockFilter) error {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return err
	}
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	switch {
	case family == unix.AF_PACKET:
		g.filters.Lock()
		defer g.filters.Unlock()
		if have, err := g.diag.filters(); err != nil || have+filterBytes(filter) > maxFilterBytes {
			return unix.ENOMEM
		}
	case kind != unix.SOCK_RAW && family != unix.AF_NETLINK:
		return unix.EPERM
	case len(filter) > maxFilter:
		return unix.ENOMEM
	}
	return setFilter(fd, filter)
}

func setFilter(fd int, filter []unix.SockFilter) error {
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
}

// filterBytes returns an upper bound of the memory that a filter takes after the kernel has
// translated it. The kernel reports the exact size only after the filter is set. One instruction
// becomes several instructions of 8 bytes each, and an instruction that reads the packet becomes many
// (bpf_convert_filter in net/core/filter.c).
func filterBytes(filter []unix.SockFilter) uint64 {
	const head, each, load = 256, 8 * 8, 24 * 8
	sum := uint64(head)
	for _, in := range filter {
		class, mode := in.Code&0x07, in.Code&0xe0
		if class <= unix.BPF_LDX && (mode == unix.BPF_ABS || mode == unix.BPF_IND || mode == unix.BPF_MSH) {
			sum += load
		} else {
			sum += each
		}
	}
	return sum
}

func (g *guard) set(fd, level, option int, value []byte) error {
	if level == unix.SOL_SOCKET {
		return setBuffer(fd, option, value)
	}
	if family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || family != unix.AF_PACKET {
		return unix.ENOPROTOOPT
	}
	switch option {
	case unix.PACKET_RX_RING, unix.PACKET_TX_RING:
		return g.setRing(fd, option, value)
	case unix.PACKET_ADD_MEMBERSHIP, unix.PACKET_DROP_MEMBERSHIP:
		return setMembership(fd, option, value)
	case unix.PACKET_FANOUT:
		// Only the first 4 bytes are passed on: the longer form of the argument would allow a fanout
		// group of 65,536 members.
		return unix.SetsockoptString(fd, level, option, string(value[:min(4, len(value))]))
	}
	return unix.ENOPROTOOPT
}

// setRing sets the ring of a packet socket if all rings of the instance together stay within
// maxRingBytes. If not, it returns ENOMEM, after which libpcap asks for a smaller ring.
func (g *guard) setRing(fd, option int, value []byte) error {
	want, ok := ringBytes(value)
	if !ok {
		return unix.EINVAL
	}
	g.rings.Lock()
	defer g.rings.Unlock()
	if want > 0 {
		have, err := g.diag.rings()
		if err != nil || have+want > maxRingBytes {
			return unix.ENOMEM
		}
	}
	return unix.SetsockoptString(fd, unix.SOL_PACKET, option, string(value))
}

// setMembership makes a packet socket receive all packets, as tcpdump does. It refuses memberships
// for single addresses: the kernel does not bound their number, and walks the list while it holds the
// network lock of the machine. They would be useless anyway, because the switch delivers no
// multicast.
func setMembership(fd, option int, value []byte) error {
	m, ok := parseMembership(value)
	if !ok {
		return unix.EINVAL
	}
	if m.Type != unix.PACKET_MR_PROMISC && m.Type != unix.PACKET_MR_ALLMULTI {
		return unix.EPERM
	}
	// The request has no address, so the kernel counts repeated requests as one membership.
	return unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, option, &unix.PacketMreq{Ifindex: m.Ifindex, Type: m.Type})
}

// setBuffer sets the buffer size of a socket, to at most maxSocketBuffer. A larger value is reduced
// to the maximum, as the kernel does with net.core.rmem_max.
func setBuffer(fd, option int, value []byte) error {
	size, ok := parseInt(value)
	if !ok {
		return unix.EINVAL
	}
	if size < 0 {
		size = maxSocketBuffer // the kernel treats a negative size as the largest one
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, min(size, maxSocketBuffer))
}
