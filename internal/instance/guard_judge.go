package instance

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// answer reads one question of a filter and answers it.
func (g *guard) answer(listener int) {
	q, err := receiveQuestion(listener)
	if err != nil {
		return // whoever asked has ended
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

// begin answers a question on a goroutine of its own, for it can take long.
func (g *guard) begin(q *question, answer func(*question)) {
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

// listen lets a socket listen. Connections that wait to be accepted are charged to no
// cgroup, so there are maxListeners of TCP at most.
func (g *guard) listen(q *question) {
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
	} else if family == unix.AF_UNIX { // whose connections are charged to who makes them
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

// locksUncounted is how many requests for locks pass between two counts. One adds two
// locks at most: it can cut another in two.
const locksUncounted = 512

// lock lets a process lock a file, or unlock it, if the instance has fewer than maxLocks.
// Whoever has too many gets rid of them by closing the files: a request cannot be told
// from one to unlock, for its argument can change.
func (g *guard) lock(q *question) {
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

// countLocks returns how many file locks the processes in our network namespace have.
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
		// "12: POSIX  ADVISORY  WRITE 4711 00:1f:1042 0 EOF"; "12: -> POSIX …" waits
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

// socket makes a socket if the namespace has room for one more. Beyond that it answers
// ENOBUFS, which socket(2) explains as too little memory until other sockets are closed;
// EMFILE and ENFILE would name the limits of a process and of the machine.
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

// countSockets returns how many sockets of each protocol the network namespace has, bound
// or not. /proc/net/netlink, for one, does not show those that are not bound yet.
func countSockets() (map[string]int, error) {
	table, err := os.ReadFile("/proc/self/net/protocols")
	if err != nil {
		return nil, err
	}
	sockets := map[string]int{}
	for line := range strings.Lines(string(table)) {
		// "PACKET   1472      3      -1   NI       0   no   kernel …"
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

// setOption sets a socket option of the process that asked.
func (g *guard) setOption(q *question) {
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

// attach gives packet, raw and netlink sockets a filter, if it is short enough. Translated for
// the processor, a filter takes memory that is charged to no cgroup, and of other sockets there
// are many.
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

// filterBytes is the most that a filter takes once the kernel has translated it: how much it is
// exactly can be asked only afterwards. One instruction becomes several of 8 bytes, and one that
// reads the packet many (bpf_convert_filter of net/core/filter.c).
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
		// The longer form of the argument makes room for 65,536 members.
		return unix.SetsockoptString(fd, level, option, string(value[:min(4, len(value))]))
	}
	return unix.ENOPROTOOPT
}

// setRing lets all rings of the instance together have maxRingBytes. libpcap takes ENOMEM
// as the advice to ask for less.
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

// setMembership lets a packet socket hear everything, as tcpdump does. The kernel bounds
// neither the addresses that one socket may add nor the time it takes to look through them
// with the machine's network lock held, so there are none: the switch delivers no multicast.
func setMembership(fd, option int, value []byte) error {
	m, ok := parseMembership(value)
	if !ok {
		return unix.EINVAL
	}
	if m.Type != unix.PACKET_MR_PROMISC && m.Type != unix.PACKET_MR_ALLMULTI {
		return unix.EPERM
	}
	// An address would make the request another one than the last.
	return unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, option, &unix.PacketMreq{Ifindex: m.Ifindex, Type: m.Type})
}

// setBuffer sets the bound of a queue, to maxSocketBuffer at most, as the kernel does with
// net.core.rmem_max.
func setBuffer(fd, option int, value []byte) error {
	size, ok := parseInt(value)
	if !ok {
		return unix.EINVAL
	}
	if size < 0 {
		size = maxSocketBuffer // as the kernel takes it: the largest
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, min(size, maxSocketBuffer))
}
