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

// A backup is a line of JSON, the Manifest, and behind it the bytes of
// state.View.WriteSnapshot.
const (
	backupFormat  = "palisade-backup"
	backupVersion = 1
	maxManifest   = 64 << 10
)

// A Manifest says what a backup holds.
type Manifest struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	Cluster string    `json:"cluster"` // id of the one it was made of
	Index   uint64    `json:"index"`   // of the last change in it
	Time    time.Time `json:"time"`    // of that change
	Counts  Counts    `json:"counts"`
	Bytes   int64     `json:"bytes"` // behind the manifest

	// The secrets of access keys: the id of the cluster key that they are sealed under,
	// and how many are in plain text, of an earlier release.
	SealKey      string `json:"seal_key,omitempty"`
	PlainSecrets int    `json:"plain_secrets,omitempty"`

	SHA256 string `json:"sha256"` // of the manifest without this field, and those bytes
}

// Counts tell people whether a backup is the one they mean.
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

// seal begins the digest of a backup with its manifest.
func (m Manifest) seal() (hash.Hash, error) {
	m.SHA256 = ""
	data, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	h.Write(data)
	return h, nil
}

// Save writes a backup of a View of the cluster with that id.
func Save(w io.Writer, cluster string, v *state.View) (Manifest, error) {
	m := Manifest{
		Format: backupFormat, Version: backupVersion, Cluster: cluster, Index: v.Index(), Time: v.Time(), Counts: countsOf(v),
		SealKey: v.SealKey(), PlainSecrets: plainSecrets(v),
	}
	var length counter // a View is immutable, so that both writings are alike
	if err := v.WriteSnapshot(&length); err != nil {
		return Manifest{}, fmt.Errorf("save a backup: %w", err)
	}
	m.Bytes = int64(length)
	h, err := m.seal()
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

// Inspect reads a whole backup and says what it holds. Anything amiss is an error.
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
		return m, nil, errors.New("it has no manifest: this is no backup, or not all of one")
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return m, nil, fmt.Errorf("manifest: %w", err)
	}
	if m.Format != backupFormat || m.Version != backupVersion {
		return m, nil, fmt.Errorf("format %q version %d is not known to this release", m.Format, m.Version)
	}
	h, err := m.seal()
	if err != nil {
		return m, nil, err
	}
	restored, err := state.Restore(io.TeeReader(io.LimitReader(in, m.Bytes), h))
	if err != nil {
		return m, nil, fmt.Errorf("it is damaged: %w", err)
	}
	if _, err := in.ReadByte(); err != io.EOF {
		return m, nil, errors.New("it is damaged: it goes on after its end")
	}
	if sum := hex.EncodeToString(h.Sum(nil)); sum != m.SHA256 {
		return m, nil, fmt.Errorf("it is damaged: its SHA-256 is %s, not %s", sum, m.SHA256)
	}
	if v := restored.View(); v.Index() != m.Index || countsOf(v) != m.Counts || v.SealKey() != m.SealKey {
		return m, nil, errors.New("its manifest is not of this backup")
	}
	return m, restored, nil
}

// recoveredEntries is how far a restored log begins above its backup: what the lost
// cluster decided after that, and what anybody enforced of it, has lower numbers than
// anything the new one decides.
const recoveredEntries = 1 << 32

// Restore makes of a backup the log of a cluster with one member, in a directory that is
// empty or not there, all or nothing. as.Node has the member's name, its key, and its
// address with a port of its own; where the backup knows the node, an empty zone stays
// what it was. See state.Recover for what becomes of the others; its gossip key is made
// here.
func Restore(dir string, r io.Reader, as state.Recover) (Manifest, error) {
	left, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Manifest{}, fmt.Errorf("restore a backup: %w", err)
	}
	if len(left) > 0 {
		return Manifest{}, fmt.Errorf("restore a backup: %s holds a log already; move it away first", dir)
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

	// Raft's own directory is moved into place when all of it is on disk.
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

// writeRestored writes a snapshot with one voter, and a store that says that there is
// one.
func writeRestored(dir string, index uint64, v *state.View, node ec2.Node) (err error) {
	s, err := openStore(filepath.Join(dir, "raft.db"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	const term = 1
	if err := s.SetUint64([]byte("CurrentTerm"), term); err != nil { // raft's own key
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
