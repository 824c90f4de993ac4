package state

import (
	"cmp"
	"reflect"
	"slices"
	"sync/atomic"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// Changes are the changed rows of the tables that the data plane uses, before and after. Each
// list is sorted by id.
type Changes struct {
	Groups     []Change[ec2.Group]
	Interfaces []Change[ec2.Interface]
	Instances  []Change[ec2.Instance]
	Networks   []Change[ec2.Network]
	Nodes      []Change[ec2.Node]

	Subnets     []Change[ec2.Subnet]
	RouteTables []Change[ec2.RouteTable]
	Gateways    []Change[ec2.InternetGateway]
	NATs        []Change[ec2.NATGateway]
	ACLs        []Change[ec2.NetworkACL]
	PrefixLists []Change[ec2.PrefixList]
	Peerings    []Change[ec2.VPCPeering]
}

// lists returns a merge for each list of Changes. A new list of Changes also needs a line here.
func (c *Changes) lists() []rowMerge {
	return []rowMerge{
		newMerge(&c.Groups, tableGroup, func(g *ec2.Group) string { return string(g.ID) }),
		newMerge(&c.Interfaces, tableInterface, func(i *ec2.Interface) string { return string(i.ID) }),
		newMerge(&c.Instances, tableInstance, func(i *ec2.Instance) string { return string(i.ID) }),
		newMerge(&c.Networks, tableNetwork, func(n *ec2.Network) string { return vniKey(n.VNI) }),
		newMerge(&c.Nodes, tableNode, func(n *ec2.Node) string { return string(n.ID) }),
		newMerge(&c.Subnets, tableSubnet, func(s *ec2.Subnet) string { return string(s.ID) }),
		newMerge(&c.RouteTables, tableRoutes, func(t *ec2.RouteTable) string { return string(t.ID) }),
		newMerge(&c.PrefixLists, tablePrefixList, func(l *ec2.PrefixList) string { return string(l.ID) }),
		newMerge(&c.ACLs, tableACL, func(a *ec2.NetworkACL) string { return a.ID }),
		newMerge(&c.Peerings, tablePeering, func(p *ec2.VPCPeering) string { return string(p.ID) }),
		newMerge(&c.NATs, tableNAT, func(g *ec2.NATGateway) string { return string(g.ID) }),
		newMerge(&c.Gateways, tableGateway, func(g *ec2.InternetGateway) string { return string(g.ID) }),
	}
}

// A delta has the changes of one command and a link to the delta of the next command. A version
// points at the delta of its command, so the garbage collector keeps exactly the deltas that
// follow the oldest View in use.
type delta struct {
	changes memdb.Changes
	next    atomic.Pointer[delta]
}

// changesBetween returns the merged changes of the commands after was, up to now. If no link leads
// from was to now, because now was restored from a snapshot, it compares all rows instead.
func changesBetween(was, now *version) *Changes {
	changes := new(Changes)
	lists := changes.lists()
	byTable := make(map[string]rowMerge, len(lists))
	for _, l := range lists {
		byTable[l.tableName()] = l
	}
	d := was.tail
	for d != now.tail {
		if d = d.next.Load(); d == nil {
			return compareVersions(was, now)
		}
		for _, c := range d.changes {
			if l, ok := byTable[c.Table]; ok {
				l.add(c.Before, c.After)
			}
		}
	}
	for _, l := range lists {
		l.finish(func(a, b any) bool { return a == b })
	}
	return changes
}

// compareVersions returns the rows that differ between two versions.
func compareVersions(was, now *version) *Changes {
	changes := new(Changes)
	before, after := was.db.Txn(false), now.db.Txn(false)
	for _, l := range changes.lists() {
		l.addRows(before, after)
		l.finish(reflect.DeepEqual)
	}
	return changes
}

// allRowsAsNew returns Changes in which every row of a version is new.
func allRowsAsNew(now *version) *Changes {
	changes := new(Changes)
	after := now.db.Txn(false)
	for _, l := range changes.lists() {
		l.addRows(nil, after)
		l.finish(reflect.DeepEqual)
	}
	return changes
}

// A rowMerge folds the changes of the rows of one table into one list of Changes.
type rowMerge interface {
	tableName() string
	add(before, after any)                    // one change of one row; before is nil for a new row, after for a deleted one
	addRows(before, after *memdb.Txn)         // all rows of two versions; nil stands for an empty version
	finish(same func(before, after any) bool) // writes the list, sorted by id, without rows for which same is true
}

type merge[T any] struct {
	list  *[]Change[T]
	table string
	id    func(*T) string
	rows  map[string]Change[T] // by id, with the first Before and the last After
}

func newMerge[T any](list *[]Change[T], table string, id func(*T) string) rowMerge {
	return &merge[T]{list, table, id, make(map[string]Change[T])}
}

func (m *merge[T]) tableName() string { return m.table }

func (m *merge[T]) add(before, after any) {
	b, _ := before.(*T)
	a, _ := after.(*T)
	id := ""
	switch {
	case b != nil:
		id = m.id(b)
	case a != nil:
		id = m.id(a)
	}
	if c, ok := m.rows[id]; ok {
		b = c.Before
	}
	m.rows[id] = Change[T]{b, a}
}

func (m *merge[T]) addRows(before, after *memdb.Txn) {
	if before != nil {
		for row := range rows[T](before, m.table, indexID, "") {
			m.add(row, nil)
		}
	}
	for row := range rows[T](after, m.table, indexID, "") {
		m.add(nil, row)
	}
}

func (m *merge[T]) finish(same func(before, after any) bool) {
	ids := make([]string, 0, len(m.rows))
	for id, c := range m.rows {
		switch {
		case c.Before == nil && c.After == nil: // inserted and deleted in between
		case c.Before != nil && c.After != nil && same(c.Before, c.After):
		default:
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, cmp.Compare[string])
	for _, id := range ids {
		*m.list = append(*m.list, m.rows[id])
	}
}
