package vswitch

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/internal/netns"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
)

// TestJoinedDatagramsArriveOneByOne: the receiver's kernel splits a frame of joined datagrams. Each
// datagram arrives by itself, in order and unchanged.
func TestJoinedDatagramsArriveOneByOne(t *testing.T) {
	const burst = 50
	w := newWire(t, kernelHeader, permit(ec2.UDP, 53, 53, "0.0.0.0/0"))
	var victim *net.UDPConn
	err := netns.Do(w.inside, func() error {
		for _, args := range [][]string{
			{"link", "set", "eth0", "address", victimMAC.String()},
			{"address", "add", victimIP.String() + "/24", "dev", "eth0"},
		} {
			if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
				return fmt.Errorf("ip %v: %w: %s", args, err, out)
			}
		}
		var err error
		victim, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(victimIP, 53)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer victim.Close()
	if err := victim.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	sent, received := 0, make([]byte, 2000)
	for deadline := time.Now().Add(patience); ; {
		for i := range burst {
			payload := binary.BigEndian.AppendUint32(nil, uint32(sent+i))
			if err := w.send(packettest.Build(packettest.Frame{
				Flow:   packet.Flow{Src: attackerIP, Dst: victimIP, SrcPort: 1000, DstPort: 53, Protocol: packet.ProtocolUDP},
				SrcMAC: attackerMAC, DstMAC: victimMAC, DontFragment: true, Payload: append(payload, make([]byte, 18)...),
			})); err != nil {
				t.Fatal(err)
			}
		}
		for i := range burst {
			n, _, err := victim.ReadFromUDPAddrPort(received)
			if err != nil {
				t.Fatalf("after %d of %d datagrams no other arrived: %v; verdicts %v", sent+i, sent+burst, err, w.verdicts())
			}
			if got := binary.BigEndian.Uint32(received); n != 22 || got != uint32(sent+i) {
				t.Fatalf("received %d bytes of datagram %d, want 22 bytes of datagram %d", n, got, sent+i)
			}
		}
		sent += burst
		if all := w.settled("forward at victim", uint64(sent)); len(all) != 1 || all["forward at victim"] != uint64(sent) {
			t.Fatalf("verdicts %v, want forward at victim for all %d packets", all, sent)
		}
		if w.victim.Counters().TxFrames < uint64(sent) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no two of %d datagrams were joined", sent)
		}
	}
}
