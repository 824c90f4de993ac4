// Package taptest is the in-memory twin of package tap: a device whose other end is a test.
package taptest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"palisade/internal/packet"
)

// Device is a vswitch.Device. It is safe for concurrent use.
type Device struct {
	Plain bool // without offloads; set before use

	event    int // counts the frames in received, so that epoll can wait for them
	mu       sync.Mutex
	received [][]byte // what the switch is to read
	written  [][]byte // what the switch has delivered
	arrived  chan struct{}
}

// New returns a device.
func New() (*Device, error) {
	event, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC|unix.EFD_SEMAPHORE)
	if err != nil {
		return nil, fmt.Errorf("make an event: %w", err)
	}
	return &Device{event: event, arrived: make(chan struct{}, 1)}, nil
}

// Send puts a frame before the switch, without offload header.
func (d *Device) Send(frame []byte) error {
	return d.SendOffload(make([]byte, packet.OffloadLen), frame)
}

// SendOffload puts a frame behind a virtio header before the switch.
func (d *Device) SendOffload(offload, frame []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.received = append(d.received, slices.Concat(offload, frame))
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, err := unix.Write(d.event, one[:])
	return err
}

// Arrived is signalled when the switch has delivered something.
func (d *Device) Arrived() <-chan struct{} { return d.arrived }

// Take returns what the switch has delivered since the last Take: virtio header and frame.
func (d *Device) Take() [][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	frames := d.written
	d.written = nil
	return frames
}

// FD is the descriptor to wait on.
func (d *Device) FD() int { return d.event }

// Offloads are all there are, or none if it is Plain.
func (d *Device) Offloads() packet.Offloads {
	if d.Plain {
		return packet.NoOffloads
	}
	return packet.DatagramOffloads
}

// Read hands the next frame to the switch.
func (d *Device) Read(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.received) == 0 {
		return 0, unix.EAGAIN
	}
	var one [8]byte
	if _, err := unix.Read(d.event, one[:]); err != nil {
		return 0, err
	}
	n := copy(b, d.received[0])
	d.received = d.received[1:]
	return n, nil
}

// Write keeps a copy of what the switch delivers.
func (d *Device) Write(b []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.event < 0 {
		return errors.New("closed")
	}
	d.written = append(d.written, slices.Clone(b))
	select {
	case d.arrived <- struct{}{}:
	default:
	}
	return nil
}

// Close ends the device.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.event < 0 {
		return nil
	}
	err := unix.Close(d.event)
	d.event = -1
	return err
}
