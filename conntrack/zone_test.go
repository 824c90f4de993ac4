package conntrack_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"palisade/conntrack"
	"palisade/internal/bootfile/bootfiletest"
	"palisade/internal/packet"
	"palisade/internal/verdict"
)

var (
	revoked = conntrack.Revision{Generation: 9, Shrunk: 9}
	strict  = conntrack.Revision{Generation: 9, Shrunk: 9, Strict: true}
)

// crashed returns a tracker of the next process, as if the process of the file had been killed now, and
// its Config.
func crashed(t *testing.T, c conntrack.Config) (*conntrack.Tracker, conntrack.Config) {
	t.Helper()
	now, err := os.ReadFile(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	c.Path = arenaOf(t, now)
	return open(t, c), c
}

// inFile returns a Config of a small file.
func inFile(t *testing.T) conntrack.Config {
	t.Helper()
	return conntrack.Config{Path: filepath.Join(bootfiletest.Dir(t), "arena"), Capacity: 640, Untracked: 640, Reserve: 64}
}

// Each decision about a connection is in force after a crash: no entry is left half written.
func TestDecisionsSurviveACrash(t *testing.T) {
	c := inFile(t)
	z := open(t, c).AddZone(1, conntrack.Timeouts{})
	cut, kept := pkt(17, 1, 53, 0), pkt(17, 2, 53, 0)
	for _, p := range []*packet.Packet{cut, kept} {
		admit(z, p, 0, conntrack.Admission{Rule: 7, Revision: rules, Untracked: true})
	}
	handshake(t, z, 40000, 0)
	rejudge(z, cut, 0, revoked, false, 0)
	rejudge(z, kept, 0, revoked, true, 8)
	later := conntrack.Revision{Generation: 12, Shrunk: 5}
	admit(z, segment(true, packet.SYN, 900_000, 0, 0), 0, conntrack.Admission{Rule: 9, Revision: later})

	tr, _ := crashed(t, c)
	z = tr.AddZone(1, conntrack.Timeouts{})
	rule := map[uint16]uint64{}
	for c := range tr.Connections(0) {
		rule[c.Flow.SrcPort] = c.Rule
	}
	if len(rule) != 3 || rule[2] != 8 || rule[40000] != 9 {
		t.Errorf("after the crash the rules by port are %v, want three connections, 8 of port 2 and 9 of port 40000", rule)
	}
	expect(t, z, cut, time.Second, revoked, conntrack.Blocked)
	expect(t, z, back(cut, 0), time.Second, revoked, conntrack.Blocked)
	expect(t, z, kept, time.Second, revoked, conntrack.Checked)
	expect(t, z, pkt(6, 40000, 22, packet.ACK), time.Second, rules, conntrack.Live)
}

// A connection that was cut stays blocked for 180 s, and not longer, without a packet. Segments outside
// of its windows are blocked too, because they are not judged as new ones.
func TestBlockedConnectionLasts180Seconds(t *testing.T) {
	for at, want := range map[time.Duration]conntrack.Status{189 * time.Second: conntrack.Blocked, 190 * time.Second: conntrack.New} {
		z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
		p := pkt(17, 1, 53, 0)
		admit(z, p, 0, conntrack.Admission{Revision: rules, Untracked: true})
		if v := rejudge(z, p, 10*time.Second, revoked, false, 0); v != verdict.Revoked {
			t.Errorf("Rejudge returned %v, want %v", v, verdict.Revoked)
		}
		expect(t, z, back(p, 0), at, revoked, want)
	}
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	handshake(t, z, 40000, 0)
	expect(t, z, pkt(6, 40000, 22, packet.ACK), 0, strict, conntrack.Stale)
	rejudge(z, pkt(6, 40000, 22, packet.ACK), 0, strict, false, 0)
	for _, fromBob := range []bool{true, false} {
		expect(t, z, segment(fromBob, packet.ACK, 1<<30, 5001, 1), 0, strict, conntrack.Blocked)
	}
}

// A SYN that repeats the last one belongs to the same half-open connection, and any other one opens
// the next.
func TestRepeatedSYNContinuesAHalfOpenConnection(t *testing.T) {
	first := segment(true, packet.SYN, 1000, 0, 0)
	answer := segment(false, packet.SYN|packet.ACK, 5000, 1001, 0)
	for _, tt := range []struct {
		name   string
		before []*packet.Packet
		syn    *packet.Packet
		want   [2]uint32 // packets
		rule   uint64
	}{
		{"repeated", nil, first, [2]uint32{2, 0}, 7},
		{"repeated after its answer", []*packet.Packet{answer}, first, [2]uint32{2, 1}, 7},
		{"another number", nil, segment(true, packet.SYN, 2000, 0, 0), [2]uint32{1, 0}, 9},
		{"another number after the answer", []*packet.Packet{answer}, segment(true, packet.SYN, 2000, 0, 0), [2]uint32{1, 0}, 9},
	} {
		tr := open(t, conntrack.Config{})
		z := tr.AddZone(1, conntrack.Timeouts{})
		admit(z, first, 0, conntrack.Admission{Rule: 7, Revision: rules})
		for _, p := range tt.before {
			expect(t, z, p, 0, rules, conntrack.Live)
		}
		if v := admit(z, tt.syn, 0, conntrack.Admission{Rule: 9, Revision: rules}); v != verdict.Forward {
			t.Errorf("%s: Admit returned %v, want %v", tt.name, v, verdict.Forward)
		}
		if c := only(t, tr, 0); c.Packets != tt.want || c.Rule != tt.rule {
			t.Errorf("%s: the connection is %v, want packets %v and rule %d", tt.name, c, tt.want, tt.rule)
		}
	}
}

// An untracked SYN ends what it can prove to be over: not a live connection of the other end.
func TestUntrackedSYNEndsOnlyEarlierConnections(t *testing.T) {
	reuse := func(z *conntrack.Zone, p *packet.Packet) {
		var u conntrack.Tuple
		z.Identify(&u, p)
		z.ReuseUntracked(p, &u, direction(p), 0)
	}
	cut := func(z *conntrack.Zone) {
		expect(t, z, pkt(6, 40000, 22, packet.ACK), 0, strict, conntrack.Stale)
		rejudge(z, pkt(6, 40000, 22, packet.ACK), 0, strict, false, 0)
	}
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	syn := segment(true, packet.SYN, 900_000, 0, 0)
	reuse(z, syn) // there is no earlier connection
	first := handshake(t, z, 40000, 0)
	reuse(z, back(first, packet.SYN))
	expect(t, z, pkt(6, 40000, 22, packet.ACK), 0, rules, conntrack.Live)
	cut(z)
	reuse(z, syn)
	if got := tr.Usage().Tracked; got != 0 {
		t.Errorf("a blocked connection stayed after the SYN of the next: %d connections", got)
	}
	handshake(t, z, 40000, 0)
	cut(z)
	reuse(z, back(first, packet.SYN)) // the other end may open the next one too
	if got := tr.Usage().Tracked; got != 0 {
		t.Errorf("a blocked connection stayed after a SYN of the other end: %d connections", got)
	}
	admit(z, first, 0, conntrack.Admission{Revision: rules})
	reuse(z, syn)
	if got := tr.Usage().Tracked; got != 0 {
		t.Errorf("a half-open connection stayed after the SYN of the next: %d connections", got)
	}
	admit(z, first, 0, conntrack.Admission{Revision: rules})
	expect(t, z, segment(false, packet.SYN|packet.ACK, 5000, 1001, 0), 0, rules, conntrack.Live)
	reuse(z, back(first, packet.SYN))
	expect(t, z, pkt(6, 40000, 22, packet.ACK), 0, rules, conntrack.Live)
	tr.RemoveZone(z)
	z = tr.AddZone(2, conntrack.Timeouts{})
	admit(z, first, 0, conntrack.Admission{Revision: rules})
	expect(t, z, segment(false, packet.SYN|packet.ACK, 5000, 1001, 0), 0, rules, conntrack.Live)
	reuse(z, syn)
	if got := tr.Usage().Tracked; got != 0 {
		t.Errorf("a half-open connection stayed after its SYN+ACK and the SYN of the next: %d connections", got)
	}
}

// A UDP connection is a stream once both ends have sent more than one packet.
func TestUDPStreamNeedsTwoPacketsOfEachEnd(t *testing.T) {
	for _, tt := range []struct{ out, back int }{{1, 1}, {1, 5}, {5, 1}, {2, 2}} {
		tr := open(t, conntrack.Config{})
		z := tr.AddZone(1, conntrack.Timeouts{})
		p := pkt(17, 1, 53, 0)
		admit(z, p, 0, conntrack.Admission{Revision: rules})
		for range tt.out - 1 {
			expect(t, z, p, 0, rules, conntrack.Live)
		}
		for range tt.back {
			expect(t, z, back(p, 0), 0, rules, conntrack.Live)
		}
		c := only(t, tr, 0)
		if want := tt.out > 1 && tt.back > 1; (c.Expires > 60*time.Second) != want {
			t.Errorf("%d packets and %d replies: %v expires in %v, want a stream: %v", tt.out, tt.back, c, c.Expires, want)
		}
	}
}

// The allowance of each zone is what it can still open, whatever others use.
func TestAllowanceIsWhatAZoneCanOpen(t *testing.T) {
	tr := open(t, conntrack.Config{Reserve: 1000, Ceiling: 100_000})
	zones := []*conntrack.Zone{tr.AddZone(1, conntrack.Timeouts{}), tr.AddZone(2, conntrack.Timeouts{}), tr.AddZone(3, conntrack.Timeouts{})}
	fill := func(z *conntrack.Zone, n int) (opened int) {
		for i := range n {
			p := pkt(17, uint16(i), uint16(i>>16), 0)
			if admit(z, p, 0, conntrack.Admission{Revision: rules}) != verdict.Forward {
				return opened
			}
			observe(z, back(p, 0), 0, rules)
			opened++
		}
		return opened
	}
	available := func(when string, want ...int) {
		t.Helper()
		for i, z := range zones {
			if got := z.Allowance().Available; got != want[i] {
				t.Errorf("%s zone %d can open %d connections, want %d", when, i, got, want[i])
			}
		}
	}
	available("at first", 100_000, 100_000, 100_000)
	fill(zones[0], 500)
	available("within its reserve", 99_500, 100_000, 100_000)
	fill(zones[1], 100_001)
	available("beside a full zone", 99_500, 0, 100_000)
	tr.RemoveZone(zones[0])
	zones[0] = tr.AddZone(4, conntrack.Timeouts{})
	fill(zones[0], 100_000)
	const rest = 262_144 - 3_000 - 99_000 - 99_000 // of the surplus
	available("beside two full zones", 0, 0, 1_000+rest)
	if n := fill(zones[2], 100_000); n != 1_000+rest {
		t.Errorf("zone 2 opened %d connections, want %d", n, 1_000+rest)
	}
	available("in a full table", 0, 0, 0)
}

func TestCapacityBelowOneConnectionOfEachShardIsRefused(t *testing.T) {
	for _, c := range []conntrack.Config{{Capacity: 10}, {Untracked: 10}} {
		if tr, err := conntrack.Open(c); err == nil {
			tr.Close()
			t.Errorf("a tracker of %+v was opened", c)
		}
	}
}

// A list has the connections that have not expired, also those behind expired ones.
func TestConnectionsLeavesOutOnlyExpiredOnes(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	for port := range uint16(5000) {
		admit(z, pkt(17, port, 53, 0), time.Duration(port%2)*20*time.Second, conntrack.Admission{Revision: rules})
	}
	n := 0
	for c := range tr.Connections(35 * time.Second) {
		if c.Flow.SrcPort%2 == 0 {
			t.Fatalf("%v has expired", c)
		}
		n++
	}
	if n != 2500 {
		t.Errorf("%d connections are listed, want 2500", n)
	}
	n = 0
	for range tr.Connections(35 * time.Second) {
		if n++; n == 10 {
			break
		}
	}
}

// A first fragment with the id of an expired datagram begins another one.
func TestFragmentOfAnExpiredDatagramBeginsAnother(t *testing.T) {
	first := &packet.Packet{Flow: packet.Flow{Src: bob, Dst: alice, Protocol: 17}, Fragment: true, HasL4: true, FragID: 1, FragLen: 64, MoreFollow: true}
	for at, want := range map[time.Duration]verdict.Verdict{29 * time.Second: verdict.OverlapFrag, 30 * time.Second: verdict.Forward} {
		z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
		z.AdmitFragment(first, conntrack.In, 0)
		if v := z.AdmitFragment(first, conntrack.In, at); v != want {
			t.Errorf("the same fragment after %v: %v, want %v", at, v, want)
		}
	}
}

// A zone that has more connections than another evicts none of it, even if that one exceeds its
// reserve.
func TestLargerZoneEvictsNoConnectionOfASmallerOne(t *testing.T) {
	tr := open(t, conntrack.Config{Capacity: 65_536, Ceiling: 65_536, Reserve: 64})
	greedy, modest := tr.AddZone(1, conntrack.Timeouts{}), tr.AddZone(2, conntrack.Timeouts{})
	const held = 4096
	for port := range uint16(held) {
		admit(modest, pkt(17, port, 53, 0), 0, conntrack.Admission{Revision: rules})
	}
	for n := range 150_000 {
		admit(greedy, pkt(17, uint16(n), uint16(n>>16), 0), 0, conntrack.Admission{Revision: rules})
	}
	lost := 0
	for port := range uint16(held) {
		if observe(modest, pkt(17, port, 53, 0), 0, rules).Status != conntrack.Live {
			lost++
		}
	}
	if lost > held/100 { // a few, from when the greedy zone was smaller
		t.Errorf("%d of %d connections were evicted for a zone that has more", lost, held)
	}
}

// A reset of the end that opened the connection ends it before it is answered.
func TestResetEndsAHalfOpenConnection(t *testing.T) {
	for name, tt := range map[string]struct {
		rst  *packet.Packet
		want string
	}{
		"of the opening end":                  {segment(true, packet.RST, 1001, 0, 0), "closed"},
		"of the opening end, another number":  {segment(true, packet.RST, 1002, 0, 0), "syn-sent"},
		"of the opening end, number zero":     {segment(true, packet.RST, 0, 0, 0), "syn-sent"},
		"of the other end":                    {segment(false, packet.RST|packet.ACK, 0, 1001, 0), "closed"},
		"of the other end, acknowledges else": {segment(false, packet.RST|packet.ACK, 0, 1000, 0), "syn-sent"},
		"of the other end, without an ACK":    {segment(false, packet.RST, 1001, 1001, 0), "syn-sent"},
	} {
		tr := open(t, conntrack.Config{})
		z := tr.AddZone(1, conntrack.Timeouts{})
		admit(z, segment(true, packet.SYN, 1000, 0, 0), 0, conntrack.Admission{Revision: rules})
		observe(z, tt.rst, 0, rules)
		if c := only(t, tr, 0); c.State != tt.want {
			t.Errorf("a reset %s: the connection is %v, want %s", name, c, tt.want)
		}
	}
}

// The windows of a connection that is admitted again are unknown, but what an end has acknowledged is
// not forgotten, and is followed: a reset with this number ends the connection.
func TestResetEndsAConnectionThatIsAdmittedAgain(t *testing.T) {
	const first = 3 << 30 // bob's first number, far from 0
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	admit(z, segment(true, packet.SYN, first, 0, 0), 0, conntrack.Admission{Revision: rules})
	observe(z, segment(false, packet.SYN|packet.ACK, 5000, first+1, 0), 0, rules)
	data, answer := segment(true, packet.ACK, first+1, 5001, 100), segment(false, packet.ACK, 5001, first+101, 0)
	observe(z, data, 0, rules)
	cut, again := rules, rules
	cut.Generation, cut.Reset = rules.Generation+1, rules.Generation+1
	again.Generation = cut.Generation + 1
	expect(t, z, data, 0, cut, conntrack.Stale)
	rejudge(z, data, 0, cut, false, 0)
	expect(t, z, answer, 0, cut, conntrack.Blocked)
	expect(t, z, answer, 0, again, conntrack.Stale)
	if v := rejudge(z, answer, 0, again, true, 7); v != verdict.Forward {
		t.Fatalf("Rejudge returned %v, want %v", v, verdict.Forward)
	}
	observe(z, segment(true, packet.RST, first+101, 0, 0), 0, again)
	if c := only(t, tr, 0); c.State != "closed" {
		t.Errorf("the connection is %v after a reset, want closed", c)
	}
}

// Some hosts acknowledge nothing in a reset although they set ACK. Other segments must acknowledge what
// was sent.
func TestResetNeedsNoAcknowledgment(t *testing.T) {
	const far = 1 << 31 // alice's first number, from which 0 is far away
	for name, tt := range map[string]struct {
		p    *packet.Packet
		want conntrack.Status
	}{
		"a reset":                {segment(true, packet.RST|packet.ACK, 1001, 0, 0), conntrack.Live},
		"a reset that is wrong":  {segment(true, packet.RST|packet.ACK, 1001, 7, 0), conntrack.New},
		"another segment":        {segment(true, packet.ACK, 1001, 0, 0), conntrack.New},
		"an acknowledging reset": {segment(true, packet.RST|packet.ACK, 1001, far+1, 0), conntrack.Live},
	} {
		z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
		admit(z, segment(true, packet.SYN, 1000, 0, 0), 0, conntrack.Admission{Revision: rules})
		expect(t, z, segment(false, packet.SYN|packet.ACK, far, 1001, 0), 0, rules, conntrack.Live)
		expect(t, z, segment(true, packet.ACK, 1001, far+1, 0), 0, rules, conntrack.Live)
		if got := observe(z, tt.p, 0, rules).Status; got != tt.want {
			t.Errorf("%s without an acknowledgment: %v, want %v", name, got, tt.want)
		}
	}
}

// An entry that is made for a reply has its connection's state: its handshake is complete, unless the
// reply is the SYN+ACK.
func TestEntryOfAReplyIsEstablished(t *testing.T) {
	for flags, want := range map[uint8]string{packet.ACK: "established", packet.SYN | packet.ACK: "syn-received"} {
		tr := open(t, conntrack.Config{})
		z := tr.AddZone(1, conntrack.Timeouts{})
		admit(z, back(pkt(6, 40000, 22, 0), flags), 0, conntrack.Admission{Revision: rules, Reversed: true})
		if c := only(t, tr, 0); c.State != want || !c.Outside || c.Flow != pkt(6, 40000, 22, 0).Flow {
			t.Errorf("a reply with flags %x made %v, want %s, opened by the peer", flags, c, want)
		}
	}
}

// An untracked SYN ends a connection that was untracked too, or is over.
func TestUntrackedSYNEndsUntrackedAndClosedConnections(t *testing.T) {
	for name, untracked := range map[string]bool{"untracked": true, "closed": false} {
		tr := open(t, conntrack.Config{})
		z := tr.AddZone(1, conntrack.Timeouts{})
		syn := pkt(6, 40000, 22, packet.SYN)
		admit(z, syn, 0, conntrack.Admission{Revision: rules, Untracked: untracked})
		observe(z, back(syn, packet.SYN|packet.ACK), 0, rules)
		observe(z, pkt(6, 40000, 22, packet.ACK), 0, rules)
		if !untracked {
			expect(t, z, pkt(6, 40000, 22, packet.RST), 0, rules, conntrack.Live)
		}
		var u conntrack.Tuple
		z.Identify(&u, syn)
		z.ReuseUntracked(syn, &u, conntrack.In, 0)
		if use := tr.Usage(); use.Tracked+use.Untracked != 0 {
			t.Errorf("an earlier connection, %s, stayed after the SYN of the next: %+v", name, use)
		}
	}
}

// Reserves take at most three quarters of the capacity; later zones have the surplus alone.
func TestReservesLeaveAQuarterForAll(t *testing.T) {
	tr := open(t, conntrack.Config{Capacity: 65_536, Reserve: 16_384, Ceiling: 65_536})
	var zones []*conntrack.Zone
	for epoch := range uint64(5) {
		zones = append(zones, tr.AddZone(epoch+1, conntrack.Timeouts{}))
	}
	for i, want := range []int{32_768, 32_768, 32_768, 16_384, 16_384} {
		if got := zones[i].Allowance().Available; got != want {
			t.Errorf("zone %d can open %d connections, want %d", i, got, want)
		}
	}
}

// An interface may also send errors, about packets that it received.
func TestSentErrorIsRelatedToTheReceivedPacket(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	syn := handshake(t, z, 40000, 0)
	sent := &packet.Packet{Flow: packet.Flow{Src: alice, Dst: bob, Protocol: 1}, IsICMPError: true, ICMPType: 3, HasQuoted: true, Quoted: syn.Flow}
	if !z.Related(sent, conntrack.Out, 0, rules) {
		t.Error("an error that alice sends about bob's packet is not related")
	}
	if z.Related(sent, conntrack.In, 0, rules) {
		t.Error("an error in the direction of the packet that it is about is related")
	}
}

// A connection that ended between Observe and Rejudge does not pass.
func TestConnectionThatIsGoneIsRevoked(t *testing.T) {
	z := open(t, conntrack.Config{}).AddZone(1, conntrack.Timeouts{})
	for _, admitted := range []bool{true, false} {
		if v := rejudge(z, pkt(17, 1000, 53, 0), 0, revoked, admitted, 7); v != verdict.Revoked {
			t.Errorf("Rejudge of no connection returned %v, want %v", v, verdict.Revoked)
		}
	}
}

// Two pollers may judge packets of one connection at once. Both find it New, and the second packet is
// counted in the connection that the first has recorded.
func TestConnectionThatAnotherPollerRecordedGoesOn(t *testing.T) {
	for _, untracked := range []bool{false, true} {
		for _, p := range []*packet.Packet{pkt(17, 1000, 53, 0), echo(bob, alice, 7, 8), pkt(47, 0, 0, 0), pkt(6, 1000, 22, packet.SYN|packet.ACK)} {
			if p.Flow.Protocol == 6 && !untracked {
				continue // its sequence numbers are compared
			}
			tr := open(t, conntrack.Config{})
			z := tr.AddZone(1, conntrack.Timeouts{})
			for range 3 {
				if v := admit(z, p, 0, conntrack.Admission{Rule: 7, Revision: rules, Untracked: untracked}); v != verdict.Forward {
					t.Errorf("Admit of %v returned %v", p, v)
				}
			}
			if c := only(t, tr, 0); c.Packets != [2]uint32{3, 0} {
				t.Errorf("untracked %v: three packets of %v are %v", untracked, p, c)
			}
		}
	}
}

// A packet that the rules admit by now begins a connection in place of one that they had blocked.
func TestAdmittedPacketReplacesABlockedConnection(t *testing.T) {
	tr := open(t, conntrack.Config{})
	z := tr.AddZone(1, conntrack.Timeouts{})
	handshake(t, z, 40000, 0)
	data := pkt(6, 40000, 22, packet.ACK)
	rejudge(z, data, 0, strict, false, 0)
	later := conntrack.Revision{Generation: 12, Shrunk: 9, Strict: true}
	if v := admit(z, back(data, packet.ACK), 0, conntrack.Admission{Rule: 9, Revision: later, Reversed: true}); v != verdict.Forward {
		t.Errorf("Admit returned %v, want %v", v, verdict.Forward)
	}
	if c := only(t, tr, 0); c.Blocked || c.Rule != 9 || c.Revision != 12 || c.Packets != [2]uint32{0, 1} || !c.Outside {
		t.Errorf("the connection is %v, want one of rule 9 with one reply", c)
	}
}
