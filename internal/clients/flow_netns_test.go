package clients

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"palisade/internal/netns"
)

// What becomes of a datagram.
const (
	arrived  = "arrived"
	answered = "answered: message too long"
	lost     = "lost"
	altered  = "arrived with other bytes"
)

// A flow sends datagrams or pings from one end to another, one after the other.
type flow struct {
	t        *testing.T
	kind     string
	from, to *end
	df       int
	sender   int // a connected socket
	receiver int // for a ping: the sender's, where the echo arrives
	ping     bool
	sequence uint16
	buffer   []byte
}

// newFlow makes a flow of UDP datagrams.
func newFlow(t *testing.T, from, to *end, df int) *flow {
	t.Helper()
	f := &flow{t: t, kind: "UDP", from: from, to: to, df: df, buffer: make([]byte, 1<<16)}
	f.receiver = f.socket(to, unix.SOCK_DGRAM, 0)
	check(t, unix.Bind(f.receiver, &unix.SockaddrInet4{Port: 5003}))
	f.sender = f.socket(from, unix.SOCK_DGRAM, 0)
	f.connect(5003)
	return f
}

// newPing makes a flow of pings, which the other end's kernel answers.
func newPing(t *testing.T, from, to *end, df int) *flow {
	t.Helper()
	f := &flow{t: t, kind: "a ping", from: from, to: to, df: df, ping: true, buffer: make([]byte, 1<<16)}
	f.sender = f.socket(from, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	f.receiver = f.sender
	f.connect(0)
	return f
}

func (f *flow) socket(at *end, kind, protocol int) (fd int) {
	f.t.Helper()
	check(f.t, netns.Do(at.namespace, func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
		return err
	}))
	check(f.t, unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, f.df))
	check(f.t, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1<<20))
	return fd
}

func (f *flow) connect(port int) {
	f.t.Helper()
	check(f.t, unix.Connect(f.sender, &unix.SockaddrInet4{Port: port, Addr: f.to.addressFor(f.from).As4()}))
}

func (f *flow) close() {
	_ = unix.Close(f.sender)
	if !f.ping {
		_ = unix.Close(f.receiver)
	}
}

// message returns bytes of the given size that no other message has; for a ping, behind an echo request's header.
func (f *flow) message(size int) []byte {
	f.sequence++
	r := rand.New(rand.NewPCG(uint64(f.sequence), uint64(size)))
	b := make([]byte, 8+size)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	if !f.ping {
		return b[8:]
	}
	copy(b, []byte{8, 0, 0, 0, 0x51, 0x5a})
	binary.BigEndian.PutUint16(b[6:], f.sequence)
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(b[2:], ^uint16(sum))
	return b
}

// send sends one message with size bytes of payload, and returns what became of it within two seconds.
func (f *flow) send(size int) string {
	f.t.Helper()
	message := f.message(size)
	if _, err := unix.Write(f.sender, message); err != nil {
		if errors.Is(err, unix.EMSGSIZE) {
			return answered
		}
		return err.Error()
	}
	for end := time.Now().Add(2 * time.Second); ; {
		left := int(time.Until(end) / time.Millisecond)
		if left <= 0 {
			return lost
		}
		ready := []unix.PollFd{{Fd: int32(f.receiver), Events: unix.POLLIN}, {Fd: int32(f.sender)}}
		if _, err := unix.Poll(ready, left); err != nil && err != unix.EINTR {
			return err.Error()
		}
		if ready[1].Revents&unix.POLLERR != 0 {
			if code, err := unix.GetsockoptInt(f.sender, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || code != 0 && unix.Errno(code) != unix.EMSGSIZE {
				return unix.Errno(code).Error()
			} else if code != 0 {
				return answered
			}
		}
		n, err := unix.Read(f.receiver, f.buffer)
		if err != nil {
			continue
		}
		if got, mine := f.payload(f.buffer[:n]); mine {
			if f.ping {
				message = message[4:]
			}
			if !bytes.Equal(got, message) {
				return altered
			}
			return arrived
		}
	}
}

// payload returns what was received of a message: for a ping, from its identifier on. It returns false for a packet
// of another flow.
func (f *flow) payload(b []byte) ([]byte, bool) {
	if !f.ping {
		return b, true
	}
	b = b[int(b[0]&15)*4:]
	return b[4:], b[0] == 0 && len(b) >= 8 && binary.BigEndian.Uint16(b[4:]) == 0x515a && binary.BigEndian.Uint16(b[6:]) == f.sequence
}

// checkStream sends two megabytes over TCP and checks that they arrive.
func checkStream(t *testing.T, from, to *end) {
	t.Helper()
	var listener net.Listener
	check(t, netns.Do(to.namespace, func() (err error) {
		listener, err = net.Listen("tcp4", ":5004")
		return err
	}))
	defer listener.Close()
	content := make([]byte, 2<<20)
	r := rand.New(rand.NewPCG(13, uint64(len(from.name))))
	for i := range content {
		content[i] = byte(r.Uint32())
	}
	received := make(chan [sha256.Size]byte, 1)
	go func() {
		var sum [sha256.Size]byte
		if in, err := listener.Accept(); err == nil {
			_ = in.SetDeadline(time.Now().Add(30 * time.Second))
			hash := sha256.New()
			_, _ = io.Copy(hash, in)
			sum = [sha256.Size]byte(hash.Sum(nil))
			_ = in.Close()
		}
		received <- sum
	}()
	var out net.Conn
	err := netns.Do(from.namespace, func() (err error) {
		out, err = net.DialTimeout("tcp4", netip.AddrPortFrom(to.addressFor(from), 5004).String(), 10*time.Second)
		return err
	})
	if err == nil {
		err = out.SetDeadline(time.Now().Add(30 * time.Second))
		_, wrote := out.Write(content)
		err = errors.Join(err, wrote, out.Close())
	} else {
		listener.Close()
	}
	if sum := <-received; err != nil || sum != sha256.Sum256(content) {
		t.Errorf("TCP from %s to %s: error %v, the content arrived: %v", from.name, to.name, err, sum == sha256.Sum256(content))
	}
}
