package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
)

// complete is a configuration file with every table.
const complete = `name = "node1"
zone = "us-east-1a"
region = "us-east-1"
data_dir = "/var/lib/palisade"
api_socket = "/run/palisade/api.sock"
control_socket = "/run/palisade/control.sock"
arena = "/dev/shm/palisade"

[lab]
namespace_prefix = "lab-"
instance_dir = "/var/lib/palisade/instances"
cgroup_prefix = "palisade-lab"

[uplink]
device = "up"
namespace = "lab-internet"
bridge = "internet"
gateway_mac = "02:00:00:00:00:01"

[classic]
network = "10.0.0.0/8"
pools = ["10.10.0.0/16"]
public_pools = ["198.18.0.0/16"]

[[account]]
id = "598916040194"
name = "albert"
platform = "classic"
access_key = "AKIDALBERT"
secret_key = "secret"
`

func read(t *testing.T, text string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "node.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return ReadConfig(path)
}

func TestReadConfigReadsEveryTable(t *testing.T) {
	c, err := read(t, complete)
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "node1" || c.Uplink.GatewayMAC.String() != "02:00:00:00:00:01" || c.Classic.Pools[0].String() != "10.10.0.0/16" ||
		len(c.Account) != 1 || c.Account[0].Platform != ec2.Classic {
		t.Errorf("the configuration is read as %+v, want the values of the file", c)
	}
	commands, err := c.bootstrap(nil, "")
	if err != nil || len(commands) != 4 {
		t.Errorf("bootstrap returns %d commands, error %v; want 4", len(commands), err)
	}
}

func TestClusterBeginsWithEveryRegionIfConfigured(t *testing.T) {
	for text, want := range map[string]int{complete: 1, strings.Replace(complete, "\ndata_dir", "\nregions = \"all\"\ndata_dir", 1): 34} {
		c, err := read(t, text)
		if err != nil {
			t.Fatal(err)
		}
		commands, err := c.bootstrap(nil, "")
		if err != nil {
			t.Fatal(err)
		}
		st := state.NewState()
		for i, cmd := range commands {
			if _, err := st.Apply(uint64(i+1), cmd); err != nil {
				t.Fatal(err)
			}
		}
		if got := st.View().Regions(); len(got) != want {
			t.Errorf("with regions %q the cluster begins with %d regions, want %d", c.Regions, len(got), want)
		}
	}
}

func TestBootstrapHasConfiguredLimits(t *testing.T) {
	c, err := read(t, strings.Replace(complete, `[[account]]`, "[settings]\nquarantine = \"5s\"\nlimits = \"vpc-2012\"\n[[account]]", 1))
	if err != nil {
		t.Fatal(err)
	}
	commands, err := c.bootstrap(nil, "")
	if err != nil {
		t.Fatal(err)
	}
	if s := commands[0].Request.(*state.Bootstrap).Settings; s.Quarantine != 5*time.Second || s.RulesPerVPCGroup != 50 || s.GroupsPerVPC != 50 {
		t.Errorf("the cluster begins with settings %+v, want a quarantine of 5s and the limits of vpc-2012", s)
	}
}

func TestTunnelPortFollowsOverlayForm(t *testing.T) {
	for form, want := range map[string]string{"": "192.0.2.11:7402", "sealed": "192.0.2.11:7402", "vxlan": "192.0.2.11:4789"} {
		peer := "[peer]\nlisten = \"192.0.2.11:7400\"\n"
		if form != "" {
			peer += fmt.Sprintf("overlay = %q\n", form)
		}
		c, err := read(t, strings.Replace(complete, `[[account]]`, peer+"[[account]]", 1))
		if err != nil || c.Peer.tunnel().String() != want {
			t.Errorf("overlay %q: tunnel address %v, error %v; want %s", form, c.Peer.tunnel(), err, want)
		}
	}
}

func TestReadConfigErrorNamesKeyAndLine(t *testing.T) {
	for _, tt := range []struct{ name, old, new, want string }{
		{"unknown key", `zone =`, `zoen =`, `line 2: "zoen" is not a key`},
		{"unknown key of a table", `bridge =`, `brigde =`, `line 17: "uplink.brigde" is not a key`},
		{"unknown table", `[lab]`, `[labs]`, `line 9: "labs`},
		{"number for a text", `"us-east-1a"`, `7`, `line 2: "zone"`},
		{"text for a list", `["10.10.0.0/16"]`, `"10.10.0.0/16"`, `line 22: "classic.pools"`},
		{"not TOML", `name = "node1"`, `name = node1`, `line 1`},
		{"not a MAC", `02:00:00:00:00:01`, `02:00:00:00:00`, `line 18: "uplink.gateway_mac"`},
		{"not a network", `"10.0.0.0/8"`, `"10.0.0.0"`, `line 21: "classic.network"`},

		{"no name", `name = "node1"`, ``, `"name" is missing`},
		{"no zone", `zone = "us-east-1a"`, ``, `"zone" is missing`},
		{"regions that are not all", "\ndata_dir", "\nregions = \"eu-west-1\"\ndata_dir", `"regions" is "eu-west-1"; it must be "all"`},
		{"empty region", `"us-east-1"`, `""`, `"region" is missing`},
		{"no data directory", `data_dir = "/var/lib/palisade"`, ``, `"data_dir" is missing`},
		{"no API socket", `api_socket = "/run/palisade/api.sock"`, ``, `"api_socket" is missing`},
		{"no control socket", `control_socket = "/run/palisade/control.sock"`, ``, `"control_socket" is missing`},
		{"negative allowance", `name = "node1"`, "name = \"node1\"\nconntrack_allowance = -1", `"conntrack_allowance" is -1`},
		{"allowance beyond the table", `name = "node1"`, "name = \"node1\"\nconntrack_allowance = 262145", `"conntrack_allowance" is 262145`},
		{"multicast MAC for the router", `"02:00:00:00:00:01"`, `"01:00:5e:00:00:01"`, `"uplink.gateway_mac" is 01:00:5e:00:00:01`},
		{"no MAC for the router", `gateway_mac = "02:00:00:00:00:01"`, ``, `"uplink.gateway_mac" is 00:00:00:00:00:00`},

		{"no network", `network = "10.0.0.0/8"`, ``, `"classic.network" is`},
		{"network with host bits", `"10.0.0.0/8"`, `"10.0.0.1/8"`, `"classic.network" is "10.0.0.1/8"`},
		{"IPv6 network", `"10.0.0.0/8"`, `"fd00::/8"`, `"classic.network" is "fd00::/8"`},
		{"network of 8 addresses", `"10.0.0.0/8"`, `"10.10.0.0/29"`, `"classic.network" is "10.10.0.0/29"`},
		{"no pool", `["10.10.0.0/16"]`, `[]`, `"classic.pools" is empty`},
		{"pool outside", `["10.10.0.0/16"]`, `["10.10.0.0/16", "192.168.0.0/24"]`, `"classic.pools" has 192.168.0.0/24`},
		{"pool around the network", `["10.10.0.0/16"]`, `["0.0.0.0/0"]`, `"classic.pools" has 0.0.0.0/0`},
		{"pool with host bits", `["10.10.0.0/16"]`, `["10.10.0.1/16"]`, `"classic.pools" has 10.10.0.1/16`},
		{"IPv6 pool", `["10.10.0.0/16"]`, `["2001:db8::/64"]`, `"classic.pools" has 2001:db8::/64`},
		{"IPv6 public pool", `["198.18.0.0/16"]`, `["2001:db8::/64"]`, `"classic.public_pools" has 2001:db8::/64`},
		{"public pool with host bits", `["198.18.0.0/16"]`, `["198.18.0.1/16"]`, `"classic.public_pools" has 198.18.0.1/16`},
		{"unknown platform", `"classic"`, `"classics"`, `platform "classics" is neither`},
		{"account without a key", `access_key = "AKIDALBERT"`, ``, `account 598916040194 needs an access key`},
		{"account id of 3 digits", `"598916040194"`, `"598"`, `account id "598" is not 12 digits`},
		{"negative number of records", `[[account]]`, "[settings]\naudit_records = -1\n[[account]]", `"settings.audit_records" is -1`},
		{"two accounts with one name", `[[account]]`, "[[account]]\nid = \"495219933132\"\nname = \"albert\"\nplatform = \"classic\"\naccess_key = \"AKIDTWO\"\nsecret_key = \"s\"\n[[account]]", `called albert already`},
		{"unknown limits", `[[account]]`, "[settings]\nlimits = \"1999\"\n[[account]]", `"settings.limits" is "1999"`},
		{"unknown overlay", `[[account]]`, "[peer]\nlisten = \"192.0.2.11:7400\"\noverlay = \"gre\"\n[[account]]", `"gre" is no form of tunnels`},
		{"overlay in a cluster of one", `[[account]]`, "[peer]\noverlay = \"vxlan\"\n[[account]]", `"peer.overlay" is "vxlan", but there is no "peer.listen"`},
		{"public pool inside the network", `["198.18.0.0/16"]`, `["10.20.0.0/16"]`, `"classic.public_pools" has 10.20.0.0/16`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(complete, tt.old, tt.new, 1)
			if text == complete {
				t.Fatalf("the configuration has no text %q", tt.old)
			}
			if _, err := read(t, text); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "node.toml") {
				t.Errorf("ReadConfig: error %v, want one that contains node.toml and %s", err, tt.want)
			}
		})
	}
	if _, err := ReadConfig("/nowhere/node.toml"); err == nil || !strings.Contains(err.Error(), "/nowhere/node.toml") {
		t.Errorf("ReadConfig of a missing file: error %v, want one that contains the path", err)
	}
}
