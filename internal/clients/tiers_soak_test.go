//go:build soak

package clients

import (
	"os"
	"slices"
	"testing"

	"palisade/internal/lab"
	"palisade/internal/lab/labtest"
	"palisade/internal/netns"
)

// A tiered is the configuration of testdata/network when it is applied: a VPC of three tiers in three zones with
// ACLs, NAT gateways and prefix lists, and a peer of another account.
type tiered struct {
	*testbed
	tf                               *terraform
	accounts                         []lab.Account // its own and the partner's
	web, app, database, box, partner instance
}

// TestTerraformTiers applies the configuration on three nodes, checks that the next plan is empty, changes ACL
// entries, prefix lists, NAT gateways and routes, and destroys everything, with packets after each step.
func TestTerraformTiers(t *testing.T) {
	needTerraform(t)
	l := labtest.Up(t, "tiers", "--nodes", "3")
	own, partner := newAccount(t, l, "tiers"), newAccount(t, l, "partner")
	n := &tiered{accounts: []lab.Account{own, partner}, tf: newTerraform(t, l, own, "network",
		"-var=partner_access_key="+partner.AccessKey, "-var=partner_secret_key="+partner.SecretKey)}
	n.testbed = testbedOf(t, l, own)
	n.tf.init()
	n.tf.apply()
	n.readOutputs(t)
	n.send(t, "applied", append(n.always(), n.visitedBy(n.laptop), n.byList(), n.atDatabase()), append(n.never(), n.visitedBy(n.stranger)))
	n.tf.plan(planEmpty)

	// The visitors are others, the partner's list is empty, the ACL of the database tier lets another port in, each
	// zone has a NAT gateway, and packets between app and database pass a middlebox.
	changed := []string{`-var=visitors=["198.51.100.0/24"]`, "-var=partners=[]", "-var=database_port=5433", "-var=nat_gateways=3", "-var=middlebox=true"}
	n.tf.apply(changed...)
	n.readOutputs(t)
	peered := n.always()[:2]
	through := to(n.app.host, n.database, "tcp/5500")
	// Without an entry of the list, the private tier has no route to the peer.
	n.send(t, "changed", append(n.always()[len(peered):], n.visitedBy(n.stranger)), slices.Concat(n.never(), peered, []probe{n.visitedBy(n.laptop), n.byList(), n.atDatabase(), through}))
	n.forwards(t)
	n.wantAnswers(t, "the middlebox forwards", through)
	n.tf.plan(planEmpty, changed...)

	n.tf.destroy(changed...)
	n.enforced(t)
	wantClosed(t, n.laptop, n.web.public, "open/80")
	for _, a := range n.accounts {
		wantOnlyDefaults(t, l, a, lab.Region)
	}
}

func (n *tiered) readOutputs(t *testing.T) {
	t.Helper()
	in := n.tf.instances(n.lab, "web", "app", "database", "box", "partner")
	n.web, n.app, n.database, n.box, n.partner = in[0], in[1], in[2], in[3], in[4]
	n.enforced(t)
}

// enforced waits until every node enforces the newest change.
func (n *tiered) enforced(t *testing.T) {
	t.Helper()
	check(t, n.watcher.enforced(t.Context(), ""))
}

// always returns the probes that are answered before the change, and, but for the first two, after it: they cross the
// peering.
func (n *tiered) always() []probe {
	return []probe{
		to(n.app.host, n.partner, "tcp/9000"),
		to(n.partner.host, n.app, "tcp/8001"),
		to(n.web.host, n.app, "tcp/8000"),
		{from: n.app.host, to: laptopAddress, kind: "tcp/7000", at: n.laptop}, // by a NAT gateway
		{from: n.app.host, to: laptopAddress, kind: "udp/7000", at: n.laptop},
		{from: n.app.host, to: laptopAddress, kind: "icmp", at: n.laptop},
		{from: n.web.host, to: laptopAddress, kind: "tcp/7000", at: n.laptop}, // by its public address
	}
}

// never returns the probes that are never answered.
func (n *tiered) never() []probe {
	return []probe{
		toAddress(n.laptop, n.web.public, n.web, "tcp/23"), // the group admits it, the ACL denies it
		to(n.web.host, n.app, "tcp/8080"),                  // likewise
		to(n.web.host, n.database, "tcp/5432"),
		to(n.web.host, n.partner, "tcp/9000"), // the public tier has no route to the peer
		to(n.database.host, n.partner, "tcp/9000"),
		to(n.partner.host, n.app, "tcp/8000"),
		to(n.partner.host, n.database, "tcp/5432"),
		{from: n.database.host, to: laptopAddress, kind: "tcp/7000", at: n.laptop}, // the database tier has no route to the outside
		{from: n.partner.host, to: laptopAddress, kind: "tcp/7000", at: n.laptop},  // and the peer none by the NAT gateway of another VPC
	}
}

func (n *tiered) visitedBy(from host) probe { return toAddress(from, n.web.public, n.web, "tcp/80") }

// byList is admitted by the list of partners.
func (n *tiered) byList() probe { return to(n.partner.host, n.app, "tcp/8002") }

func (n *tiered) atDatabase() probe { return to(n.app.host, n.database, "tcp/5432") }

// forwards makes the middlebox forward packets.
func (n *tiered) forwards(t *testing.T) {
	t.Helper()
	check(t, netns.Do(n.box.namespace, func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }))
}
