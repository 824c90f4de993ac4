package packettest

import (
	"encoding/binary"
	"fmt"
)

// Fragments cuts a frame that Build has built into fragments whose data has the given sizes: multiples of 8
// that end before the packet's data does. The last fragment has the rest.
func Fragments(frame []byte, sizes ...int) (all [][]byte) {
	header := 14 + int(frame[14]&15)*4
	data := frame[header:]
	for at := 0; at < len(data); {
		n := len(data) - at
		if len(sizes) > 0 {
			n, sizes = sizes[0], sizes[1:]
		}
		piece := append(append([]byte{}, frame[:header]...), data[at:at+n]...)
		field := uint16(at / 8)
		if at+n < len(data) {
			field |= 0x2000
		}
		binary.BigEndian.PutUint16(piece[16:], uint16(len(piece)-14))
		binary.BigEndian.PutUint16(piece[20:], field)
		piece[24], piece[25] = 0, 0
		binary.BigEndian.PutUint16(piece[24:], ^OnesSum(piece[14:header]))
		all, at = append(all, piece), at+n
	}
	return all
}

// Reassemble joins the fragments of one packet, in the order in which a wire carried them, and returns the
// packet's IP header without options and checksum, and its data. It returns an error if a checksum is wrong, a
// fragment does not follow the one before it, or two differ in what all fragments of a packet have in common.
func Reassemble(frames [][]byte) (header, data []byte, err error) {
	for i, frame := range frames {
		if len(frame) < 34 || frame[14]>>4 != 4 {
			return nil, nil, fmt.Errorf("frame %d has no IPv4 header: % x", i, frame)
		}
		ip := frame[14:]
		end, total := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
		if total > len(ip) || OnesSum(ip[:end]) != 0xffff {
			return nil, nil, fmt.Errorf("frame %d has a wrong length or IP checksum: % x", i, ip[:end])
		}
		field := binary.BigEndian.Uint16(ip[6:])
		common := append([]byte{ip[1]}, ip[4:6]...)
		common = append(append(common, byte(field>>8)&0xc0), ip[8:10]...)
		common = append(common, ip[12:20]...)
		if i == 0 {
			header = common
		}
		more, last := field&0x2000 != 0, i == len(frames)-1
		switch {
		case string(common) != string(header):
			return nil, nil, fmt.Errorf("frame %d has the header % x, the first % x", i, common, header)
		case int(field&0x1fff)*8 != len(data):
			return nil, nil, fmt.Errorf("frame %d begins at %d, want %d", i, int(field&0x1fff)*8, len(data))
		case more == last:
			return nil, nil, fmt.Errorf("frame %d of %d says that more follow: %v", i+1, len(frames), more)
		}
		data = append(data, ip[end:total]...)
	}
	return header, data, nil
}

// OnesSum returns the ones' complement sum of b, as 16-bit words.
func OnesSum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}
