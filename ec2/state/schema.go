package state

import (
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"
	"strings"

	"github.com/hashicorp/go-memdb"

	"palisade/ec2"
)

// The names of tables and indexes. The comment of an index says what its keys consist of.
const (
	tableMeta      = "meta"
	tableAccount   = "account"
	tableAccessKey = "accesskey"
	tableNetwork   = "network"
	tableNode      = "node"
	tableGroup     = "group"
	tableInstance  = "instance"
	tableInterface = "interface"
	tableAddress   = "address"
	tableKeyPair   = "keypair"
	tableJoinToken = "jointoken"
	tableVPC       = "vpc"
	tableSubnet    = "subnet"
	tableGateway   = "gateway"
	tableNAT       = "nat"
	tableRoutes    = "routetable"
	tableElastic   = "elastic"
	tableTag       = "tag"
	tableACL       = "acl"
	tablePeering   = "peering"
	tableVolume    = "volume"
	tableAudit     = "audit"
	tableSignature = "signature"

	tableAuditRing = "auditring"

	tableTemplate        = "launchtemplate"
	tableTemplateVersion = "launchtemplateversion"
	tablePlacement       = "placementgroup"
	tableDHCP            = "dhcpoptions"

	tablePrefixList        = "prefixlist"
	tablePrefixListVersion = "prefixlistversion"

	tableGroupCount     = "groupcount"
	tableSignatureCount = "signaturecount"

	indexID     = "id"
	indexName   = "name"   // account, region, VPC, name
	indexOwner  = "owner"  // account, region; then the id of a group; only the account of an access key; account, position of an audit record
	indexSource = "source" // of a group: the groups and prefix lists that its rules name
	indexRule   = "rule"   // of a group: its rules
	indexMember = "member" // of an instance or an interface: its groups
	indexToken  = "token"  // account, region, client token
	indexRegion = "region" // region, VPC
	indexNode   = "node"   // of an interface: its node
	indexVPC    = "vpc"    // of a subnet, gateway, route table or network ACL: its VPC; of a peering: both
	indexSubnet = "subnet" // of an interface: its subnet
	indexHolder = "holder" // of an interface or a volume: the instances it is attached to
	indexList   = "list"   // of a route table: the prefix lists that its routes name
	indexLength = "length" // of an audit ring: number of records, the most first
)

var schema = &memdb.DBSchema{Tables: map[string]*memdb.TableSchema{
	tableMeta:    table(tableMeta, func(*meta) string { return key("") }),
	tableAccount: table(tableAccount, func(a *ec2.Account) string { return key(a.ID) }),
	tableAccessKey: table(tableAccessKey, func(k *ec2.AccessKey) string { return key(k.ID) },
		many(indexOwner, func(k *ec2.AccessKey) []string { return []string{key(k.Account)} })),
	tableNetwork: table(tableNetwork, func(n *ec2.Network) string { return vniKey(n.VNI) },
		unique(indexRegion, func(n *ec2.Network) string { return key(n.Region) + key(n.VPC) })),
	tableNode: table(tableNode, func(n *ec2.Node) string { return key(n.ID) }),
	tableGroup: table(tableGroup, func(g *ec2.Group) string { return key(g.ID) },
		unique(indexName, func(g *ec2.Group) string { return groupName(g.Account, g.Region, g.VPC, g.Name) }),
		unique(indexOwner, func(g *ec2.Group) string { return key(g.Account) + key(g.Region) + key(g.ID) }),
		many(indexSource, sourcesOf),
		many(indexRule, rulesOf)),
	tableGroupCount:     table(tableGroupCount, (*groupCount).key),
	tableSignature:      table(tableSignature, (*Signature).key),
	tableSignatureCount: table(tableSignatureCount, func(c *signatureCount) string { return key(c.Account) }),
	tableInstance: table(tableInstance, func(i *ec2.Instance) string { return key(i.ID) },
		many(indexOwner, func(i *ec2.Instance) []string { return []string{key(i.Account) + key(i.Region)} }),
		many(indexMember, membershipsOf),
		many(indexToken, func(i *ec2.Instance) []string {
			if i.ClientToken == "" {
				return nil
			}
			return []string{key(i.Account) + key(i.Region) + key(i.ClientToken)}
		})),
	tableInterface: table(tableInterface, func(i *ec2.Interface) string { return key(i.ID) },
		many(indexNode, func(i *ec2.Interface) []string { return []string{key(i.Node)} }),
		many(indexOwner, func(i *ec2.Interface) []string { return []string{key(i.Account) + key(i.Region)} }),
		many(indexMember, func(i *ec2.Interface) []string { return keysOf(i.Groups) }),
		many(indexSubnet, func(i *ec2.Interface) []string { return []string{key(i.Subnet)} }),
		many(indexHolder, func(i *ec2.Interface) []string { return []string{key(i.Instance)} }),
		many(indexToken, func(i *ec2.Interface) []string {
			if i.ClientToken == "" {
				return nil
			}
			return []string{key(i.Account) + key(i.Region) + key(i.ClientToken)}
		})),
	tableAddress:   table(tableAddress, func(a *address) string { return addressKey(a.VNI, a.Addr) }),
	tableKeyPair:   table(tableKeyPair, func(k *ec2.KeyPair) string { return key(k.Account) + key(k.Region) + key(k.Name) }),
	tableJoinToken: table(tableJoinToken, func(k *ec2.JoinToken) string { return key(k.ID) }),
	tableVPC: table(tableVPC, func(x *ec2.VPC) string { return key(x.ID) },
		many(indexOwner, func(x *ec2.VPC) []string { return []string{key(x.Account) + key(x.Region)} })),
	tableSubnet: table(tableSubnet, func(x *ec2.Subnet) string { return key(x.ID) },
		many(indexOwner, func(x *ec2.Subnet) []string { return []string{key(x.Account) + key(x.Region)} }),
		many(indexVPC, func(x *ec2.Subnet) []string { return []string{key(x.VPC)} })),
	tableGateway: table(tableGateway, func(x *ec2.InternetGateway) string { return key(x.ID) },
		many(indexOwner, func(x *ec2.InternetGateway) []string { return []string{key(x.Account) + key(x.Region)} }),
		many(indexVPC, func(x *ec2.InternetGateway) []string { return []string{key(x.VPC)} })),
	tableNAT: table(tableNAT, func(x *ec2.NATGateway) string { return key(x.ID) },
		many(indexOwner, func(x *ec2.NATGateway) []string { return []string{key(x.Account) + key(x.Region)} }),
		many(indexToken, func(x *ec2.NATGateway) []string {
			if x.ClientToken == "" {
				return nil
			}
			return []string{key(x.Account) + key(x.Region) + key(x.ClientToken)}
		})),
	tableRoutes: table(tableRoutes, func(x *ec2.RouteTable) string { return key(x.ID) },
		many(indexOwner, func(x *ec2.RouteTable) []string { return []string{key(x.Account) + key(x.Region)} }),
		many(indexVPC, func(x *ec2.RouteTable) []string { return []string{key(x.VPC)} }),
		many(indexList, listsOf)),
	tableElastic: table(tableElastic, func(x *ec2.ElasticAddress) string { return key(x.ID) },
		many(indexOwner, func(x *ec2.ElasticAddress) []string { return []string{key(x.Account) + key(x.Region)} })),
	tableVolume: table(tableVolume, func(x *ec2.Volume) string { return key(x.ID) },
		many(indexOwner, func(x *ec2.Volume) []string { return []string{key(x.Account) + key(x.Region)} }),
		many(indexHolder, holdersOf)),
	tableAudit: table(tableAudit, func(r *ec2.AuditRecord) string { return auditKey(r.Number) },
		many(indexOwner, auditPositionOf)),
	tableAuditRing: table(tableAuditRing, func(r *ec2.AuditRing) string { return key(r.Account) },
		unique(indexLength, auditLength)),
	tablePeering: table(tablePeering, func(x *ec2.VPCPeering) string { return key(x.ID) },
		many(indexOwner, func(x *ec2.VPCPeering) []string {
			return []string{key(x.Requester.Account) + key(x.Requester.Region), key(x.Accepter.Account) + key(x.Accepter.Region)}
		}),
		many(indexVPC, func(x *ec2.VPCPeering) []string { return []string{key(x.Requester.VPC), key(x.Accepter.VPC)} })),
	tableACL: table(tableACL, func(x *ec2.NetworkACL) string { return key(x.ID) },
		many(indexOwner, func(x *ec2.NetworkACL) []string { return []string{key(x.Account) + key(x.Region)} }),
		many(indexVPC, func(x *ec2.NetworkACL) []string { return []string{key(x.VPC)} })),
	tableTemplate: table(tableTemplate, func(x *ec2.LaunchTemplate) string { return key(x.ID) },
		unique(indexName, func(x *ec2.LaunchTemplate) string { return key(x.Account) + key(x.Region) + key(x.Name) }),
		many(indexOwner, func(x *ec2.LaunchTemplate) []string { return []string{key(x.Account) + key(x.Region)} })),
	tableTemplateVersion: table(tableTemplateVersion, func(x *ec2.LaunchTemplateVersion) string { return versionKey(x.Template, x.Number) }),
	tablePlacement: table(tablePlacement, func(x *ec2.PlacementGroup) string { return key(x.ID) },
		unique(indexName, func(x *ec2.PlacementGroup) string { return key(x.Account) + key(x.Region) + key(x.Name) }),
		many(indexOwner, func(x *ec2.PlacementGroup) []string { return []string{key(x.Account) + key(x.Region)} })),
	tableDHCP: table(tableDHCP, func(x *ec2.DHCPOptions) string { return key(x.ID) },
		many(indexOwner, func(x *ec2.DHCPOptions) []string { return []string{key(x.Account) + key(x.Region)} })),
	tablePrefixList: table(tablePrefixList, func(x *ec2.PrefixList) string { return key(x.ID) },
		many(indexOwner, func(x *ec2.PrefixList) []string { return []string{key(x.Account) + key(x.Region)} })),
	tablePrefixListVersion: table(tablePrefixListVersion, func(x *ec2.PrefixListVersion) string { return listVersionKey(x.List, x.Number) }),
	tableTag: table(tableTag, func(x *ec2.Tag) string { return tagsOf(x.Resource, x.Account, x.Region) + key(x.Key) },
		many(indexOwner, func(x *ec2.Tag) []string { return []string{key(x.Account) + key(x.Region)} })),
}}

func sourcesOf(g *ec2.Group) []string {
	var keys []string
	for _, r := range g.Rules {
		if r.Source.IsGroup() && r.Source.Group.ID != g.ID {
			keys = append(keys, key(r.Source.Group.ID))
		}
		if r.Source.IsPrefixList() {
			keys = append(keys, key(r.Source.PrefixList))
		}
	}
	return keys
}

// listsOf returns the keys of the prefix lists that a table's routes name.
func listsOf(rt *ec2.RouteTable) []string {
	var keys []string
	for _, r := range rt.Routes {
		if r.PrefixList != "" {
			keys = append(keys, key(r.PrefixList))
		}
	}
	return keys
}

func rulesOf(g *ec2.Group) []string {
	keys := make([]string, len(g.Rules))
	for i := range g.Rules {
		keys[i] = key(g.Rules[i].ID)
	}
	return keys
}

// membershipsOf returns the group keys of an instance. A terminated instance has none, so it does
// not keep a group from being deleted.
func membershipsOf(i *ec2.Instance) []string {
	if i.State == ec2.Terminated {
		return nil
	}
	return keysOf(i.Groups)
}

// holdersOf returns the keys of the instances that a volume is attached to.
func holdersOf(v *ec2.Volume) []string {
	var keys []string
	for _, a := range v.Attachments {
		keys = append(keys, key(a.Instance))
	}
	return keys
}

func keysOf[S ~string](ids []S) []string {
	var keys []string
	for _, id := range ids {
		keys = append(keys, key(id))
	}
	return keys
}

// key returns an index key. The NUL at its end keeps "a" from being a prefix of "ab".
func key[S ~string](s S) string { return string(s) + "\x00" }

func vniKey(v ec2.VNI) string { return string(binary.BigEndian.AppendUint32(nil, uint32(v))) }

// addressKey returns the key of an address. The keys sort like the addresses, so the first gap is
// the lowest free address.
func addressKey(v ec2.VNI, a netip.Addr) string {
	b := a.As16()
	return vniKey(v) + string(b[:])
}

func table[T any](name string, id func(*T) string, indexes ...*memdb.IndexSchema) *memdb.TableSchema {
	s := &memdb.TableSchema{Name: name, Indexes: map[string]*memdb.IndexSchema{
		indexID: unique(indexID, id),
	}}
	for _, i := range indexes {
		s.Indexes[i.Name] = i
	}
	return s
}

func unique[T any](name string, of func(*T) string) *memdb.IndexSchema {
	return &memdb.IndexSchema{Name: name, Unique: true, Indexer: single[T]{of: of}}
}

func many[T any](name string, of func(*T) []string) *memdb.IndexSchema {
	return &memdb.IndexSchema{Name: name, AllowMissing: true, Indexer: multi[T]{of: of}}
}

// args is an indexer that passes the key of a look-up to memdb unchanged.
type args struct{}

func (args) FromArgs(a ...any) ([]byte, error) {
	if len(a) != 1 {
		return nil, fmt.Errorf("%d keys", len(a))
	}
	return []byte(a[0].(string)), nil
}

func (x args) PrefixFromArgs(a ...any) ([]byte, error) { return x.FromArgs(a...) }

type single[T any] struct {
	args
	of func(*T) string
}

func (x single[T]) FromObject(row any) (bool, []byte, error) {
	return true, []byte(x.of(row.(*T))), nil
}

type multi[T any] struct {
	args
	of func(*T) []string
}

func (x multi[T]) FromObject(row any) (bool, [][]byte, error) {
	keys := x.of(row.(*T))
	bytes := make([][]byte, len(keys))
	for i, k := range keys {
		bytes[i] = []byte(k)
	}
	return len(keys) > 0, bytes, nil
}

// first returns the first row with a key, or nil.
func first[T any](t *memdb.Txn, table, index, k string) *T {
	row, err := t.First(table, index, k)
	if err != nil {
		panic(fmt.Sprintf("state: first %s by %s: %v", table, index, err))
	}
	if row == nil {
		return nil
	}
	return row.(*T)
}

// rows yields the rows whose key in an index begins with prefix, in the order of keys. If the
// index is not unique, prefix is a whole key.
func rows[T any](t *memdb.Txn, table, index, prefix string) iter.Seq[*T] {
	return func(yield func(*T) bool) {
		name := index
		if schema.Tables[table].Indexes[index].Unique && !strings.HasSuffix(name, "_prefix") {
			name += "_prefix"
		}
		it, err := t.Get(table, name, prefix)
		if err != nil {
			panic(fmt.Sprintf("state: rows of %s by %s: %v", table, index, err))
		}
		for row := it.Next(); row != nil; row = it.Next() {
			if !yield(row.(*T)) {
				return
			}
		}
	}
}
