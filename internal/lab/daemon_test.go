package lab

import (
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
)

func TestNodeConfigHasSettings(t *testing.T) {
	for _, tt := range []struct {
		quarantine time.Duration
		limits     string
		want       string
	}{{time.Second, "", "quarantine = '1s'\n\n[["}, {0, "", "[settings]\n[["}, {0, "vpc-2012", "limits = 'vpc-2012'"}} {
		l := &Lab{Name: "lab", Nodes: []string{"node1"}, Quarantine: tt.quarantine, Limits: tt.limits, Accounts: []Account{{Name: "albert"}}}
		file, err := toml.Marshal(l.nodeConfig(0))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(file), tt.want) {
			t.Errorf("quarantine %v, limits %q: the configuration lacks %q:\n%s", tt.quarantine, tt.limits, tt.want, file)
		}
	}
}

func TestNodesTakeTurnsInZones(t *testing.T) {
	for _, tt := range []struct {
		nodes, zones int
		want         string // the zone letter of each node; "": fill returns an error
	}{{3, 0, "abc"}, {3, 2, "aba"}, {3, 1, "aaa"}, {14, 0, "abcdefabcdefab"}, {2, 3, ""}, {2, -1, ""}, {30, 7, ""}} {
		o := Options{Nodes: tt.nodes, Zones: tt.zones}
		if err := o.fill(); (err != nil) != (tt.want == "") {
			t.Errorf("%d nodes in %d zones: error %v; want an error: %v", tt.nodes, tt.zones, err, tt.want == "")
		}
		l, got := &Lab{Zones: o.Zones}, ""
		for n := range len(tt.want) {
			got += strings.TrimPrefix(l.zone(n), Region)
		}
		if got != tt.want {
			t.Errorf("%d nodes in %d zones are in %q, want %q", tt.nodes, tt.zones, got, tt.want)
		}
	}
}
