package bench

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// newTestReport makes a report of one phase from values by contestant.
func newTestReport(values map[string][]float64, claims ...Claim) *Report {
	r := &Report{Plan: Plan{Kind: "full", Durations: full, claims: claims}}
	r.Phases = []PhaseResult{{
		Title: oneNode, Repetitions: 7, Measures: []Measure{{Name: "TCP, 1 stream", Unit: "Gbit/s", Group: groupTCP}},
		Entrants: []EntrantResult{{Label: palisade, Name: palisade, About: "a <b> & c"}, {Label: relay, Name: relay}, {Label: bridge, Name: bridge}},
	}}
	for contestant, list := range values {
		for i, v := range list {
			r.Samples = append(r.Samples, Sample{Phase: oneNode, Repetition: i, Contestant: contestant, Measure: "TCP, 1 stream", Unit: "Gbit/s", Value: v})
		}
	}
	r.judge()
	return r
}

func same(v float64) []float64 { return []float64{v, v, v, v, v, v, v} }

func TestClaimIsJudgedByValueOrInterval(t *testing.T) {
	least := Claim{AtLeast: 0.9, Goal: 1.1}
	most := Claim{AtMost: 1.2, Goal: 0.7}
	for _, tc := range []struct {
		name  string
		claim Claim
		ratio Ratio
		want  string
	}{
		{"value at the bound", least, Ratio{Value: 0.9, Low: 0.8, High: 1, Pairs: 7}, passed},
		{"value below the bound, interval above", least, Ratio{Value: 0.89, Low: 0.8, High: 1, Pairs: 7}, failed},
		{"value at the goal", least, Ratio{Value: 1.1, Pairs: 3}, goalReached},
		{"nothing measured", least, Ratio{Value: math.NaN()}, notMeasured},
		{"not a number", least, Ratio{Value: math.NaN(), Pairs: 7}, failed},
		{"value at the upper bound", most, Ratio{Value: 1.2, Pairs: 7}, passed},
		{"value above the upper bound", most, Ratio{Value: 1.21, Pairs: 7}, failed},
		{"value below the goal", most, Ratio{Value: 0.6, Pairs: 7}, goalReached},
		{"not a number, with an upper bound", most, Ratio{Value: math.NaN(), Pairs: 7}, failed},
		{"interval reaches the lower bound", Claim{AtLeast: 0.9, Noisy: true}, Ratio{Value: 0.8, Low: 0.7, High: 0.9, Pairs: 7}, passed},
		{"interval below the lower bound", Claim{AtLeast: 0.9, Noisy: true}, Ratio{Value: 0.8, Low: 0.7, High: 0.89, Pairs: 7}, failed},
		{"interval reaches the upper bound", Claim{AtMost: 1.5, Noisy: true}, Ratio{Value: 2, Low: 1.5, High: 3, Pairs: 7}, passed},
		{"interval above the upper bound", Claim{AtMost: 1.5, Noisy: true}, Ratio{Value: 2, Low: 1.6, High: 3, Pairs: 7}, failed},
		{"interval contains 1", Claim{Unchanged: true}, Ratio{Value: 1.02, Low: 0.99, High: 1.05, Pairs: 15}, passed},
		{"interval above 1", Claim{Unchanged: true}, Ratio{Value: 1.02, Low: 1.01, High: 1.05, Pairs: 15}, failed},
		{"no interval", Claim{Unchanged: true}, Ratio{Value: 1, Pairs: 3}, notMeasured},
	} {
		if got := tc.claim.judge(tc.ratio); got != tc.want {
			t.Errorf("%s: got verdict %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestRunIsVoidIfRelayIsSlowOrNothingArrives(t *testing.T) {
	fair := Claim{Phase: oneNode, Measure: "TCP, 1 stream", Of: relay, To: bridge, AtLeast: 0.87, Void: true, Noisy: true}
	for _, tc := range []struct {
		name   string
		values map[string][]float64
		want   string
	}{
		{"the relay is slow", map[string][]float64{relay: same(8.6), bridge: same(10)}, "relay reaches 0.86 [0.86, 0.86] of bridge"},
		{"the relay's whole interval is too low", map[string][]float64{relay: {8.1, 8.2, 8.3, 8.4, 8.5, 8.6, 8.6}, bridge: same(10)}, "relay reaches 0.84 [0.81, 0.86] of bridge"},
		{"the relay is too slow within the noise", map[string][]float64{relay: {8.1, 8.2, 8.3, 8.4, 8.5, 8.6, 8.8}, bridge: same(10)}, ""},
		{"the relay is slow in a run without an interval", map[string][]float64{relay: {8.6, 8.6, 8.6}, bridge: {10, 10, 10}}, "relay reaches 0.86 of bridge"},
		{"a contestant delivered nothing", map[string][]float64{relay: same(10), bridge: same(10), palisade: {1, 1, 0}}, "palisade, repetition 3: TCP, 1 stream is 0"},
		{"the relay is fast", map[string][]float64{relay: same(9), bridge: same(10)}, ""},
	} {
		r := newTestReport(tc.values, fair)
		void := strings.Join(r.Void, "; ")
		if !strings.Contains(void, tc.want) || tc.want == "" && void != "" || r.Passed() != (tc.want == "") {
			t.Errorf("%s: got void %q and passed %v, want void %q", tc.name, void, r.Passed(), tc.want)
		}
	}
}

func TestPublishedRunIsNotVoid(t *testing.T) {
	text, err := os.ReadFile("../../docs/PERFORMANCE.md")
	if err != nil {
		t.Fatal(err)
	}
	if from := strings.Index(string(text), "**Void:**"); from >= 0 {
		t.Errorf("docs/PERFORMANCE.md publishes a void run: %.200s", text[from:])
	}
}

// A claim whose measure is renamed in one place only would never be judged again.
func TestEveryClaimIsMeasured(t *testing.T) {
	for _, plan := range []Plan{Full(nil), Check()} {
		measured := map[[2]string]bool{}
		for _, p := range plan.Phases {
			for _, task := range p.tasks {
				for _, m := range task.measures() {
					measured[[2]string{p.Title, m.Name}] = true
				}
			}
		}
		for _, c := range plan.claims {
			if !measured[[2]string{c.Phase, c.Measure}] {
				t.Errorf("%s: no task measures %q in %q", plan.Kind, c.Measure, c.Phase)
			}
			set := 0
			for _, one := range []bool{c.AtLeast != 0, c.AtMost != 0, c.Unchanged} {
				if one {
					set++
				}
			}
			if set != 1 {
				t.Errorf("claim %+v has %d bounds, want 1", c, set)
			}
		}
		if len(plan.claims) == 0 {
			t.Errorf("plan %s has no claims", plan.Kind)
		}
	}
}

func TestMarkdownReplacesOnlyItsSection(t *testing.T) {
	path := filepath.Join(t.TempDir(), "PERFORMANCE.md")
	begin, end := markers("full")
	before, after := "# Performance\n\nWords.\n\n", "\n\n## More words\n"
	if err := os.WriteFile(path, []byte(before+begin+"\nold numbers\n"+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
	r := newTestReport(map[string][]float64{palisade: same(9), relay: same(10), bridge: same(12)})
	for range 2 { // the second time changes nothing
		if err := r.WriteMarkdown(path, filepath.Join(filepath.Dir(path), "charts")); err != nil {
			t.Fatal(err)
		}
		text, _ := os.ReadFile(path)
		got := string(text)
		if !strings.HasPrefix(got, before+begin) || !strings.HasSuffix(got, end+after) || strings.Contains(got, "old numbers") {
			t.Fatalf("text around the section has changed:\n%s", got)
		}
		for _, want := range []string{
			"| TCP, 1 stream | Gbit/s | 9.00 | 10.0 | 12.0 | 0.90 [0.90, 0.90] | 0.75 [0.75, 0.75] |",
			"![One node: TCP](charts/full-one-node-tcp.svg)",
		} {
			if !strings.Contains(got, want) {
				t.Errorf("the section lacks %q:\n%s", want, got)
			}
		}
	}
	r.Plan.Kind = "scale"
	if err := r.WriteMarkdown(path, ""); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(path); strings.Count(string(text), "palisade bench: scale,") != 2 || strings.Count(string(text), "palisade bench: full,") != 2 {
		t.Errorf("the file lacks the section full or scale:\n%s", text)
	}
	if _, err := replaceSection([]byte(end+begin), "full", "new"); err == nil {
		t.Error("replaceSection accepted markers in the wrong order")
	}
}

func TestChartsAreWellFormedAndLabelled(t *testing.T) {
	r := newTestReport(map[string][]float64{palisade: same(9), relay: same(10), bridge: nil})
	r.Phases[0].Entrants = append(r.Phases[0].Entrants, EntrantResult{Label: "<script>", Name: "<script>"})
	series := r.Phases[0]
	series.Title, series.Scale = "rules", "rules"
	series.Entrants = []EntrantResult{{Label: palisade, Name: palisade, Size: 10}, {Label: relay, Name: palisade, Size: 50_000}}
	for _, s := range r.Samples {
		s.Phase = series.Title
		r.Samples = append(r.Samples, s)
	}
	r.Phases = append(r.Phases, series)
	dir := t.TempDir()
	if err := r.WriteCharts(dir); err != nil {
		t.Fatal(err)
	}
	for file, wanted := range map[string][]string{
		"full-one-node-tcp.svg":    {"TCP, 1 stream (Gbit/s)", ">9.00<", ">10.0<", "not measured", "&lt;script&gt;", "prefers-color-scheme"},
		"full-one-node-ratios.svg": {"palisade, divided by", ">relay<"},
		"full-rules-by-rules.svg":  {">10<", ">50k<", ">palisade<"},
	} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Error(err)
			continue
		}
		for _, want := range wanted {
			if !strings.Contains(string(text), want) {
				t.Errorf("chart %s lacks %q", file, want)
			}
		}
		if strings.Contains(string(text), "NaN") || strings.Contains(string(text), "Inf") {
			t.Errorf("chart %s contains NaN or Inf", file)
		}
		for d := xml.NewDecoder(strings.NewReader(string(text))); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Errorf("%s: %v", file, err)
				break
			}
		}
	}
}

func TestPrintNamesEveryContestantAndClaim(t *testing.T) {
	r := newTestReport(map[string][]float64{palisade: same(9), relay: same(10), bridge: same(12)},
		Claim{Phase: oneNode, Measure: "TCP, 1 stream", Of: palisade, To: bridge, AtLeast: 0.9})
	r.Phases[0].Absent = []string{"ovs: not installed: [ovs-vswitchd:openvswitch-switch]"}
	var b strings.Builder
	if err := r.Print(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ovs: not installed", "FAIL", "at least 0.9", "0.75 [0.75, 0.75]", "TCP 3 s"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the printed report lacks %q:\n%s", want, b.String())
		}
	}
}
