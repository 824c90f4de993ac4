package storm

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Hold says what to keep open. What the kernel refuses is left out: how much it lets an
// instance have is its node's affair.
type Hold struct {
	Device       string         `json:"device"`
	Slow         int            `json:"slow"`         // packet sockets with a filter each, for ARP and IPv4 in turn
	Instructions int            `json:"instructions"` // of each filter, all of which run for every frame that arrives
	Unread       int            `json:"unread"`       // packet sockets for every frame, without a filter
	Connections  int            `json:"connections"`  // TCP connections that are not read from
	To           netip.AddrPort `json:"to"`           // of those: it sends without end
}

// A Held is what there is of a Hold.
type Held struct {
	Slow        int    `json:"slow"`
	Unread      int    `json:"unread"`
	Connections int    `json:"connections"`
	Refused     string `json:"refused,omitempty"` // why there are no more packet sockets
}

// senderSockets is as many packet sockets as the senders of a Blow need, and a few more.
const senderSockets = 12

// A holding is what a process holds; it is closed with the process.
type holding struct {
	sockets     []int
	connections []net.Conn
}

func (o *holding) hold(h Hold) (*Held, error) {
	link, err := net.InterfaceByName(h.Device)
	if err != nil {
		return nil, err
	}
	var held Held
	for range h.Connections { // first: later every packet of a handshake is slow
		conn, err := net.DialTimeout("tcp4", h.To.String(), 2*time.Second)
		if err != nil {
			return nil, fmt.Errorf("connect to what sends without end: %w", err)
		}
		o.connections = append(o.connections, conn)
		held.Connections++
	}
	for range h.Unread {
		if err := o.packetSocket(link.Index, unix.ETH_P_ALL, nil); err != nil {
			held.Refused = err.Error()
			break
		}
		held.Unread++
	}
	filter := slowFilter(h.Instructions)
	var refused error
	for i := range h.Slow {
		protocol := []uint16{unix.ETH_P_ARP, unix.ETH_P_IP}[i%2]
		if refused = o.packetSocket(link.Index, protocol, filter); refused != nil {
			held.Refused = refused.Error()
			break
		}
		held.Slow++
	}
	if errors.Is(refused, unix.ENOBUFS) { // sockets are what is short, and the senders want some
		for range min(senderSockets, held.Slow) {
			last := len(o.sockets) - 1
			_ = unix.Close(o.sockets[last]) // it may be gone, as far as this program is concerned
			o.sockets = o.sockets[:last]
			held.Slow--
		}
	}
	return &held, nil
}

func (o *holding) packetSocket(device int, protocol uint16, filter []unix.SockFilter) error {
	// Without a protocol it receives nothing until it has its filter.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	if filter != nil {
		program := unix.SockFprog{Len: uint16(len(filter)), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))}
		err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol>>8 | protocol<<8, Ifindex: device})
	}
	if err != nil {
		return errors.Join(fmt.Errorf("filter of a packet socket: %w", err), unix.Close(fd))
	}
	o.sockets = append(o.sockets, fd)
	return nil
}

// slowFilter reads the frame's first byte again and again, and refuses the frame.
func slowFilter(instructions int) []unix.SockFilter {
	filter := make([]unix.SockFilter, max(1, instructions))
	for i := range filter {
		filter[i] = unix.SockFilter{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS}
	}
	filter[len(filter)-1] = unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	return filter
}
