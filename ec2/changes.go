package ec2

import (
	"cmp"
	"iter"
	"reflect"
	"slices"
	"sync/atomic"

	"github.com/hashicorp/go-memdb"
)

// Changes are what the data plane must follow.
type Changes struct {
	Groups     []Change[Group]
	Interfaces []Change[Interface]
	Instances  []Change[Instance]
	Networks   []Change[Network]
	Nodes      []Change[Node]

	Subnets     []Change[Subnet]
	RouteTables []Change[RouteTable]
	Gateways    []Change[InternetGateway]
}

// A delta is the changes of one command and the way to the next command's. A View holds
// the delta it ends with, so the list from there on lives exactly as long as somebody
// may still ask for it.
type delta struct {
	changes memdb.Changes
	next    atomic.Pointer[delta]
}

// changesBetween merges the commands after was, up to now. Views of two States (one was
// restored from a snapshot) have no list between them and are compared row by row.
func changesBetween(was, now *version) *Changes {
	m := newMerger()
	d := was.tail
	for d != now.tail {
		if d = d.next.Load(); d == nil {
			return compareVersions(was, now)
		}
		for _, c := range d.changes {
			m.add(c.Table, c.Before, c.After)
		}
	}
	return m.changes()
}

func everythingNew(v *View) Changes {
	return Changes{
		Groups:     added(v.Groups()),
		Interfaces: added(v.Interfaces()),
		Instances:  added(v.Instances()),
		Networks:   added(v.Networks()),
		Nodes:      added(v.Nodes()),

		Subnets:     added(everyRow[Subnet](v, tableSubnet)),
		RouteTables: added(everyRow[RouteTable](v, tableRoutes)),
		Gateways:    added(everyRow[InternetGateway](v, tableGateway)),
	}
}

func everyRow[T any](v *View, table string) iter.Seq[*T] { return rows[T](v.txn(), table, indexID, "") }

func added[T any](all iter.Seq[*T]) []Change[T] {
	var list []Change[T]
	for row := range all {
		list = append(list, Change[T]{After: row})
	}
	return list
}

func compareVersions(was, now *version) *Changes {
	a, b := &View{v: was}, &View{v: now}
	return &Changes{
		Groups:     compare(a.Groups(), b.Groups(), (*Group).changeKey),
		Interfaces: compare(a.Interfaces(), b.Interfaces(), (*Interface).changeKey),
		Instances:  compare(a.Instances(), b.Instances(), (*Instance).changeKey),
		Networks:   compare(a.Networks(), b.Networks(), (*Network).changeKey),
		Nodes:      compare(a.Nodes(), b.Nodes(), (*Node).changeKey),

		Subnets:     compare(everyRow[Subnet](a, tableSubnet), everyRow[Subnet](b, tableSubnet), (*Subnet).changeKey),
		RouteTables: compare(everyRow[RouteTable](a, tableRoutes), everyRow[RouteTable](b, tableRoutes), (*RouteTable).changeKey),
		Gateways:    compare(everyRow[InternetGateway](a, tableGateway), everyRow[InternetGateway](b, tableGateway), (*InternetGateway).changeKey),
	}
}

func compare[T any](was, now iter.Seq[*T], id func(*T) string) []Change[T] {
	m := make(merge[T])
	for row := range was {
		m.add(id(row), row, nil)
	}
	for row := range now {
		m.add(id(row), nil, row)
	}
	return m.list(reflect.DeepEqual)
}

func (g *Group) changeKey() string     { return string(g.ID) }
func (i *Interface) changeKey() string { return string(i.ID) }
func (i *Instance) changeKey() string  { return string(i.ID) }
func (n *Network) changeKey() string   { return vniKey(n.VNI) }
func (n *Node) changeKey() string      { return string(n.ID) }

func (s *Subnet) changeKey() string          { return string(s.ID) }
func (t *RouteTable) changeKey() string      { return string(t.ID) }
func (g *InternetGateway) changeKey() string { return string(g.ID) }

// A merger folds the changes of several commands into one per row.
type merger struct {
	groups     merge[Group]
	interfaces merge[Interface]
	instances  merge[Instance]
	networks   merge[Network]
	nodes      merge[Node]

	subnets  merge[Subnet]
	routes   merge[RouteTable]
	gateways merge[InternetGateway]
}

func newMerger() *merger {
	return &merger{
		make(merge[Group]), make(merge[Interface]), make(merge[Instance]), make(merge[Network]), make(merge[Node]),
		make(merge[Subnet]), make(merge[RouteTable]), make(merge[InternetGateway]),
	}
}

func (m *merger) add(table string, before, after any) {
	switch table {
	case tableGroup:
		mergeRow(m.groups, before, after, (*Group).changeKey)
	case tableInterface:
		mergeRow(m.interfaces, before, after, (*Interface).changeKey)
	case tableInstance:
		mergeRow(m.instances, before, after, (*Instance).changeKey)
	case tableNetwork:
		mergeRow(m.networks, before, after, (*Network).changeKey)
	case tableNode:
		mergeRow(m.nodes, before, after, (*Node).changeKey)
	case tableSubnet:
		mergeRow(m.subnets, before, after, (*Subnet).changeKey)
	case tableRoutes:
		mergeRow(m.routes, before, after, (*RouteTable).changeKey)
	case tableGateway:
		mergeRow(m.gateways, before, after, (*InternetGateway).changeKey)
	}
}

func (m *merger) changes() *Changes {
	same := func(a, b any) bool { return a == b }
	return &Changes{
		m.groups.list(same), m.interfaces.list(same), m.instances.list(same), m.networks.list(same), m.nodes.list(same),
		m.subnets.list(same), m.routes.list(same), m.gateways.list(same),
	}
}

func mergeRow[T any](m merge[T], before, after any, id func(*T) string) {
	b, _ := before.(*T)
	a, _ := after.(*T)
	if b != nil {
		m.add(id(b), b, a)
	} else if a != nil {
		m.add(id(a), b, a)
	}
}

// merge holds, by id, the first Before and the last After.
type merge[T any] map[string]Change[T]

func (m merge[T]) add(id string, before, after *T) {
	if c, ok := m[id]; ok {
		before = c.Before
	}
	m[id] = Change[T]{before, after}
}

func (m merge[T]) list(same func(a, b any) bool) []Change[T] {
	ids := make([]string, 0, len(m))
	for id, c := range m {
		if c.Before == nil && c.After == nil {
			continue // came and went in between
		}
		if c.Before != nil && c.After != nil && same(c.Before, c.After) {
			continue
		}
		ids = append(ids, id)
	}
	slices.SortFunc(ids, cmp.Compare[string])
	var list []Change[T]
	for _, id := range ids {
		list = append(list, m[id])
	}
	return list
}
