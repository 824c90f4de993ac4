package cluster

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"palisade/ec2"
	"palisade/ec2/state"
	"palisade/internal/atomicfile"
)

// A backup is a line of JSON, the Manifest, followed by the bytes of
// state.View.WriteSnapshot.
const (
	backupFormat  = "palisade-backup"
	backupVersion = 1
	maxManifest   = 64 << 10
)

// A Manifest describes a backup.
type Manifest struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	Cluster string    `json:"cluster"` // id of the cluster that it was made of
	Index   uint64    `json:"index"`   // of the last change in the backup
	Time    time.Time `json:"time"`    // of that change
	Counts  Counts    `json:"counts"`
	Bytes   int64     `json:"bytes"` // after the manifest

	// SealKey is the id of the cluster key that seals the secrets of access keys, and
	// PlainSecrets is how many of them are in plain text.
	SealKey      string `json:"seal_key,omitempty"`
	PlainSecrets int    `json:"plain_secrets,omitempty"`

	SHA256 string `json:"sha256"` // of the manifest without this field, and the bytes after it
}

// Counts helps an operator to recognize a backup.
type Counts struct {
	Nodes     int `json:"nodes"`
	Accounts  int `json:"accounts"`
	Groups    int `json:"groups"`
	Rules     int `json:"rules"`
	Instances int `json:"instances"`
}

func countsOf(v *state.View) (c Counts) {
	for range v.Nodes() {
		c.Nodes++
	}
	for range v.Accounts() {
		c.Accounts++
	}
	for g := range v.Groups() {
		c.Groups++
		c.Rules += len(g.Rules)
	}
	for range v.Instances() {
		c.Instances++
	}
	return c
}

func plainSecrets(v *state.View) (count int) {
	for k := range v.AccessKeys() {
		if k.Secret != "" {
			count++
		}
	}
	return count
}

// hashManifest returns a hash that has read the manifest; the caller adds the other bytes.
func (m Manifest) hashManifest() (hash.Hash, error) {
	m.SHA256 = ""
	data, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	h.Write(data)
	return h, nil
}

// Save writes a backup of a View of the cluster whose id is cluster.
func Save(w io.Writer, cluster string, v *state.View) (Manifest, error) {
	m := Manifest{
		Format: backupFormat, Version: backupVersion, Cluster: cluster, Index: v.Index(), Time: v.Time(), Counts: countsOf(v),
		SealKey: v.SealKey(), PlainSecrets: plainSecrets(v),
	}
	var length counter // a View is immutable, so every WriteSnapshot writes the same bytes
	if err := v.WriteSnapshot(&length); err != nil {
		return Manifest{}, fmt.Errorf("save a backup: %w", err)
	}
	m.Bytes = int64(length)
	h, err := m.hashManifest()
	if err != nil {
		return Manifest{}, fmt.Errorf("save a backup: %w", err)
	}
	if err := v.WriteSnapshot(h); err != nil {
		return Manifest{}, fmt.Errorf("save a backup: %w", err)
	}
	m.SHA256 = hex.EncodeToString(h.Sum(nil))
	if err := json.NewEncoder(w).Encode(m); err != nil {
		return Manifest{}, fmt.Errorf("save a backup: %w", err)
	}
	if err := v.WriteSnapshot(w); err != nil {
		return Manifest{}, fmt.Errorf("save a backup: %w", err)
	}
	return m, nil
}

type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

// Inspect reads a whole backup and returns its manifest. It fails if any byte is wrong.
func Inspect(r io.Reader) (Manifest, error) {
	m, _, err := readBackup(r)
	return m, err
}

func readBackup(r io.Reader) (Manifest, *state.State, error) {
	m, restored, err := parseBackup(bufio.NewReaderSize(r, maxManifest))
	if err != nil {
		return Manifest{}, nil, fmt.Errorf("read a backup: %w", err)
	}
	return m, restored, nil
}

func parseBackup(in *bufio.Reader) (m Manifest, _ *state.State, err error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return m, nil, errors.New("it has no manifest: the file is not a backup, or is truncated")
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return m, nil, fmt.Errorf("manifest: %w", err)
	}
	if m.Format != backupFormat || m.Version != backupVersion {
		return m, nil, fmt.Errorf("this release does not know format %q version %d", m.Format, m.Version)
	}
	h, err := m.hashManifest()
	if err != nil {
		return m, nil, err
	}
	restored, err := state.Restore(io.TeeReader(io.LimitReader(in, m.Bytes), h))
	if err != nil {
		return m, nil, fmt.Errorf("it is damaged: %w", err)
	}
	if _, err := in.ReadByte(); err != io.EOF {
		return m, nil, errors.New("it is damaged: more bytes follow its end")
	}
	if sum := hex.EncodeToString(h.Sum(nil)); sum != m.SHA256 {
		return m, nil, fmt.Errorf("it is damaged: its SHA-256 is %s, not %s", sum, m.SHA256)
	}
	if v := restored.View(); v.Index() != m.Index || countsOf(v) != m.Counts || v.SealKey() != m.SealKey {
		return m, nil, errors.New("it is damaged: its manifest does not match its content")
	}
	return m, restored, nil
}

// recoveredEntries is how far above the backup's index a restored log begins. So every index of
// the new cluster is higher than any that the lost cluster used, or a node enforced, after the
// backup.
const recoveredEntries = 1 << 32

// Restore writes the log of a new cluster with one member from a backup, all or nothing, to a
// directory that is empty or does not exist. as.Node has the member's name, its key, and its
// address and port; if the backup has the node, an empty zone keeps the node's. state.Recover
// says what happens to the other nodes. Restore makes a new gossip key.
func Restore(dir string, r io.Reader, as state.Recover) (Manifest, error) {
	present, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Manifest{}, fmt.Errorf("restore a backup: %w", err)
	}
	if len(present) > 0 {
		return Manifest{}, fmt.Errorf("restore a backup: %s already holds a log; move it away first", dir)
	}
	m, restored, err := readBackup(r)
	if err != nil {
		return Manifest{}, err
	}
	as.GossipKey = newGossipKey()
	index := m.Index + recoveredEntries
	_, err = restored.Apply(index, state.Command{Time: time.Now(), Request: &as})
	if err != nil {
		return Manifest{}, fmt.Errorf("restore a backup: %w", err)
	}

	// The directory is renamed once all of it is on disk.
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return Manifest{}, fmt.Errorf("restore a backup: %w", err)
	}
	draft, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".restore-")
	if err != nil {
		return Manifest{}, fmt.Errorf("restore a backup: %w", err)
	}
	defer os.RemoveAll(draft)
	if err := writeRestored(draft, index, restored.View(), as.Node); err != nil {
		return Manifest{}, fmt.Errorf("restore a backup: %w", err)
	}
	if err := errors.Join(atomicfile.SyncDir(draft), atomicfile.Rename(draft, dir)); err != nil {
		return Manifest{}, fmt.Errorf("restore a backup: %w", err)
	}
	return m, nil
}

// writeRestored writes a snapshot with one voter, and a store with the snapshot's term.
func writeRestored(dir string, index uint64, v *state.View, node ec2.Node) (err error) {
	s, err := openStore(filepath.Join(dir, "raft.db"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	const term = 1
	if err := s.SetUint64([]byte("CurrentTerm"), term); err != nil { // Raft's name for it
		return err
	}
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, 2, hclog.NewNullLogger())
	if err != nil {
		return err
	}
	address := raft.ServerAddress(node.Address)
	if address == "" {
		address = raft.ServerAddress(node.ID)
	}
	_, transport := raft.NewInmemTransport(address)
	only := raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(node.ID), Address: address}}}
	sink, err := snaps.Create(raft.SnapshotVersionMax, index, term, only, index, transport)
	if err != nil {
		return err
	}
	return snapshot{v}.Persist(sink)
}
