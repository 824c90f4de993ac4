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

// The test compares Match with the reference for ten sources of up to a thousand rules each, at the
// ports where a range begins or ends and beside them.
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

// The test compiles ten thousand rules of as many sources. Hundreds of them cover each port, so a
// bit for each source and segment would take 25 MB.
func TestTableMemoryGrowsWithRulesAlone(t *testing.T) {
	const rules, limit = 10_000, 1500 // bytes for a rule
	r := rand.New(rand.NewPCG(1, 12))
	g := vpcGroup("g")
	for i := range rules {
		one := rule("tcp 0-0 10.0.0.0/8")
		one.From = r.IntN(65536)
		one.To = min(65535, one.From+r.IntN(4096))
		one.Source.Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
		g.Rules = append(g.Rules, one)
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	set := firewall.NewCompiler().Acquire(view{"g": g}, []ec2.GroupID{"g"}, 1)
	grown := heap() - before
	runtime.KeepAlive(set)
	t.Logf("%d bytes for a rule", grown/rules)
	if grown > rules*limit {
		t.Errorf("a table of %d rules takes %d bytes for a rule, want at most %d", rules, grown/rules, limit)
	}
}
