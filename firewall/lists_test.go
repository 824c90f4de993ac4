package firewall_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/firewall"
)

// list returns a prefix list with entries: "203.0.113.0/24 198.51.100.7/32".
func list(id, entries string) *ec2.PrefixList {
	l := &ec2.PrefixList{ID: ec2.PrefixListID(id), Account: "123456789012", Region: "us-east-1"}
	for _, text := range strings.Fields(entries) {
		l.Entries = append(l.Entries, ec2.PrefixEntry{CIDR: netip.MustParsePrefix(text)})
	}
	slices.SortFunc(l.Entries, func(a, b ec2.PrefixEntry) int { return ec2.ComparePrefixes(a.CIDR, b.CIDR) })
	return l
}

// listRule parses "tcp 22-25 pl-1".
func listRule(text string) ec2.Rule {
	at := strings.LastIndexByte(text, ' ')
	r := rule(text[:at] + " 0.0.0.0/0")
	r.Source = ec2.Source{PrefixList: ec2.PrefixListID(text[at+1:]), Family: 4}
	return r
}

// A listWorld is a Compiler with random groups and prefix lists, and what it was given.
type listWorld struct {
	c          *firewall.Compiler
	view       view
	lists      map[ec2.PrefixListID]*ec2.PrefixList
	generation uint64
}

func newListWorld() *listWorld {
	return &listWorld{c: firewall.NewCompiler(), view: view{}, lists: map[ec2.PrefixListID]*ec2.PrefixList{}}
}

func (w *listWorld) set(l *ec2.PrefixList) {
	w.generation++
	w.lists[l.ID] = l
	w.c.SetList(l, w.generation)
}

func (w *listWorld) remove(id ec2.PrefixListID) {
	w.generation++
	delete(w.lists, id)
	w.c.RemoveList(id, w.generation)
}

// admits is the reference: it compares a packet with every rule, and its address with every entry.
func (w *listWorld) admits(ids []ec2.GroupID, protocol uint8, key uint16, from []ec2.GroupID, addr netip.Addr) bool {
	for _, id := range ids {
		for _, r := range w.view[id].Rules {
			if l := w.lists[r.Source.PrefixList]; l != nil {
				for _, e := range l.Entries {
					direct := r
					direct.Source = ec2.Source{Prefix: e.CIDR}
					if ok, _ := linear([]*ec2.Group{{Rules: []ec2.Rule{direct}}}, ec2.Ingress, protocol, key, from, addr); ok {
						return true
					}
				}
			} else if r.Source.PrefixList == "" {
				if ok, _ := linear([]*ec2.Group{{Rules: []ec2.Rule{r}}}, ec2.Ingress, protocol, key, from, addr); ok {
					return true
				}
			}
		}
	}
	return false
}

// compare judges a packet by the Compiler, by a new Compiler with the same rules and entries, and by the
// reference.
func (w *listWorld) compare(t testing.TB, ids []ec2.GroupID, protocol uint8, key uint16, from []ec2.GroupID, addr netip.Addr) (allowed bool) {
	t.Helper()
	rebuilt := firewall.NewCompiler()
	for _, id := range slices.Sorted(mapKeys(w.lists)) {
		rebuilt.SetList(w.lists[id], 1)
	}
	want := w.admits(ids, protocol, key, from, addr)
	for name, c := range map[string]*firewall.Compiler{"incremental": w.c, "rebuilt": rebuilt} {
		set := c.Acquire(w.view, ids, w.generation)
		src := firewall.Source{Groups: numbers(c, from), Addr: addr, Lists: c.Lists()}
		e := set.Ingress.Explain(protocol, key, src)
		if e.Allowed != want {
			t.Fatalf("%s: protocol %d key %d from %s %v into %v is allowed: %t, want %t\n%v", name, protocol, key, addr, from, ids, e.Allowed, want, set)
		}
		if e.Allowed && e.By == nil {
			t.Fatalf("%s: a packet is admitted by rule %d, which does not cover it", name, e.Rule)
		}
		if e.Allowed && e.By.Rule.Source.IsPrefixList() {
			l := w.lists[e.By.Rule.Source.PrefixList]
			if _, ok := l.Find(e.Entry); !ok || !e.Entry.Contains(addr) {
				t.Fatalf("%s: the entry that admits %s is %s, want one of %v", name, addr, e.Entry, l.Entries)
			}
		}
		c.Release(set)
	}
	return want
}

func mapKeys[K comparable, V any](m map[K]V) func(func(K) bool) {
	return func(yield func(K) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// change makes one random change. The universe is small, so that entries nest and packets hit them.
func (w *listWorld) change(r *rand.Rand) {
	block := func() netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(4)), byte(r.IntN(256))}), 8+r.IntN(25)).Masked()
	}
	id := ec2.PrefixListID(fmt.Sprint("pl-", r.IntN(70)))
	switch r.IntN(10) {
	case 0: // a new set of rules
		g := group(fmt.Sprint("g", r.IntN(3)))
		for range r.IntN(25) {
			from := r.IntN(30)
			ports := fmt.Sprintf("%d-%d", from, from+r.IntN(10))
			protocol := []string{"tcp", "udp", "-1"}[r.IntN(3)]
			switch r.IntN(4) {
			case 0:
				g.Rules = append(g.Rules, rule(fmt.Sprintf("%s %s %s", protocol, ports, block())))
			case 1:
				g.Rules = append(g.Rules, rule(fmt.Sprintf("%s %s from%d", protocol, ports, r.IntN(3))))
			default:
				g.Rules = append(g.Rules, listRule(fmt.Sprintf("%s %s pl-%d", protocol, ports, r.IntN(72)))) // 70 and 71 are of AWS
			}
		}
		w.generation++
		w.view[g.ID] = g
		w.c.Update(w.view, []ec2.GroupID{g.ID}, w.generation)
	case 1: // a list that no rule names is deleted
		for _, g := range w.view {
			if slices.ContainsFunc(g.Rules, func(r ec2.Rule) bool { return r.Source.PrefixList == id }) {
				return
			}
		}
		w.remove(id)
	default: // an entry, or several
		next := &ec2.PrefixList{ID: id, Account: "123456789012", Region: "us-east-1"}
		if was := w.lists[id]; was != nil {
			*next = *was
			next.Entries = slices.Clone(was.Entries)
		}
		for range 1 + r.IntN(4) {
			if b := block(); len(next.Entries) > 0 && r.IntN(2) == 0 {
				next.Entries = slices.Delete(next.Entries, 0, 1)
			} else if at, ok := next.Find(b); !ok {
				next.Entries = slices.Insert(next.Entries, at, ec2.PrefixEntry{CIDR: b})
			}
		}
		isNew := w.lists[id] == nil
		w.set(next)
		if isNew { // a rule names a list only after the list was made, so compile the rules that did already
			w.generation++
			w.c.Update(w.view, slices.Collect(mapKeys(w.view)), w.generation)
		}
	}
}

func TestRandomRulesWithPrefixListsAgreeWithReference(t *testing.T) {
	allowed := 0
	for seed := range uint64(4) {
		allowed += playLists(t, seed, 200)
	}
	if allowed < 150 {
		t.Errorf("only %d packets were admitted: the worlds are too strict to prove anything", allowed)
	}
}

func playLists(t testing.TB, seed uint64, steps int) (allowed int) {
	r := rand.New(rand.NewPCG(seed, 14))
	w := newListWorld()
	for i := range 3 {
		w.view[ec2.GroupID(fmt.Sprint("g", i))] = group(fmt.Sprint("g", i))
	}
	kept := w.c.Acquire(w.view, []ec2.GroupID{"g0", "g1"}, 1) // so that its Tables are compiled again and again
	for range steps {
		w.change(r)
		for range 4 {
			ids := [][]ec2.GroupID{{"g0", "g1"}, {"g2"}}[r.IntN(2)]
			from := [][]ec2.GroupID{nil, {"from0"}, {"from1", "from2"}}[r.IntN(3)]
			addr := netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(5)), byte(r.IntN(256))})
			if w.compare(t, ids, []uint8{6, 17, 47}[r.IntN(3)], uint16(r.IntN(45)), from, addr) {
				allowed++
			}
		}
	}
	w.c.Release(kept)
	return allowed
}

func FuzzPrefixLists(f *testing.F) {
	for seed := range uint64(4) {
		f.Add(seed, uint8(40))
	}
	f.Fuzz(func(t *testing.T, seed uint64, steps uint8) { playLists(t, seed, int(steps)) })
}

// A changed entry admits or denies in the Tables that were compiled before.
func TestChangedEntryNeedsNoCompilation(t *testing.T) {
	w := newListWorld()
	w.set(list("pl-1", "203.0.113.0/24"))
	w.view["web"] = group("web", listRule("tcp 443-443 pl-1"))
	set := w.c.Acquire(w.view, []ec2.GroupID{"web"}, 2)
	admits := func(addr string) bool {
		return set.Ingress.Match(6, 443, firewall.Source{Addr: netip.MustParseAddr(addr), Lists: w.c.Lists()}).Allowed
	}
	old := w.c.Lists()
	w.set(list("pl-1", "198.51.100.0/24"))
	if !admits("198.51.100.7") || admits("203.0.113.7") {
		t.Errorf("198.51.100.7 is admitted: %t, 203.0.113.7: %t; want the changed entries", admits("198.51.100.7"), admits("203.0.113.7"))
	}
	if !set.Ingress.Match(6, 443, firewall.Source{Addr: netip.MustParseAddr("203.0.113.7"), Lists: old}).Allowed {
		t.Error("the change of an entry changed earlier Lists, which pollers may still read")
	}
	if now := w.c.Lists(); now.Generation != w.generation || now.Shrunk != w.generation {
		t.Errorf("the generation is %d, shrunk %d; want %d for both", now.Generation, now.Shrunk, w.generation)
	}
	shrunk := w.c.Lists().Shrunk
	w.set(list("pl-1", "198.51.100.0/24 192.0.2.0/24"))
	if now := w.c.Lists(); now.Generation != w.generation || now.Shrunk != shrunk {
		t.Errorf("after an added entry the generation is %d, shrunk %d; want %d and %d", now.Generation, now.Shrunk, w.generation, shrunk)
	}
	if w.c.Current(set) != set {
		t.Error("a changed entry has compiled the set again")
	}
	if d := set.Ingress.Match(6, 443, firewall.Source{Addr: netip.MustParseAddr("192.0.2.1")}); d.Allowed {
		t.Error("a packet is admitted without the prefix lists in force")
	}
}

// The connections that a list with 0.0.0.0/0 admits are tracked.
func TestPrefixListIsNeverTheWholeWorld(t *testing.T) {
	w := newListWorld()
	w.set(list("pl-1", "0.0.0.0/0"))
	w.view["web"] = group("web", listRule("-1 -1--1 pl-1"))
	set := w.c.Acquire(w.view, []ec2.GroupID{"web"}, 2)
	addr := netip.MustParseAddr("198.51.100.7")
	if d := set.Ingress.Match(6, 443, firewall.Source{Addr: addr, Lists: w.c.Lists()}); !d.Allowed || d.World || set.Ingress.Open(6, addr) {
		t.Errorf("decision %v, open %t; want allowed, but not for everybody", d, set.Ingress.Open(6, addr))
	}
	for _, anySource := range []bool{false, true} {
		open := set.Ingress.OpenRanges(6, anySource, w.c.Lists())
		if want := map[bool]int{true: 1}[anySource]; len(open) != want {
			t.Errorf("with any source %t: open ranges %v, want %d", anySource, open, want)
		}
	}
}

// A port that a list opens counts as lost when the list loses an entry, and not when it gains one.
func TestPortsOfAListAreLostWithAnEntry(t *testing.T) {
	w := newListWorld()
	l := list("pl-1", "203.0.113.0/24")
	w.set(l)
	w.view["web"] = group("web", listRule("tcp 443-443 pl-1"))
	set := w.c.Acquire(w.view, []ec2.GroupID{"web"}, 2)
	source := func() uint32 { return set.Ingress.OpenRanges(6, true, w.c.Lists())[0].Source }
	was := source()
	more := list("pl-1", "203.0.113.0/24 192.0.2.0/24")
	w.set(more)
	if source() != was {
		t.Error("an added entry changed the source of an open port")
	}
	less := list("pl-1", "192.0.2.0/24")
	less.Shrunk = 3
	w.set(less)
	if source() == was {
		t.Error("a removed entry did not change the source of an open port")
	}
}

func TestListsOfAnotherOwnerAreNotNamed(t *testing.T) {
	w := newListWorld()
	other := list("pl-2", "0.0.0.0/0")
	other.Account = "210987654321"
	w.set(list("pl-1", "203.0.113.0/24"))
	w.set(other)
	w.view["web"] = group("web", listRule("tcp 443-443 pl-1"), listRule("tcp 443-443 pl-2"))
	set := w.c.Acquire(w.view, []ec2.GroupID{"web"}, 3)
	if set.Ingress.Match(6, 443, firewall.Source{Addr: netip.MustParseAddr("192.0.2.1"), Lists: w.c.Lists()}).Allowed || len(w.c.Errors()) != 1 {
		t.Errorf("a list of another owner admits, or the errors %v do not tell of it", w.c.Errors())
	}
}

// The number of a deleted list is given to another list only when no Set names it any more.
func TestNumberOfADeletedListAdmitsNothing(t *testing.T) {
	w := newListWorld()
	w.set(list("pl-1", "203.0.113.0/24"))
	w.view["web"] = group("web", listRule("tcp 443-443 pl-1"))
	set := w.c.Acquire(w.view, []ec2.GroupID{"web"}, 2)
	w.remove("pl-1")
	w.set(list("pl-2", "203.0.113.0/24"))
	if set.Ingress.Match(6, 443, firewall.Source{Addr: netip.MustParseAddr("203.0.113.1"), Lists: w.c.Lists()}).Allowed {
		t.Error("a rule with a deleted list admits the addresses of another list")
	}
	w.c.Release(set)
	w.remove("pl-2")
	w.set(list("pl-3", "192.0.2.0/24"))
	w.view["web"] = group("web", listRule("tcp 443-443 pl-3"))
	set = w.c.Acquire(w.view, []ec2.GroupID{"web"}, 9)
	if !set.Ingress.Match(6, 443, firewall.Source{Addr: netip.MustParseAddr("192.0.2.1"), Lists: w.c.Lists()}).Allowed {
		t.Error("a list that has the number of a deleted one admits nothing")
	}
}

// manyLists returns a Table whose rules name some of 100 lists of 1,000 entries.
func manyLists(lists, entries int) (*firewall.Table, []firewall.Source) {
	r := rand.New(rand.NewPCG(3, 14))
	w := newListWorld()
	g := group("g")
	for i := range lists {
		var text []string
		for range entries {
			text = append(text, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))}), 20+r.IntN(13)).Masked().String())
		}
		slices.Sort(text)
		w.set(list(fmt.Sprint("pl-", i), strings.Join(slices.Compact(text), " ")))
		g.Rules = append(g.Rules, listRule(fmt.Sprintf("tcp 1-1000 pl-%d", i)))
	}
	w.view["g"] = g
	set := w.c.Acquire(w.view, []ec2.GroupID{"g"}, w.generation)
	srcs := make([]firewall.Source, 4096)
	for i := range srcs {
		srcs[i] = firewall.Source{Addr: netip.AddrFrom4([4]byte{10, byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))}), Lists: w.c.Lists()}
	}
	return set.Ingress, srcs
}

func TestMatchOfPrefixListsAllocatesNothing(t *testing.T) {
	table, srcs := manyLists(100, 100)
	i := 0
	if n := testing.AllocsPerRun(1000, func() { table.Match(6, 500, srcs[i%len(srcs)]); i++ }); n != 0 {
		t.Errorf("Match allocates %v times", n)
	}
}

func BenchmarkMatchLists(b *testing.B) {
	for _, size := range [][2]int{{1, 1}, {1, 1000}, {100, 1000}} {
		b.Run(fmt.Sprintf("lists=%d/entries=%d", size[0], size[1]), func(b *testing.B) {
			table, srcs := manyLists(size[0], size[1])
			i := 0
			for b.Loop() {
				table.Match(6, 500, srcs[i%len(srcs)])
				i++
			}
		})
	}
}

// BenchmarkChangeEntry changes one entry of one of 100 lists of 1,000 entries, which 1,000 Sets name.
func BenchmarkChangeEntry(b *testing.B) {
	for _, sets := range []int{1, 1000} {
		b.Run(fmt.Sprintf("sets=%d", sets), func(b *testing.B) {
			w := newListWorld()
			var entries []string
			for i := range 1000 {
				entries = append(entries, fmt.Sprintf("10.%d.%d.0/24", i/256, i%256))
			}
			for i := range 100 {
				w.set(list(fmt.Sprint("pl-", i), strings.Join(entries, " ")))
			}
			for i := range sets {
				id := ec2.GroupID(fmt.Sprint("g", i))
				w.view[id] = group(string(id), listRule("tcp 443-443 pl-1"))
				w.c.Acquire(w.view, []ec2.GroupID{id}, 1)
			}
			more := *w.lists["pl-1"]
			more.Entries = append(slices.Clone(more.Entries), ec2.PrefixEntry{CIDR: netip.MustParsePrefix("11.0.0.0/24")})
			less := w.lists["pl-1"]
			for i := uint64(1); b.Loop(); i++ {
				w.c.SetList([]*ec2.PrefixList{less, &more}[i&1], i)
			}
		})
	}
}
