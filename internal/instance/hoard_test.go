package instance

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A hoard is what a filler holds.
type hoard struct {
	fds    []int
	events []int
	n      int
}

// keep holds a descriptor.
func (h *hoard) keep(fd int, err error) error {
	if err == nil {
		h.fds = append(h.fds, fd)
	}
	return err
}

// event returns the i-th of its event descriptors.
func (h *hoard) event(i int) int {
	for len(h.events) <= i {
		fd, err := unix.Eventfd(0, 0)
		if err != nil {
			return -1
		}
		h.events = append(h.events, fd)
	}
	return h.events[i]
}

// last is the descriptor that was opened last.
func (h *hoard) last() int {
	if len(h.fds) == 0 {
		return -1
	}
	return h.fds[len(h.fds)-1]
}

// hoards are the things that a filler can do.
var hoards = map[string]func(h *hoard) error{
	"packet": func(h *hoard) error {
		if err := h.keep(unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, htons(unix.ETH_P_ALL))); err != nil {
			return err
		}
		return attachFilter(h.last(), maxFilter)
	},
	"long-filter":     func(h *hoard) error { return attachFilter(h.last(), 1000) },
	"filter-of-64":    func(h *hoard) error { return attachFilter(h.last(), maxFilter) },
	"filter-of-65":    func(h *hoard) error { return attachFilter(h.last(), maxFilter+1) },
	"filter-of-loads": func(h *hoard) error { return setFilter(h.last(), loads(342)) },
	"most-loads":      func(h *hoard) error { return setFilter(h.last(), loads(330)) },
	"packet-of-inet": func(h *hoard) error {
		return h.keep(unix.Socket(unix.AF_INET, unix.SOCK_PACKET, htons(unix.ETH_P_ALL)))
	},
	"raw":     func(h *hoard) error { return h.keep(unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)) },
	"raw6":    func(h *hoard) error { return h.keep(unix.Socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6)) },
	"netlink": func(h *hoard) error { return h.keep(unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)) },
	"close": func(h *hoard) error {
		if len(h.fds) == 0 {
			return unix.EBADF
		}
		fd := h.last()
		h.fds = h.fds[:len(h.fds)-1]
		return unix.Close(fd)
	},
	// fly sends a packet socket to a socket that nobody reads, and closes it.
	"fly": func(h *hoard) error {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		err = unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(fd), nil, 0)
		unix.Close(fd)
		unix.Close(pair[0])
		return h.keep(pair[1], err)
	},
	"ring-of-1GiB":    func(h *hoard) error { return setRing(h.last(), unix.PACKET_RX_RING, 4<<20, 256) },
	"ring-of-2MiB":    func(h *hoard) error { return setRing(h.last(), unix.PACKET_RX_RING, 256<<10, 8) },
	"tx-ring-of-2MiB": func(h *hoard) error { return setRing(h.last(), unix.PACKET_TX_RING, 256<<10, 8) },
	"ring-of-5-pages": func(h *hoard) error { return setRing(h.last(), unix.PACKET_RX_RING, 5*4096, 250) }, // of 8 pages each: 8 MB
	"ring-away":       func(h *hoard) error { return setRing(h.last(), unix.PACKET_RX_RING, 0, 0) },
	"ring-of-nonsense": func(h *hoard) error {
		return unix.SetsockoptString(h.last(), unix.SOL_PACKET, unix.PACKET_RX_RING, "x")
	},
	"promiscuous": func(h *hoard) error { return addMembership(h.last(), unix.PACKET_MR_PROMISC) },
	"multicast":   func(h *hoard) error { return addMembership(h.last(), unix.PACKET_MR_MULTICAST) },
	"large-fanout": func(h *hoard) error {
		group := binary.NativeEndian.AppendUint16(nil, uint16(h.last()))
		group = binary.NativeEndian.AppendUint16(group, unix.PACKET_FANOUT_HASH)
		group = binary.NativeEndian.AppendUint32(group, 65536) // struct fanout_args, max_num_members
		return unix.SetsockoptString(h.last(), unix.SOL_PACKET, unix.PACKET_FANOUT, string(group))
	},
	"buffer-of-64MiB": func(h *hoard) error {
		for _, option := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF} {
			if err := unix.SetsockoptInt(h.last(), unix.SOL_SOCKET, option, 64<<20); err != nil {
				return err
			}
			if size, err := unix.GetsockoptInt(h.last(), unix.SOL_SOCKET, option); err != nil || size > 2*maxSocketBuffer {
				return fmt.Errorf("%d-bytes", size)
			}
		}
		return nil
	},
	"bind": func(h *hoard) error {
		eth, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		return unix.Bind(h.last(), &unix.SockaddrLinklayer{Protocol: uint16(htons(unix.ETH_P_ALL)), Ifindex: eth.Index})
	},
	"udp": func(h *hoard) error { return h.keep(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)) },
	"tcp": func(h *hoard) error { return h.keep(unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)) },
	"udp-queue": func(h *hoard) error {
		fd, to, err := udpSocket()
		if err != nil {
			return err
		}
		for range 8 {
			if err := unix.Sendto(fd, payload, unix.MSG_DONTWAIT, to); err != nil {
				break
			}
		}
		return h.keep(fd, nil)
	},
	"udp-errors": func(h *hoard) error {
		fd, _, err := udpSocket()
		if err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVERR, 1); err != nil {
			return err
		}
		for range 600 {
			unix.Sendto(fd, payload[:1000], unix.MSG_DONTWAIT, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 1})
		}
		return h.keep(fd, nil)
	},
	"udp-timestamps": func(h *hoard) error {
		fd, _, err := udpSocket()
		if err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPING, unix.SOF_TIMESTAMPING_TX_SCHED|unix.SOF_TIMESTAMPING_SOFTWARE); err != nil {
			return err
		}
		for range 20 {
			unix.Sendto(fd, payload, unix.MSG_DONTWAIT, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 1})
		}
		return h.keep(fd, nil)
	},
	"tcp-pair": func(h *hoard) error {
		l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(l)
		if err := unix.Listen(l, 10); err != nil {
			return err
		}
		sa, _ := unix.Getsockname(l)
		c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		if err := unix.Connect(c, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: sa.(*unix.SockaddrInet4).Port}); err != nil {
			return err
		}
		a, _, err := unix.Accept4(l, 0)
		if err != nil {
			return err
		}
		unix.SetNonblock(c, true)
		for {
			if _, err := unix.Write(c, payload); err != nil {
				break
			}
		}
		h.keep(c, nil)
		return h.keep(a, nil)
	},
	"listen": func(h *hoard) error {
		l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		if err := unix.Listen(l, 4096); err != nil {
			return err
		}
		return h.keep(l, nil)
	},
	"backlog": func(h *hoard) error {
		sa, _ := unix.Getsockname(h.last())
		c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer unix.Close(c)
		err = unix.Connect(c, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: sa.(*unix.SockaddrInet4).Port})
		if err != nil && err != unix.EINPROGRESS {
			return err
		}
		unix.Write(c, payload)
		unix.Write(c, payload)
		return nil
	},
	"unix-dgram":  func(h *hoard) error { return h.fillPair(unix.SOCK_DGRAM) },
	"unix-stream": func(h *hoard) error { return h.fillPair(unix.SOCK_STREAM) },
	"netlink-queue": func(h *hoard) error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		h.keep(fd, nil)
		request := binary.NativeEndian.AppendUint32(nil, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg)
		request = binary.NativeEndian.AppendUint16(request, unix.RTM_GETLINK)
		request = binary.NativeEndian.AppendUint16(request, unix.NLM_F_REQUEST)
		request = append(request, make([]byte, 8)...)
		info := make([]byte, unix.SizeofIfInfomsg)
		info[4] = 1
		request = append(request, info...)
		for range 3000 {
			if err := unix.Sendto(fd, request, unix.MSG_DONTWAIT, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
				break
			}
		}
		return nil
	},
	"pipe": func(h *hoard) error {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_NONBLOCK); err != nil {
			return err
		}
		unix.FcntlInt(uintptr(p[0]), unix.F_SETPIPE_SZ, 1<<20)
		for {
			if _, err := unix.Write(p[1], payload); err != nil {
				break
			}
		}
		h.keep(p[0], nil)
		return h.keep(p[1], nil)
	},
	"inotify": func(h *hoard) error {
		fd, err := unix.InotifyInit1(0)
		if err != nil {
			return err
		}
		h.keep(fd, nil)
		_, err = unix.InotifyAddWatch(fd, "/tmp", unix.IN_CREATE|unix.IN_DELETE)
		if err != nil {
			return err
		}
		for i := range 1000 {
			name := "/tmp/a-long-name-of-a-file-that-takes-some-memory-in-the-queue-" + strconv.Itoa(i)
			os.WriteFile(name, nil, 0o600)
			os.Remove(name)
		}
		return nil
	},
	"epoll": func(h *hoard) error {
		fd, err := unix.EpollCreate1(0)
		if err != nil {
			return err
		}
		h.keep(fd, nil)
		for i := range 100 {
			unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, h.event(i), &unix.EpollEvent{Events: unix.EPOLLIN})
		}
		return nil
	},
	"eventfd":  func(h *hoard) error { return h.keep(unix.Eventfd(0, 0)) },
	"timerfd":  func(h *hoard) error { return h.keep(unix.TimerfdCreate(unix.CLOCK_MONOTONIC, 0)) },
	"signalfd": func(h *hoard) error { return h.keep(unix.Signalfd(-1, &unix.Sigset_t{}, 0)) },
	"timer": func(h *hoard) error {
		var id int32
		_, _, errno := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, 0, uintptr(unsafe.Pointer(&id)))
		return errnoOrNil(errno)
	},
	"signal": func(h *hoard) error {
		const sigrt = 40
		set := unix.Sigset_t{}
		set.Val[0] = 1 << (sigrt - 1)
		unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil)
		info := make([]byte, 128)
		binary.NativeEndian.PutUint32(info, sigrt)
		binary.NativeEndian.PutUint32(info[8:], 0xffffffff)
		_, _, errno := unix.Syscall6(unix.SYS_RT_TGSIGQUEUEINFO, uintptr(os.Getpid()), uintptr(unix.Gettid()), sigrt, uintptr(unsafe.Pointer(&info[0])), 0, 0)
		return errnoOrNil(errno)
	},
	"lock": func(h *hoard) error {
		if len(h.fds) == 0 {
			fd, err := unix.Open("/tmp/lock", unix.O_RDWR|unix.O_CREAT, 0o600)
			if err != nil {
				return err
			}
			h.keep(fd, nil)
		}
		h.n++
		return unix.FcntlFlock(uintptr(h.last()), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: int64(h.n) * 2, Len: 1})
	},
	"lock-of-the-description": func(h *hoard) error {
		return unix.FcntlFlock(uintptr(h.last()), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 1})
	},
	"mq": func(h *hoard) error {
		h.n++
		name := append([]byte("q"+strconv.Itoa(os.Getpid())+"-"+strconv.Itoa(h.n)), 0)
		attr := [8]int64{0, 10, 8192}
		fd, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(&name[0])), unix.O_RDWR|unix.O_CREAT|unix.O_NONBLOCK, 0o600, uintptr(unsafe.Pointer(&attr)), 0, 0)
		if errno != 0 {
			return errno
		}
		for {
			if _, _, errno := unix.Syscall6(unix.SYS_MQ_TIMEDSEND, fd, uintptr(unsafe.Pointer(&payload[0])), 8192, 0, 0, 0); errno != 0 {
				break
			}
		}
		return h.keep(int(fd), nil)
	},
	"sysv-msg": func(h *hoard) error {
		id, _, errno := unix.Syscall(unix.SYS_MSGGET, 0, 0o1600, 0)
		if errno != 0 {
			return errno
		}
		msg := make([]byte, 8+8192)
		msg[0] = 1
		for {
			if _, _, errno := unix.Syscall6(unix.SYS_MSGSND, id, uintptr(unsafe.Pointer(&msg[0])), 8192, 0o4000, 0, 0); errno != 0 {
				break
			}
		}
		return nil
	},
	"sysv-sem": func(h *hoard) error {
		_, _, errno := unix.Syscall(unix.SYS_SEMGET, 0, 32000, 0o1600)
		return errnoOrNil(errno)
	},
	"sysv-shm": func(h *hoard) error {
		id, err := unix.SysvShmGet(0, 16<<20, 0o1600)
		if err != nil {
			return err
		}
		b, err := unix.SysvShmAttach(id, 0, 0)
		if err != nil {
			return err
		}
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		return nil
	},
	"memfd": func(h *hoard) error {
		fd, err := unix.MemfdCreate("x", 0)
		if err != nil {
			return err
		}
		h.keep(fd, nil)
		for range 64 {
			if _, err := unix.Write(fd, payload); err != nil {
				return err
			}
		}
		return nil
	},
	"in-flight": func(h *hoard) error {
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		fds := make([]int, 250)
		for i := range fds {
			if fds[i], err = unix.Eventfd(0, 0); err != nil {
				return err
			}
		}
		err = unix.Sendmsg(p[0], []byte{0}, unix.UnixRights(fds...), nil, 0)
		for _, fd := range fds {
			unix.Close(fd)
		}
		unix.Close(p[0])
		h.keep(p[1], nil)
		return err
	},
	"filter": func(h *hoard) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		h.keep(fd, nil)
		return attachFilter(fd, 4096)
	},
	"membership": func(h *hoard) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		h.keep(fd, nil)
		for range 20 {
			h.n++
			if err := unix.SetsockoptIPMreq(fd, unix.SOL_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreq{Multiaddr: [4]byte{232, byte(h.n >> 16), byte(h.n >> 8), byte(h.n)}}); err != nil {
				return err
			}
		}
		return nil
	},
	"neighbour": func(h *hoard) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		h.keep(fd, nil)
		for range 200 {
			h.n++
			if err := unix.Sendto(fd, payload[:1], unix.MSG_DONTWAIT, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{10, 200, byte(h.n >> 8), byte(h.n)}}); err != nil {
				return err
			}
		}
		return nil
	},
	"pty": func(h *hoard) error {
		fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if err != nil {
			return err
		}
		h.keep(fd, nil)
		n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
		if err != nil {
			return err
		}
		unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
		slave, err := unix.Open("/dev/pts/"+strconv.Itoa(n), unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if err != nil {
			return err
		}
		h.keep(slave, nil)
		for range 5 {
			unix.Write(slave, payload[:4000])
			unix.Write(fd, payload[:4000])
		}
		return nil
	},
	"aio": func(h *hoard) error {
		var ctx uintptr
		_, _, errno := unix.Syscall(unix.SYS_IO_SETUP, 1000, uintptr(unsafe.Pointer(&ctx)), 0)
		return errnoOrNil(errno)
	},
	"key": func(h *hoard) error {
		h.n++
		_, err := unix.AddKey("user", strconv.Itoa(h.n), payload[:8000], unix.KEY_SPEC_PROCESS_KEYRING)
		return err
	},
	"io_uring": func(h *hoard) error {
		_, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4096, uintptr(unsafe.Pointer(&[64]uint64{})), 0)
		return errnoOrNil(errno)
	},
	"bpf-map": func(h *hoard) error {
		attr := [32]uint32{unix.BPF_MAP_TYPE_ARRAY, 4, 4096, 4096}
		_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_CREATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
		return errnoOrNil(errno)
	},
	"perf": func(h *hoard) error {
		return h.keep(unix.PerfEventOpen(&unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}, 0, -1, -1, 0))
	},
	"userfaultfd": func(h *hoard) error {
		_, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, 1, 0, 0) // UFFD_USER_MODE_ONLY
		return errnoOrNil(errno)
	},
	"tls": func(h *hoard) error { return unix.SetsockoptString(h.last(), unix.SOL_TCP, unix.TCP_ULP, "tls") },
	"membership6": func(h *hoard) error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		h.keep(fd, nil)
		return unix.SetsockoptIPv6Mreq(fd, unix.SOL_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: [16]byte{0xff, 2, 15: 99}, Interface: 1})
	},
	"locked": func(h *hoard) error {
		b, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return err
		}
		return unix.Mlock(b)
	},
	"page-table": func(h *hoard) error {
		const size = 1 << 30
		b, err := unix.Mmap(-1, 0, size, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
		if err != nil {
			return err
		}
		unix.Madvise(b, unix.MADV_NOHUGEPAGE)
		for i := 0; i < size; i += 2 << 20 {
			h.n += int(b[i])
		}
		return nil
	},
	"file": func(h *hoard) error {
		h.n++
		fd, err := unix.Open("/tmp/file-"+strconv.Itoa(h.n), unix.O_CREAT|unix.O_WRONLY, 0o600)
		if err == nil {
			unix.Close(fd)
		}
		return err
	},
	"attribute": func(h *hoard) error {
		h.n++
		path := "/tmp/attributes-" + strconv.Itoa(h.n)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return err
		}
		return unix.Setxattr(path, "user.x", payload, 0)
	},
	"ask-for-a-second": func(h *hoard) error {
		for begin := time.Now(); time.Since(begin) < time.Second; {
			if fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE); err == nil {
				unix.Close(fd)
			}
		}
		return nil
	},
	"closed": func(h *hoard) error {
		sa, _ := unix.Getsockname(h.last())
		c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		err = unix.Connect(c, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: sa.(*unix.SockaddrInet4).Port})
		unix.Close(c)
		if err == nil {
			var a int
			if a, _, err = unix.Accept4(h.last(), 0); err == nil {
				err = unix.Close(a)
			}
		}
		return err
	},
	"seccomp-filter": func(h *hoard) error {
		program := make([]unix.SockFilter, 4096)
		for i := range program {
			program[i] = unix.SockFilter{Code: unix.BPF_LD | unix.BPF_IMM, K: 0xffff}
		}
		program[4095] = unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
		f := unix.SockFprog{Len: 4096, Filter: &program[0]}
		_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&f)))
		return errnoOrNil(errno)
	},
	"fragment": func(h *hoard) error {
		// later fragments of many datagrams, to ourselves
		fd := h.last()
		if fd < 0 {
			var err error
			fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
			if err != nil {
				return err
			}
			h.keep(fd, nil)
		}
		h.n++
		packet := make([]byte, 20+1400)
		packet[0], packet[8], packet[9] = 0x45, 64, 17
		binary.BigEndian.PutUint16(packet[4:], uint16(h.n))
		binary.BigEndian.PutUint16(packet[6:], 0x2000|100)
		copy(packet[12:], []byte{127, byte(h.n >> 16), 0, 1})
		copy(packet[16:], []byte{127, 0, 0, 1})
		return unix.Sendto(fd, packet, unix.MSG_DONTWAIT, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	},
}

func htons(v uint16) int { return int(v<<8 | v>>8) }

// attachFilter attaches a program of n instructions that takes every frame.
func attachFilter(fd, n int) error { return setFilter(fd, program(n, unix.BPF_LD|unix.BPF_IMM)) }

// loads is a program of n instructions that read the packet.
func loads(n int) []unix.SockFilter { return program(n, unix.BPF_LD|unix.BPF_B|unix.BPF_ABS) }

func program(n int, code uint16) []unix.SockFilter {
	program := make([]unix.SockFilter, n)
	for i := range program {
		program[i] = unix.SockFilter{Code: code, K: 20}
	}
	program[n-1] = unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff}
	return program
}

// setRing asks for blocks blocks of size bytes, each with frames of 2,048 bytes.
func setRing(fd, option int, size, blocks uint32) error {
	const frame = 2048
	var request []byte
	for _, v := range []uint32{size, blocks, min(frame, size), size / frame * blocks} {
		request = binary.NativeEndian.AppendUint32(request, v)
	}
	return unix.SetsockoptString(fd, unix.SOL_PACKET, option, string(request))
}

func addMembership(fd int, kind uint16) error {
	eth, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	m := unix.PacketMreq{Ifindex: int32(eth.Index), Type: kind, Alen: 6, Address: [8]uint8{1, 0, 0x5e, 1, 2, 3}}
	return unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m)
}

var payload = make([]byte, 60000)

func udpSocket() (int, *unix.SockaddrInet4, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return -1, nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return -1, nil, err
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return -1, nil, err
	}
	return fd, sa.(*unix.SockaddrInet4), nil
}

// fillPair keeps two connected unix sockets of a kind, the queue of one full.
func (h *hoard) fillPair(kind int) error {
	p, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	for {
		if _, err := unix.Write(p[0], payload); err != nil {
			break
		}
	}
	h.keep(p[0], nil)
	return h.keep(p[1], nil)
}
