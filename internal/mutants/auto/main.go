// Auto makes many small changes to a package, and runs the package's tests with each. A change
// that no test notices is a survivor: the tests do not watch it, or the code is not needed.
//
//	go run ./internal/mutants/auto [-seed 1] [-n 200] [-p 2] [-tests DIR,DIR] [-at REGEXP] DIRECTORY
//
// The package is compiled once, with all mutants in it (mutant schemata: Untch, Offutt and
// Harrold, 1993), and the environment chooses the one that is on. A first run of each test
// records which mutants it reaches; only these tests run with the mutant. A mutant that fails a test
// must fail it twice.
//
// find.go and expression.go say what is changed: comparisons, operands of && and ||, arithmetic,
// numbers, statements, cases, break and continue, results. equivalent.txt has the mutants that no test
// can notice, with the reason; they are not counted.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

func main() {
	var o options
	flag.Uint64Var(&o.seed, "seed", 1, "chooses the sample")
	flag.IntVar(&o.n, "n", 250, "size of the sample; 0 is all mutants")
	flag.IntVar(&o.parallel, "p", 2, "tests that run at once")
	tests := flag.String("tests", "", "directories of test packages, with commas; default is the package itself, and for some packages another one")
	at := flag.String("at", "", "only mutants whose \"file.go:line function\" matches this regular expression")
	match := flag.String("run", ".", "only tests whose name matches this regular expression")
	flag.BoolVar(&o.netns, "netns", false, "also run the tests that need root and namespaces")
	flag.BoolVar(&o.list, "list", false, "list the mutants and run nothing")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: auto [flags] DIRECTORY; the directory is below the module's root, as in: auto firewall")
		os.Exit(2)
	}
	o.dir = flag.Arg(0)
	o.tests = append([]string{o.dir}, beside[o.dir]...)
	if *tests != "" {
		o.tests = strings.Split(*tests, ",")
	}
	o.at, o.run = regexp.MustCompile(*at), regexp.MustCompile(*match)
	if err := o.main(); err != nil {
		fmt.Fprintln(os.Stderr, "auto:", err)
		os.Exit(1)
	}
}

// packages are those that equivalent.txt speaks of.
const packages = "conntrack firewall switch internal/packet internal/node/plane cluster cluster/gossip"

// beside has the packages whose tests are also those of another package: tunnels are tested with both
// of their ends, and the tracker's reference model judges what the pipeline does with it.
var beside = map[string][]string{"switch": {"switch/overlay"}, "conntrack": {"switch"}}

type options struct {
	seed        uint64
	n, parallel int
	dir         string
	tests       []string
	at, run     *regexp.Regexp
	list, netns bool
}

func (o *options) main() error {
	began := time.Now()
	s, err := load(".", o.dir)
	if err != nil {
		return err
	}
	known, err := readEquivalents("internal/mutants/auto/equivalent.txt")
	if err != nil {
		return err
	}
	chosen, equivalent := o.sample(s, known)
	if o.list {
		for _, m := range chosen {
			fmt.Println(m)
		}
		return nil
	}
	work, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	r := &runner{source: s, work: work, parallel: o.parallel, grace: 2 * time.Second, progress: os.Stderr}
	for _, dir := range o.tests {
		suite, err := r.build(".", dir)
		if err != nil {
			return err
		}
		if err := suite.find(o.run, o.netns); err != nil {
			return err
		}
		r.suites = append(r.suites, suite)
	}
	if left := r.baseline(); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "left out, because they fail without a mutant: %s\n", strings.Join(left, ", "))
	}
	fmt.Fprintf(os.Stderr, "%s: %d of %d mutants, first run took %v; slowest:%s\n", o.dir, len(chosen), len(s.mutants), time.Since(began).Round(time.Second), r.names())
	survivors := r.survivors(chosen)
	for _, text := range survivors {
		fmt.Println(text)
	}
	killed := len(chosen) - len(survivors)
	fmt.Printf("%s: %d of %d killed, %.1f %%; %d equivalent ones not counted; seed %d; %v\n",
		o.dir, killed, len(chosen), 100*float64(killed)/float64(max(1, len(chosen))), equivalent, o.seed, time.Since(began).Round(time.Second))
	return nil
}

// sample returns the mutants to run, in the order of the source, and the number of equivalent
// ones that were chosen and are left out.
func (o *options) sample(s *source, known equivalents) (chosen []*mutant, equivalent int) {
	for _, m := range s.mutants {
		if o.at.MatchString(m.place() + " " + m.function) {
			chosen = append(chosen, m)
		}
	}
	random := rand.New(rand.NewPCG(o.seed, 0))
	random.Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
	if o.n > 0 {
		chosen = chosen[:min(o.n, len(chosen))]
	}
	all := len(chosen)
	chosen = slices.DeleteFunc(chosen, func(m *mutant) bool { return known[m.key()] })
	slices.SortStableFunc(chosen, func(a, b *mutant) int {
		return cmp.Or(strings.Compare(a.position.Filename, b.position.Filename), a.position.Offset-b.position.Offset)
	})
	return chosen, all - len(chosen)
}

// survivors runs the tests with each mutant and describes the mutants that survive.
func (r *runner) survivors(chosen []*mutant) (all []string) {
	texts := make([]string, len(chosen))
	var mu sync.Mutex
	done := 0
	r.each(len(chosen), func(i int) {
		began := time.Now()
		by, reached := r.kill(chosen[i])
		mu.Lock()
		defer mu.Unlock()
		done++
		switch {
		case by == "" && reached:
			texts[i] = "survives: " + chosen[i].String()
		case by == "":
			texts[i] = "not reached: " + chosen[i].String()
		}
		fmt.Fprintf(r.progress, "%d/%d %.1fs %s: %s\n", done, len(chosen), time.Since(began).Seconds(), cmp.Or(by, "SURVIVES"), chosen[i])
	})
	return slices.DeleteFunc(texts, func(text string) bool { return text == "" })
}

func (m *mutant) place() string {
	return fmt.Sprintf("%s:%d", filepath.Base(m.file.path), m.position.Line)
}

func (m *mutant) String() string {
	return fmt.Sprintf("%s %s %s: %s -> %s", m.place(), m.function, m.kind, oneLine(m.old), oneLine(m.new))
}

// key names a mutant without its line.
func (m *mutant) key() string {
	return fmt.Sprintf("%s %s %s: %s -> %s", m.dir(), m.function, m.kind, oneLine(m.old), oneLine(m.new))
}

// dir is the last element of the package's directory.
func (m *mutant) dir() string { return filepath.Base(filepath.Dir(m.file.path)) }

// oneLine returns text in one line of at most 160 bytes.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 160 {
		return text[:160] + "…"
	}
	if text == "" {
		return "nothing"
	}
	return text
}

// equivalents has the keys of mutants that no test can notice.
type equivalents map[string]bool

// readEquivalents reads a file with a reason, "# …", before the mutants that it holds for.
func readEquivalents(path string) (equivalents, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	all := equivalents{}
	reason := false
	for line := range strings.Lines(string(text)) {
		switch line = strings.TrimSpace(line); {
		case line == "":
			reason = false
		case strings.HasPrefix(line, "#"):
			reason = true
		case !reason:
			return nil, fmt.Errorf("%s: this mutant has no reason before it: %s", path, line)
		default:
			all[line] = true
		}
	}
	return all, nil
}
