package cluster

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"palisade/ec2"
	"palisade/ec2/state"
)

func mustApply(t *testing.T, c *Cluster, r state.Request) state.Result {
	t.Helper()
	result, _, err := c.Apply(t.Context(), state.Command{Request: r})
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func TestBackupStartsAnotherCluster(t *testing.T) {
	c, stop := open(t, Config{Dir: t.TempDir()})
	ready(t, c)
	mustApply(t, c, &state.PutNode{Node: ec2.Node{ID: "node2", Zone: "us-east-1b", Address: "192.0.2.12:7400", PublicKey: []byte("key")}})
	run := mustApply(t, c, &state.RunInstances{Account: albert, Region: region, Image: "ami-eca54085", MinCount: 4, MaxCount: 4})
	if _, err := createGroup(t.Context(), c, "web"); err != nil {
		t.Fatal(err)
	}
	mustApply(t, c, &state.CreateJoinToken{ID: "t", SecretHash: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", Expires: time.Now().Add(time.Hour)})
	view := c.View()
	var file bytes.Buffer
	made, err := Save(&file, "c1", view)
	if err != nil {
		t.Fatal(err)
	}
	if read, err := Inspect(bytes.NewReader(file.Bytes())); err != nil || read != made {
		t.Fatalf("Inspect: got %+v, %v; want %+v", read, err, made)
	}
	if made.Index != view.Index() || made.Counts.Instances != 4 || made.Counts.Nodes != 2 {
		t.Errorf("manifest %+v, want index %d, 4 instances and 2 nodes", made, view.Index())
	}
	// The lost cluster assigned epochs after its backup. The new cluster must not assign them again.
	later := mustApply(t, c, &state.RunInstances{Account: albert, Region: region, Image: "ami-eca54085", MinCount: 20, MaxCount: 20})
	assigned := make(map[uint64]bool)
	for _, i := range later.Instances {
		eni, _ := c.View().Interface(i.After.Interface)
		assigned[eni.Epoch] = true
	}
	last := c.View().Index()
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	dir := filepath.Join(t.TempDir(), "raft")
	if _, err := Restore(dir, bytes.NewReader(file.Bytes()), state.Recover{Node: ec2.Node{ID: "node1"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(dir, bytes.NewReader(file.Bytes()), state.Recover{Node: ec2.Node{ID: "node1"}}); err == nil || !strings.Contains(err.Error(), "already holds a log") {
		t.Errorf("a second restore: error %v, want one that says the directory already holds a log", err)
	}
	c, stop = open(t, Config{Dir: dir, Decided: last})
	ready(t, c)
	restored, err := c.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !hasGroup(restored, "web") || restored.Index() <= last {
		t.Errorf("the restored View has index %d, want above %d, and group web: %t, want true", restored.Index(), last, hasGroup(restored, "web"))
	}
	if n, ok := restored.Node("node2"); !ok || n.Member() {
		t.Errorf("node2 is %+v, want it fenced", n)
	}
	for range restored.JoinTokens() {
		t.Error("a join token is still valid")
	}
	for _, i := range run.Instances {
		now, _ := restored.Instance(i.After.ID)
		if want := i.After.Node != "node2"; (now.Interface != "") != want {
			t.Errorf("instance %s of %s has interface %q; want one: %t", now.ID, i.After.Node, now.Interface, want)
		}
	}
	again := mustApply(t, c, &state.RunInstances{Account: albert, Region: region, Image: "ami-eca54085", MinCount: 20, MaxCount: 20})
	for _, i := range again.Instances {
		if eni, _ := c.View().Interface(i.After.Interface); assigned[eni.Epoch] {
			t.Errorf("the new cluster assigned epoch %d, which the lost cluster had assigned", eni.Epoch)
		}
	}
	index := c.View().Index()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	c, _ = open(t, Config{Dir: dir})
	ready(t, c)
	if got := c.View().Index(); got != index {
		t.Errorf("index %d after a restart, want %d", got, index)
	}
}

func TestDamagedBackupIsRefused(t *testing.T) {
	c, _ := open(t, Config{Dir: t.TempDir()})
	ready(t, c)
	var file bytes.Buffer
	if _, err := Save(&file, "c1", c.View()); err != nil {
		t.Fatal(err)
	}
	good := file.Bytes()
	manifest := bytes.IndexByte(good, '\n')
	for at := range good {
		if at > manifest && at%7 != 0 { // every byte of the manifest, every seventh after it
			continue
		}
		bad := bytes.Clone(good)
		bad[at] ^= 1
		if m, err := Inspect(bytes.NewReader(bad)); err == nil {
			t.Errorf("a backup with byte %d of %d changed from %q to %q was accepted: manifest %+v", at, len(good), good[at], bad[at], m)
		}
	}
	for _, bad := range [][]byte{nil, good[:manifest], good[:manifest+1], good[:len(good)-1], append(bytes.Clone(good), '\n')} {
		dir := filepath.Join(t.TempDir(), "raft")
		if _, err := Restore(dir, bytes.NewReader(bad), state.Recover{Node: ec2.Node{ID: "node1"}}); err == nil {
			t.Errorf("a backup of %d bytes was restored; undamaged it has %d", len(bad), len(good))
		}
		files, err := os.ReadDir(filepath.Dir(dir))
		if err != nil || len(files) > 0 {
			t.Errorf("a refused restore left files %v, want none; ReadDir error: %v", files, err)
		}
	}
}

// If a backup is accepted, saving the restored View gives the same manifest.
func FuzzBackup(f *testing.F) {
	st := state.NewState()
	for i, cmd := range bootstrap() {
		if _, err := st.Apply(uint64(i+1), cmd); err != nil {
			f.Fatal(err)
		}
	}
	var good bytes.Buffer
	if _, err := Save(&good, "c1", st.View()); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add(good.Bytes()[:good.Len()/2])
	f.Add([]byte(`{"format":"palisade-backup","version":1}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		read, restored, err := readBackup(bytes.NewReader(data))
		if err != nil {
			return
		}
		if again, err := Save(io.Discard, read.Cluster, restored.View()); err != nil || again != read {
			t.Errorf("Save of the restored View: manifest %+v, error %v; want manifest %+v", again, err, read)
		}
	})
}
