package firewall_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"palisade/ec2"
	"palisade/firewall"
)

// tableOf compiles a Table of rules for random ports and sources. It also returns senders
// and ports that random packets of these rules have.
func tableOf(rules, members int) (*firewall.Table, []firewall.Source, []uint16) {
	r := rand.New(rand.NewPCG(1, uint64(rules)))
	c := firewall.NewCompiler()
	g := group("g")
	for i := range rules {
		port := r.IntN(65536)
		serial++
		one := ec2.Rule{Serial: serial, Protocol: ec2.TCP, From: port, To: min(65535, port+r.IntN(16))}
		if i%4 == 0 {
			one.Source.Group = ec2.GroupRef{ID: ec2.GroupID(fmt.Sprint("src", r.IntN(100)))}
		} else {
			bits := 16 + r.IntN(17)
			one.Source.Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))}), bits).Masked()
		}
		g.Rules = append(g.Rules, one)
	}
	set := c.Acquire(view{"g": g}, []ec2.GroupID{"g"}, 1)
	srcs := make([]firewall.Source, members)
	for i := range srcs {
		srcs[i].Addr = netip.AddrFrom4([4]byte{10, byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))})
		if i%2 == 0 {
			srcs[i].Groups = []firewall.GroupNumber{c.Number(ec2.GroupID(fmt.Sprint("src", r.IntN(100))))}
		}
	}
	return set.Ingress, srcs, portsOf(r, g)
}

// portsOf returns 65,536 random ports that the rules name.
func portsOf(r *rand.Rand, g *ec2.Group) []uint16 {
	keys := make([]uint16, 1<<16)
	for i := range keys {
		keys[i] = uint16(g.Rules[r.IntN(len(g.Rules))].From)
	}
	return keys
}

func BenchmarkMatch(b *testing.B) {
	for _, rules := range []int{1, 100, 10_000} {
		for _, members := range []int{10, 100_000} {
			b.Run(fmt.Sprintf("rules=%d/members=%d", rules, members), func(b *testing.B) {
				table, srcs, keys := tableOf(rules, members)
				i := 0
				for b.Loop() {
					table.Match(6, keys[i&0xffff], srcs[i%len(srcs)])
					i++
				}
			})
		}
	}
}

// BenchmarkMatchRulesOfOneSource judges packets of a source with many rules, on ports for
// which other sources have rules too.
func BenchmarkMatchRulesOfOneSource(b *testing.B) {
	for _, rules := range []int{1, 10, 1000, 10_000} {
		b.Run(fmt.Sprintf("rules=%d", rules), func(b *testing.B) {
			r := rand.New(rand.NewPCG(1, uint64(rules)))
			g := group("g")
			for range rules {
				one := rule("tcp 0-0 10.0.0.0/8")
				one.From = r.IntN(65536)
				one.To = min(65535, one.From+r.IntN(16))
				g.Rules = append(g.Rules, one)
			}
			keys := portsOf(r, g)
			for i := range 9 {
				one := rule("tcp 0-65535 192.0.2.0/32")
				one.Source.Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 32)
				g.Rules = append(g.Rules, one)
			}
			set := firewall.NewCompiler().Acquire(view{"g": g}, []ec2.GroupID{"g"}, 1)
			src := firewall.Source{Addr: netip.MustParseAddr("10.1.2.3")}
			i := 0
			for b.Loop() {
				if !set.Ingress.Match(6, keys[i&0xffff], src).Allowed {
					b.Fatal("Match denied a port that a rule admits")
				}
				i++
			}
		})
	}
}
