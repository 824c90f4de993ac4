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
	Cluster string    `json:"cluster"` // id of the saved cluster
	Index   uint64    `json:"index"`   // of the last change in the backup
	Time    time.Time `json:"time"`    // of that change
	Counts  Counts    `json:"counts"`
	Bytes   int64     `json:"bytes"` // length of the snapshot after the manifest

	// SealKey is the id of the cluster key that encrypts the secrets of access keys.
	// PlainSecrets is the number of secrets that are not encrypted.
	SealKey      string `json:"seal_key,omitempty"`
	PlainSecrets int    `json:"plain_secrets,omitempty"`

	SHA256 string `json:"sha256"` // of the manifest without this field, and of the snapshot
}

// Counts says how much a backup contains, so that an operator recognizes it.
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

// hashManifest returns the SHA-256 of the manifest without its SHA256 field. The caller writes the
// snapshot to it.
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

// Save writes a backup of v to w and returns its manifest. cluster is the cluster's id.
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

// Inspect reads a whole backup and returns its manifest. A damaged backup is an error.
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
		return m, nil, errors.New("the file has no manifest: it is not a backup, or is truncated")
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
		return m, nil, fmt.Errorf("the backup is damaged: %w", err)
	}
	if _, err := in.ReadByte(); err != io.EOF {
		return m, nil, errors.New("the backup is damaged: more bytes follow its end")
	}
	if sum := hex.EncodeToString(h.Sum(nil)); sum != m.SHA256 {
		return m, nil, fmt.Errorf("the backup is damaged: its SHA-256 is %s, the manifest says %s", sum, m.SHA256)
	}
	if v := restored.View(); v.Index() != m.Index || countsOf(v) != m.Counts || v.SealKey() != m.SealKey {
		return m, nil, errors.New("the backup is damaged: its manifest does not match its content")
	}
	return m, restored, nil
}

// recoveredEntries is added to the backup's index for the first index of the restored log. So
// every index of the new cluster is higher than all indexes that the lost cluster used after the
// backup, and that nodes may have enforced.
const recoveredEntries = 1 << 32

// Restore reads a backup and writes the log of a new cluster with one member, all or nothing, to
// dir, which must be empty or not exist. It returns the backup's manifest. as.Node is the member:
// its name, key, address and zone. If the zone is empty, the node keeps its zone in the backup.
// state.Recover says what happens to the other nodes.
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
	index := m.Index + recoveredEntries
	_, err = restored.Apply(index, state.Command{Time: time.Now(), Request: &as})
	if err != nil {
		return Manifest{}, fmt.Errorf("restore a backup: %w", err)
	}

	// The log is written to a draft directory, which gets its name when all of it is on disk.
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
