package query_test

import (
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"palisade/cluster"
	"palisade/ec2"
	"palisade/ec2/query"
)

// An enforcing backend is a cluster with an Enforcement method that the test supplies.
type enforcing struct {
	*cluster.Cluster
	enforcement func(ctx context.Context, index uint64) (query.EnforcementReport, error)
}

func (e enforcing) Enforcement(ctx context.Context, index uint64) (query.EnforcementReport, error) {
	return e.enforcement(ctx, index)
}

// An enforcementAnswer is the answer of DescribeEnforcement.
type enforcementAnswer struct {
	Index uint64 `xml:"index"`
	State string `xml:"state"`
	Nodes []struct {
		Node   string `xml:"node"`
		State  string `xml:"state"`
		Reason string `xml:"reason"`
	} `xml:"nodeSet>item"`
}

func (w *world) enforcement(t *testing.T, more string) enforcementAnswer {
	t.Helper()
	res := w.post(t, "Action=DescribeEnforcement&Version=2016-11-15"+more, nil)
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var a enforcementAnswer
	if err := xml.Unmarshal(data, &a); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("DescribeEnforcement%s: got status %d (%v), want 200 and XML: %s", more, res.StatusCode, err, data)
	}
	if got := res.Header.Get(query.IndexHeader); got != "" {
		t.Errorf("the answer of DescribeEnforcement has the index header %s, want none", got)
	}
	return a
}

func TestDescribeEnforcementReportsNodes(t *testing.T) {
	var report []query.NodeEnforcement
	var given time.Duration
	w := newWorldBehind(t, func(c *cluster.Cluster) query.Backend {
		return enforcing{c, func(ctx context.Context, index uint64) (query.EnforcementReport, error) {
			deadline, _ := ctx.Deadline()
			given = time.Until(deadline)
			return query.EnforcementReport{Index: index, Nodes: report}, nil
		}}
	})
	newest := w.cluster.View().Index()
	in := func(n int, state query.EnforcementState) query.NodeEnforcement {
		e := query.NodeEnforcement{Node: []ec2.NodeID{"node1", "node2"}[n], State: state}
		if state != query.Enforced {
			e.Why = "its state is <" + string(state) + "> & more"
		}
		return e
	}
	for _, c := range []struct {
		more       string
		one, other query.EnforcementState
		state      string
		index      uint64
		wait       float64
	}{
		{"", "enforced", "enforced", "enforced", newest, 5},
		{"&Index=1", "enforced", "enforced", "enforced", 1, 5},
		{"&Index=1&Timeout=0", "enforced", "excluded", "excluded", 1, 0.25},
		{"&Timeout=0.5", "enforced", "pending", "pending", newest, 0.5},
		{"&Timeout=60", "pending", "excluded", "pending", newest, 60},
		{"", "excluded", "pending", "pending", newest, 5},
		{"", "enforced", "", "pending", newest, 5}, // an unknown state counts as pending
	} {
		report = []query.NodeEnforcement{in(0, c.one), in(1, c.other)}
		got := w.enforcement(t, c.more)
		if got.State != c.state || got.Index != c.index || len(got.Nodes) != 2 {
			t.Errorf("DescribeEnforcement%s of nodes that are %q and %q: got %+v, want state %s at index %d", c.more, c.one, c.other, got, c.state, c.index)
			continue
		}
		if s := given.Seconds(); s > c.wait || s < c.wait-5 {
			t.Errorf("DescribeEnforcement%s: the nodes get %s to answer, want %g s", c.more, given, c.wait)
		}
		for n, want := range report {
			if g := got.Nodes[n]; g.Node != string(want.Node) || g.State != string(want.State) || g.Reason != want.Why {
				t.Errorf("DescribeEnforcement%s shows node %+v, want %+v", c.more, g, want)
			}
		}
	}
	for more, code := range map[string]string{
		"&Index=" + strconv.FormatUint(newest+1, 10): "InvalidParameterValue",
		"&Index=-1":     "InvalidParameterValue",
		"&Index=x":      "InvalidParameterValue",
		"&Timeout=-1":   "InvalidParameterValue",
		"&Timeout=60.1": "InvalidParameterValue",
		"&Timeout=NaN":  "InvalidParameterValue",
		"&Timeout=soon": "InvalidParameterValue",
		"&DryRun=true":  "DryRunOperation",
	} {
		if _, got := answer(t, w.post(t, "Action=DescribeEnforcement&Version=2016-11-15"+more, nil)); got != code {
			t.Errorf("DescribeEnforcement%s: got %q, want %s", more, got, code)
		}
	}
	if status, code := answer(t, w.post(t, "Action=DescribeEnforcement&Version=2016-11-15", func(r *http.Request) { r.Header.Del("Authorization") })); code != "MissingAuthenticationToken" {
		t.Errorf("an unsigned request: got %d %q, want MissingAuthenticationToken", status, code)
	}
}

// A node that never answers delays the caller only until its timeout.
func TestDescribeEnforcementEndsAtTimeout(t *testing.T) {
	w := newWorldBehind(t, func(c *cluster.Cluster) query.Backend {
		return enforcing{c, func(ctx context.Context, index uint64) (query.EnforcementReport, error) {
			<-ctx.Done()
			return query.EnforcementReport{Index: index, Nodes: []query.NodeEnforcement{{Node: "node2", State: query.Pending, Why: "no answer"}}}, nil
		}}
	})
	for _, timeout := range []string{"0", "0.3"} {
		start := time.Now()
		if got := w.enforcement(t, "&Timeout="+timeout); got.State != "pending" {
			t.Errorf("timeout %s: got %+v, want state pending", timeout, got)
		}
		if took := time.Since(start); took > 4*time.Second {
			t.Errorf("timeout %s: the call took %s, want at most 4s", timeout, took)
		}
	}
}

func TestDescribeEnforcementIsRefusedWithoutEnforcer(t *testing.T) {
	w := newWorldBehind(t, func(c *cluster.Cluster) query.Backend { return failingBackend{c, new(failures)} })
	if status, code := answer(t, w.post(t, "Action=DescribeEnforcement&Version=2016-11-15", nil)); status != 400 || code != "UnsupportedOperation" {
		t.Errorf("got %d %s, want 400 UnsupportedOperation", status, code)
	}
}

// Each Action that can change something returns the index of the state that decided the
// request, also if the request was refused or changed nothing. A refused request is no entry of the
// log, so the index is higher only after the others.
func TestEveryChangeReturnsItsIndex(t *testing.T) {
	w := newWorld(t)
	last := uint64(0)
	do := func(form, code string) string {
		t.Helper()
		res := w.post(t, "Version=2016-11-15&"+form, nil)
		defer res.Body.Close()
		data, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if code == "" && res.StatusCode != http.StatusOK || !strings.Contains(string(data), code) {
			t.Errorf("%s: got status %d and %s, want code %q", form, res.StatusCode, data, code)
		}
		index, err := strconv.ParseUint(res.Header.Get(query.IndexHeader), 10, 64)
		if refused := code != ""; err != nil || index <= last != refused || index < last || index > w.cluster.View().Index() {
			t.Errorf("%s: got index %q after %d; want a higher one, or the same if the request was refused (%t)", form, res.Header.Get(query.IndexHeader), last, refused)
		}
		last = index
		_, id, _ := strings.Cut(string(data), "<instanceId>")
		id, _, _ = strings.Cut(id, "<")
		return id
	}
	const rule = "&GroupName=web&IpProtocol=tcp&FromPort=80&ToPort=80&CidrIp=0.0.0.0/0"
	do("Action=CreateSecurityGroup&GroupName=web&GroupDescription=x", "")
	do("Action=CreateSecurityGroup&GroupName=web&GroupDescription=x", "InvalidGroup.Duplicate")
	do("Action=AuthorizeSecurityGroupIngress"+rule, "")
	do("Action=AuthorizeSecurityGroupIngress"+rule, "InvalidPermission.Duplicate")
	do("Action=RevokeSecurityGroupIngress"+rule, "")
	do("Action=RevokeSecurityGroupIngress"+rule, "")
	do("Action=CreateKeyPair&KeyType=ed25519&KeyName=k", "")
	do("Action=ImportKeyPair&KeyName=l&PublicKeyMaterial="+publicKeyParam(t), "")
	do("Action=DeleteKeyPair&KeyName=k", "")
	do("Action=DeleteKeyPair&KeyName=k", "")
	const run = "Action=RunInstances&ImageId=ami-eca54085&MinCount=1&MaxCount=1&ClientToken=once"
	id := do(run, "")
	if again := do(run, ""); again != id {
		t.Errorf("the repeated launch returned %s, want %s", again, id)
	}
	w.report(t)
	for _, action := range []string{"StartInstances", "StopInstances", "StopInstances", "TerminateInstances", "TerminateInstances"} {
		do(fmt.Sprintf("Action=%s&InstanceId.1=%s", action, id), "")
	}
	do("Action=DeleteSecurityGroup&GroupName=web", "")

	for _, form := range []string{"Action=DescribeInstances", "Action=CreateSecurityGroup&DryRun=true&GroupName=x&GroupDescription=x", "Action=Nonsense"} {
		res := w.post(t, "Version=2016-11-15&"+form, nil)
		res.Body.Close()
		if got := res.Header.Get(query.IndexHeader); got != "" {
			t.Errorf("%s only reads but returned index %s, want none", form, got)
		}
	}
}
