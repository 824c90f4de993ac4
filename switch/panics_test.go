package vswitch

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
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
	b := newTestbedWith(t, conntrack.Config{Path: path})
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

// TestPanicInTheTunnelIsChargedToItsSender: whether Receive panics, or the pipeline. All datagrams that the
// device has read are lost, and the report has what is known of the frame. The port is never shut.
func TestPanicInTheTunnelIsChargedToItsSender(t *testing.T) {
	b, armed, log := panicking(t)
	pipe := b.tunnel(1500)
	*armed = true
	port, p := b.ports["tunnel"], b.ports["tunnel"].poller
	p.number = 3
	far := packet.Origin{Node: 2, VNI: 1, Epoch: 7}
	frame := append(make([]byte, offloadLen), to("far", GatewayMAC, template(packet.ProtocolUDP, addr("10.10.0.7"), addr("10.10.0.5"), 1, 53))...)
	for name, tt := range map[string]struct {
		received
		lost, reported int
	}{
		"in Receive":     {received{lost: 7, from: far}, 7, reportBytes},
		"in a write":     {received{frame: frame, from: far, v: verdict.Forward}, 1, len(frame)},
		"in another one": {received{frame: frame, from: packet.Origin{Node: 2, VNI: 1, Unnamed: true}, v: verdict.Forward}, 1, len(frame)},
	} {
		b.sw.panics.reported = 0
		old, before := p.frame, port.Counters().Verdicts[verdict.PipelinePanicked]
		pipe.queue = []received{tt.received}
		p.turn(port, b.sw.Snapshot(), monotonic())
		_, last := b.sw.Panics()
		if lost := port.Counters().Verdicts[verdict.PipelinePanicked] - before; int(lost) != tt.lost || len(last.Frame) != tt.reported {
			t.Errorf("%s: %d datagrams are lost and %d bytes reported, want %d and %d", name, lost, len(last.Frame), tt.lost, tt.reported)
		}
		if p.frame == old || p.frame.queue != 3 {
			t.Errorf("%s: the poller goes on with the state of the panic, or with queue %d, want its own, 3", name, p.frame.queue)
		}
	}
	for range maxPanics {
		pipe.queue = append(pipe.queue, received{lost: 1, from: far})
	}
	for len(pipe.queue) > 0 {
		p.turn(port, b.sw.Snapshot(), monotonic())
	}
	b.logged()
	if !b.sw.refuses(far) || port.IsShut() || !strings.Contains(log.String(), "interface of another node refused") {
		t.Errorf("after %d panics the sender is refused: %v, and the port is shut: %v; the log:\n%s", maxPanics, b.sw.refuses(far), port.IsShut(), log)
	}
}

// TestPanicInADeviceHasNoFrame: a device that panics when it is read costs no frame, and none is reported.
func TestPanicInADeviceHasNoFrame(t *testing.T) {
	b, _, _ := panicking(t)
	b.ports["web"].device = nil
	b.ports["web"].poller.turn(b.ports["web"], b.sw.Snapshot(), monotonic())
	if n, last := b.sw.Panics(); n != 1 || len(last.Frame) != offloadLen || b.ports["web"].Counters().Verdicts[verdict.PipelinePanicked] != 0 {
		t.Errorf("%d panics, the last %+v, %d frames lost; want 1, without a frame, and 0", n, last, b.ports["web"].Counters().Verdicts[verdict.PipelinePanicked])
	}
}

// TestPanicsOfAMinuteAreCounted: the count begins anew with the first panic after the window.
func TestPanicsOfAMinuteAreCounted(t *testing.T) {
	for name, tt := range map[string]struct {
		begin, second time.Duration // when the first panic is, and after it the others
		want          bool
	}{
		"at once": {time.Hour, 0, true}, "at the end of the window": {time.Hour, panicWindow, true}, "after it": {time.Hour, panicWindow + 1, false},
		"when the kernel has just started": {panicWindow / 2, panicWindow, true},
	} {
		var c panicCount
		begin := tt.begin
		c.add(begin)
		for range maxPanics - 2 {
			if c.add(begin + tt.second) {
				t.Errorf("%s: fewer than %d panics are too many", name, maxPanics)
			}
		}
		if got := c.add(begin + tt.second); got != tt.want {
			t.Errorf("%s: %d panics are too many: %v, want %v", name, maxPanics, got, tt.want)
		}
		for i := range maxPanics - 1 {
			if got := c.add(begin + tt.second); !tt.want && got != (i >= 0) {
				t.Errorf("%s: %d panics of the next window are too many: %v", name, maxPanics+i, got)
			}
		}
	}
}

// TestPortIsShutOnce: it is logged once, however many panics come after.
func TestPortIsShutOnce(t *testing.T) {
	b, _, log := panicking(t)
	for range 3 * maxPanics {
		b.sw.charge(b.ports["web"], packet.Origin{}, time.Hour)
	}
	if b.logged(); strings.Count(log.String(), "port shut") != 1 || !b.ports["web"].IsShut() {
		t.Errorf("the port is shut: %v, and the log has it %d times, want once", b.ports["web"].IsShut(), strings.Count(log.String(), "port shut"))
	}
}

// TestPanicsOfManySendersAreBounded: when there are too many of them, those counted so far are forgotten,
// and so are those refused so far.
func TestPanicsOfManySendersAreBounded(t *testing.T) {
	b, _, _ := panicking(t)
	from := func(i int) packet.Origin { return packet.Origin{Node: 2, VNI: 1, Epoch: uint64(i)} }
	panics := func(i, n int) {
		for range n {
			b.sw.chargeSender(from(i), time.Hour)
		}
	}
	panics(1, maxPanics-1)
	for i := 2; i <= maxSenders; i++ {
		panics(i, maxPanics)
	}
	if got := b.sw.Refused(); len(got) != maxSenders-1 || !slices.IsSorted(got) || b.sw.refuses(from(1)) {
		t.Errorf("%d senders are refused, in order: %v, want %d, in order", len(got), slices.IsSorted(got), maxSenders-1)
	}
	panics(maxSenders+1, maxPanics-1) // forgets how often the first one has panicked
	if panics(1, 1); b.sw.refuses(from(1)) {
		t.Errorf("%d senders are counted, want at most %d", maxSenders+1, maxSenders)
	}
	if panics(maxSenders+1, 1); len(b.sw.Refused()) != maxSenders || !b.sw.refuses(from(2)) {
		t.Errorf("%d senders are refused, want %d", len(b.sw.Refused()), maxSenders)
	}
	if panics(maxSenders+2, maxPanics); !slices.Equal(b.sw.Refused(), []uint64{maxSenders + 2}) {
		t.Errorf("%d senders are refused, want the last one alone", len(b.sw.Refused()))
	}
}

// TestFullLogStopsNoPoller: when nobody writes the log, a few messages wait and the others are lost.
func TestFullLogStopsNoPoller(t *testing.T) {
	b, _, log := panicking(t)
	for range 100 {
		b.sw.logLater("message")
	}
	if b.logged(); strings.Count(log.String(), "message") != 8 {
		t.Errorf("%d messages are logged, want 8", strings.Count(log.String(), "message"))
	}
}

// TestOnePanicAMinuteIsLogged: with the number of those that were not, and a copy of its frame.
func TestOnePanicAMinuteIsLogged(t *testing.T) {
	b, _, log := panicking(t)
	frame := []byte("frame")
	for i, tt := range []struct {
		ago  time.Duration // when the last one was logged
		text string        // what the log says of it; "": nothing
	}{
		{0, "not_logged_before=0"}, {reportEvery - 10*time.Second, ""}, {time.Second, ""}, {reportEvery + time.Second, "not_logged_before=2"},
		{reportEvery - 10*time.Second, ""}, {2 * reportEvery, "not_logged_before=1"},
	} {
		log.Reset()
		if tt.ago != 0 {
			b.sw.panics.reported = monotonic() - tt.ago
		}
		b.sw.report(b.ports["web"], packet.Origin{}, frame, i)
		if b.logged(); strings.Contains(log.String(), tt.text) != true || (log.Len() > 0) != (tt.text != "") {
			t.Errorf("panic %d is logged as %q, want %q", i, log, tt.text)
		}
	}
	copy(frame, "other")
	if n, last := b.sw.Panics(); n != 6 || string(last.Frame) != "frame" || last.Cause != "5" {
		t.Errorf("%d panics, the last %+v; want 6, the last with its frame and cause 5", n, last)
	}
}
