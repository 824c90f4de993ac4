package vswitch

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// A cutCase is one way in which a rule is revoked under a connection whose server keeps talking.
type cutCase struct {
	protocol  uint8
	untracked bool // the rule admits the whole world
	strict    bool
	full      string // when other connections fill the untracked pool: "", "before", "between" or "after"
	killed    string // when the daemon is killed: "", "before" or "after" the revocation
}

func (c cutCase) String() string {
	mode, kind := "aws", "tracked"
	if c.strict {
		mode = "strict"
	}
	if c.untracked {
		kind = "untracked"
	}
	return fmt.Sprintf("protocol %d, %s, %s, pool full %q, killed %q", c.protocol, kind, mode, c.full, c.killed)
}

// TestCutMeansNoPacketInEitherDirection: after its rule was revoked, no packet of a connection passes,
// for as long as its ends send packets. A tracked connection in a network that is not strict lives.
func TestCutMeansNoPacketInEitherDirection(t *testing.T) {
	for _, protocol := range []uint8{packet.ProtocolTCP, packet.ProtocolUDP} {
		for _, untracked := range []bool{true, false} {
			for _, strict := range []bool{false, true} {
				for _, full := range []string{"", "before", "between", "after"} {
					for _, killed := range []string{"", "before", "after"} {
						c := cutCase{protocol, untracked, strict, full, killed}
						t.Run(c.String(), c.run)
					}
				}
			}
		}
	}
}

// A cutBed is a switch in which one connection, from the laptop to the web, is cut.
type cutBed struct {
	*testbed
	c       cutCase
	memory  string        // directory of the connections' file; "" if nobody kills the daemon
	from    time.Duration // the time at which the rule is revoked
	in, out []byte
}

func (c cutCase) run(t *testing.T) { c.prepare(t).talk(t) }

// prepare opens the connection and revokes its rule.
func (c cutCase) prepare(t *testing.T) *cutBed {
	b := &cutBed{c: c, from: monotonic()}
	if c.killed != "" {
		var err error
		if b.memory, err = os.MkdirTemp("/dev/shm", "palisade-cut-"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(b.memory) })
	}
	b.start(t, 1)
	kept := permit(ec2.AnyProtocol, -1, -1, "198.51.100.0/24") // narrow and of another port: it stays
	kept.Protocol, kept.From, kept.To = ec2.TCP, 80, 80
	crowd := permit(ec2.UDP, 9999, 9999, "0.0.0.0/0")
	port := 22
	if c.protocol == packet.ProtocolUDP {
		port = 53
	}
	source := "203.0.113.25/32"
	if c.untracked {
		source = "0.0.0.0/0"
	}
	b.rules("web", kept, crowd, permit(ec2.Protocol(c.protocol), port, port, source))
	b.fill("before")
	in := template(c.protocol, laptop, addr("198.18.0.4"), 40000, uint16(port))
	out := template(c.protocol, addr("10.10.0.4"), laptop, uint16(port), 40000)
	in.TCPSeq, out.TCPSeq, out.TCPAck = 1000, 5000, 1001
	out.TCPFlags = packet.SYN | packet.ACK
	b.in, b.out = outside(in), b.of("web", out)
	if n := b.exchange(); n != 2 {
		t.Fatalf("%d of the first 2 packets passed, want both", n)
	}
	in.TCPSeq, out.TCPSeq, in.TCPAck = 1001, 5001, 5001
	in.TCPFlags, out.TCPFlags = packet.ACK, packet.ACK
	b.in, b.out = outside(in), b.of("web", out)
	if n := b.exchange() + b.exchange(); n != 4 {
		t.Fatalf("%d of 4 packets passed before the revocation, want all", n)
	}
	b.fill("between")
	if c.killed == "before" {
		b.start(t, b.generation+10)
	}
	b.rules("web", kept, crowd)
	if c.killed == "after" {
		b.start(t, b.generation+10)
		b.rules("web", kept, crowd)
	}
	return b
}

// talk lets both ends talk for six minutes.
func (b *cutBed) talk(t *testing.T) {
	for _, after := range []time.Duration{0, 1, 2, 30, 31, 60, 119, 121, 179, 181, 359, 361} {
		b.frame.now = b.from + after*time.Second
		if after == 2 {
			b.fill("after")
		}
		b.check(t)
	}
}

// check lets both ends send a packet. None passes, except in a connection that a revocation leaves alone.
func (b *cutBed) check(t *testing.T) {
	t.Helper()
	want := 0
	if !b.c.untracked && !b.c.strict {
		want = 2
	}
	b.tracker.Sweep(b.frame.now)
	if n := b.exchange(); n != want {
		t.Fatalf("%v: %v after the revocation %d of 2 packets passed, want %d", b.c, b.frame.now-b.from, n, want)
	}
}

// exchange sends a packet from the client, then one from the server, and returns how many pass.
func (b *cutBed) exchange() int {
	n := 0
	if _, v := b.send("uplink", b.in); v == verdict.Forward {
		n++
	}
	if _, v := b.send("web", b.out); v == verdict.Forward {
		n++
	}
	return n
}

// start starts the switch. If one runs already, that one was killed: the new one starts with a copy of
// its file as it is now.
func (b *cutBed) start(t *testing.T, generation uint64) {
	path := ""
	if b.memory != "" {
		path = filepath.Join(b.memory, fmt.Sprint(generation))
		if b.testbed != nil {
			left, err := os.ReadFile(filepath.Join(b.memory, "1"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, left, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	tracker, err := conntrack.Open(conntrack.Config{Path: path, Capacity: 4096, Untracked: 256})
	if err != nil {
		t.Fatal(err)
	}
	b.testbed = newTestbedAt(t, tracker, generation)
	b.frame.now = b.from
	e := b.sw.Edit(generation)
	n := *b.sw.Snapshot().networks[1]
	n.Strict = b.c.strict
	e.Network(n)
	b.attachAll(e)
	b.sw.Publish(e)
}

func (b *cutBed) attachAll(e *Edit) {
	for _, name := range b.names {
		b.attach(e, 1, name)
	}
}

// fill opens many more untracked connections than there is room for, at the web and elsewhere.
func (b *cutBed) fill(when string) {
	if b.c.full != when {
		return
	}
	b.rules("app", permit(ec2.UDP, 9999, 9999, "0.0.0.0/0"))
	for i := range 3000 {
		for name, address := range map[string]string{"web": "10.10.0.4", "app": "10.10.0.5"} {
			answer := template(packet.ProtocolUDP, addr(address), stranger, 9999, uint16(1000+i))
			if _, v := b.send(name, b.of(name, answer)); v != verdict.Forward {
				b.t.Fatalf("an answer of %s to a stranger is %v, want %v", name, v, verdict.Forward)
			}
		}
	}
}
