package clients

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"palisade/internal/lab"
	"palisade/internal/lab/labtest"
)

// platformRegions are the modules of testdata/platform and their regions.
var platformRegions = map[string]string{"virginia": "us-east-1", "ireland": "eu-west-1", "sydney": "ap-southeast-2"}

// A platform is the configuration of testdata/platform when it is applied: in each of three regions a
// VPC of three zones with public, private and database subnets, groups with hundreds of rules, and five
// instances.
type platform struct {
	*testbed
	tf      *terraform
	account lab.Account
	regions map[string]*platformRegion
}

type platformRegion struct {
	name                              string
	web, bastion, app, app2, database instance
}

// TestTerraformPlatform runs on three nodes. With the tag soak, it runs on one node too.
func TestTerraformPlatform(t *testing.T) {
	t.Parallel()
	testPlatform(t, "tfthree", 3, false)
}

// testPlatform applies the configuration, checks that the next plan is empty, changes rules, ACLs and
// a launch template, and destroys everything, with packets after each step. With again, it checks that the plan is
// empty after the change too.
func testPlatform(t *testing.T, name string, nodes int, again bool) {
	if !hasTerraform() {
		t.Logf("this machine does not have terraform and %s", pluginDir)
		return
	}
	l := labtest.Up(t, name, "--nodes", fmt.Sprint(nodes))
	a := newAccount(t, l, "platform")
	p := &platform{tf: newTerraform(t, l, a, "platform"), account: a}
	p.testbed = testbedOf(t, l, a)
	p.tf.init()
	p.tf.apply()
	p.readOutputs(t)
	p.enforced(t)
	p.send(t, "applied", p.probes(true), p.probes(false))
	p.tf.plan(planEmpty)

	// The launch template's disk grows, so Terraform replaces the web servers, and in each region the rules of a port, of a
	// partner and from web to app go. The default ACL and the template change in place.
	changed := []string{"-var=web_port=https-8443-tcp", `-var=visitors=["203.0.113.25/32"]`, "-var=without_partner=7", "-var=app_from_web=false", "-var=acl_rule=200", "-var=template_disk=16"}
	out := p.tf.apply(changed...)
	if want := "Plan: 6 to add, 6 to change, 21 to destroy."; !strings.Contains(out, want) {
		t.Errorf("the plan does not say %q: %q", want, regexp.MustCompile(`Plan: .*`).FindString(out))
	}
	p.readOutputs(t)
	p.enforced(t)
	p.send(t, "changed", p.everyRegion(func(r *platformRegion) []probe {
		return []probe{
			toAddress(p.laptop, r.web.public, r.web, "tcp/8443"),
			to(r.app.host, r.app2, "tcp/8000"), to(r.app2.host, r.database, "tcp/5432"), to(r.bastion.host, r.app, "open/22"),
		}
	}), p.everyRegion(func(r *platformRegion) []probe {
		return []probe{
			toAddress(p.laptop, r.web.public, r.web, "tcp/8080"), toAddress(p.stranger, r.web.public, r.web, "tcp/9007"),
			to(r.web.host, r.app, "tcp/8000"), to(r.web.host, r.database, "tcp/5432"),
		}
	}))
	if again {
		p.tf.plan(planEmpty, changed...)
	}

	p.tf.destroy(changed...)
	p.enforced(t)
	for _, r := range p.regions {
		wantClosed(t, p.laptop, r.web.public, "open/8443")
	}
	for _, region := range platformRegions {
		wantOnlyDefaults(t, l, a, region)
	}
}

// readOutputs reads the instances from the configuration's outputs.
func (p *platform) readOutputs(t *testing.T) {
	t.Helper()
	var outputs map[string]struct {
		Instances map[string]struct{ ID, Private, Public string }
		Zones     []string
		Found     []int
	}
	if err := json.Unmarshal([]byte(p.tf.run(0, "output", "-json", "regions")), &outputs); err != nil {
		t.Fatal(err)
	}
	p.regions = make(map[string]*platformRegion)
	for name, region := range platformRegions {
		out := outputs[name]
		if want := []string{region + "a", region + "b", region + "c"}; !slices.Equal(out.Zones, want) {
			t.Errorf("%s has the zones %q, want %q", name, out.Zones, want)
		}
		if !slices.Equal(out.Found, []int{5, 3}) {
			t.Errorf("the data sources found %d instances and database subnets in %s, want 5 and 3", out.Found, name)
		}
		read := func(which string) instance {
			i := out.Instances[which]
			in := instance{host: host{name + "-" + which, p.lab.Namespace(i.ID)}, id: i.ID, private: netip.MustParseAddr(i.Private)}
			in.public, _ = netip.ParseAddr(i.Public)
			return in
		}
		p.regions[name] = &platformRegion{name: name, web: read("web"), bastion: read("bastion"), app: read("app"), app2: read("app2"), database: read("database")}
	}
}

// enforced waits until every node enforces the newest change.
func (p *platform) enforced(t *testing.T) {
	t.Helper()
	check(t, p.watcher.enforced(t.Context(), ""))
}

// everyRegion returns the probes that list returns for each region.
func (p *platform) everyRegion(list func(*platformRegion) []probe) []probe {
	var all []probe
	for _, name := range slices.Sorted(maps.Keys(p.regions)) {
		all = append(all, list(p.regions[name])...)
	}
	return all
}

// probes returns the probes that the configuration admits, or those that it must drop.
func (p *platform) probes(admitted bool) []probe {
	virginia, ireland, sydney := p.regions["virginia"], p.regions["ireland"], p.regions["sydney"]
	if admitted {
		return append(p.everyRegion(func(r *platformRegion) []probe {
			return []probe{
				toAddress(p.laptop, r.web.public, r.web, "tcp/8080"),
				toAddress(p.laptop, r.bastion.public, r.bastion, "open/22"),
				toAddress(p.stranger, r.web.public, r.web, "tcp/9007"),
				toAddress(p.stranger, r.web.public, r.web, "tcp/9107"),
				to(r.bastion.host, r.app, "open/22"),
				to(r.web.host, r.app, "tcp/8000"),
				to(r.app.host, r.app2, "udp/9999"),
				to(r.app2.host, r.app, "icmp"),
				to(r.app.host, r.database, "tcp/5432"),
			}
		}), toAddress(virginia.bastion.host, ireland.web.public, ireland.web, "tcp/7100"))
	}
	return append(p.everyRegion(func(r *platformRegion) []probe {
		return []probe{
			toAddress(p.laptop, r.web.public, r.web, "tcp/8443"),
			toAddress(p.laptop, r.web.public, r.web, "tcp/9007"),
			toAddress(p.laptop, r.web.public, r.web, "icmp"),
			toAddress(p.stranger, r.web.public, r.web, "tcp/8080"),
			toAddress(p.stranger, r.web.public, r.web, "tcp/9008"),
			toAddress(p.stranger, r.bastion.public, r.bastion, "open/22"),
			to(r.web.host, r.database, "tcp/5432"),
			to(r.bastion.host, r.app, "tcp/8000"),
			to(r.bastion.host, r.database, "tcp/5432"),
			to(r.database.host, r.app, "tcp/8000"),
			to(r.app.host, r.database, "tcp/5433"),
		}
	}),
		toAddress(sydney.bastion.host, ireland.web.public, ireland.web, "tcp/7100"),
		to(virginia.web.host, ireland.app, "tcp/8000"),
		to(ireland.app.host, virginia.database, "tcp/5432"))
}
