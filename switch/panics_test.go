package vswitch

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"palisade/conntrack"
	"palisade/ec2"
	"palisade/internal/bootfile/bootfiletest"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

// panicking returns a testbed where each write to the app panics while *armed is true, and the log
// of its switch.
func panicking(t *testing.T) (b *testbed, armed *bool, log *bytes.Buffer) {
	t.Helper()
	b, armed, log = newTestbed(t), new(bool), new(bytes.Buffer)
	b.sw.log = slog.New(slog.NewTextHandler(log, nil))
	b.rules("app", permit(ec2.UDP, 53, 60, "0.0.0.0/0"))
	b.rules("web", permit(ec2.UDP, 53, 60, "0.0.0.0/0"))
	b.devices["app"].before = func() {
		if *armed {
			panic("planted")
		}
	}
	return b, armed, log
}

// datagram builds a datagram from the web to an address. Each number is a flow of its own.
func (b *testbed) datagram(to string, number int) []byte {
	f := template(packet.ProtocolUDP, addr("10.10.0.4"), addr(to), uint16(1000+number), 53)
	return append(make([]byte, offloadLen), b.of("web", f)...)
}

// turns gives a port turns until its queue is empty. Each may be a whole batch, however long the
// last one took on a busy machine.
func (b *testbed) turns(port string, queue ...[]byte) {
	b.devices[port].queue = queue
	p := b.ports[port].poller
	for len(b.devices[port].queue) > 0 {
		b.ports[port].share = share{}
		p.turn(b.ports[port], b.sw.Snapshot(), monotonic())
	}
}

func (b *testbed) logged() {
	for {
		select {
		case write := <-b.sw.panics.reports:
			write()
		default:
			return
		}
	}
}

// TestPanicDropsTheRestOfItsBatch: frames written before the panic keep their verdict, the next
// batch is forwarded, and the log has the frame and the stack, once for two panics.
func TestPanicDropsTheRestOfItsBatch(t *testing.T) {
	b, armed, log := panicking(t)
	*armed = true
	for range 2 {
		b.turns("web", b.datagram("10.10.0.6", 1), b.datagram("10.10.0.99", 2), b.datagram("10.10.0.5", 3), b.datagram("10.10.0.6", 4), b.datagram("10.10.0.6", 5))
	}
	web, lone := b.ports["web"].Counters().Verdicts, b.ports["lone"].Counters().Verdicts
	if web[verdict.PipelinePanicked] != 6 || lone[verdict.Forward] != 2 || web[verdict.NoRoute] != 2 || b.devices["lone"].count != 2 {
		t.Errorf("%d of 10 frames lost, want 6; %d forwarded to lone, want 2; %d without a route, want 2", web[verdict.PipelinePanicked], lone[verdict.Forward], web[verdict.NoRoute])
	}
	*armed = false
	b.turns("web", b.datagram("10.10.0.5", 6))
	if got := b.ports["app"].Counters().Verdicts[verdict.Forward]; got != 1 || b.devices["app"].count != 1 {
		t.Errorf("after the panics %d frames are forwarded, want 1", got)
	}
	b.logged()
	text := log.String()
	for _, want := range []string{"planted", "port=web", "0a0a00040a0a0005", "pipeline.go", "(*frame).write"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log lacks %q:\n%s", want, text)
		}
	}
	if n := strings.Count(text, "please report"); n != 1 {
		t.Errorf("the log has %d panics within a minute, want 1", n)
	}
	if n, last := b.sw.Panics(); n != 2 || last.Port != "web" || last.Cause != "planted" {
		t.Errorf("%d panics, the last %+v; want 2, the last at port web with cause \"planted\"", n, last)
	}
}

// TestPortIsShutAfterTooManyPanics: nothing passes from the port or to it, and its neighbours are
// not affected. 99 panics in a minute, or 100 in two minutes, do not shut it.
func TestPortIsShutAfterTooManyPanics(t *testing.T) {
	b, armed, log := panicking(t)
	*armed = true
	for range maxPanics - 1 {
		b.turns("web", b.datagram("10.10.0.5", 1))
	}
	if b.ports["web"].IsShut() {
		t.Fatalf("the port is shut after %d panics, want it open", maxPanics-1)
	}
	b.turns("web", b.datagram("10.10.0.5", 1))
	if !b.ports["web"].IsShut() {
		t.Fatalf("the port is open after %d panics, want it shut", maxPanics)
	}
	*armed = false
	b.turns("web", b.datagram("10.10.0.6", 1), b.datagram("10.10.0.6", 2))
	b.expect("lone", b.of("lone", template(packet.ProtocolUDP, addr("10.10.0.6"), addr("10.10.0.4"), 1, 53)), "web", verdict.PortShut)
	b.expect("lone", b.of("lone", template(packet.ProtocolUDP, addr("10.10.0.6"), addr("10.10.0.5"), 1, 53)), "app", verdict.Forward)
	if got := b.ports["web"].Counters().Verdicts[verdict.PortShut]; got != 2 || b.devices["lone"].count+b.devices["web"].count != 0 {
		t.Errorf("%d frames from the shut port were dropped, want 2; %d frames were written to lone and %d to the shut port, want 0", got, b.devices["lone"].count, b.devices["web"].count)
	}
	b.logged()
	if !strings.Contains(log.String(), "port shut") {
		t.Errorf("the log does not say that the port was shut:\n%s", log)
	}
	var c panicCount
	for i := range 5 * maxPanics {
		if c.add(time.Duration(i) * (panicWindow/maxPanics + time.Second)) {
			t.Fatalf("%d panics shut the port, although they are fewer than %d in a minute", i+1, maxPanics)
		}
	}
}

// TestUplinkIsNeverShut: the uplink carries frames from many hosts, so one of them must not be able
// to shut it.
func TestUplinkIsNeverShut(t *testing.T) {
	b, armed, _ := panicking(t)
	*armed = true
	frame := append(make([]byte, offloadLen), outside(template(packet.ProtocolUDP, laptop, addr("198.18.0.5"), 1, 53))...)
	for range 2 * maxPanics {
		b.turns("uplink", frame)
	}
	*armed = false
	b.turns("uplink", frame)
	if got := b.ports["uplink"].Counters().Verdicts[verdict.PipelinePanicked]; got != 2*maxPanics || b.ports["uplink"].IsShut() || b.devices["app"].count != 1 {
		t.Errorf("%d panics, uplink shut: %v, %d frames delivered after them; want %d, false and 1", got, b.ports["uplink"].IsShut(), b.devices["app"].count, 2*maxPanics)
	}
}

// TestFaultInConnectionFileDropsTheFrame: somebody truncates the file, or the tmpfs is full, and
// reading a connection faults. The switch drops the frame and keeps running.
func TestFaultInConnectionFileDropsTheFrame(t *testing.T) {
	path := filepath.Join(bootfiletest.Dir(t), "arena")
	tracker, err := conntrack.Open(conntrack.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	b := newTestbedOn(t, tracker)
	b.rules("app", permit(ec2.UDP, 53, 60, "web")) // tracked
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // as a poller does
		debug.SetPanicOnFault(true)
		b.turns("web", b.datagram("10.10.0.5", 1))
		b.sw.sweep()
		close(done)
	}()
	<-done
	if got := b.ports["web"].Counters().Verdicts[verdict.PipelinePanicked]; got != 1 || b.devices["app"].count != 0 {
		t.Errorf("%d frames panicked, want 1; %d were written, want 0", got, b.devices["app"].count)
	}
}
