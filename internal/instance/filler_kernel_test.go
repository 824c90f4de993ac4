package instance

import (
	"encoding/binary"
	"os"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernelActions are the actions of a filler on kernel resources other than sockets.
var kernelActions = map[string]func(h *holding) error{
	"pipe": func(h *holding) error {
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
	"inotify": func(h *holding) error {
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
	"epoll": func(h *holding) error {
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
	"eventfd":  func(h *holding) error { return h.keep(unix.Eventfd(0, 0)) },
	"timerfd":  func(h *holding) error { return h.keep(unix.TimerfdCreate(unix.CLOCK_MONOTONIC, 0)) },
	"signalfd": func(h *holding) error { return h.keep(unix.Signalfd(-1, &unix.Sigset_t{}, 0)) },
	"timer": func(h *holding) error {
		var id int32
		_, _, errno := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, 0, uintptr(unsafe.Pointer(&id)))
		return errnoOrNil(errno)
	},
	"signal": func(h *holding) error {
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
	"lock": func(h *holding) error {
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
	"lock-of-the-description": func(h *holding) error {
		return unix.FcntlFlock(uintptr(h.last()), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 1})
	},
	"mq": func(h *holding) error {
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
	"sysv-msg": func(h *holding) error {
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
	"sysv-sem": func(h *holding) error {
		_, _, errno := unix.Syscall(unix.SYS_SEMGET, 0, 32000, 0o1600)
		return errnoOrNil(errno)
	},
	"sysv-shm": func(h *holding) error {
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
	"memfd": func(h *holding) error {
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
	"in-flight": func(h *holding) error {
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
	"filter": func(h *holding) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		h.keep(fd, nil)
		return attachFilter(fd, 4096)
	},
	"membership": func(h *holding) error {
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
	"neighbour": func(h *holding) error {
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
	"pty": func(h *holding) error {
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
	"aio": func(h *holding) error {
		var ctx uintptr
		_, _, errno := unix.Syscall(unix.SYS_IO_SETUP, 1000, uintptr(unsafe.Pointer(&ctx)), 0)
		return errnoOrNil(errno)
	},
	"key": func(h *holding) error {
		h.n++
		_, err := unix.AddKey("user", strconv.Itoa(h.n), payload[:8000], unix.KEY_SPEC_PROCESS_KEYRING)
		return err
	},
	"io_uring": func(h *holding) error {
		_, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4096, uintptr(unsafe.Pointer(&[64]uint64{})), 0)
		return errnoOrNil(errno)
	},
	"bpf-map": func(h *holding) error {
		attr := [32]uint32{unix.BPF_MAP_TYPE_ARRAY, 4, 4096, 4096}
		_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_CREATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
		return errnoOrNil(errno)
	},
	"perf": func(h *holding) error {
		return h.keep(unix.PerfEventOpen(&unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}, 0, -1, -1, 0))
	},
	"userfaultfd": func(h *holding) error {
		_, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, 1, 0, 0) // UFFD_USER_MODE_ONLY
		return errnoOrNil(errno)
	},
	"tls": func(h *holding) error { return unix.SetsockoptString(h.last(), unix.SOL_TCP, unix.TCP_ULP, "tls") },
	"membership6": func(h *holding) error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		h.keep(fd, nil)
		return unix.SetsockoptIPv6Mreq(fd, unix.SOL_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: [16]byte{0xff, 2, 15: 99}, Interface: 1})
	},
	"locked": func(h *holding) error {
		b, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return err
		}
		return unix.Mlock(b)
	},
	"page-table": func(h *holding) error {
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
	"file": func(h *holding) error {
		h.n++
		fd, err := unix.Open("/tmp/file-"+strconv.Itoa(h.n), unix.O_CREAT|unix.O_WRONLY, 0o600)
		if err == nil {
			unix.Close(fd)
		}
		return err
	},
	"attribute": func(h *holding) error {
		h.n++
		path := "/tmp/attributes-" + strconv.Itoa(h.n)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return err
		}
		return unix.Setxattr(path, "user.x", payload, 0)
	},
	"open-sockets-for-1s": func(h *holding) error {
		for begin := time.Now(); time.Since(begin) < time.Second; {
			if fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE); err == nil {
				unix.Close(fd)
			}
		}
		return nil
	},
	"closed": func(h *holding) error {
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
	"seccomp-filter": func(h *holding) error {
		program := make([]unix.SockFilter, 4096)
		for i := range program {
			program[i] = unix.SockFilter{Code: unix.BPF_LD | unix.BPF_IMM, K: 0xffff}
		}
		program[4095] = unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
		f := unix.SockFprog{Len: 4096, Filter: &program[0]}
		_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&f)))
		return errnoOrNil(errno)
	},
	"fragment": func(h *holding) error {
		// Each call sends to ourselves one fragment of a new datagram, whose other fragments never
		// arrive.
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
