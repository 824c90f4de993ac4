package state

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// A snapshot is a file of JSON lines: a header, then one row in each line, ordered by table and
// key, then the number of rows, which reveals a truncated file. Two States that applied the same
// log write the same bytes.
const (
	snapshotFormat = "palisade-state"

	// Version 2 added the numbers of nodes and the join tokens. Restore reads both versions.
	snapshotVersion = 2
)

type snapshotHeader struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
}

type snapshotRow struct {
	Table string          `json:"table"`
	Row   json.RawMessage `json:"row"`
}

// snapshotEnd is the last line. Its Table is "end".
type snapshotEnd struct {
	Table string `json:"table"`
	Rows  int    `json:"rows"`
}

// snapshotTables are the tables in the order of a snapshot, each with a constructor of its rows.
var snapshotTables = []struct {
	name string
	row  func() any
}{
	{tableMeta, func() any { return new(meta) }},
	{tableAccount, func() any { return new(ec2.Account) }},
	{tableAccessKey, func() any { return new(ec2.AccessKey) }},
	{tableNetwork, func() any { return new(ec2.Network) }},
	{tableNode, func() any { return new(ec2.Node) }},
	{tableGroup, func() any { return new(ec2.Group) }},
	{tableKeyPair, func() any { return new(ec2.KeyPair) }},
	{tableInstance, func() any { return new(ec2.Instance) }},
	{tableInterface, func() any { return new(ec2.Interface) }},
	{tableAddress, func() any { return new(address) }},
	{tableJoinToken, func() any { return new(ec2.JoinToken) }},
	{tableVPC, func() any { return new(ec2.VPC) }},
	{tableSubnet, func() any { return new(ec2.Subnet) }},
	{tableGateway, func() any { return new(ec2.InternetGateway) }},
	{tableNAT, func() any { return new(ec2.NATGateway) }},
	{tableRoutes, func() any { return new(ec2.RouteTable) }},
	{tableElastic, func() any { return new(ec2.ElasticAddress) }},
	{tableVolume, func() any { return new(ec2.Volume) }},
	{tableTag, func() any { return new(ec2.Tag) }},
	{tablePeering, func() any { return new(ec2.VPCPeering) }},
	{tableACL, func() any { return new(ec2.NetworkACL) }},
	{tableAudit, func() any { return new(ec2.AuditRecord) }},
	{tableSignature, func() any { return new(Signature) }},
	{tableAuditRing, func() any { return new(ec2.AuditRing) }},
	{tableTemplate, func() any { return new(ec2.LaunchTemplate) }},
	{tableTemplateVersion, func() any { return new(ec2.LaunchTemplateVersion) }},
	{tablePlacement, func() any { return new(ec2.PlacementGroup) }},
	{tableDHCP, func() any { return new(ec2.DHCPOptions) }},
	{tablePrefixList, func() any { return new(ec2.PrefixList) }},
	{tablePrefixListVersion, func() any { return new(ec2.PrefixListVersion) }},
}

// WriteSnapshot writes the View as a snapshot, which Restore reads.
func (v *View) WriteSnapshot(w io.Writer) error {
	b := bufio.NewWriter(w)
	out := json.NewEncoder(b)
	if err := out.Encode(snapshotHeader{snapshotFormat, snapshotVersion}); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	count := 0
	for _, table := range snapshotTables {
		it, err := v.txn().Get(table.name, indexID+"_prefix", "")
		if err != nil {
			panic(fmt.Sprintf("state: snapshot of %s: %v", table.name, err))
		}
		for row := it.Next(); row != nil; row = it.Next() {
			data, err := json.Marshal(row)
			if err != nil {
				return fmt.Errorf("write snapshot: %s: %w", table.name, err)
			}
			if err := out.Encode(snapshotRow{table.name, data}); err != nil {
				return fmt.Errorf("write snapshot: %w", err)
			}
			count++
		}
	}
	if err := out.Encode(snapshotEnd{"end", count}); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

// Restore returns the State of a snapshot. It returns an error for a snapshot that is damaged, is
// of a version unknown to this release, or violates an invariant of Apply.
func Restore(r io.Reader) (*State, error) {
	s := NewState()
	if err := s.restore(r); err != nil {
		return nil, fmt.Errorf("restore snapshot: %w", err)
	}
	return s, nil
}

func (s *State) restore(r io.Reader) error {
	in := json.NewDecoder(bufio.NewReader(r))
	in.DisallowUnknownFields()
	var h snapshotHeader
	if err := in.Decode(&h); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	if h.Format != snapshotFormat || h.Version < 1 || h.Version > snapshotVersion {
		return fmt.Errorf("format %q version %d is not known to this release", h.Format, h.Version)
	}

	t := s.db.Txn(true)
	defer t.Abort()
	if _, err := t.DeleteAll(tableMeta, indexID+"_prefix", ""); err != nil {
		return err
	}
	for count := 0; ; count++ {
		var line struct {
			snapshotRow
			Rows *int `json:"rows"`
		}
		if err := in.Decode(&line); err != nil {
			return fmt.Errorf("after %d rows: %w", count, err)
		}
		if line.Table == "end" {
			if line.Rows == nil || *line.Rows != count || line.Row != nil {
				return fmt.Errorf("has %d rows, but its last line names another number", count)
			}
			break
		}
		if err := restoreRow(t, line.Table, line.Row); err != nil {
			return fmt.Errorf("row %d: %w", count+1, err)
		}
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return errors.New("has more data after its last line")
	}
	if h.Version == 1 {
		numberNodes(t)
	}
	if err := checkRestored(t); err != nil {
		return err
	}
	countGroups(t)
	countSignatures(t)
	m := first[meta](t, tableMeta, indexID, key(""))
	t.Commit()
	s.current.Store(&version{db: s.db.Snapshot(), meta: m, tail: &delta{}})
	return nil
}

func restoreRow(t *memdb.Txn, table string, data json.RawMessage) error {
	for _, known := range snapshotTables {
		if known.name != table {
			continue
		}
		row := known.row()
		if err := decodeStrict(data, row); err != nil {
			return fmt.Errorf("%s: %w", table, err)
		}
		return t.Insert(table, row)
	}
	return fmt.Errorf("table %q is not known to this release", table)
}

// numberNodes numbers the nodes of a version 1 snapshot as PutNode numbers them today. Releases
// that wrote version 1 had one node per cluster, so the order of the nodes does not matter.
func numberNodes(t *memdb.Txn) {
	m := first[meta](t, tableMeta, indexID, key(""))
	if m == nil {
		return // checkRestored reports it
	}
	x := &tx{Txn: t, meta: new(*m)}
	for _, n := range slices.Collect(rows[ec2.Node](t, tableNode, indexID, "")) {
		now := *n
		x.admit(&now)
		x.put(tableNode, &now)
	}
	x.put(tableMeta, x.meta)
}

// checkRestored returns an error for a state that Apply cannot have made. Apply relies on the
// invariants that are checked here and would panic later.
func checkRestored(t *memdb.Txn) error {
	m := first[meta](t, tableMeta, indexID, key(""))
	if m == nil {
		return errors.New("has no meta row")
	}
	for k := range rows[ec2.AccessKey](t, tableAccessKey, indexID, "") {
		if k.Secret == "" && (k.Sealed.Key != m.SealKey || len(k.Sealed.Box) == 0) {
			return fmt.Errorf("access key %s is sealed under %q, not the cluster's key %q", k.ID, k.Sealed.Key, m.SealKey)
		}
	}
	numbers := make(map[uint32]ec2.NodeID)
	for n := range rows[ec2.Node](t, tableNode, indexID, "") {
		if n.Number == 0 || n.Number > m.NodeNumber || numbers[n.Number] != "" {
			return fmt.Errorf("node %s has number %d, which is above %d, the last one assigned, or belongs to node %q", n.ID, n.Number, m.NodeNumber, numbers[n.Number])
		}
		numbers[n.Number] = n.ID
	}
	return cmp.Or(checkAuditRows(t, m), checkVPCRows(t), checkSubnetRows(t), checkInterfaceRows(t, m), checkInstanceRows(t), checkVolumeRows(t), checkAddressRows(t), checkLaunchRows(t), checkPeeringRows(t), checkPrefixListRows(t))
}
