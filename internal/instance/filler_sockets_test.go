package instance

import (
	"encoding/binary"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// A holding is the set of kernel resources that a filler has taken and holds.
type holding struct {
	fds    []int
	events []int // event descriptors that are watched by epoll
	n      int   // number of actions so far, used for distinct names
}

// keep adds a descriptor to the holding.
func (h *holding) keep(fd int, err error) error {
	if err == nil {
		h.fds = append(h.fds, fd)
	}
	return err
}

// event returns the i-th event descriptor, which it opens first if necessary, or -1 on an error.
func (h *holding) event(i int) int {
	for len(h.events) <= i {
		fd, err := unix.Eventfd(0, 0)
		if err != nil {
			return -1
		}
		h.events = append(h.events, fd)
	}
	return h.events[i]
}

// last returns the descriptor that was opened last.
func (h *holding) last() int {
	if len(h.fds) == 0 {
		return -1
	}
	return h.fds[len(h.fds)-1]
}

// actionOf returns the action with this name, or nil if there is none.
func actionOf(name string) func(h *holding) error {
	if action := socketActions[name]; action != nil {
		return action
	}
	return kernelActions[name]
}

// socketActions are the actions of a filler on sockets, by name.
var socketActions = map[string]func(h *holding) error{
	"packet": func(h *holding) error {
		if err := h.keep(unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, htons(unix.ETH_P_ALL))); err != nil {
			return err
		}
		return attachFilter(h.last(), maxFilter)
	},
	"long-filter":     func(h *holding) error { return attachFilter(h.last(), 1000) },
	"filter-of-64":    func(h *holding) error { return attachFilter(h.last(), maxFilter) },
	"filter-of-65":    func(h *holding) error { return attachFilter(h.last(), maxFilter+1) },
	"filter-of-loads": func(h *holding) error { return setFilter(h.last(), loads(342)) },
	"most-loads":      func(h *holding) error { return setFilter(h.last(), loads(330)) },
	"packet-of-inet": func(h *holding) error {
		return h.keep(unix.Socket(unix.AF_INET, unix.SOCK_PACKET, htons(unix.ETH_P_ALL)))
	},
	"raw":     func(h *holding) error { return h.keep(unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)) },
	"raw6":    func(h *holding) error { return h.keep(unix.Socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6)) },
	"netlink": func(h *holding) error { return h.keep(unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)) },
	"close": func(h *holding) error {
		if len(h.fds) == 0 {
			return unix.EBADF
		}
		fd := h.last()
		h.fds = h.fds[:len(h.fds)-1]
		return unix.Close(fd)
	},
	// send-away sends a packet socket over a socket that nobody reads, and closes its own descriptor,
	// so the packet socket stays in flight.
	"send-away": func(h *holding) error {
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
	"ring-of-1GiB":    func(h *holding) error { return setRing(h.last(), unix.PACKET_RX_RING, 4<<20, 256) },
	"ring-of-2MiB":    func(h *holding) error { return setRing(h.last(), unix.PACKET_RX_RING, 256<<10, 8) },
	"tx-ring-of-2MiB": func(h *holding) error { return setRing(h.last(), unix.PACKET_TX_RING, 256<<10, 8) },
	"ring-of-5-pages": func(h *holding) error { return setRing(h.last(), unix.PACKET_RX_RING, 5*4096, 250) }, // 8 pages each after rounding: 8 MB
	"ring-away":       func(h *holding) error { return setRing(h.last(), unix.PACKET_RX_RING, 0, 0) },
	"ring-of-nonsense": func(h *holding) error {
		return unix.SetsockoptString(h.last(), unix.SOL_PACKET, unix.PACKET_RX_RING, "x")
	},
	"promiscuous": func(h *holding) error { return addMembership(h.last(), unix.PACKET_MR_PROMISC) },
	"multicast":   func(h *holding) error { return addMembership(h.last(), unix.PACKET_MR_MULTICAST) },
	"large-fanout": func(h *holding) error {
		group := binary.NativeEndian.AppendUint16(nil, uint16(h.last()))
		group = binary.NativeEndian.AppendUint16(group, unix.PACKET_FANOUT_HASH)
		group = binary.NativeEndian.AppendUint32(group, 65536) // struct fanout_args, max_num_members
		return unix.SetsockoptString(h.last(), unix.SOL_PACKET, unix.PACKET_FANOUT, string(group))
	},
	"buffer-of-64MiB": func(h *holding) error {
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
	"bind": func(h *holding) error {
		eth, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		return unix.Bind(h.last(), &unix.SockaddrLinklayer{Protocol: uint16(htons(unix.ETH_P_ALL)), Ifindex: eth.Index})
	},
	"udp": func(h *holding) error { return h.keep(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)) },
	"tcp": func(h *holding) error { return h.keep(unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)) },
	"udp-queue": func(h *holding) error {
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
	"udp-errors": func(h *holding) error {
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
	"udp-timestamps": func(h *holding) error {
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
	"tcp-pair": func(h *holding) error {
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
	"listen": func(h *holding) error {
		l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		if err := unix.Listen(l, 4096); err != nil {
			return err
		}
		return h.keep(l, nil)
	},
	"backlog": func(h *holding) error {
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
	"unix-dgram":  func(h *holding) error { return h.fillPair(unix.SOCK_DGRAM) },
	"unix-stream": func(h *holding) error { return h.fillPair(unix.SOCK_STREAM) },
	"netlink-queue": func(h *holding) error {
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
}

func htons(v uint16) int { return int(v<<8 | v>>8) }

// attachFilter attaches a filter of n instructions, none of which reads the packet, to the socket fd.
func attachFilter(fd, n int) error { return setFilter(fd, program(n, unix.BPF_LD|unix.BPF_IMM)) }

// loads returns a filter of n instructions. All but the last read the packet.
func loads(n int) []unix.SockFilter { return program(n, unix.BPF_LD|unix.BPF_B|unix.BPF_ABS) }

func program(n int, code uint16) []unix.SockFilter {
	program := make([]unix.SockFilter, n)
	for i := range program {
		program[i] = unix.SockFilter{Code: code, K: 20}
	}
	program[n-1] = unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff}
	return program
}

// setRing requests a ring of blocks of size bytes, with frames of 2,048 bytes.
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

// fillPair adds to the holding two connected unix sockets, one of which has a full queue.
func (h *holding) fillPair(kind int) error {
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
