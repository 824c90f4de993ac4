package lab

import (
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
)

func TestNodesAreToldTheSettings(t *testing.T) {
	for _, tt := range []struct {
		rest   time.Duration
		limits string
		want   string
	}{{time.Second, "", "quarantine = '1s'\n\n[["}, {0, "", "[settings]\n[["}, {0, "vpc-2012", "limits = 'vpc-2012'"}} {
		l := &Lab{Name: "lab", Nodes: []string{"node1"}, Quarantine: tt.rest, Limits: tt.limits, Accounts: []Account{{Name: "albert"}}}
		file, err := toml.Marshal(l.nodeConfig(0))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(file), tt.want) {
			t.Errorf("rest of %v, limits %q: no %q in\n%s", tt.rest, tt.limits, tt.want, file)
		}
	}
}
