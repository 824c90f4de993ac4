package firewall_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"

	"palisade/ec2"
	"palisade/firewall"
)

// The test compares Match with the reference for ten sources of up to a thousand rules
// each. It tests the ports where a range begins or ends, and the ports beside them.
func TestMatchOfManyRulesOfOneSourceEqualsALinearReference(t *testing.T) {
	for seed := range uint64(6) {
		r := rand.New(rand.NewPCG(seed, 12))
		g := vpcGroup("g")
		edges := []int{0, 65535}
		for range []int{1, 30, 300, 1000}[seed%4] * 10 {
			one := rule("tcp 0-0 g")
			if source := r.IntN(10); source > 0 {
				one.Source = ec2.Source{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(source), 0, 0}), 8+source).Masked()}
			}
			one.From = r.IntN(65536)
			one.To = min(65535, one.From+[]int{0, 1, 63, 64, 300, 70_000}[r.IntN(6)])
			g.Rules = append(g.Rules, one)
			edges = append(edges, one.From-1, one.From, one.To, one.To+1)
		}
		groups := []*ec2.Group{g}
		c := firewall.NewCompiler()
		table := c.Acquire(view{"g": g}, []ec2.GroupID{"g"}, 1).Ingress
		for range 3000 {
			p := probe{protocol: 6, key: uint16(max(0, min(65535, edges[r.IntN(len(edges))]))), addr: netip.AddrFrom4([4]byte{10, byte(r.IntN(20)), 0, 1})}
			if r.IntN(3) == 0 {
				p.from = []ec2.GroupID{"g"}
			}
			compare(t, fmt.Sprint("seed ", seed), p, groups, ec2.Ingress, table, c)
		}
	}
}

// The test compiles ten thousand rules of as many sources, in two cases. In one, hundreds
// of rules cover each port, so that a bit for each source and segment would take 25 MB. In
// the other the rules are for every protocol, and 100 protocols have rules of their own
// besides.
func TestTableMemoryGrowsWithRulesAlone(t *testing.T) {
	const rules, limit = 10_000, 1500 // limit in bytes for each rule
	r := rand.New(rand.NewPCG(1, 12))
	for name, change := range map[string]func(i int, one *ec2.Rule){
		"ports": func(_ int, one *ec2.Rule) {
			one.From = r.IntN(65536)
			one.To = min(65535, one.From+r.IntN(4096))
		},
		"protocols": func(i int, one *ec2.Rule) {
			if one.Protocol, one.From, one.To = ec2.AnyProtocol, -1, -1; i < 2000 {
				one.Protocol = ec2.Protocol(100 + i%100)
			}
		},
	} {
		g := vpcGroup("g")
		for i := range rules {
			one := rule("tcp 0-0 10.0.0.0/8")
			one.Source.Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
			change(i, &one)
			g.Rules = append(g.Rules, one)
		}
		before := heap()
		set := firewall.NewCompiler().Acquire(view{"g": g}, []ec2.GroupID{"g"}, 1)
		grown := heap() - before
		runtime.KeepAlive(set)
		t.Logf("%s: %d bytes for each rule", name, grown/rules)
		if grown > rules*limit {
			t.Errorf("%s: a table of %d rules takes %d bytes for each rule, want at most %d", name, rules, grown/rules, limit)
		}
	}
}

// heap returns the number of bytes in use on the heap.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
