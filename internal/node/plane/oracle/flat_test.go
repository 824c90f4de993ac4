package oracle

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/node/plane/planetest"
	"palisade/internal/packet"
	"palisade/internal/packet/packettest"
	vswitch "palisade/switch"
)

// A lane is a sender and a receiver in two subnets of one VPC, on one node. What the two need to reach each
// other is the last of everything that the sizes ask for.
type lane struct {
	*world
	frames [][]byte
	from   uint64 // epochs
	to     uint64
}

// sizes are how much there is in a lane's VPC beside what every VPC has.
type sizes struct{ acls, entries, lists, listed, peerings int }

// newLane makes a lane.
func newLane(t testing.TB, s sizes) *lane {
	t.Helper()
	l := &lane{world: emptyWorld(t, rand.New(rand.NewPCG(1, 1)), ec2.Settings{
		RulesPerVPCGroup: 1_000_000, VPCsPerRegion: 1000, GatewaysPerRegion: 1000, SubnetsPerVPC: 200, RoutesPerTable: 1000, PeeringsPerVPC: 200,
	})}
	v := l.must(&state.CreateVPC{Account: planetest.Dev, Region: planetest.Region, CIDR: netip.MustParsePrefix("10.0.0.0/16")}).VPC
	l.vpcs = append(l.vpcs, v)
	for i := range max(2, s.acls) {
		cidr := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 0}), 24)
		l.subnets = append(l.subnets, l.must(&state.CreateSubnet{Account: v.Account, Region: v.Region, VPC: v.ID, CIDR: cidr}).Subnet)
	}
	for i := range s.acls {
		l.addFullACL(l.subnets[i], s.entries)
	}
	g := l.must(&state.CreateSecurityGroup{Account: v.Account, Region: v.Region, VPC: v.ID, Name: "g", Description: "g"}).Group.ID
	l.groups[v.ID] = []ec2.GroupID{g}
	senders := netip.MustParsePrefix("10.0.0.0/23")
	if s.lists == 0 {
		l.authorize(v.Account, g, ec2.Ingress, state.RuleSpec{Protocol: ec2.AnyProtocol, From: -1, To: -1, Prefix: senders})
	}
	for i := range s.lists {
		l.addFullList(v, g, i, s.listed, senders)
	}
	l.register(l.subnets[0], nodeNames[0])
	l.register(l.subnets[1], nodeNames[0])
	for i := range s.peerings {
		block := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(1 + i), 0, 0}), 16)
		o := l.must(&state.CreateVPC{Account: planetest.Dev, Region: planetest.Region, CIDR: block}).VPC
		p := l.must(&state.CreateVPCPeering{Account: planetest.Dev, Region: planetest.Region, VPC: v.ID, PeerVPC: o.ID}).Peering
		l.must(&state.AcceptVPCPeering{Account: planetest.Dev, Region: planetest.Region, Peering: p.ID})
	}
	both := l.interfaces()
	from, to := both[0], both[1]
	l.from, l.to = from.Epoch, to.Epoch
	// Half of the packets are of tracked connections, and half are segments without a connection, for which
	// the rules are asked each time.
	for i := range 32 {
		f := packettest.Frame{SrcMAC: from.MAC, DstMAC: vswitch.GatewayMAC, TCPFlags: packet.ACK,
			Flow: packet.Flow{Src: from.Private, Dst: to.Private, SrcPort: uint16(5000 + i), DstPort: 80, Protocol: packet.ProtocolTCP}}
		if i%2 == 0 {
			f.Flow.Protocol = packet.ProtocolUDP
		}
		l.frames = append(l.frames, packettest.Build(f))
	}
	return l
}

// addFullACL makes an ACL whose last entries admit everything, and lets a subnet use it.
func (l *lane) addFullACL(s *ec2.Subnet, entries int) {
	acl := l.must(&state.CreateNetworkACL{Account: s.Account, Region: s.Region, VPC: s.VPC}).ACL
	for i := range entries {
		e := ec2.ACLEntry{Number: 100 + i, Egress: i%2 == 0, CIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 32)}
		e.Traffic = ec2.ACLTraffic{One: true, Protocol: ec2.UDP, From: i, To: 1000 + i}
		if i >= entries-2 {
			e.Allow, e.CIDR, e.Traffic = true, planetest.Everywhere, ec2.ACLTraffic{}
		}
		l.must(&state.CreateACLEntry{Account: s.Account, Region: s.Region, ACL: acl.ID, Entry: e})
	}
	now, _ := l.view.Subnet(s.ID)
	l.must(&state.ReplaceACLAssociation{Account: s.Account, Region: s.Region, Association: now.AssociationWithACL(), ACL: acl.ID})
}

// addFullList makes a prefix list with a number of entries, of which the last is the senders' block in every list, and
// a rule for it.
func (l *lane) addFullList(v *ec2.VPC, g ec2.GroupID, number, entries int, senders netip.Prefix) {
	list := l.must(&state.CreatePrefixList{Account: v.Account, Region: v.Region, Name: "list", MaxEntries: entries}).PrefixList
	for at := 0; at < entries; at += 100 {
		r := &state.ModifyPrefixList{Account: v.Account, Region: v.Region, List: list.ID, CurrentVersion: new(list.Version)}
		for i := at; i < min(at+100, entries); i++ {
			r.Add = append(r.Add, ec2.PrefixEntry{CIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(number), byte(i / 250), byte(i % 250)}), 32)})
		}
		if at+100 >= entries {
			r.Add[len(r.Add)-1].CIDR = senders
		}
		list = l.must(r).PrefixList
	}
	l.authorize(v.Account, g, ec2.Ingress, state.RuleSpec{Protocol: ec2.AnyProtocol, From: -1, To: -1, PrefixList: list.ID})
}

// run sends batches of frames, and returns the processor time of a frame.
func (l *lane) run(batches int) time.Duration {
	l.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	n := l.nodes[0]
	in, out := n.devices[l.from], n.devices[l.to]
	begin, got := threadTime(), 0
	for range batches {
		for _, f := range l.frames {
			check(l, in.Send(f))
		}
		for n.sw.Step() {
		}
		got += len(out.Take())
	}
	spent := threadTime() - begin
	if got != batches*len(l.frames) {
		l.Fatalf("%d of %d frames arrived, the others were dropped as %v", got, batches*len(l.frames), n.count())
	}
	return spent / time.Duration(got)
}

func threadTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// interval returns the mean of values and half of the width of its 95% confidence interval.
func interval(values []float64) (mean, half float64) {
	for _, v := range values {
		mean += v / float64(len(values))
	}
	var squares float64
	for _, v := range values {
		squares += (v - mean) * (v - mean)
	}
	const student = 2.145 // for 15 values
	return mean, student * math.Sqrt(squares/float64(len(values)-1)/float64(len(values)))
}

// TestPacketCostIsIndependentOfEntries: with 10 ACLs of 40 entries, 100 prefix lists of 1,000 entries and 100
// peerings in force, a packet takes as much processor time as with one of each and few entries, in 15 interleaved
// pairs. The time without any is logged. Without the tag soak there are fewer.
func TestPacketCostIsIndependentOfEntries(t *testing.T) {
	var lanes []*lane
	for _, s := range []sizes{{}, {acls: 2, entries: 4, lists: 1, listed: 1, peerings: 1}, {acls: 10, entries: 40, lists: flatLists, listed: flatListed, peerings: flatPeerings}} {
		l := newLane(t, s)
		defer l.close()
		l.run(50)
		lanes = append(lanes, l)
	}
	var toNone, toFew, times []float64
	for i := range 15 {
		var spent [3]float64
		for j := range lanes {
			at := (i + j) % len(lanes)
			spent[at] = float64(lanes[at].run(flatBatches))
		}
		toNone, toFew, times = append(toNone, spent[2]/spent[0]), append(toFew, spent[2]/spent[1]), append(times, spent[0])
	}
	none, noneHalf := interval(toNone)
	few, fewHalf := interval(toFew)
	each, _ := interval(times)
	t.Logf("%.0f ns for a packet without any; with all in force %.3f ± %.3f times as much, and %.3f ± %.3f times as much as with few", each, none, noneHalf, few, fewHalf)
	if few-fewHalf > flatRatio {
		t.Errorf("a packet costs %.3f ± %.3f times as much as with few entries, want at most %.2f", few, fewHalf, flatRatio)
	}
}
