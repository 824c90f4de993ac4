package storm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
)

// A Frame is one frame of a corpus.
type Frame struct {
	Bytes  []byte `json:"bytes"`
	Header bool   `json:"header"` // it begins with a virtio header, and is sent with PACKET_VNET_HDR
}

// Corpus returns every hostile frame of the repository, sent by me to each of the hosts: the
// threats of packettest, forged offload headers, and the findings of the fuzz targets in the
// directories fuzz, as frames and as payloads.
func Corpus(me Host, to []Host, fuzz ...string) ([]Frame, error) {
	var all []Frame
	for _, host := range to {
		for _, threat := range packettest.Threats(field(me, host)) {
			all = append(all, Frame{Bytes: threat.Frame})
		}
		forged, err := forgedHeaders(me, host)
		if err != nil {
			return nil, err
		}
		all = append(all, forged...)
	}
	found, err := fuzzed(fuzz)
	if err != nil {
		return nil, err
	}
	for _, b := range found {
		for _, host := range to {
			all = append(all, fuzzFrames(me, host, b)...)
		}
	}
	return all, nil
}

// field returns the addresses for packettest's threats: me attacks host, and a group member
// has the address after host's.
func field(me, host Host) packettest.Field {
	at := func(h Host) packettest.Host { return packettest.Host{MAC: h.MAC, Addr: h.Address} }
	return packettest.Field{
		Attacker: at(me), Victim: at(host), Member: packettest.Host{MAC: ec2.MAC{2, 0, 0, 0, 0, 9}, Addr: host.Address.Next()},
		Gateway: packettest.Host{MAC: host.MAC, Addr: netip.MustParseAddr("10.0.0.1")}, Unused: netip.MustParseAddr("10.10.9.9"), Open: 22,
	}
}

// forgedCount is the number of forged headers for each host. All combinations would be tens
// of thousands.
const forgedCount = 2000

// forgedHeaders returns frames with offload headers (virtio 1.2 §5.1.6) that tell the receiver
// to write a checksum over other fields, or to cut the frame into other packets.
func forgedHeaders(me, to Host) ([]Frame, error) {
	syn, err := template(me, to, packet.ProtocolTCP, 22, 0)
	if err != nil {
		return nil, err
	}
	segments, err := template(me, to, packet.ProtocolTCP, 22, 4000)
	if err != nil {
		return nil, err
	}
	datagrams, err := template(me, to, packet.ProtocolUDP, 53, 4000)
	if err != nil {
		return nil, err
	}
	r := rand.New(rand.NewPCG(1, 2)) // the same at every run
	pick := func(values ...uint16) uint16 { return values[r.IntN(len(values))] }
	var all []Frame
	for range forgedCount {
		b := []byte{byte(pick(0, 1, 1, 1)), byte(pick(0, 1, 3, 4, 5, 0x7e, 0x81))}
		for _, field := range []uint16{
			pick(0, 20, 42, 54, 74, 4000), pick(0, 1, 20, 47, 1400, 1460, 3000, 65535),
			pick(0, 14, 34, 34, 34, 36, 65535), pick(0, 1, 2, 6, 8, 12, 14, 16, 18, 22, 200, 65535),
		} {
			b = binary.NativeEndian.AppendUint16(b, field)
		}
		all = append(all, Frame{Bytes: append(b, [][]byte{syn, segments, datagrams}[r.IntN(3)]...), Header: true})
	}
	return all, nil
}

// fuzzFrames returns frames with the finding b of a fuzz target, one for each way in which an
// instance can send it.
func fuzzFrames(me, to Host, b []byte) []Frame {
	const longest = 60000
	if len(b) == 0 || len(b) > longest {
		return nil
	}
	var all []Frame
	if len(b) >= ipAt {
		all = append(all, Frame{Bytes: b})
		ours := append([]byte(nil), b...)
		copy(ours, to.MAC[:])
		copy(ours[6:], me.MAC[:])
		all = append(all, Frame{Bytes: ours})
	}
	if len(b) > packet.OffloadLen+ipAt {
		all = append(all, Frame{Bytes: b, Header: true})
	}
	if len(b) < 1300 { // as the payload of a datagram, and as an IP packet
		if frame, err := template(me, to, packet.ProtocolUDP, 53, len(b)); err == nil {
			copy(frame[transportAt+8:], b)
			setChecksum(frame, 6)
			all = append(all, Frame{Bytes: frame}, Frame{Bytes: append(append([]byte(nil), frame[:ipAt]...), b...)})
		}
	}
	return all
}

// fuzzed returns the byte strings in the corpora of `go test -fuzz` below testdata/fuzz in
// directories. A directory without a corpus adds nothing.
func fuzzed(directories []string) ([][]byte, error) {
	var all [][]byte
	for _, dir := range directories {
		files, err := filepath.Glob(filepath.Join(dir, "testdata", "fuzz", "*", "*"))
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("corpora below %s: %w", dir, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			for line := range strings.Lines(string(data)) {
				quoted, ok := strings.CutPrefix(strings.TrimSpace(line), "[]byte(")
				if !ok {
					continue
				}
				text, err := strconv.Unquote(strings.TrimSuffix(quoted, ")"))
				if err != nil {
					return nil, fmt.Errorf("%s: %w", file, err)
				}
				all = append(all, []byte(text))
			}
		}
	}
	return all, nil
}

// rawSocket opens a socket that writes frames to a device, with or without an offload header
// before each.
func rawSocket(device string, header bool) (int, error) {
	link, err := net.InterfaceByName(device)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	if header {
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: link.Index})
	}
	if err != nil {
		return -1, errors.Join(fmt.Errorf("packet socket on %s: %w", device, err), unix.Close(fd))
	}
	return fd, nil
}
