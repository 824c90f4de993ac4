package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"palisade/ec2"
	"palisade/ec2/state"
)

// directoryCases are the names and keys that a directory gets, and whether it admits the node and lets
// it call Raft.
var directoryCases = []struct {
	current       bool
	node, key     string
	admits, leads bool
}{
	{true, "voter", "voter", true, true},
	{true, "voter", "other", false, false},
	{true, "voter", "", false, false},
	{true, "other", "other", true, false},
	{true, "other", "voter", false, false},
	{true, "fenced", "fenced", false, false},
	{true, "nobody", "nobody", false, false},
	{true, "new", "new", false, false},
	{false, "new", "new", true, true},
	{false, "new", "voter", false, false},
	{false, "new", "", false, false},
	{false, "new-other", "new-other", true, false},
	{false, "fenced", "fenced", false, true}, // it is not admitted, so it never asks
	{false, "other", "other", true, true},
	{false, "nobody", "new", false, false},
	{false, "voter", "voter", true, true},
	{false, "voter", "new", false, false},
	{false, "voter", "", false, false},
	{false, "nobody", "", false, false},
	{false, "gone", "gone", false, false}, // an older voter still names it
}

// A name and a key of the node table open the node, each alone opens nothing. What a voter has said of a
// node counts with the same key alone, and only until this node is current.
func TestDirectoryChecksNameAndKey(t *testing.T) {
	c, _ := open(t, Config{Dir: t.TempDir()})
	ready(t, c)
	address := map[ec2.NodeID]string{"voter": "192.0.2.2:7400", "other": "192.0.2.3:7400", "fenced": "192.0.2.4:7400"}
	put := func(id ec2.NodeID, role ec2.NodeRole) {
		t.Helper()
		mustApply(t, c, &state.PutNode{Node: ec2.Node{ID: id, Zone: "us-east-1a", Role: role, Address: address[id], PublicKey: []byte("key of " + id)}})
	}
	put("voter", ec2.Voter)
	put("other", ec2.NonVoter)
	put("fenced", ec2.Voter)
	put("gone", ec2.Voter)
	for _, r := range []state.Request{&state.FenceNode{Node: "fenced"}, &state.FenceNode{Node: "gone", Rotate: true}, &state.RemoveNode{Node: "gone", Rotate: true}} {
		mustApply(t, c, r)
	}
	d := &c.directory
	vouched := []vouchedNode{
		{Node: "new", PublicKey: []byte("key of new"), Votes: true, Address: "192.0.2.9:7400"},
		{Node: "new-other", PublicKey: []byte("key of new-other")},
		{Node: "fenced", PublicKey: []byte("key of fenced"), Votes: true},
		{Node: "gone", PublicKey: []byte("key of gone")},
		{Node: "other", PublicKey: []byte("key of other"), Votes: true},
	}
	for _, tt := range directoryCases {
		d.mu.Lock()
		d.current, d.vouched = false, nil
		d.mu.Unlock()
		d.vouch(vouched)
		d.mu.Lock()
		d.current = tt.current
		d.mu.Unlock()
		what := fmt.Sprintf("%s with the key of %q, current: %v", tt.node, tt.key, tt.current)
		key := []byte("key of " + tt.key)
		if tt.key == "" {
			key = nil
		}
		if err := d.Check(tt.node, key); (err == nil) != tt.admits {
			t.Errorf("%s: Check returned %v, want admitted: %v", what, err, tt.admits)
		}
		if key == nil {
			continue
		}
		if err := d.mayLead(ec2.NodeID(tt.node), key); (err == nil) != tt.leads {
			t.Errorf("%s: mayLead returned %v, want %v", what, err, tt.leads)
		}
	}
	// Once the node is current, it asks no other node.
	d.mu.Lock()
	d.current, d.vouched = true, nil
	d.mu.Unlock()
	d.vouch(vouched)
	if len(d.vouched) != 0 {
		t.Error("a node that is current stored what others said")
	}
	d.mu.Lock()
	d.current, d.vouched = false, nil
	d.mu.Unlock()
	d.vouch(vouched)
	for node, want := range map[string]string{"voter": "192.0.2.2:7400", "new": "192.0.2.9:7400"} {
		if got, ok := d.Address(node); !ok || got != want {
			t.Errorf("the address of %s is %q, known: %v; want %s", node, got, ok, want)
		}
	}
}

// A backup whose manifest is whole, and says something else than its content, is refused.
func TestBackupWithAnotherManifestIsRefused(t *testing.T) {
	c, _ := open(t, Config{Dir: t.TempDir()})
	ready(t, c)
	var file bytes.Buffer
	if _, err := Save(&file, "c1", c.View()); err != nil {
		t.Fatal(err)
	}
	line, content, _ := bytes.Cut(file.Bytes(), []byte("\n"))
	var m Manifest
	if err := json.Unmarshal(line, &m); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(m *Manifest){
		"nothing": func(*Manifest) {}, "index": func(m *Manifest) { m.Index++ }, "counts": func(m *Manifest) { m.Counts.Accounts++ },
		"format": func(m *Manifest) { m.Format += "x" }, "version": func(m *Manifest) { m.Version++ },
		"seal key": func(m *Manifest) { m.SealKey += "x" },
	} {
		changed := m
		change(&changed)
		h, err := changed.hashManifest()
		if err != nil {
			t.Fatal(err)
		}
		h.Write(content)
		changed.SHA256 = fmt.Sprintf("%x", h.Sum(nil))
		first, err := json.Marshal(changed)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Inspect(bytes.NewReader(append(append(first, '\n'), content...)))
		if (err == nil) != (name == "nothing") {
			t.Errorf("a backup whose manifest has another %s: error %v", name, err)
		}
	}
}

// The answer of a call becomes the error that the called node had.
func TestAnswersKeepTheirErrors(t *testing.T) {
	code := &ec2.Error{Code: "InvalidGroup.NotFound", Message: "no"}
	for name, tt := range map[string]struct {
		a    answer
		want error
		text string
	}{
		"none":       {answer{OK: true}, nil, ""},
		"not leader": {answer{NotLeader: true}, ErrNotLeader, ""},
		"unknown":    {answer{Unknown: "lost"}, ErrOutcomeUnknown, "lost"},
		"code":       {answer{Error: code}, code, "InvalidGroup.NotFound"},
		"refused":    {answer{Refused: "not you"}, nil, "not you"},
	} {
		err := tt.a.err()
		if tt.want != nil && !errors.Is(err, tt.want) || tt.text != "" && (err == nil || !strings.Contains(err.Error(), tt.text)) || tt.want == nil && tt.text == "" && err != nil {
			t.Errorf("%s: error %v, want %v with %q", name, err, tt.want, tt.text)
		}
	}
}

// A cluster that has ended, or whose caller has, answers with the reason and does nothing.
func TestEndedCallsSayWhy(t *testing.T) {
	c, stop := open(t, Config{Dir: t.TempDir()})
	ready(t, c)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.ReadView(ended); err == nil {
		t.Error("ReadView for a caller that has ended returned a View")
	}
	if _, err := c.AtLeader(t.Context(), "x", nil, true, func() error { return errors.New("mine") }); err == nil || err.Error() != "mine" {
		t.Error("AtLeader hid the error of the leader")
	}
	index := c.View().Index()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := createGroup(t.Context(), c, "late"); err == nil || c.View().Index() != index {
		t.Errorf("a cluster that has ended took a command: index %d, want %d; error %v", c.View().Index(), index, err)
	}
	if _, err := c.ReadView(t.Context()); err == nil {
		t.Error("a cluster that has ended answered a read")
	}
}
