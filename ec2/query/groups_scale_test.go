package query_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
)

const (
	manyGroups    = 2000
	rulesPerGroup = 60
)

// fill gives dev's default VPC many groups with as many rules each as it can have.
func (w *world) fill(t testing.TB) {
	t.Helper()
	const atOnce = 40 // a log entry is a few hundred kilobytes
	for first := 0; first < manyGroups; first += atOnce {
		var batch state.Batch
		for n := first; n < first+atOnce; n++ {
			name := fmt.Sprint("group", n)
			var rules []state.RuleSpec
			for port := range rulesPerGroup - 1 { // and the egress rule that it comes with
				rules = append(rules, state.RuleSpec{Protocol: ec2.TCP, From: port, To: port, Prefix: netip.MustParsePrefix("203.0.113.0/24")})
			}
			batch.Requests = append(batch.Requests,
				&state.CreateSecurityGroup{Account: dev, Region: region, Name: name, Description: "x"},
				&state.AuthorizeRules{Account: dev, Region: region, Group: state.GroupSelector{Name: name}, Rules: rules})
		}
		if _, _, err := w.cluster.Apply(t.Context(), state.Command{Request: &batch}); err != nil {
			t.Fatal(err)
		}
	}
}

// asDev sends a request of dev's, whole, and reads the answer into body: no garbage of the
// test's own is in what it measures.
func (w *world) asDev(t testing.TB, form string, body *bytes.Buffer) {
	t.Helper()
	form += "&Version=2016-11-15"
	res := do(t, w.signedForm(t, "dev", form))
	defer res.Body.Close()
	body.Reset()
	if _, err := body.ReadFrom(res.Body); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v\n%s", form, res.Status, err, body)
	}
}

// processorTime is what this process has used of all processors.
func processorTime(t testing.TB) time.Duration {
	t.Helper()
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		t.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

func TestManyGroups(t *testing.T) {
	w := newWorld(t)
	w.fill(t)
	t.Run("all pages of all rules take a second", w.testAllPages)
	t.Run("authorize does not pay for the other groups", w.testAuthorize)
}

// What Terraform's revoke_rules_on_delete and every inventory do: read all rules there are.
// Where other work takes the processors away, the clock says little; then the time that
// this process had of them decides, client, server, cluster and garbage together. Only a
// run that nothing held up tells what it costs, so a few may be slow.
func (w *world) testAllPages(t *testing.T) {
	const tries = 8
	for try := range tries {
		took, used := w.readAllPages(t)
		if min(took, used) <= time.Second {
			return
		}
		if try == tries-1 {
			t.Errorf("all pages take %v, %v of processors, want a second at most", took, used)
		}
	}
}

// readAllPages checks that each rule is on one page, and returns what the requests took.
// The order of the rules tells: it goes up from page to page.
func (w *world) readAllPages(t *testing.T) (took, used time.Duration) {
	var body bytes.Buffer
	pages, rules, last := 0, 0, ""
	for token, more := "", true; more; pages++ {
		start, before := time.Now(), processorTime(t)
		w.asDev(t, "Action=DescribeSecurityGroupRules&MaxResults=1000&NextToken="+url.QueryEscape(token), &body)
		took += time.Since(start)
		used += processorTime(t) - before
		page := body.Bytes()
		for {
			var rule, group []byte
			_, page, more = bytes.Cut(page, []byte("<securityGroupRuleId>"))
			if !more {
				break
			}
			rule, page, _ = bytes.Cut(page, []byte("</securityGroupRuleId><groupId>"))
			group, _, _ = bytes.Cut(page, []byte("<"))
			if place := string(group) + string(rule); place > last {
				last = place
			} else {
				t.Fatalf("%s comes after %s", place, last)
			}
			rules++
		}
		page = body.Bytes()
		_, page, more = bytes.Cut(page, []byte("<nextToken>"))
		page, _, _ = bytes.Cut(page, []byte("<"))
		token = string(page)
	}
	t.Logf("%d rules on %d pages in %v, %v of processors", rules, pages, took, used)
	if want := manyGroups*rulesPerGroup + 2; rules != want { // and the default group's
		t.Fatalf("the pages have %d rules, want %d", rules, want)
	}
	return took, used
}

// The medians are of one run, turn by turn, so that whatever else the machine does slows
// both alike. What it does in the middle of a turn can still make a run worthless, and a busy
// machine several.
func (w *world) testAuthorize(t *testing.T) {
	empty := newWorld(t)
	const tries = 8
	for try := range tries {
		without, with := authorizeTurnByTurn(t, empty, w, fmt.Sprint("probe", try))
		t.Logf("authorize takes %v in an empty region, %v beside %d groups of %d rules", without, with, manyGroups, rulesPerGroup)
		if with <= without*6/5 {
			return
		}
	}
	t.Errorf("authorize takes more than a fifth more beside %d groups than without them", manyGroups)
}

// authorizeTurnByTurn adds 200 rules to groups of both worlds, whose names begin alike, and
// returns the medians of what one takes.
func authorizeTurnByTurn(t *testing.T, a, b *world, group string) (medianA, medianB time.Duration) {
	const times, perGroup = 200, 50
	var body bytes.Buffer
	var took [2][]time.Duration
	for n := range times {
		name := fmt.Sprint(group, "-", n/perGroup)
		for turn := range 2 {
			i := (turn + n) % 2 // either goes first as often
			w := []*world{a, b}[i]
			if n%perGroup == 0 {
				w.asDev(t, "Action=CreateSecurityGroup&GroupDescription=x&GroupName="+name, &body)
			}
			start := time.Now()
			w.asDev(t, "Action=AuthorizeSecurityGroupIngress&GroupName="+name+permissionForm(1, "tcp", "1", strconv.Itoa(n+1), "203.0.113.0/24"), &body)
			took[i] = append(took[i], time.Since(start))
		}
	}
	for i := range took {
		slices.Sort(took[i])
	}
	return took[0][times/2], took[1][times/2]
}
