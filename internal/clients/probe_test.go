package clients

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"palisade/internal/netns"
)

// Times that a probe waits for its answer. An admitted packet takes a millisecond, but a busy
// machine may run the answering program much later. A probe that expects no answer waits only
// silenceFor; the test also sends the same probe at a time when it must be answered.
const (
	answerWithin = 5 * time.Second
	silenceFor   = 400 * time.Millisecond
)

// A host sends and answers probes. It is an instance, the laptop or the stranger.
type host struct {
	name      string // used in messages and answers
	namespace string
}

// hosts has the servers that were started to answer probes, one for each namespace and kind of
// probe. They stop when the test ends. mu guards servers.
type hosts struct {
	mu      sync.Mutex
	servers map[string]*server
}

// A server of TCP or UDP answers with its host's name, a newline and what it received. A server
// of another protocol does not answer and only records what it received.
type server struct {
	close    func() error
	mu       sync.Mutex
	received [][]byte
}

func newHosts(t *testing.T) *hosts {
	h := &hosts{servers: map[string]*server{}}
	t.Cleanup(func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, s := range h.servers {
			s.close()
		}
	})
	return h
}

// serve returns the server for a kind of probe on a host. It starts the server if none runs.
func (h *hosts) serve(t testing.TB, to host, kind string) *server {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	key := to.namespace + " " + kind
	if s := h.servers[key]; s != nil {
		return s
	}
	s := &server{close: func() error { return nil }}
	err := netns.Do(to.namespace, func() error { return s.listen(to.name, kind) })
	if errors.Is(err, os.ErrExist) || err != nil && strings.Contains(err.Error(), "address already in use") {
		// A server of the instance's image already listens on the port and answers instead.
		err = nil
	}
	if err != nil {
		t.Fatalf("start a server for %s on %s: %v", kind, to.name, err)
	}
	h.servers[key] = s
	return s
}

func (s *server) listen(name, kind string) error {
	network, port, _ := strings.Cut(kind, "/")
	switch network {
	case "tcp":
		l, err := net.Listen("tcp4", ":"+port)
		if err != nil {
			return err
		}
		s.close = l.Close
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					fmt.Fprintf(conn, "%s\n", name)
					buffer := make([]byte, 512)
					for {
						n, err := conn.Read(buffer)
						if err != nil {
							return
						}
						conn.Write(buffer[:n])
					}
				}()
			}
		}()
	case "udp":
		l, err := net.ListenPacket("udp4", ":"+port)
		if err != nil {
			return err
		}
		s.close = l.Close
		go s.answer(l, []byte(name+"\n"))
	case "proto":
		l, err := net.ListenPacket("ip4:"+port, "0.0.0.0")
		if err != nil {
			return err
		}
		s.close = l.Close
		go s.answer(l, nil)
	}
	return nil
}

// answer records each datagram that arrives. If greeting is not nil, it sends the greeting and
// the datagram back.
func (s *server) answer(l net.PacketConn, greeting []byte) {
	buffer := make([]byte, 2048)
	for {
		n, from, err := l.ReadFrom(buffer)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.received = append(s.received, bytes.Clone(buffer[:n]))
		s.mu.Unlock()
		if greeting != nil {
			l.WriteTo(append(bytes.Clone(greeting), buffer[:n]...), from)
		}
	}
}

// has reports whether the server received token.
func (s *server) has(token []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, data := range s.received {
		if bytes.Contains(data, token) {
			return true
		}
	}
	return false
}

// reach sends a probe of this kind (tcp/PORT, udp/PORT, icmp) from a host to an address. It
// returns the host's name that the answer has, "an answer" if the answer has no name, or "" if no
// answer came within limit. The kind open/PORT is a TCP connection to a server of the instance's
// image.
func reach(from host, to netip.Addr, kind string, limit time.Duration) (string, error) {
	network, port, _ := strings.Cut(kind, "/")
	switch network {
	case "tcp", "open":
		return reachTCP(from, network == "tcp", netip.AddrPortFrom(to, number(port)), limit)
	case "udp":
		return reachUDP(from, netip.AddrPortFrom(to, number(port)), limit)
	case "icmp":
		return reachICMP(from, to, limit)
	}
	return "", fmt.Errorf("unknown kind of probe %q", kind)
}

func number(text string) uint16 {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		panic(err)
	}
	return uint16(n)
}

func reachTCP(from host, named bool, to netip.AddrPort, limit time.Duration) (string, error) {
	var conn net.Conn
	err := netns.Do(from.namespace, func() error {
		var err error
		conn, err = net.DialTimeout("tcp4", to.String(), limit)
		return err
	})
	if err != nil {
		return "", noAnswer(err)
	}
	defer conn.Close()
	if !named {
		return "an answer", nil
	}
	conn.SetReadDeadline(time.Now().Add(answerWithin))
	name, err := readLine(conn)
	if err != nil {
		return "", fmt.Errorf("%s accepted a connection from %s but sent no answer: %w", to, from.name, err)
	}
	return name, nil
}

// readLine returns the first line that arrives on conn.
func readLine(conn net.Conn) (string, error) {
	buffer := make([]byte, 256)
	n, err := conn.Read(buffer)
	line, _, _ := strings.Cut(string(buffer[:n]), "\n")
	return line, err
}

// noAnswer returns nil if err means that no answer came, and err if not. A refused connection is
// an answer.
func noAnswer(err error) error {
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return nil
	}
	if strings.Contains(err.Error(), "unreachable") || strings.Contains(err.Error(), "no route to host") {
		return nil
	}
	return err
}

func reachUDP(from host, to netip.AddrPort, limit time.Duration) (string, error) {
	var conn net.Conn
	err := netns.Do(from.namespace, func() error {
		var err error
		conn, err = net.Dial("udp4", to.String())
		return err
	})
	if err != nil {
		return "", noAnswer(err)
	}
	defer conn.Close()
	token := newToken()
	return sendUntil(limit, func() error { _, err := conn.Write(token); return err }, func(deadline time.Time) (string, bool) {
		conn.SetReadDeadline(deadline)
		buffer := make([]byte, 512)
		n, err := conn.Read(buffer)
		if err != nil || !bytes.Contains(buffer[:n], token) {
			return "", false
		}
		name, _, _ := strings.Cut(string(buffer[:n]), "\n")
		return name, true
	})
}

// sendUntil calls send repeatedly until receive succeeds or the limit has passed, because a busy
// machine may lose datagrams. It returns the name that receive returned, or "" after the limit.
func sendUntil(limit time.Duration, send func() error, receive func(time.Time) (string, bool)) (string, error) {
	for end := time.Now().Add(limit); time.Now().Before(end); {
		if err := send(); err != nil {
			return "", noAnswer(err)
		}
		again := time.Now().Add(250 * time.Millisecond)
		for time.Now().Before(again) && time.Now().Before(end) {
			if name, ok := receive(again); ok {
				return name, nil
			}
		}
	}
	return "", nil
}

func reachICMP(from host, to netip.Addr, limit time.Duration) (string, error) {
	var conn net.PacketConn
	err := netns.Do(from.namespace, func() error {
		var err error
		conn, err = net.ListenPacket("ip4:icmp", "0.0.0.0")
		return err
	})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	token := newToken()
	echo := append([]byte{8, 0, 0, 0}, token...) // the first 4 bytes of the token serve as identifier and sequence number
	binary.BigEndian.PutUint16(echo[2:], checksum(echo))
	return sendUntil(limit, func() error { _, err := conn.WriteTo(echo, &net.IPAddr{IP: to.AsSlice()}); return err }, func(deadline time.Time) (string, bool) {
		conn.SetReadDeadline(deadline)
		buffer := make([]byte, 512)
		n, _, err := conn.ReadFrom(buffer)
		if err != nil || n < 4 || buffer[0] != 0 || !bytes.Equal(buffer[4:n], token) {
			return "", false
		}
		return "an answer", true
	})
}

// arrives sends packets of a protocol without ports. The server does not answer, so it asks the
// server and reports whether one was received.
func arrives(r probe, s *server, limit time.Duration) (bool, error) {
	_, protocol, _ := strings.Cut(r.kind, "/")
	source := r.source
	if !source.IsValid() {
		source = netip.IPv4Unspecified()
	}
	var conn net.PacketConn
	err := netns.Do(r.from.namespace, func() error {
		var err error
		conn, err = net.ListenPacket("ip4:"+protocol, source.String())
		return err
	})
	if err != nil {
		return false, err
	}
	defer conn.Close()
	token := newToken()
	_, err = sendUntil(limit, func() error { _, err := conn.WriteTo(token, &net.IPAddr{IP: r.to.AsSlice()}); return err }, func(time.Time) (string, bool) {
		<-time.After(5 * time.Millisecond)
		return "", s.has(token)
	})
	return s.has(token), err
}

func newToken() []byte {
	token := make([]byte, 32)
	rand.Read(token)
	return token
}

// checksum returns the Internet checksum of data (RFC 1071).
func checksum(data []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
