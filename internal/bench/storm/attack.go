package storm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"palisade/internal/bench/traffic"
	"palisade/internal/packet"
)

// An Attack sends frames of several kinds for a while. SYNs, flows and ARP requests are written to a
// packet socket and bypass the device's queue. Small datagrams use ordinary sockets, so that
// the kernel joins them as usual.
type Attack struct {
	Device string        `json:"device"`
	Me     Host          `json:"me"`
	Near   Host          `json:"near"` // on the same node
	Far    Host          `json:"far"`  // on another
	For    time.Duration `json:"for"`

	SYNPorts []uint16 `json:"syn_ports"` // of Near: each gets SYNRate SYNs each second
	SYNRate  float64  `json:"syn_rate"`
	FlowPort uint16   `json:"flow_port"` // of Far, UDP: Flows datagrams each second, each with another source port
	Flows    int      `json:"flows"`
	ARP      bool     `json:"arp"` // send requests for one address after another, as fast as possible
	ARPFrom  Host     `json:"arp_from"`

	Datagrams     float64  `json:"datagrams"`      // each second, of 0 to MostDatagram bytes, to Near and Far, with and without UDP_SEGMENT=1
	DatagramPorts []uint16 `json:"datagram_ports"` // destination ports of the datagrams

	Corpus     []Frame `json:"corpus"`
	CorpusRate float64 `json:"corpus_rate"` // frames each second

	Loops int  `json:"loops"` // busy processes
	Idle  bool `json:"idle"`  // the loops run only when no other process wants a processor (SCHED_IDLE)
}

// MostDatagram is the size of the largest small datagram, in bytes.
const MostDatagram = 64

// An AttackResult counts what an Attack has sent.
type AttackResult struct {
	SYNs      traffic.Sent `json:"syns"`
	Flows     traffic.Sent `json:"flows"`
	ARPs      traffic.Sent `json:"arps"`
	Datagrams uint64       `json:"datagrams"`
	Corpus    uint64       `json:"corpus"`  // frames that the device took
	Refused   uint64       `json:"refused"` // frames that the sender's kernel refused
	Loops     int          `json:"loops"`
}

func attack(a Attack) (*AttackResult, error) {
	var (
		result AttackResult
		wg     sync.WaitGroup
		mu     sync.Mutex // guards result.SYNs and errs
		errs   []error
	)
	runtime.LockOSThread() // the loops die with this thread
	defer runtime.UnlockOSThread()
	begin, end, started, err := a.startLoops()
	if err != nil {
		return nil, err
	}
	defer end()
	result.Loops = started
	run := func(what string, send func() error) {
		wg.Go(func() {
			if err := send(); err != nil {
				mu.Lock()
				errs = append(errs, fmt.Errorf("%s: %w", what, err))
				mu.Unlock()
			}
		})
	}
	for i, port := range a.SYNPorts {
		run("SYNs", func() error {
			sent, err := a.sendSYNs(uint32(i)<<24, port)
			mu.Lock()
			defer mu.Unlock()
			result.SYNs.Offered += sent.Offered
			result.SYNs.Refused += sent.Refused
			result.SYNs.Took = max(result.SYNs.Took, sent.Took)
			return err
		})
	}
	if a.Flows > 0 {
		run("flows", func() (err error) { result.Flows, err = a.sendFlows(); return err })
	}
	if a.ARP {
		run("ARP", func() (err error) { result.ARPs, err = a.sendARPs(); return err })
	}
	if a.Datagrams > 0 {
		run("datagrams", func() (err error) { result.Datagrams, err = a.sendDatagrams(); return err })
	}
	if len(a.Corpus) > 0 {
		run("corpus", func() (err error) { result.Corpus, result.Refused, err = a.sendCorpus(); return err })
	}
	begin()
	wg.Wait()
	return &result, errors.Join(errs...)
}

// template makes a frame from me to a host.
func template(me, to Host, protocol uint8, port uint16, payload int) ([]byte, error) {
	return packet.Compose(packet.Template{
		Flow:   packet.Flow{Src: me.Address, Dst: to.Address, Protocol: protocol, SrcPort: firstPort, DstPort: port},
		SrcMAC: me.MAC, DstMAC: to.MAC, TCPFlags: packet.SYN, ICMPType: 8, Payload: make([]byte, payload), DontFragment: true,
	})
}

// Offsets in a frame with an IPv4 header without options, and the range of source ports.
const (
	ipAt        = 14
	transportAt = ipAt + 20
	firstPort   = 1024
	sourcePorts = 1<<16 - firstPort
)

func (a *Attack) sendSYNs(first uint32, port uint16) (traffic.Sent, error) {
	frame, err := template(a.Me, a.Near, packet.ProtocolTCP, port, 0)
	if err != nil {
		return traffic.Sent{}, err
	}
	number := first
	return traffic.SendFrames(traffic.FrameStream{Device: a.Device, Frame: frame, Rate: a.SYNRate, For: a.For, Next: func(frame []byte) {
		number++
		binary.BigEndian.PutUint16(frame[transportAt:], uint16(firstPort+number%sourcePorts))
		binary.BigEndian.PutUint32(frame[transportAt+4:], number)
		setChecksum(frame, 16)
	}})
}

func (a *Attack) sendFlows() (traffic.Sent, error) {
	frame, err := template(a.Me, a.Far, packet.ProtocolUDP, a.FlowPort, 18)
	if err != nil {
		return traffic.Sent{}, err
	}
	number := 0
	return traffic.SendFrames(traffic.FrameStream{Device: a.Device, Frame: frame, Rate: float64(a.Flows), For: a.For, Next: func(frame []byte) {
		number = number%a.Flows + 1
		binary.BigEndian.PutUint16(frame[transportAt:], uint16(number))
		setChecksum(frame, 6)
	}})
}

func (a *Attack) sendARPs() (traffic.Sent, error) {
	frame := packet.Announcement(make([]byte, 42), a.Me.MAC, a.Me.Address)
	binary.BigEndian.PutUint16(frame[20:], 1) // a request
	number := uint32(0)
	return traffic.SendFrames(traffic.FrameStream{Device: a.Device, Frame: frame, For: a.For, Next: func(frame []byte) {
		// Ask for the addresses of Near and Far, and for the 15 addresses after each.
		number++
		target := []Host{a.Near, a.Far}[number%2].Address.As4()
		target[3] += byte(number / 2 % 16)
		copy(frame[38:], target[:])
	}})
}

// setChecksum computes the checksum of the TCP segment or UDP datagram in a frame. at is the offset
// of the checksum in the TCP or UDP header.
func setChecksum(frame []byte, at int) {
	segment := frame[transportAt:]
	segment[at], segment[at+1] = 0, 0
	sum := uint32(frame[ipAt+9]) + uint32(len(segment))
	for i := ipAt + 12; i < ipAt+20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(frame[i:]))
	}
	for i := 0; i+1 < len(segment); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(segment[i:]))
	}
	if len(segment)%2 == 1 {
		sum += uint32(segment[len(segment)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	value := ^uint16(sum)
	if value == 0 && frame[ipAt+9] == packet.ProtocolUDP {
		value = 0xffff // RFC 768: zero means no checksum
	}
	binary.BigEndian.PutUint16(segment[at:], value)
}

// A pacer spreads actions over time. It sleeps once for paceStep actions, because a sleep
// cannot be short.
type pacer struct {
	begun time.Time
	until time.Duration
	rate  float64
	done  uint64
}

const paceStep = 16

// next waits until the next action is due, and reports whether there is time left. If another
// process had the processor for a while, the pacer does not catch up.
func (p *pacer) next() bool {
	now := time.Since(p.begun)
	if p.done++; p.done%paceStep == 0 {
		due := time.Duration(float64(p.done) / p.rate * float64(time.Second))
		if early := due - now; early > 0 {
			pause := unix.NsecToTimespec(int64(early))
			_ = unix.Nanosleep(&pause, nil) // a signal can end it early
		} else if early < -time.Millisecond {
			p.begun = p.begun.Add(-early)
			p.until += early
		}
	}
	return now < p.until
}

// sendDatagrams sends datagrams of every size in turn by ordinary sockets.
func (a *Attack) sendDatagrams() (sent uint64, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	type socket struct {
		fd int
		to unix.Sockaddr
	}
	var sockets []socket
	for _, segments := range []bool{false, true} {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return 0, err
		}
		defer unix.Close(fd)
		if segments {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1); err != nil {
				return 0, fmt.Errorf("UDP_SEGMENT: %w", err)
			}
		}
		for _, to := range []netip.Addr{a.Near.Address, a.Far.Address} {
			for _, port := range a.DatagramPorts {
				sockets = append(sockets, socket{fd, &unix.SockaddrInet4{Port: int(port), Addr: to.As4()}})
			}
		}
	}
	payload := make([]byte, MostDatagram)
	pace := pacer{begun: time.Now(), until: a.For, rate: a.Datagrams}
	for n := 0; pace.next(); n++ {
		// Datagrams of the same size are sent in succession, because the kernel joins only equal
		// sizes.
		const run = 64
		s := sockets[n/run/(MostDatagram+1)%len(sockets)]
		if unix.Sendto(s.fd, payload[:n/run%(MostDatagram+1)], unix.MSG_DONTWAIT, s.to) == nil {
			sent++
		}
	}
	return sent, nil
}

// sendCorpus sends the corpus repeatedly.
func (a *Attack) sendCorpus() (sent, refused uint64, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	plain, err := rawSocket(a.Device, false)
	if err != nil {
		return 0, 0, err
	}
	defer unix.Close(plain)
	withHeader, err := rawSocket(a.Device, true)
	if err != nil {
		return 0, 0, err
	}
	defer unix.Close(withHeader)
	pace := pacer{begun: time.Now(), until: a.For, rate: a.CorpusRate}
	for n := 0; pace.next(); n++ {
		f := a.Corpus[n%len(a.Corpus)]
		fd := plain
		if f.Header {
			fd = withHeader
		}
		if unix.Send(fd, f.Bytes, unix.MSG_DONTWAIT) == nil {
			sent++
		} else {
			refused++
		}
	}
	return sent, refused, nil
}

// lingerFor is longer than it takes to start all loops.
const lingerFor = 10 * time.Second

// startLoops starts processes that are busy from the call of begin on, and die with the calling
// thread. They begin together, because the first busy ones would delay the start of the others.
// They also end by themselves, lingerFor after the Attack should have ended: in a cgroup that has
// used up its quota, busy loops can keep a thread of higher priority from running for minutes
// (seen on Linux 6.18), including the thread that would end them. An alarm survives exec
// (alarm(2)).
func (a *Attack) startLoops() (begin func(), end func(), started int, err error) {
	wait, pipe, err := os.Pipe()
	if err != nil {
		return nil, nil, 0, err
	}
	var loops []*exec.Cmd
	end = func() {
		for _, cmd := range loops {
			_ = cmd.Process.Kill()
		}
		for _, cmd := range loops {
			_ = cmd.Wait() // the error says that it was killed
		}
		_ = wait.Close()
		_ = pipe.Close() // an error means that begin has closed it
	}
	for range a.Loops {
		cmd := exec.Command("perl", "-e", "alarm shift; exec @ARGV", strconv.Itoa(int((a.For + lingerFor).Seconds())),
			"sh", "-c", "read begin; while :; do :; done")
		cmd.Stdin = wait
		cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
		err := cmd.Start()
		if errors.Is(err, unix.EAGAIN) { // no more processes are allowed
			break
		}
		if err == nil {
			loops = append(loops, cmd)
			if a.Idle {
				err = unix.SchedSetAttr(cmd.Process.Pid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
			}
		}
		if err != nil {
			end()
			return nil, nil, 0, fmt.Errorf("busy loop: %w", err)
		}
	}
	return func() { _ = pipe.Close() }, end, len(loops), nil
}
