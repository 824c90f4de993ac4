package afpacket

import (
	"testing"

	"golang.org/x/sys/unix"

	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// TestReadShorterThanHeaderIsLost reads from a Unix socket, because a packet socket returns no
// message without a virtio header.
func TestReadShorterThanHeaderIsLost(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	d := newDevice("short", pair[0])
	t.Cleanup(func() { _ = d.Close(); _ = unix.Close(pair[1]) })
	for _, n := range []int{1, packet.OffloadLen - 1, packet.OffloadLen} {
		if _, err := unix.Write(pair[1], make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	buffer := make([]byte, 64)
	for range 2 {
		if n, err := d.Read(buffer); err != verdict.Lost(verdict.ShortRead) {
			t.Errorf("Read = %d, %v; want the error %v", n, err, verdict.Lost(verdict.ShortRead))
		}
	}
	if n, err := d.Read(buffer); n != packet.OffloadLen || err != nil {
		t.Errorf("Read = %d, %v; want %d bytes, a virtio header alone", n, err, packet.OffloadLen)
	}
	if _, err := d.Read(buffer); err != unix.EAGAIN {
		t.Errorf("Read of an empty socket: error %v, want %v", err, unix.EAGAIN)
	}
}
