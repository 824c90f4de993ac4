//go:build failpoints

package overlay

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/internal/failpoint"
	"palisade/internal/failpoint/pointtest"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	"palisade/internal/verdict"
	vswitch "palisade/switch"
)

// panicVolleys returns volleys that together reach every function of the data path of two nodes.
func panicVolleys(seed uint64) []volley {
	d := &dice{rest: randomBytes(seed, 4000)}
	var all []volley
	for !d.empty() && len(all) < 40 {
		all = append(all, d.volley())
	}
	return all
}

// play sends volleys, and changes the rules now and then. Before the volleys it does what they
// rarely do: it opens more flows than a small tracker holds, sets many rules, and has an untracked
// connection judged again.
func (w *wire) play(seed uint64, flows int) {
	d := &dice{rest: randomBytes(seed+1000, 400)}
	rules := acrossRules()["app"].Rules
	for i := range 300 {
		rules = append(rules, permit(uint64(100+i), ec2.TCP, 8000, 8000+i, fmt.Sprintf("10.%d.%d.0/24", i%200, i)))
	}
	rules = append(rules, permit(400, ec2.TCP, 9000, 9001, "10.10.0.6/32")) // its source has an index of its ports
	w.change(rules)
	for _, host := range []string{"web", "lone"} {
		var many [][]byte
		for i := range flows {
			f := of(host, []uint8{packet.ProtocolUDP, packet.ProtocolICMP}[i%2], addressOf(host, false), "10.10.0.5", uint16(2000+i), 53+uint16(i%8))
			many = append(many, d.bare(packettest.Build(f)))
		}
		w.send(0, host, many)
	}
	w.send(0, "lone", [][]byte{d.bare(packettest.Build(of("lone", packet.ProtocolTCP, "10.10.0.6", "10.10.0.5", 1, 8000)))})
	large := of("web", packet.ProtocolUDP, "10.10.0.4", "10.10.0.5", 1, 53)
	large.Payload = make([]byte, 1300)
	w.send(0, "web", [][]byte{d.bare(packettest.Build(large))})
	ask := of("web", packet.ProtocolUDP, "10.10.0.4", "10.10.0.5", 1111, 56)
	answer := reply(ask, "app", 0)
	w.send(0, "web", [][]byte{d.bare(packettest.Build(ask))})
	w.send(1, "app", [][]byte{d.bare(packettest.Build(answer))})
	w.playCut(d)
	w.change(acrossRules()["app"].Rules[:4])
	w.send(0, "web", [][]byte{d.bare(packettest.Build(ask))})
	w.send(1, "app", [][]byte{d.bare(packettest.Build(answer))})
	for i, v := range panicVolleys(seed) {
		if i%8 == 7 {
			w.change(d.rules())
		}
		w.send(v.node, v.host, v.frames)
	}
}

// playCut has a tracked connection cut, and opened again.
func (w *wire) playCut(d *dice) {
	syn := of("web", packet.ProtocolTCP, "10.10.0.4", "10.10.0.5", 2222, 8005)
	opened := [][]byte{d.bare(packettest.Build(reply(syn, "app", packet.SYN|packet.ACK)))}
	for _, s := range w.sites {
		w.send(0, "web", [][]byte{d.bare(packettest.Build(syn))})
		w.send(1, "app", opened)
		s.tracker.Cut(vswitch.Now(), func(c conntrack.Connection) bool { return c.Flow.SrcPort == 2222 })
	}
	w.send(0, "web", [][]byte{d.bare(packettest.Build(syn))})
	w.send(1, "app", opened)
}

func (w *wire) change(rules []ec2.Rule) {
	w.sites[0].change(rules)
	w.sites[1].change(rules)
}

// TestPanicInEachFunctionIsContained makes each function that a frame passes through panic, at its
// first call and at a later one. The frames of the batch are counted, each datagram has one
// verdict, no lock stays locked, and the next frames are judged as usual.
func TestPanicInEachFunctionIsContained(t *testing.T) {
	defer failpoint.Set(nil)
	type run struct {
		siteConfig
		seed uint64
		form Form
	}
	flows := func(r run) int { return 3 * r.connections }
	runs := []run{
		{siteConfig{mtu: acrossMTU, offloads: packet.DatagramOffloads}, 1, Sealed},
		{siteConfig{mtu: acrossMTU, offloads: packet.NoOffloads}, 2, VXLAN},
		{siteConfig{mtu: acrossMTU, offloads: packet.StreamOffloads}, 3, Sealed},
		{siteConfig{mtu: acrossMTU, tunnelMTU: 900, offloads: packet.DatagramOffloads}, 4, Sealed},
		{siteConfig{mtu: acrossMTU, offloads: packet.DatagramOffloads}, 5, VXLAN},
		{siteConfig{mtu: acrossMTU, portMTU: 600, offloads: packet.DatagramOffloads}, 7, Sealed},
		{siteConfig{mtu: acrossMTU, connections: 256, offloads: packet.DatagramOffloads}, 6, Sealed},
	}
	// For each function: the run that calls it most often, and how often.
	calls, reachedIn := map[string]int{}, map[string]run{}
	for _, r := range runs {
		here := map[string]int{}
		failpoint.Set(func(function string) { here[function]++ })
		w := newWire(t, r.form, r.siteConfig)
		w.play(r.seed, flows(r))
		failpoint.Set(nil)
		w.close()
		for function, n := range here {
			if n > calls[function] {
				calls[function], reachedIn[function] = n, r
			}
		}
	}
	for _, function := range pointtest.Functions(t, "../..") {
		if calls[function] == 0 {
			t.Errorf("no frame of this test reaches %s", function)
		}
	}
	for _, function := range slices.Sorted(maps.Keys(calls)) {
		for _, at := range []int{1, 1 + calls[function]/2} {
			t.Run(fmt.Sprintf("%s/%d", strings.TrimPrefix(function, "palisade/"), at), func(t *testing.T) {
				r := reachedIn[function]
				w := newWire(t, r.form, r.siteConfig)
				defer w.close()
				n := 0
				failpoint.Set(func(reached string) {
					if reached != function {
						return
					}
					if n++; n == at {
						panic("planted in " + function)
					}
				})
				w.play(r.seed, flows(r)) // play fails if a datagram has no verdict, or two
				failpoint.Set(nil)
				panics := uint64(0)
				for _, s := range w.sites {
					total, last := s.sw.Panics()
					if panics += total; total > 0 && last.Cause != "planted in "+function {
						t.Errorf("a panic that the test did not plant: %s", last.Cause)
					}
				}
				sum0, sum1 := w.sites[0].verdicts(), w.sites[1].verdicts()
				lost := sum0[verdict.PipelinePanicked] + sum1[verdict.PipelinePanicked]
				if lost == 0 && !beforeFrames[function[strings.LastIndex(function, ".")+1:]] {
					t.Error("no packet is counted as lost by the panic, want at least 1")
				}
				if panics != 1 || sum0[verdict.Unset]+sum1[verdict.Unset] > 0 {
					t.Errorf("%d panics, %d packets lost by them, %d packets without a verdict; want 1 panic, and a verdict for every packet", panics, lost, sum0[verdict.Unset]+sum1[verdict.Unset])
				}
				w.unlocked(t)
				w.alive(t)
			})
		}
	}
}

// beforeFrames has the functions that may be called while there is no frame that a panic could
// lose.
var beforeFrames = map[string]bool{"drain": true, "drainTunnel": true, "begin": true, "read": true, "Receive": true, "receiveFrame": true, "next": true}

// unlocked fails unless it can take every lock of both trackers.
func (w *wire) unlocked(t *testing.T) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, s := range w.sites {
			s.tracker.Usage()
			s.tracker.Sweep(time.Hour * 24 * 365)
			for range s.tracker.Connections(0) {
			}
		}
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("a lock of the tracker is still locked")
	}
}

// alive checks that the web still reaches the app by a rule for its group, and that the app's
// answer arrives.
func (w *wire) alive(t *testing.T) {
	t.Helper()
	for _, s := range w.sites {
		s.change(acrossRules()["app"].Rules)
		for _, one := range s.stations {
			one.given = nil
		}
	}
	f := of("web", packet.ProtocolTCP, "10.10.0.4", "10.10.0.5", 4321, 8005)
	w.send(0, "web", [][]byte{append(make([]byte, packet.OffloadLen), packettest.Build(f)...)})
	w.send(1, "app", [][]byte{append(make([]byte, packet.OffloadLen), packettest.Build(reply(f, "app", packet.SYN|packet.ACK))...)})
	there, err1 := w.sites[1].given("app")
	back, err2 := w.sites[0].given("web")
	if len(there) != 1 || len(back) != 1 || err1 != nil || err2 != nil {
		t.Errorf("after a panic %d packets and %d answers arrive, want 1 of each; errors %v, %v", len(there), len(back), err1, err2)
	}
}

// A tunnel carries the frames of many interfaces. Only the interface whose frames panic, which the
// seal names, is refused.
func TestSenderThatPanicsTooOftenIsRefused(t *testing.T) {
	defer failpoint.Set(nil)
	w := newWire(t, Sealed, siteConfig{mtu: acrossMTU, offloads: packet.DatagramOffloads})
	defer w.close()
	send := func(host, address string) {
		f := of(host, packet.ProtocolTCP, address, "10.10.0.5", 4321, 80)
		w.send(0, host, [][]byte{append(make([]byte, packet.OffloadLen), packettest.Build(f)...)})
	}
	armed := true
	failpoint.Set(func(function string) {
		if armed && strings.HasSuffix(function, ".forwardFromTunnel") {
			panic("planted")
		}
	})
	for range 100 {
		send("web", "10.10.0.4")
	}
	armed = false
	send("web", "10.10.0.4")
	send("lone", "10.10.0.6")
	tunnel := w.sites[1].ports["tunnel"]
	v := tunnel.Counters().Verdicts
	given, err := w.sites[1].given("app")
	if v[verdict.PipelinePanicked] != 100 || v[verdict.PortShut] != 1 || len(given) != 1 || err != nil || tunnel.IsShut() || w.sites[0].ports["web"].IsShut() {
		t.Errorf("%d panics, %d frames refused, %d frames arrived, error %v, tunnel's port shut: %v; want 100, 1, 1, no error and no port shut", v[verdict.PipelinePanicked], v[verdict.PortShut], len(given), err, tunnel.IsShut())
	}
}
