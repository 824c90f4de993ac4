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

// batch is how many frames go with one system call, and pacedStep how many do at a rate,
// back to back: fewer would be a steadier load, as RFC 2544 §21 has it, but a sleep between
// two trains cannot be shorter than some 50 us.
const (
	batch     = 64
	pacedStep = 16
	forgiven  = time.Millisecond // of delay, before the schedule moves
)

// mmsghdr is the kernel's struct mmsghdr; golang.org/x/sys has none.
type mmsghdr struct {
	header unix.Msghdr
	length uint32
}

// send sends for a while. A frame that the device's queue has no room for is offered all
// the same: it is lost, as it would be in the queue of a switch.
func send(s Send) (Sent, error) {
	f, err := newFramer(s)
	if err != nil {
		return Sent{}, err
	}
	return SendFrames(FrameStream{Device: s.Device, Frame: f.template, Next: f.fill, Rate: s.Rate, For: s.For})
}

// A FrameStream is frames of one length out of a device.
type FrameStream struct {
	Device string
	Frame  []byte             // what each is before Next
	Next   func(frame []byte) // makes one of the frames the next; it may have been another before
	Rate   float64            // frames a second; 0 as fast as it goes
	For    time.Duration
	Most   uint64 // frames that the device takes; 0 for no bound
}

// SendFrames sends a stream.
func SendFrames(s FrameStream) (Sent, error) {
	fd, err := packetSocket(s.Device)
	if err != nil {
		return Sent{}, err
	}
	defer unix.Close(fd)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Sleeps between two trains end when they are due, not 50 us later.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	g := generator{FrameStream: s, fd: fd}
	g.init()
	if s.Rate > 0 {
		return g.paced()
	}
	return g.flood()
}

// packetSocket is a socket that writes frames to a device, past its queueing discipline.
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

// enough reports whether the device has taken as many frames as it may.
func (g *generator) enough() bool { return g.Most > 0 && g.sent.Offered-g.sent.Refused >= g.Most }

func (g *generator) flood() (Sent, error) {
	begun := time.Now()
	for g.sent.Took < g.For && !g.enough() {
		if err := g.train(batch); err != nil {
			return g.sent, err
		}
		g.sent.Took = time.Since(begun)
	}
	return g.sent, nil
}

// paced sends trains of a few frames, each when it is due. After a pause that was not its
// own, as when another had the processor, it goes on from there and does not catch up:
// what has arrived is to be compared with the rate that Sent says, not with what was asked.
func (g *generator) paced() (Sent, error) {
	step := time.Duration(float64(pacedStep) / g.Rate * float64(time.Second))
	begun := time.Now()
	for due := time.Duration(0); due < g.For && !g.enough(); due += step {
		for {
			early := due - time.Since(begun)
			if early < -forgiven {
				due -= early
			}
			if early <= 0 {
				break
			}
			pause := unix.NsecToTimespec(int64(early))
			_ = unix.Nanosleep(&pause, nil) // a signal may end it early
		}
		if err := g.train(pacedStep); err != nil {
			return g.sent, err
		}
	}
	g.sent.Took = max(g.For, time.Since(begun))
	return g.sent, nil
}

// train sends n frames.
func (g *generator) train(n int) error {
	for i := range n {
		g.Next(g.frames[i])
	}
	for done := 0; done < n; {
		sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(g.fd), uintptr(unsafe.Pointer(&g.messages[done])), uintptr(n-done), 0, 0, 0)
		switch errno {
		case 0:
			done += int(sent)
			g.sent.Offered += uint64(sent)
		case unix.ENOBUFS: // the first frame was refused; behind others it is tried again
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
