package storm

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/internal/packet"
)

var (
	me   = Host{netip.MustParseAddr("10.10.0.4"), ec2.MAC{2, 0, 0, 0, 0, 4}}
	them = Host{netip.MustParseAddr("10.10.0.5"), ec2.MAC{2, 0, 0, 0, 0, 5}}
)

func TestSetChecksumAgreesWithCompose(t *testing.T) {
	for _, protocol := range []uint8{packet.ProtocolTCP, packet.ProtocolUDP} {
		for payload := range 5 {
			want, err := template(me, them, protocol, 22, payload)
			if err != nil {
				t.Fatal(err)
			}
			got := bytes.Clone(want)
			setChecksum(got, map[uint8]int{packet.ProtocolTCP: 16, packet.ProtocolUDP: 6}[protocol])
			if !bytes.Equal(got, want) {
				t.Errorf("protocol %d, payload of %d bytes: got frame\n% x, want\n% x", protocol, payload, got, want)
			}
		}
	}
}

func TestCorpusHasFramesOfEachSource(t *testing.T) {
	dir := t.TempDir()
	found := filepath.Join(dir, "testdata", "fuzz", "FuzzX")
	if err := os.MkdirAll(found, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(found, "1"), []byte("go test fuzz v1\n[]byte(\"a frame with \\x00 in it, longer\")\nint(3)\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	without, err := Corpus(me, []Host{them})
	if err != nil {
		t.Fatal(err)
	}
	with, err := Corpus(me, []Host{them}, dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(without) < forgedCount+250 || len(with) != len(without)+5 {
		t.Errorf("the corpus has %d frames, and %d with a fuzz target's finding; want at least 2250, and five more", len(without), len(with))
	}
	if !bytes.Equal(with[len(without)].Bytes, []byte("a frame with \x00 in it, longer")) {
		t.Errorf("the frame of the fuzz target is %q, want the bytes of its finding", with[len(without)].Bytes)
	}
	if _, err := Corpus(me, nil, filepath.Join(dir, "nowhere")); err == nil {
		t.Error("Corpus accepted a directory that does not exist")
	}
}

func TestSlowFilterHasNoJumpsAndRefusesTheFrame(t *testing.T) {
	filter := slowFilter(1000)
	for i, in := range filter[:999] {
		if in.Code != 0x30 || in.Jt != 0 { // ldb [0]
			t.Fatalf("instruction %d is %+v, want a load without a jump", i, in)
		}
	}
	if last := filter[999]; last.Code != 0x06 || last.K != 0 {
		t.Errorf("the last instruction is %+v, want one that refuses the frame", last)
	}
}

func TestPacerDoesNotExceedItsRate(t *testing.T) {
	p := pacer{begun: time.Now(), until: 200 * time.Millisecond, rate: 10000}
	n := 0
	for p.next() {
		n++
	}
	if n > 2100 { // fewer are possible on a busy machine
		t.Errorf("%d actions in 200 ms, want at most 2000", n)
	}
}

func TestRequestSurvivesJSON(t *testing.T) {
	want := request{Attack: &Attack{Device: "eth0", Me: me, Far: them, Corpus: []Frame{{Bytes: []byte{0, 255}, Header: true}}}}
	line, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got request
	if err := json.Unmarshal(line, &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("after JSON the attack is %+v, %v; want %+v", got.Attack, err, want.Attack)
	}
}

func TestServeReportsEachBadRequest(t *testing.T) {
	var out bytes.Buffer
	err := Serve(strings.NewReader(`{}{"probe":{}}{"hold":{"device":"nosuch0"}}`), &out)
	if err != nil || strings.Count(out.String(), `"error"`) != 3 {
		t.Errorf("Serve returned %v and wrote\n%s\nwant three errors in its output", err, out.String())
	}
}

func TestBusyLoopsEndWithTheAttack(t *testing.T) {
	b := Attack{Loops: 3, Idle: true, For: time.Second}
	begin, end, started, err := b.startLoops()
	if err != nil || started != 3 {
		t.Fatalf("startLoops started %d loops, %v; want 3", started, err)
	}
	begin()
	end() // waits for each loop
	if result, err := attack(b); err != nil || result.Loops != 3 {
		t.Errorf("the attack returned %+v, %v; want three loops", result, err)
	}
}
