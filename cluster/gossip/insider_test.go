package gossip

import (
	"bytes"
	"compress/lzw"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"palisade/internal/testwait"
)

// An insider controls node3: it has the gossip key and node3's address, and no other node's key.
// node3's own gossip does not run.
type insider struct {
	*testWorld
	label, key []byte
	at         netip.AddrPort
	udp        *net.UDPConn
}

// newWorldWithInsider returns a world in which node1 gossips, and an insider.
func newWorldWithInsider(t *testing.T) (*testWorld, *testNode, *insider) {
	t.Helper()
	w := newWorld(t)
	one := w.nodes["node1"]
	one.start()
	testwait.Until(t, "node1 gossips", func() string { return testwait.Unless(one.gossip.Members()[0].Gossip == "alive", "not yet") })
	return w, one, newInsider(w)
}

func newInsider(w *testWorld) *insider {
	w.t.Helper()
	i := &insider{testWorld: w, label: []byte(w.nodes["node1"].identity.Cluster()), key: w.view().GossipKey(), at: w.nodes["node3"].gossip.cfg.Address}
	var err error
	if i.udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(i.at)); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { i.udp.Close() })
	return i
}

// seal encrypts a message in memberlist's format, in one of its versions.
func (i *insider) seal(version byte, plain, additional []byte) []byte {
	i.t.Helper()
	block, err := aes.NewCipher(i.key)
	if err != nil {
		i.t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		i.t.Fatal(err)
	}
	nonce := make([]byte, gcm.NonceSize())
	_, _ = rand.Read(nonce)
	return gcm.Seal(append([]byte{version}, nonce...), nonce, plain, additional)
}

func (i *insider) labelled(b []byte) []byte {
	return slices.Concat([]byte{244, byte(len(i.label))}, i.label, b)
}

// packet sends an encrypted message to a node in a datagram.
func (i *insider) packet(to netip.AddrPort, version byte, plain []byte) {
	i.t.Helper()
	if _, err := i.udp.WriteToUDPAddrPort(i.labelled(i.seal(version, plain, i.label)), to); err != nil {
		i.t.Fatal(err)
	}
}

// sealedStream returns an encrypted message as a stream has it.
func (i *insider) sealedStream(version byte, plain []byte) []byte {
	i.t.Helper()
	length := len(i.seal(version, plain, nil))
	head := binary.BigEndian.AppendUint32([]byte{10}, uint32(length))
	return append(head, i.seal(version, plain, append(bytes.Clone(head), i.label...))...)
}

// text returns a string in MessagePack.
func text(s string) []byte {
	if len(s) < 32 {
		return append([]byte{0xa0 | byte(len(s))}, s...)
	}
	return append([]byte{0xd9, byte(len(s))}, s...)
}

// harmful are messages on which memberlist panics, and such that cost it many times their length.
func harmful(t *testing.T) map[string]struct {
	version byte
	plain   []byte
} {
	t.Helper()
	var small bytes.Buffer
	z := lzw.NewWriter(&small, lzw.LSB, 8)
	if _, err := z.Write(make([]byte, 30<<20)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	bomb := slices.Concat([]byte{9, 0x82}, text("Algo"), []byte{0}, text("Buf"), []byte{0xc5}, binary.BigEndian.AppendUint16(nil, uint16(small.Len())), small.Bytes())
	joined := slices.Concat([]byte{7, 1}, binary.BigEndian.AppendUint16(nil, uint16(len(bomb))), bomb)
	type message = struct {
		version byte
		plain   []byte
	}
	return map[string]message{
		"empty":                      {1, nil},
		"padded by more than it has": {0, bytes.Repeat([]byte{255}, 16)},
		"compressed bomb":            {1, bomb},
		"bomb joined with others":    {1, joined},
		"bomb with a checksum":       {1, append([]byte{12, 0, 0, 0, 0}, bomb...)},
	}
}

// TestInsiderCannotCrashAMember: without the transport's check, memberlist panics on the first two
// messages, and so ends the daemon.
func TestInsiderCannotCrashAMember(t *testing.T) {
	t.Parallel()
	w, one, i := newWorldWithInsider(t)
	door := one.gossip.cfg.Address
	for what, m := range harmful(t) {
		before := one.gossip.Stats().Refused
		i.packet(door, m.version, m.plain)
		w.streamGetsNothing(i.at.Addr(), door, i.labelled(i.sealedStream(m.version, m.plain)))
		testwait.Until(t, what+" is refused in a packet and in a stream", func() string {
			return testwait.Unless(one.gossip.Stats().Refused >= before+2, "%+v, before %d", one.gossip.Stats(), before)
		})
	}

	// node1 opens a stream to the insider, which answers with such a message.
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(i.at))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	answers := harmful(t)
	for _, what := range []string{"empty", "padded by more than it has"} {
		before := one.gossip.Stats().Refused
		signal(one.gossip.rejoin) // node1 calls node3, which is not alive
		_ = l.SetDeadline(time.Now().Add(time.Minute))
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.ReadFull(c, make([]byte, 50)) // of node1's list
		if _, err := c.Write(i.sealedStream(answers[what].version, answers[what].plain)); err != nil {
			t.Fatal(err)
		}
		testwait.Until(t, "the answer "+what+" is refused", func() string {
			return testwait.Unless(one.gossip.Stats().Refused > before, "%+v, before %d", one.gossip.Stats(), before)
		})
		c.Close()
	}
	if one.gossip.Members()[0].Gossip != "alive" {
		t.Error("node1 does not gossip any more")
	}
}

// TestHugeStreamsUseLittleMemory: an insider, or anybody at a member's address, announces the longest
// message that memberlist accepts, in as many streams as a node opens.
func TestHugeStreamsUseLittleMemory(t *testing.T) {
	_, one, i := newWorldWithInsider(t)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	const announced = 20 << 20
	head := i.labelled(binary.BigEndian.AppendUint32([]byte{10}, announced))
	zeros := make([]byte, announced)
	for range 8 {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(i.at.Addr(), 0)), Timeout: 5 * time.Second}
		c, err := d.Dial("tcp", one.gossip.cfg.Address.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Write(append(bytes.Clone(head), zeros...)); err == nil {
			t.Error("node1 has read a message of 20 MiB to its end")
		}
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.TotalAlloc-before.TotalAlloc) - 8*announced - 8*int64(len(head)); grown > 64<<20 { // without the test's own copies
		t.Errorf("node1 allocated %d MiB for 8 streams that announce 20 MiB each", grown>>20)
	}
}

// alive is memberlist's message that a member is at an address.
func alive(name string, at netip.AddrPort) []byte {
	addr := at.Addr().As4()
	return slices.Concat([]byte{4, 0x85}, text("Incarnation"), []byte{0xcd, 3, 232}, text("Node"), text(name), text("Addr"), text(string(addr[:])),
		text("Port"), binary.BigEndian.AppendUint16([]byte{0xcd}, at.Port()), text("Vsn"), text("\x01\x05\x02\x00\x00\x00"))
}

// TestForgedMemberIsNotPinged: an attacker can neither add a member nor change the address of one, in the clear or
// with the gossip key; otherwise the node would ping the address within two seconds.
func TestForgedMemberIsNotPinged(t *testing.T) {
	t.Parallel()
	w, one, i := newWorldWithInsider(t)
	forged := netip.AddrPortFrom(w.ip(8), 7401)
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(forged))
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	for _, name := range []string{"mallory", "node2"} {
		before := one.gossip.Stats()
		for _, clear := range [][]byte{alive(name, forged), i.labelled(alive(name, forged))} {
			if _, err := i.udp.WriteToUDPAddrPort(clear, one.gossip.cfg.Address); err != nil {
				t.Fatal(err)
			}
		}
		i.packet(one.gossip.cfg.Address, 1, alive(name, forged))
		testwait.Until(t, "the forged member is refused twice in the clear and once with the key", func() string {
			now := one.gossip.Stats()
			return testwait.Unless(now.Refused >= before.Refused+2 && now.Intruders > before.Intruders, "%+v, before %+v", now, before)
		})
	}
	if err := udp.SetReadDeadline(time.Now().Add(2500 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, _, err := udp.ReadFromUDPAddrPort(make([]byte, 2000)); err == nil {
		t.Errorf("node1 sent %d bytes to the address of a forged member", n)
	}
}

// TestForgedDeathChangesNoLease: an insider reports node2 dead. The other nodes show that until node2
// has contradicted it, and the leases of node2 stay as node2 reports them.
func TestForgedDeathChangesNoLease(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two := w.nodes["node1"], w.nodes["node2"]
	one.start()
	two.start()
	status := func(want string) func() string {
		return func() string {
			for _, m := range one.gossip.Members() {
				if m.Node == "node2" {
					return testwait.Unless(m.Gossip == want, "node2 is %s", m.Gossip)
				}
			}
			return "node2 is not listed"
		}
	}
	leases := w.leases("node2")
	two.gossip.SetPresence(append(reportDown(leases[0]), reportUp(leases[1])...))
	testwait.Until(t, "node2 is alive", status("alive"))
	one.wantDown(leases[0])
	i := newInsider(w)
	dead := slices.Concat([]byte{5, 0x83}, text("Incarnation"), []byte{0xcd, 3, 232}, text("Node"), text("node2"), text("From"), text("node3"))
	i.packet(one.gossip.cfg.Address, 1, dead)
	testwait.Until(t, "the log says that node2 is dead", func() string {
		return testwait.Unless(strings.Contains(one.log.String(), "member=node2 alive=false"), "not yet")
	})
	one.wantDown(leases[0])
	testwait.Until(t, "node2 has contradicted", status("alive"))
	one.wantDown(leases[0])
}
