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

// A Hold says which sockets to keep open. Packet sockets that the kernel refuses are left
// out: the node decides how many an instance may have.
type Hold struct {
	Device       string         `json:"device"`
	Slow         int            `json:"slow"`         // packet sockets with a slow filter, alternately for ARP and IPv4
	Instructions int            `json:"instructions"` // of each filter; all of them run for every frame that arrives
	Unread       int            `json:"unread"`       // packet sockets that receive every frame and are not read
	Connections  int            `json:"connections"`  // TCP connections that are not read
	To           netip.AddrPort `json:"to"`           // server of the connections, which sends without end
}

// A Held counts the sockets that a Hold has opened.
type Held struct {
	Slow        int    `json:"slow"`
	Unread      int    `json:"unread"`
	Connections int    `json:"connections"`
	Refused     string `json:"refused,omitempty"` // why a packet socket was refused
}

// senderSockets is a few more than the number of packet sockets that the senders of an
// Attack need.
const senderSockets = 12

// A holding has the sockets of a process. They are closed when the process ends.
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
	for range h.Connections { // first, because the slow filters would delay every packet of a handshake
		conn, err := net.DialTimeout("tcp4", h.To.String(), 2*time.Second)
		if err != nil {
			return nil, fmt.Errorf("connect to the server that sends without end: %w", err)
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
	if errors.Is(refused, unix.ENOBUFS) { // no more sockets are allowed, so close some for the senders
		for range min(senderSockets, held.Slow) {
			last := len(o.sockets) - 1
			_ = unix.Close(o.sockets[last]) // even after an error the descriptor is closed
			o.sockets = o.sockets[:last]
			held.Slow--
		}
	}
	return &held, nil
}

func (o *holding) packetSocket(device int, protocol uint16, filter []unix.SockFilter) error {
	// A socket without a protocol receives nothing, so it gets its filter before any frame.
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

// slowFilter returns a filter that loads the frame's first byte again and again, and then
// refuses the frame.
func slowFilter(instructions int) []unix.SockFilter {
	filter := make([]unix.SockFilter, max(1, instructions))
	for i := range filter {
		filter[i] = unix.SockFilter{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS}
	}
	filter[len(filter)-1] = unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	return filter
}
