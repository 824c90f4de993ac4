package scenarios

import (
	"strings"
	"testing"
)

func TestSelectorsNarrowTier(t *testing.T) {
	web := tier{
		{ID: "i-1", Node: "node1", Private: "10.0.0.1", Public: "198.18.0.1"},
		{ID: "i-2", Node: "node2", Private: "10.0.0.2", Public: "198.18.0.2"},
		{ID: "i-3", Node: "node1", Private: "10.0.0.3", Public: "198.18.0.3"},
	}
	all := map[string]tier{"web": web, "db": {{ID: "i-9", Node: "node2"}}}
	for _, tt := range []struct{ selectors, want string }{
		{"", "i-1 i-2 i-3"},
		{"public", "198.18.0.1 198.18.0.2 198.18.0.3"},
		{"node1:private", "10.0.0.1 10.0.0.3"},
		{"but-node1", "i-2"},
		{"each", "i-1 i-2"},
		{"but-node2:each:private", "10.0.0.1"},
		{"with-i-9", "i-2"},
		{"apart-i-9", "i-1 i-3"},
		{"node7", ""},
		{"with-i-0", "error"},
		{"pubic", "error"},
	} {
		values, err := web.choose(tt.selectors, all)
		got := strings.Join(values, " ")
		if err != nil {
			got = "error"
		}
		if got != tt.want {
			t.Errorf("@web:%s selects %q, want %q", tt.selectors, got, tt.want)
		}
	}
	if web.spread() != "node1 2, node2 1" || len(web) != 3 {
		t.Errorf("after the selections the tier has the spread %q and %d instances, want \"node1 2, node2 1\" and 3", web.spread(), len(web))
	}
}

func TestOpenPortsRejectsOtherStates(t *testing.T) {
	for _, tt := range []struct{ line, open string }{
		{"Ports: 22/filtered/tcp//ssh///, 80/open/tcp//http///", "80"},
		{"Ports: 22/open/tcp//ssh///, 80/open/tcp//http///\tIgnored State: filtered (98)", "22,80"},
		{"Ports: 22/filtered/tcp//ssh///", ""},
		{"Ports: 22/closed/tcp//ssh///, 80/open/tcp//http///", "error"},
		{"Ports: 80/open/tcp//http///\tIgnored State: closed (99)", "error"},
		{"Ports: 80/open|filtered/udp//http///", "error"},
		{"Status: Down", "error"},
	} {
		got, err := openPorts(tt.line)
		if err != nil {
			got = "error"
		}
		if got != tt.open {
			t.Errorf("%s: openPorts returns %q, error %v; want %q", tt.line, got, err, tt.open)
		}
	}
}

func TestTallyCountsLinesThatDifferInVaryingParts(t *testing.T) {
	got := tally("# Nmap 7.93\nHost: 10.0.0.1 ()\tStatus: Up\nHost: 10.0.0.1 () open\nHost: 10.0.0.2 () open\n\nother 10.0.0.3\n")
	if want := "   2 × Host: * () open\n       other 10.0.0.3\n"; got != want {
		t.Errorf("tally returns %q, want %q", got, want)
	}
}

const tierStory = `# Tiers.

# Step 1.
on laptop printf 'INSTANCE\ti-1\nINSTANCE\ti-2\n'
tier web
all on @web echo {@web:private}:80
stdout -count=1 '^10\.0\.0\.1:80$'
stdout -count=1 '^10\.0\.0\.2:80$'
pick one other @web:each
on laptop echo $one $other
stdout '^i-1 i-2$'
! all on @web false
`

func TestAllExcludesInstanceFromItsOwnCommand(t *testing.T) {
	got, err := play(t, tierStory, Config{})
	if err != nil || !strings.Contains(got, "(@web: 2 instances run after 0.0 s, node1 1, node2 1)") || !strings.Contains(got, "   2 × *") {
		t.Errorf("play of the story: error %v, want none, the tier's summary and \"2 × *\" in the output:\n%s", err, got)
	}
	for _, tt := range []struct{ line, want string }{
		{"all on @web false", "on 2 of 2"},
		{"! all on @web true", "succeeded on 2 of 2, but must fail"},
		{"all on @web:node9 true", "no instance is selected; the tier has node1 1, node2 1"},
		{"pick a b c @web", "@web has 2 values, too few"},
		{"on laptop echo nothing\ntier app", "no INSTANCE"},
		{"on laptop printf 'Host: 10.0.0.1 ()\\tPorts: 22/closed/tcp//ssh///\\n'\nscanned 1 open 22", "neither open nor filtered"},
		{"on laptop printf 'Host: 10.0.0.1 ()\\tPorts: 22/open/tcp//ssh///\\n'\nscanned 2 open 22", "the scan lists 1 hosts, want 2"},
	} {
		_, err := play(t, tierStory+tt.line+"\n", Config{})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want one with %q", tt.line, err, tt.want)
		}
	}
}
