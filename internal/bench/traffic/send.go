package traffic

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batch is the number of frames in one system call, pacedStep the number that are sent back
// to back at a limited rate. RFC 2544 §21 wants a steady load, so fewer would be better, but
// a sleep between two steps cannot be shorter than about 50 us.
const (
	batch     = 64
	pacedStep = 16
	forgiven  = time.Millisecond // delay after which the schedule is moved
)

// mmsghdr is the kernel's struct mmsghdr; golang.org/x/sys has none.
type mmsghdr struct {
	header unix.Msghdr
	length uint32
}

// The function send sends a stream. If the device's queue has no room for a frame, the frame
// counts as offered but is lost, as it would be in the queue of a switch.
func send(s Send) (Sent, error) {
	f, err := newFramer(s)
	if err != nil {
		return Sent{}, err
	}
	return SendFrames(FrameStream{Device: s.Device, Frame: f.template, Next: f.fill, Rate: s.Rate, For: s.For})
}

// A FrameStream is a stream of frames of one length that leaves by a device.
type FrameStream struct {
	Device string
	Frame  []byte             // template: each buffer begins as a copy of it
	Next   func(frame []byte) // writes the next frame to a buffer, which may hold an earlier frame
	Rate   float64            // frames each second; 0: as fast as possible
	For    time.Duration
	Most   uint64 // the stream ends after the device has taken so many frames; 0: no bound
}

// SendFrames sends a stream and returns how many frames it sent, and how fast.
func SendFrames(s FrameStream) (Sent, error) {
	fd, err := packetSocket(s.Device)
	if err != nil {
		return Sent{}, err
	}
	defer unix.Close(fd)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// With this timer slack, a sleep between two steps ends on time, not 50 us later.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	g := generator{FrameStream: s, fd: fd}
	g.init()
	if s.Rate > 0 {
		return g.paced()
	}
	return g.flood()
}

// packetSocket opens a socket that writes frames to a device and bypasses its queueing
// discipline.
func packetSocket(device string) (int, error) {
	link, err := net.InterfaceByName(device)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: link.Index}))
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("packet socket on %s: %w", device, err)
	}
	return fd, nil
}

// A generator sends a stream's frames.
type generator struct {
	FrameStream
	fd       int
	frames   [batch][]byte
	vectors  [batch]unix.Iovec
	messages [batch]mmsghdr
	sent     Sent
}

func (g *generator) init() {
	for i := range g.frames {
		g.frames[i] = append([]byte(nil), g.Frame...)
		g.vectors[i].Base = &g.frames[i][0]
		g.vectors[i].SetLen(len(g.frames[i]))
		g.messages[i].header.Iov = &g.vectors[i]
		g.messages[i].header.SetIovlen(1)
	}
}

// enough reports whether the device has taken Most frames.
func (g *generator) enough() bool { return g.Most > 0 && g.sent.Offered-g.sent.Refused >= g.Most }

func (g *generator) flood() (Sent, error) {
	begun := time.Now()
	for g.sent.Took < g.For && !g.enough() {
		if err := g.step(batch); err != nil {
			return g.sent, err
		}
		g.sent.Took = time.Since(begun)
	}
	return g.sent, nil
}

// paced sends steps of a few frames, each when it is due. After a long delay, for example
// because another process had the processor, it moves the schedule and does not catch up.
// So compare the frames that arrived with the rate in Sent, not with the rate asked for.
func (g *generator) paced() (Sent, error) {
	interval := time.Duration(float64(pacedStep) / g.Rate * float64(time.Second))
	begun := time.Now()
	for due := time.Duration(0); due < g.For && !g.enough(); due += interval {
		for {
			early := due - time.Since(begun)
			if early < -forgiven {
				due -= early
			}
			if early <= 0 {
				break
			}
			pause := unix.NsecToTimespec(int64(early))
			_ = unix.Nanosleep(&pause, nil) // a signal can end it early
		}
		if err := g.step(pacedStep); err != nil {
			return g.sent, err
		}
	}
	g.sent.Took = max(g.For, time.Since(begun))
	return g.sent, nil
}

// step sends n frames.
func (g *generator) step(n int) error {
	for i := range n {
		g.Next(g.frames[i])
	}
	for done := 0; done < n; {
		sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(g.fd), uintptr(unsafe.Pointer(&g.messages[done])), uintptr(n-done), 0, 0, 0)
		switch errno {
		case 0:
			done += int(sent)
			g.sent.Offered += uint64(sent)
		case unix.ENOBUFS: // the first frame was refused; the others are tried again
			done++
			g.sent.Offered++
			g.sent.Refused++
		case unix.EINTR, unix.EAGAIN:
		default:
			return fmt.Errorf("send a frame of %d bytes: %w", len(g.Frame), errno)
		}
	}
	return nil
}
