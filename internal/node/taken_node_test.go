package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"palisade/cluster/gossip"
	"palisade/ec2"
	"palisade/ec2/query"
	"palisade/ec2/state"
	"palisade/internal/node/control"
	"palisade/internal/peer"
)

// A takenNode is a node that is no voter and that an attacker controls: it has the node's identity, keys and
// state, and sends what it likes.
type takenNode struct {
	testNode
	victim testNode
	t      *testing.T
}

// bodies returns hostile bodies of calls, by name.
func (n takenNode) bodies(others *ec2.Instance, lease *ec2.Interface) map[string][]byte {
	command := func(r state.Request, a *ec2.Audit) []byte {
		data, err := state.EncodeCommand(state.Command{Time: time.Now(), Request: r, Audit: a, From: "node1"})
		if err != nil {
			n.t.Fatal(err)
		}
		return data
	}
	api := func(form, key string) []byte {
		r := signed(n.t, form, key)
		data, err := packMessage(&query.Received{Method: r.Method, Host: r.Host, Header: r.Header, Source: "192.0.2.7:1"}, []byte(form))
		if err != nil {
			n.t.Fatal(err)
		}
		return data
	}
	terminate := &state.TerminateInstances{Account: albert, Region: "us-east-1", Instances: []ec2.InstanceID{others.ID}}
	return map[string][]byte{
		"nothing": nil, "no JSON": []byte("\x00\xff{"), "a list": []byte("[1]"), "8 MiB": bytes.Repeat([]byte("a"), 8<<20),
		"nested":              []byte(strings.Repeat("[", 1<<20)),
		"another's report":    command(&state.ReportInstance{Instance: others.ID, InterfaceEpoch: lease.Epoch, State: ec2.Terminated}, nil),
		"another's interface": command(&state.ReportInterface{Interface: lease.ID, Epoch: lease.Epoch}, nil),
		"detach another's":    command(&state.UnregisterInterface{Account: albert, Region: "us-east-1", Interface: lease.ID, Force: true}, nil),
		"a user's command":    command(terminate, &ec2.Audit{Account: albert, AccessKey: "AKIDALBERT", Action: "TerminateInstances", Source: "192.0.2.7"}),
		"an operator's":       command(&state.FenceNode{Node: "node1"}, &ec2.Audit{Action: "FenceNode", Source: "control socket of node1"}),
		"an account's key":    command(&state.CreateAccessKey{Account: albert, ID: "AKIDEVIL"}, nil),
		"an admission":        command(&state.AdmitNode{Node: ec2.Node{ID: "evil", Zone: "us-east-1a", Address: "192.0.2.66:7400", PublicKey: []byte("k")}}, nil),
		"its own promotion":   command(&state.PutNode{Node: ec2.Node{ID: "node2", Zone: "us-east-1b", Role: ec2.Voter}}, nil),
		"a port for anybody":  command(&state.RegisterInterface{Account: albert, Region: "us-east-1", Node: "node2", Interface: lease.ID}, nil),
		"a forged signature":  api(createWeb, "a guess"),
		"a cut":               command(&state.CutConnections{Rule: "sgr-1"}, nil), "a key to use": mustJSON(map[string]any{"offer": []byte("palisade-cluster-key " + strings.Repeat("00", 32) + "\n")}),
		"any index": mustJSON(map[string]any{"index": uint64(1) << 60, "within": int64(time.Millisecond)}),
		"any key":   mustJSON(map[string]any{"kind": "secrets", "key": n.victim.cluster.View().SealKey()}),
		"any trace": mustJSON(map[string]any{"from": "203.0.113.9", "to": "10.10.0.1", "packet": "tcp 1 2"}),
		"any frame": mustJSON(map[string]any{"vni": 1, "epoch": lease.Epoch, "frame": bytes.Repeat([]byte{1}, 100)}),
	}
}

func mustJSON(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return data
}

// leasesOfNode1 returns an instance that node1 ran, and an interface that is attached there.
func leasesOfNode1(t *testing.T, one testNode) (others *ec2.Instance, lease *ec2.Interface) {
	t.Helper()
	launch := signed(t, "Action=RunInstances&Version=2016-11-15&ImageId=ami-eca54085&MinCount=1&MaxCount=1&Placement.AvailabilityZone=us-east-1a", plainText)
	if got := one.ask(launch); got.Code != http.StatusOK {
		t.Fatalf("launch: status %d with %s", got.Code, got.Body)
	}
	one.wait(t, "instance that node1 has reported", func() bool { // it has ended, because the node boots none
		for others = range one.cluster.View().Instances() {
		}
		return others.State != ec2.Pending
	})
	keys, err := request[[]control.NewKey](t, one, "POST", "/v1/accounts", control.AccountRequest{Name: "dev", Platform: ec2.VPCOnly})
	if err != nil {
		t.Fatal(err)
	}
	register := &state.RegisterInterface{Account: keys[0].Account, Region: "us-east-1", Node: "node1", External: ec2.ExternalDevice{Namespace: "no-such-namespace", Device: "eth0"}}
	for s := range one.cluster.View().SubnetsOf(keys[0].Account, "us-east-1") {
		if s.Zone == "us-east-1a" {
			register.Spec.Subnet = s.ID
		}
	}
	made, _, err := one.cluster.Apply(t.Context(), state.Command{Request: register})
	if err != nil {
		t.Fatal(err)
	}
	return others, made.Interface
}

// TestTakenNodeChangesNothing plays a node that an attacker controls, and that is no voter. It calls every
// method of the leader with hostile content, and Raft; it replays a request that it passed on; it reports
// another's interfaces down. No entry is written, no secret is answered, and what it did is counted.
func TestTakenNodeChangesNothing(t *testing.T) {
	one, two := withoutKey(t)
	others, lease := leasesOfNode1(t, one)
	passed := signed(t, createWeb, plainText)
	copied := passed.Clone(t.Context())
	copied.Body = io.NopCloser(strings.NewReader(createWeb))
	if got := two.ask(passed); got.Code != http.StatusOK {
		t.Fatalf("create a group at node2: status %d with %s", got.Code, got.Body)
	}

	n := takenNode{two, one, t}
	term := fmt.Sprint(strings.SplitN(one.cluster.String(), ", index", 2)[0])
	index, records := one.cluster.View().Index(), len(slices.Collect(one.cluster.View().AuditRecords()))
	if got := two.ask(copied); got.Code != http.StatusUnauthorized || !strings.Contains(got.Body.String(), "carried out before") {
		t.Errorf("a replayed request: status %d with %s, want 401", got.Code, got.Body)
	}
	secret := bytes.TrimSpace(one.keys.key.Load().Encode())
	bodies := n.bodies(others, lease)
	for _, method := range one.peer.Methods() {
		for what, body := range bodies {
			answer, err := two.peer.Call(t.Context(), "node1", method, body)
			if err == nil && (bytes.Contains(answer, secret) || bytes.Contains(answer, mustJSON(one.keys.key.Load().Encode()))) {
				t.Errorf("%s with %s answered the cluster key", method, what)
			}
		}
	}
	if c, err := two.peer.Dial(t.Context(), "node1", peer.ProtocolRaft); !errors.Is(err, peer.ErrNotAdmitted) {
		t.Errorf("Raft: connection %v, error %v; want ErrNotAdmitted", c, err)
	}
	two.cluster.SetPresence([]gossip.Presence{{Interface: lease.ID, Epoch: lease.Epoch, Private: lease.Private, MAC: lease.MAC}})
	one.wait(t, "entry about another's lease counted", func() bool { return one.cluster.GossipStats().Forged > 0 })
	if now := one.cluster.View().Index(); now != index {
		t.Errorf("the taken node's calls became %d log entries: %v", now-index, one.cluster.Refused())
	}
	if now := len(slices.Collect(one.cluster.View().AuditRecords())); now != records {
		t.Errorf("%d audit records were made up", now-records)
	}
	if now := fmt.Sprint(strings.SplitN(one.cluster.String(), ", index", 2)[0]); now != term {
		t.Errorf("the leader is now %q, was %q", now, term)
	}
	counted := uint64(0)
	status, err := request[control.ClusterStatus](t, one, "GET", "/v1/cluster", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range status.Refused {
		if r.Node == "node2" {
			counted += r.Count
		}
	}
	if counted < 10 {
		t.Errorf("the leader counted %v, want 10 refusals of node2 at least", status.Refused)
	}
	if got := one.ask(signed(t, strings.Replace(createWeb, "web", "db", 1), plainText)); got.Code != http.StatusOK {
		t.Errorf("a user's request afterwards: status %d with %s", got.Code, got.Body)
	}
}
