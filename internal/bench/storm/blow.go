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

// A Blow is a storm of a while. SYNs and ARP requests go by the device's packet socket, past
// its queue; small datagrams by ordinary sockets, so that the kernel joins them as it does.
type Blow struct {
	Device string        `json:"device"`
	Me     Host          `json:"me"`
	Near   Host          `json:"near"` // on the same node
	Far    Host          `json:"far"`  // on another
	For    time.Duration `json:"for"`

	SYNPorts []uint16 `json:"syn_ports"` // of Near: each gets SYNRate SYNs a second
	SYNRate  float64  `json:"syn_rate"`
	FlowPort uint16   `json:"flow_port"` // of Far, UDP: each second Flows datagrams, each of another source port
	Flows    int      `json:"flows"`
	ARP      bool     `json:"arp"` // requests for one address after another, as fast as it goes
	ARPFrom  Host     `json:"arp_from"`

	Datagrams     float64  `json:"datagrams"`      // a second, of 0 to MostDatagram bytes, to both, by and without UDP_SEGMENT=1
	DatagramPorts []uint16 `json:"datagram_ports"` // that they are for

	Corpus     []Frame `json:"corpus"`
	CorpusRate float64 `json:"corpus_rate"` // frames a second

	Loops int  `json:"loops"` // busy processes
	Idle  bool `json:"idle"`  // those leave every other process the processors (SCHED_IDLE)
}

// MostDatagram is how many bytes the largest of the small datagrams has.
const MostDatagram = 64

// A Blown is what was sent of a Blow.
type Blown struct {
	SYNs      traffic.Sent `json:"syns"`
	Flows     traffic.Sent `json:"flows"`
	ARPs      traffic.Sent `json:"arps"`
	Datagrams uint64       `json:"datagrams"`
	Corpus    uint64       `json:"corpus"`  // frames that the device took
	Refused   uint64       `json:"refused"` // that the sender's own kernel did not
	Loops     int          `json:"loops"`
}

func blow(b Blow) (*Blown, error) {
	var (
		blown Blown
		wg    sync.WaitGroup
		mu    sync.Mutex // guards blown.SYNs and errs
		errs  []error
	)
	runtime.LockOSThread() // of the loops
	defer runtime.UnlockOSThread()
	begin, end, started, err := b.startLoops()
	if err != nil {
		return nil, err
	}
	defer end()
	blown.Loops = started
	goes := func(what string, send func() error) {
		wg.Go(func() {
			if err := send(); err != nil {
				mu.Lock()
				errs = append(errs, fmt.Errorf("%s: %w", what, err))
				mu.Unlock()
			}
		})
	}
	for i, port := range b.SYNPorts {
		goes("SYNs", func() error {
			sent, err := b.sendSYNs(uint32(i)<<24, port)
			mu.Lock()
			defer mu.Unlock()
			blown.SYNs.Offered += sent.Offered
			blown.SYNs.Refused += sent.Refused
			blown.SYNs.Took = max(blown.SYNs.Took, sent.Took)
			return err
		})
	}
	if b.Flows > 0 {
		goes("flows", func() (err error) { blown.Flows, err = b.sendFlows(); return err })
	}
	if b.ARP {
		goes("ARP", func() (err error) { blown.ARPs, err = b.sendARPs(); return err })
	}
	if b.Datagrams > 0 {
		goes("datagrams", func() (err error) { blown.Datagrams, err = b.sendDatagrams(); return err })
	}
	if len(b.Corpus) > 0 {
		goes("corpus", func() (err error) { blown.Corpus, blown.Refused, err = b.sendCorpus(); return err })
	}
	begin()
	wg.Wait()
	return &blown, errors.Join(errs...)
}

// template is a frame from me to a host.
func template(me, to Host, protocol uint8, port uint16, payload int) ([]byte, error) {
	return packet.Compose(packet.Template{
		Flow:   packet.Flow{Src: me.Address, Dst: to.Address, Protocol: protocol, SrcPort: firstPort, DstPort: port},
		SrcMAC: me.MAC, DstMAC: to.MAC, TCPFlags: packet.SYN, ICMPType: 8, Payload: make([]byte, payload), DontFragment: true,
	})
}

// Where fields are in a frame with an IPv4 header without options.
const (
	ipAt        = 14
	transportAt = ipAt + 20
	firstPort   = 1024
	sourcePorts = 1<<16 - firstPort
)

func (b *Blow) sendSYNs(first uint32, port uint16) (traffic.Sent, error) {
	frame, err := template(b.Me, b.Near, packet.ProtocolTCP, port, 0)
	if err != nil {
		return traffic.Sent{}, err
	}
	number := first
	return traffic.SendFrames(traffic.FrameStream{Device: b.Device, Frame: frame, Rate: b.SYNRate, For: b.For, Next: func(frame []byte) {
		number++
		binary.BigEndian.PutUint16(frame[transportAt:], uint16(firstPort+number%sourcePorts))
		binary.BigEndian.PutUint32(frame[transportAt+4:], number)
		setChecksum(frame, 16)
	}})
}

func (b *Blow) sendFlows() (traffic.Sent, error) {
	frame, err := template(b.Me, b.Far, packet.ProtocolUDP, b.FlowPort, 18)
	if err != nil {
		return traffic.Sent{}, err
	}
	number := 0
	return traffic.SendFrames(traffic.FrameStream{Device: b.Device, Frame: frame, Rate: float64(b.Flows), For: b.For, Next: func(frame []byte) {
		number = number%b.Flows + 1
		binary.BigEndian.PutUint16(frame[transportAt:], uint16(number))
		setChecksum(frame, 6)
	}})
}

func (b *Blow) sendARPs() (traffic.Sent, error) {
	frame := packet.Announcement(make([]byte, 42), b.Me.MAC, b.Me.Address)
	binary.BigEndian.PutUint16(frame[20:], 1) // a request
	number := uint32(0)
	return traffic.SendFrames(traffic.FrameStream{Device: b.Device, Frame: frame, For: b.For, Next: func(frame []byte) {
		// Near, Far and what is around them.
		number++
		target := []Host{b.Near, b.Far}[number%2].Address.As4()
		target[3] += byte(number / 2 % 16)
		copy(frame[38:], target[:])
	}})
}

// setChecksum computes the checksum of the TCP segment or UDP datagram in a frame, which is
// at bytes behind its header's beginning.
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
		value = 0xffff // RFC 768: zero says that there is none
	}
	binary.BigEndian.PutUint16(segment[at:], value)
}

// pacer spreads what is done over time, in steps that a sleep can keep.
type pacer struct {
	begun time.Time
	until time.Duration
	rate  float64
	done  uint64
}

const paceStep = 16

// next waits until the next may be done, and reports whether the time is up. What was missed
// while another had the processor is not made up for.
func (p *pacer) next() bool {
	now := time.Since(p.begun)
	if p.done++; p.done%paceStep == 0 {
		due := time.Duration(float64(p.done) / p.rate * float64(time.Second))
		if early := due - now; early > 0 {
			pause := unix.NsecToTimespec(int64(early))
			_ = unix.Nanosleep(&pause, nil) // a signal makes one step early
		} else if early < -time.Millisecond {
			p.begun = p.begun.Add(-early)
			p.until += early
		}
	}
	return now < p.until
}

// sendDatagrams sends every size in turn by ordinary sockets.
func (b *Blow) sendDatagrams() (sent uint64, err error) {
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
		for _, to := range []netip.Addr{b.Near.Address, b.Far.Address} {
			for _, port := range b.DatagramPorts {
				sockets = append(sockets, socket{fd, &unix.SockaddrInet4{Port: int(port), Addr: to.As4()}})
			}
		}
	}
	payload := make([]byte, MostDatagram)
	pace := pacer{begun: time.Now(), until: b.For, rate: b.Datagrams}
	for n := 0; pace.next(); n++ {
		// A run of each size, as only equal sizes are joined on the way.
		const run = 64
		s := sockets[n/run/(MostDatagram+1)%len(sockets)]
		if unix.Sendto(s.fd, payload[:n/run%(MostDatagram+1)], unix.MSG_DONTWAIT, s.to) == nil {
			sent++
		}
	}
	return sent, nil
}

// sendCorpus sends the corpus again and again.
func (b *Blow) sendCorpus() (sent, refused uint64, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	plain, err := rawSocket(b.Device, false)
	if err != nil {
		return 0, 0, err
	}
	defer unix.Close(plain)
	withHeader, err := rawSocket(b.Device, true)
	if err != nil {
		return 0, 0, err
	}
	defer unix.Close(withHeader)
	pace := pacer{begun: time.Now(), until: b.For, rate: b.CorpusRate}
	for n := 0; pace.next(); n++ {
		f := b.Corpus[n%len(b.Corpus)]
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

// lingerFor is what starting all loops may take, and more.
const lingerFor = 10 * time.Second

// startLoops starts processes that are busy from begin on and die with the calling thread. They
// begin all at once, for the first of them would keep the processors from starting the others.
// They also die by themselves lingerFor after the blow should have ended: in a cgroup that has
// used up its quota, loops can keep a thread of higher priority from running for minutes (seen
// on Linux 6.18), the one that would end them too. An alarm outlives exec (alarm(2)).
func (b *Blow) startLoops() (begin func(), end func(), started int, err error) {
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
			_ = cmd.Wait() // killed is no news
		}
		_ = wait.Close()
		_ = pipe.Close() // again, if they have begun
	}
	for range b.Loops {
		cmd := exec.Command("perl", "-e", "alarm shift; exec @ARGV", strconv.Itoa(int((b.For + lingerFor).Seconds())),
			"sh", "-c", "read begin; while :; do :; done")
		cmd.Stdin = wait
		cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
		err := cmd.Start()
		if errors.Is(err, unix.EAGAIN) { // as many as there may be
			break
		}
		if err == nil {
			loops = append(loops, cmd)
			if b.Idle {
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
