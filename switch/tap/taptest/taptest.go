// Package taptest has an in-memory device with the interface of package tap: a test sends and
// receives its frames.
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

// Device is a vswitch.Device. Any goroutine may call its methods; mu guards the frames.
type Device struct {
	Plain bool // without offloads; set it before use

	event    int // an eventfd that counts the received frames, for epoll
	mu       sync.Mutex
	received [][]byte // frames that the switch will read
	written  [][]byte // frames that the switch has delivered
	arrived  chan struct{}
}

// New returns a device.
func New() (*Device, error) {
	event, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC|unix.EFD_SEMAPHORE)
	if err != nil {
		return nil, fmt.Errorf("create an eventfd: %w", err)
	}
	return &Device{event: event, arrived: make(chan struct{}, 1)}, nil
}

// Send hands a frame without offloads to the switch.
func (d *Device) Send(frame []byte) error {
	return d.SendOffload(make([]byte, packet.OffloadLen), frame)
}

// SendOffload hands a frame behind a virtio header to the switch.
func (d *Device) SendOffload(offload, frame []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.received = append(d.received, slices.Concat(offload, frame))
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, err := unix.Write(d.event, one[:])
	return err
}

// Arrived returns a channel that gets a value when the switch has delivered a frame.
func (d *Device) Arrived() <-chan struct{} { return d.arrived }

// Take returns the frames that the switch has delivered since the last Take, each behind its virtio
// header.
func (d *Device) Take() [][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	frames := d.written
	d.written = nil
	return frames
}

// FD returns the descriptor that epoll waits on.
func (d *Device) FD() int { return d.event }

// Offloads returns all offloads, or none if the device is Plain.
func (d *Device) Offloads() packet.Offloads {
	if d.Plain {
		return packet.NoOffloads
	}
	return packet.DatagramOffloads
}

// Read returns the next frame to the switch.
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

// Write stores a copy of the frame.
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

// Close closes the device. It must not be read any more.
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
