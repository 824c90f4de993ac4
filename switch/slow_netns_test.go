package vswitch

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"palisade/ec2"
	"palisade/internal/netns"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
)

// TestSlowPortDoesNotDelayItsNeighbour: root inside the attacker opens thousands of packet sockets
// with long filters, so that a write into its TAP takes milliseconds. The attacker asks for the
// gateway's MAC address and sends SYNs to the victim's open port as fast as it can, and the victim
// answers each SYN. The victim's own requests are answered as quickly as before.
func TestSlowPortDoesNotDelayItsNeighbour(t *testing.T) {
	w := newWire(t, kernelHeader, permit(ec2.TCP, 22, 22, "0.0.0.0/0"))
	victim := w.listenARP(w.inside)
	quiet := w.askARP(victim, time.Second)
	w.slowDown(3000)

	stop, ended := make(chan struct{}), make(chan int)
	go func() {
		ask := packettest.ARP(1, attackerMAC, attackerIP, addr("10.0.0.1"))
		knock, answer := template(packet.ProtocolTCP, attackerIP, victimIP, 40000, 22), template(packet.ProtocolTCP, victimIP, attackerIP, 22, 40000)
		knock.SrcMAC, knock.DstMAC = attackerMAC, GatewayMAC
		answer.SrcMAC, answer.DstMAC, answer.TCPFlags = victimMAC, GatewayMAC, packet.SYN|packet.ACK
		knocks, answers, sent := packettest.Build(knock), packettest.Build(answer), 0
		for {
			select {
			case <-stop:
				ended <- sent
				return
			default:
				// A send fails when the queue is full, which is expected here.
				_, _ = w.send(ask), w.send(knocks)
				_, _ = unix.Write(victim, answers)
				sent++
			}
		}
	}()
	w.settled("over-share at attacker", 1)
	loaded := w.askARP(victim, 2*time.Second)
	close(stop)
	sent := <-ended
	dropped := w.attacker.Counters().Verdicts[verdict.OverShare]
	at := func(all []time.Duration, percent int) time.Duration { return all[len(all)*percent/100] }
	t.Logf("a round trip: quiet p50 %v p99 %v; beside the attacker p50 %v p99 %v max %v; it sent %d requests of each kind, and %d answers to it were dropped",
		at(quiet, 50), at(quiet, 99), at(loaded, 50), at(loaded, 99), loaded[len(loaded)-1], sent, dropped)
	if len(loaded) < len(quiet)/4 {
		t.Errorf("%d round trips in 2 s beside the attacker, %d before the attack; want at least a quarter as many", len(loaded), len(quiet))
	}
	if at(loaded, 90) > at(quiet, 90)+20*time.Millisecond || w.victim.Counters().Verdicts[verdict.OverShare] > 0 {
		t.Errorf("p90 of the round trips is %v beside a slow port and %v before, want at most 20 ms more; %d frames to the victim are over-share, want 0", at(loaded, 90), at(quiet, 90), w.victim.Counters().Verdicts[verdict.OverShare])
	}
}

// slowDown opens packet sockets in the attacker's namespace. Their filters run for each frame that
// is written into its TAP.
func (w *wire) slowDown(sockets int) {
	w.t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		w.t.Fatal(err)
	}
	raised := unix.Rlimit{Cur: uint64(sockets) + 1000, Max: max(limit.Max, uint64(sockets)+1000)}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &raised); err != nil {
		w.t.Fatal(err)
	}
	filter := make([]unix.SockFilter, 1000)
	for i := range filter {
		filter[i] = unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_ADD | unix.BPF_K, K: 1}
	}
	filter[len(filter)-1] = unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	var all []int
	w.t.Cleanup(func() { // the kernel takes ten milliseconds to close one socket
		var wg sync.WaitGroup
		for part := range slices.Chunk(all, sockets/100) {
			wg.Go(func() {
				for _, fd := range part {
					unix.Close(fd)
				}
			})
		}
		wg.Wait()
	})
	err := netns.Do(w.outside, func() error {
		for range sockets {
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			all = append(all, fd)
			err = errors.Join(unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program),
				unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: w.device}))
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// listenARP opens an ARP socket in a namespace, bound to its eth0.
func (w *wire) listenARP(ns string) (socket int) {
	w.t.Helper()
	err := netns.Do(ns, func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		if socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		patience := unix.NsecToTimeval(int64(5 * time.Second))
		return errors.Join(unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ARP), Ifindex: link.Index}),
			unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience))
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { unix.Close(socket) })
	return socket
}

// askARP asks for the gateway's MAC address as the victim, repeatedly for some time. It returns how
// long the answers took, sorted.
func (w *wire) askARP(socket int, lasts time.Duration) (took []time.Duration) {
	w.t.Helper()
	request, answer := packettest.ARP(1, victimMAC, victimIP, addr("10.0.0.1")), make([]byte, 128)
	for end := time.Now().Add(lasts); time.Now().Before(end); {
		began := time.Now()
		if _, err := unix.Write(socket, request); err != nil {
			w.t.Fatal(err)
		}
		_, err := unix.Read(socket, answer)
		for err == unix.EINTR {
			_, err = unix.Read(socket, answer)
		}
		if err != nil {
			w.t.Fatal(fmt.Errorf("no answer after %v: %w", time.Since(began), err))
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took
}
