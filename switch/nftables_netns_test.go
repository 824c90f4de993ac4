package vswitch

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/internal/netns"
	"palisade/internal/netns/netnstest"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
	"palisade/switch/tap"
)

// An nftBridge is a Linux bridge with two TAP devices, whose packets netfilter judges.
type nftBridge struct {
	t         *testing.T
	namespace string
	near, far *tap.Device // of the interface that the groups protect, and of all its peers
	buffer    [4096]byte
}

func newNFTBridge(t *testing.T) *nftBridge {
	t.Helper()
	netnstest.NeedRoot(t)
	b := &nftBridge{t: t, namespace: "palisade-nft"}
	if netns.Exists(b.namespace) {
		if err := netns.Delete(b.namespace); err != nil {
			t.Fatal(err)
		}
	}
	if err := netns.New(b.namespace); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(b.namespace); err != nil {
			t.Error(err)
		}
	})
	for name, d := range map[string]**tap.Device{"near": &b.near, "far": &b.far} {
		device, err := tap.Open(tap.Config{Name: name, Namespace: b.namespace, Plain: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { device.Close() })
		*d = device
	}
	if err := netns.Do(b.namespace, b.join); err != nil {
		t.Fatal(err)
	}
	return b
}

// join connects the devices to a bridge whose packets pass the chains of table ip. A segment of an
// unknown connection is invalid, not the beginning of one.
func (b *nftBridge) join() error {
	errs := []error{addBridge("near", "far")}
	for path, value := range map[string]string{
		"net/bridge/bridge-nf-call-iptables": "1", "net/netfilter/nf_conntrack_tcp_loose": "0",
		"net/ipv6/conf/all/disable_ipv6": "1",
	} {
		errs = append(errs, os.WriteFile("/proc/sys/"+path, []byte(value), 0))
	}
	return errors.Join(errs...)
}

// rules replaces the ruleset. It admits what belongs to a connection, and what the rules admit.
func (b *nftBridge) rules(rules []ec2.Rule, web netip.Addr) {
	b.t.Helper()
	var text strings.Builder
	text.WriteString("add table ip t\ndelete table ip t\ntable ip t {\n chain c {\n  type filter hook forward priority 0; policy drop;\n  ct state established,related accept\n")
	for _, r := range rules {
		end, peer := "daddr", "saddr"
		if r.Direction == ec2.Egress {
			end, peer = "saddr", "daddr"
		}
		protocol := ""
		switch {
		case r.Protocol == ec2.TCP || r.Protocol == ec2.UDP:
			protocol = fmt.Sprintf("%v dport %d-%d", r.Protocol, r.From, r.To)
		case r.Protocol == ec2.ICMP:
			protocol = "icmp type echo-request"
		case r.Protocol != ec2.AnyProtocol:
			protocol = fmt.Sprintf("ip protocol %d", int(r.Protocol))
		}
		fmt.Fprintf(&text, "  ip %s %v ip %s %v %s accept\n", end, web, peer, r.Source.Prefix, protocol)
	}
	text.WriteString(" }\n}\n")
	cmd := exec.Command("nft", "-f", "-")
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(text.String()), &out, &out
	err := netns.Do(b.namespace, cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		b.t.Fatalf("nft: %v\n%s\nof the ruleset\n%s", err, out.String(), text.String())
	}
}

// passes sends a frame and reports whether it leaves the bridge at the other device. If it should,
// passes waits for it.
func (b *nftBridge) passes(fromNear bool, frame []byte, want bool, wait time.Duration) bool {
	b.t.Helper()
	in, out := b.near, b.far
	if !fromNear {
		in, out = out, in
	}
	if err := in.Write(append(b.buffer[:0], append(make([]byte, packet.OffloadLen), frame...)...)); err != nil {
		b.t.Fatal(err)
	}
	for deadline := time.Now().Add(wait); ; {
		n, err := out.Read(b.buffer[:])
		switch {
		case err == unix.EAGAIN && want && time.Now().Before(deadline):
			unix.Poll([]unix.PollFd{{Fd: int32(out.FD()), Events: unix.POLLIN}}, 10)
		case err == unix.EAGAIN:
			return false
		case err != nil:
			b.t.Fatal(err)
		case bytes.Equal(b.buffer[packet.OffloadLen+ethernetLen:n], frame[ethernetLen:]):
			return true
		}
	}
}

// nftDifferences are the differences between the two that have a reason.
var nftDifferences = []struct {
	name, why string
	is        func(s *nftStep) bool
}{
	{"data received long ago", "netfilter lets a segment before the window pass and ignores it; here it is outside of the connection, as in pf",
		func(s *nftStep) bool { return s.late }},
	{"no answer yet", "netfilter's connection is new until it is answered, so the rules judge its packets; here it is tracked from its first packet on, as AWS says",
		func(s *nftStep) bool { return s.talk == nil && !s.answered }},
	{"RST in the window", "netfilter ends a connection only by an exact RST, and takes the RST that is not exact as invalid if it is below the last ACK",
		func(s *nftStep) bool { return s.p.TCPFlags&packet.RST != 0 && s.forged }},
	{"after the end", "netfilter keeps a connection that was reset for 10 s and takes segments of it by states of its own",
		func(s *nftStep) bool { return s.talk != nil && s.talk.over }},
	{"SYN in a live connection", "netfilter lets it pass and ignores it; here the rules judge it, so that a revoked client cannot begin again",
		func(s *nftStep) bool { return s.talk != nil && s.talk.reused }},
}

// An nftStep is a packet of the comparison. forged means that its sequence number is not the next one.
type nftStep struct {
	p        packet.Template
	fromNear bool
	forged   bool
	late     bool // it is before the window
	answered bool // a packet of the other direction has passed
	talk     *nftTalk
}

// An nftTalk is a TCP connection as both ends see it.
type nftTalk struct {
	client, server uint16
	fromNear       bool // the protected interface opened it
	peer           netip.Addr
	next           [2]uint32
	sent           int // segments that passed
	over, reused   bool
}

// TestConnectionsAgreeWithNetfilter: a Linux bridge with nftables and ct state gets the same groups and
// the same packets. Every difference is explained by nftDifferences.
func TestConnectionsAgreeWithNetfilter(t *testing.T) {
	kernel := newNFTBridge(t)
	b := newNFTBed(t)
	seed := uint64(time.Now().UnixNano())
	if *refSeed != 0 {
		seed = *refSeed
	}
	r := rand.New(rand.NewPCG(seed, 2))
	web := addr("10.10.0.4")
	var rules []ec2.Rule
	source := &nftSource{r: r, web: web}
	agreed, passed, explained := 0, 0, map[string]int{}
	for i := range nftPackets {
		if i%2000 == 0 {
			if i%4000 == 0 {
				source.begin(i / 4000)
				rules = nil
			}
			rules = source.change(rules)
			b.rules("web", rules...)
			kernel.rules(rules, web)
		}
		s := source.step()
		frame := s.frame()
		b.frame.now = monotonic()
		_, v := b.send(map[bool]string{true: "web", false: "1peers"}[s.fromNear], frame)
		want := v == verdict.Forward
		name := ""
		for _, d := range nftDifferences {
			if name == "" && d.is(s) {
				name = d.name
			}
		}
		wait := time.Second
		if name != "" {
			wait = time.Millisecond
		}
		got := kernel.passes(s.fromNear, frame, want, wait)
		if got && want {
			passed++
			source.learn(s)
		}
		if got == want {
			agreed++
			continue
		}
		if name == "" {
			t.Fatalf("seed %d, packet %d: the switch says %v, netfilter lets it pass: %v\n%+v of %+v\nrules: %+v", seed, i, v, got, s.p, s.talk, rules)
		}
		explained[name]++
		if s.talk != nil && !s.late {
			s.talk.over = true // the two take the rest of it for different connections
		}
	}
	t.Logf("seed %d: %d packets, %d passed, %d the same; differences with a reason: %v", seed, nftPackets, passed, agreed, explained)
	if passed < nftPackets/4 || agreed < nftPackets*95/100 {
		t.Errorf("%d of %d packets passed and %d were judged the same, want a quarter and 95 %%", passed, nftPackets, agreed)
	}
}

// newNFTBed returns a switch with the web and, behind another port, all its peers, whose own rules
// admit everything. It has room for the connections of all packets, which come within minutes.
func newNFTBed(t *testing.T) *testbed {
	const room = 1 << 20
	b := newTestbedWith(t, conntrack.Config{Capacity: room, Ceiling: room})
	b.view["1peers"] = &ec2.Group{ID: "1peers", Name: "1peers"}
	e := b.sw.Edit(2)
	b.place(e, 1, "1peers", Endpoint{Epoch: 11, Address: addr("10.10.255.5"), Unchecked: true}, "1peers")
	b.sw.Publish(e)
	b.generation = 2
	for _, name := range []string{"web", "1peers"} {
		group := *b.view[ec2.GroupID(name)]
		group.VPC = "vpc-1"
		b.view[group.ID] = &group
	}
	b.rules("1peers", anyIn(), anyOut())
	return b
}

func (s *nftStep) frame() []byte {
	f := s.p
	f.SrcMAC, f.DstMAC = macOf("1peers"), GatewayMAC
	if s.fromNear {
		f.SrcMAC, f.DstMAC = macOf("web"), macOf("1peers")
	}
	return packettest.Build(f)
}
