package traffic

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/internal/packet"
)

var (
	clientAddress = netip.MustParseAddr("192.0.2.1")
	serverAddress = netip.MustParseAddr("192.0.2.2")
	clientMAC     = ec2.MAC{2, 0, 0, 0, 0, 1}
	serverMAC     = ec2.MAC{2, 0, 0, 0, 0, 2}
)

func stream64() Send {
	return Send{Device: "eth0", From: clientAddress, To: serverAddress, FromMAC: clientMAC, ToMAC: serverMAC, Port: 5210, Size: 64}
}

// The checksums are compared with those of packet.Compose.
func TestFramerMakesEachFlowOnceInARound(t *testing.T) {
	s := stream64()
	s.Flows, s.SinkPorts = 120_000, 3
	f, err := newFramer(s)
	if err != nil {
		t.Fatal(err)
	}
	frame, decoder := append([]byte(nil), f.template...), packet.NewDecoder()
	if len(frame) != 60 {
		t.Errorf("the frame has %d bytes without the checksum, want 60", len(frame))
	}
	seen := map[packet.Flow]bool{}
	for range s.Flows {
		f.fill(frame)
		var p packet.Packet
		if v, ok := decoder.Decode(frame, &p); !ok {
			t.Fatalf("a frame is dropped as %v, want a valid frame: % x", v, frame)
		}
		if seen[p.Flow] {
			t.Fatalf("flow %v appears twice in a round of %d", p.Flow, s.Flows)
		}
		seen[p.Flow] = true
		if len(seen)%9973 == 0 {
			want, err := packet.Compose(packet.Template{Flow: p.Flow, SrcMAC: clientMAC, DstMAC: serverMAC, Payload: make([]byte, 18), DontFragment: true})
			if err != nil || string(want) != string(frame) {
				t.Errorf("frame of flow %v:\n% x, want\n% x, %v", p.Flow, frame, want, err)
			}
		}
		if p.Flow.DstPort < 5210 || p.Flow.DstPort > 5212 {
			t.Fatalf("flow %v is not to a port of the sink", p.Flow)
		}
	}
	first := f.next
	if f.fill(frame); first != 0 || f.next != 1 {
		t.Errorf("the second round begins at flow %d, want 0", first)
	}
}

func TestFramerRefusesImpossibleStreams(t *testing.T) {
	for _, tc := range []struct {
		name string
		edit func(*Send)
	}{
		{"a frame too small for its headers", func(s *Send) { s.Size = 45 }},
		{"more flows than ports", func(s *Send) { s.Flows = MaxFlows + 1 }},
		{"port 0", func(s *Send) { s.Port = 0 }},
	} {
		s := stream64()
		tc.edit(&s)
		if _, err := newFramer(s); err == nil {
			t.Errorf("newFramer accepted %s", tc.name)
		}
	}
}

func TestQuantileIsTheNearestRank(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(i+1))
	}
	for _, tc := range []struct {
		values []time.Duration
		q      float64
		want   time.Duration
	}{
		{hundred, 0.50, 50},
		{hundred, 0.99, 99},
		{hundred[:7], 0.50, 4},
		{hundred[:7], 0.99, 7},
		{hundred[:1], 0.50, 1},
	} {
		if got := quantile(tc.values, tc.q); got != tc.want {
			t.Errorf("quantile %v of %d values is %d, want %d", tc.q, len(tc.values), got, tc.want)
		}
	}
}

func TestServeAnswersBadRequestsAndContinues(t *testing.T) {
	var out strings.Builder
	in := `{"verb":"count"} {"verb":"dance"} {"verb":"send","args":{"size":1}} {"verb":"round-trips","args":{"protocol":"sctp","count":1}}`
	if err := Serve(strings.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for i, want := range []string{"count: no sink is open", "dance: no such request", "a frame of 1 bytes", `1 round trips over`} {
		if i >= len(lines) || !strings.Contains(lines[i], want) {
			t.Errorf("answer %d of %q lacks %q", i, lines, want)
		}
	}
}
