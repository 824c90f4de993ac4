package query_test

import (
	"io"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"palisade/ec2"
	"palisade/ec2/query"
	"palisade/ec2/state"
)

const eve = "666666666666"

// A tenantTest has two accounts with VPCs: dev owns resources, and eve guesses their ids.
type tenantTest struct {
	*requestGenerator
	foreign []string // ids of dev's resources
}

// newTenantTest makes resources of both accounts.
func newTenantTest(t *testing.T) *tenantTest {
	t.Helper()
	w := newGeneratorWorld(t)
	_, _, err := w.cluster.Apply(t.Context(), state.Command{Request: &state.CreateAccount{
		ID: eve, Name: "eve", Platform: ec2.VPCOnly, AccessKey: "AKIDEVE", Secret: "secret of eve",
	}})
	if err != nil {
		t.Fatal(err)
	}
	m := &tenantTest{requestGenerator: &requestGenerator{r: rand.New(rand.NewPCG(seed, 9)), w: w, t: t, valid: true}}
	for _, account := range []string{"DEV", "EVE"} {
		for _, form := range []string{
			"RunInstances&ImageId=ami-eca54085&MinCount=2&MaxCount=2", "CreateInternetGateway", "AllocateAddress&Domain=vpc", "CreateVpc&CidrBlock=10.0.0.0/16",
		} {
			if status, text := m.ask(account, "Version=2016-11-15&Action="+form); status != 200 {
				t.Fatalf("%s of %s: %d %s", form, account, status, text)
			}
		}
	}
	for _, account := range []string{"DEV", "EVE"} {
		_, subnets := m.ask(account, "Version=2016-11-15&Action=DescribeSubnets")
		form := "Version=2016-11-15&Action=CreateNatGateway&ConnectivityType=private&SubnetId=" + elementOf(subnets, "subnetId")
		if status, text := m.ask(account, form); status != 200 {
			t.Fatalf("%s of %s: %d %s", form, account, status, text)
		}
	}
	m.foreign = m.idsOf(dev)
	m.ids = slices.Concat(m.foreign, m.idsOf(eve))
	return m
}

// rows returns the rows of the state that name an account.
func (m *tenantTest) rows(account string) string {
	m.t.Helper()
	var b strings.Builder
	for line := range strings.Lines(rowsOf(m.t, m.w.cluster.View())) {
		if strings.Contains(line, `"`+account+`"`) {
			b.WriteString(line)
		}
	}
	return b.String()
}

func (m *tenantTest) idsOf(account string) []string {
	m.t.Helper()
	var ids []string
	for _, found := range anID.FindAllStringSubmatch(m.rows(account), -1) {
		ids = append(ids, found[1])
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// ask sends a form in the name of an account, and returns the answer without its request id.
func (m *tenantTest) ask(account, form string) (status int, text string) {
	m.t.Helper()
	r := httpRequest(m.t, http.MethodPost, m.w.url, form)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	sign(m.t, r, form, account, "ec2", time.Now())
	res := do(m.t, r)
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	return res.StatusCode, requestID.ReplaceAllString(string(data), "")
}

var requestID = regexp.MustCompile(`(?i)<requestId>[^<]*</requestId>`)

// absent replaces dev's ids in a text by ids of the same form that nothing has, or these by dev's.
func (m *tenantTest) absent() (there, back *strings.Replacer) {
	var to, from []string
	for i, id := range m.foreign {
		kind, number, _ := strings.Cut(id, "-")
		none := kind + "-" + strings.Repeat("e", len(number)-3) + string("0123456789abcdef"[i/256%16]) + string("0123456789abcdef"[i/16%16]) + string("0123456789abcdef"[i%16])
		to, from = append(to, id, none), append(from, none, id)
	}
	return strings.NewReplacer(to...), strings.NewReplacer(from...)
}

// TestIDsOfAnotherAccountAreUnknown: for every Action, an id of another account gets the answer that an
// id gets which nothing has, and nothing of the other account changes.
func TestIDsOfAnotherAccountAreUnknown(t *testing.T) {
	m := newTenantTest(t)
	there, back := m.absent()
	before := m.rows(dev)
	notFound := make(map[string]bool) // Actions that looked for a foreign id
	for _, action := range query.ActionNames() {
		reads := strings.HasPrefix(action, "Describe") || strings.HasPrefix(action, "Get")
		for range 60 {
			form := m.form(action)
			if form == there.Replace(form) || strings.Contains(form, "DryRun=") {
				continue
			}
			dry := ""
			if !reads {
				dry = "&DryRun=true" // so that the first request does not change the answer to the second
			}
			status, text := m.ask("EVE", form+dry)
			wantStatus, want := m.ask("EVE", there.Replace(form)+dry)
			if strings.Contains(text, "<Code>UnknownParameter<") || strings.Contains(text, "appears more than once") {
				continue // no id was looked for, and any of several parameters is named
			}
			if want = back.Replace(want); status != wantStatus || text != want {
				t.Errorf("the answer tells an id of another account from an unknown id: %d, for an unknown id %d\n%s\n%s", status, wantStatus, cmp.Diff(text, want), form)
			}
			if strings.Contains(text, "NotFound<") {
				notFound[action] = true
			}
			if !reads {
				_, _ = m.ask("EVE", form)
			}
		}
		if after := m.rows(dev); after != before {
			t.Fatalf("%s of another account changed\n%s", action, cmp.Diff(before, after))
		}
	}
	if n := len(query.ActionNames()); len(notFound) < n/2 {
		t.Errorf("only %d of %d actions looked for a foreign id: too few requests are nearly valid", len(notFound), n)
	}
}
