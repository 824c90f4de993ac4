package lab

import (
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
)

func TestNodesAreToldHowLongAddressesRest(t *testing.T) {
	for _, tt := range []struct {
		rest time.Duration
		want string
	}{{time.Second, "quarantine = '1s'"}, {0, "[settings]\n[["}} {
		l := &Lab{Name: "lab", Nodes: []string{"node1"}, Quarantine: tt.rest, Accounts: []Account{{Name: "albert"}}}
		file, err := toml.Marshal(l.nodeConfig(0))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(file), tt.want) {
			t.Errorf("rest of %v: no %q in\n%s", tt.rest, tt.want, file)
		}
	}
}
