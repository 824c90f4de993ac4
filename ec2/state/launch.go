package state

import (
	"net/netip"
	"regexp"
	"slices"

	"palisade/ec2"
)

// RunInstances launches MinCount to MaxCount instances. Without groups they are in the default
// group. A repeated request with the same ClientToken returns the instances of the first one.
// Result: Instances.
//
// The launch goes into EC2-Classic if the account is on that platform and the request names
// neither a subnet nor interfaces. Every other launch goes into a VPC.
type RunInstances struct {
	Account     ec2.AccountID
	Region      ec2.Region
	Image       string
	Type        string
	KeyName     string
	Groups      []GroupSelector
	UserData    []byte
	MinCount    int
	MaxCount    int
	Zone        string // "": any
	ClientToken string

	Tags                 map[string]string    `json:",omitempty"` // of the instances
	TerminationProtected bool                 `json:",omitempty"`
	StopProtected        bool                 `json:",omitempty"`
	TerminateOnShutdown  bool                 `json:",omitempty"`
	Metadata             *ec2.MetadataOptions `json:",omitempty"`

	Monitored  bool                 `json:",omitempty"`
	Options    ec2.InstanceOptions  `json:",omitzero"`
	Template   *ec2.TemplateVersion `json:",omitempty"` // what the other fields were read from; nil: no template
	RootDevice string               `json:",omitempty"` // the device of Volumes that the instances boot from; "": none
	Volumes    []LaunchVolume       `json:",omitempty"`
	VolumeTags map[string]string    `json:",omitempty"`

	// The fields below are for a VPC. Subnet to SecondaryCount describe the primary interface;
	// Interfaces describes all interfaces instead.

	Subnet         ec2.SubnetID      `json:",omitempty"` // "": the default one of the zone
	Private        netip.Addr        `json:",omitzero"`
	Secondary      []netip.Addr      `json:"Further,omitempty"`
	SecondaryCount int               `json:"FurtherCount,omitempty"`
	Interfaces     []LaunchInterface `json:",omitempty"`
	InterfaceTags  map[string]string `json:",omitempty"` // of new interfaces
}

// A LaunchInterface is one interface of the instances of a launch: an existing one, or a new one
// that Spec describes.
type LaunchInterface struct {
	DeviceIndex         int
	Interface           ec2.InterfaceID `json:",omitempty"`
	Spec                InterfaceSpec   `json:",omitzero"`
	Public              *bool           `json:",omitempty"` // whether it gets a public address; nil: as the subnet says
	DeleteOnTermination *bool           `json:",omitempty"` // nil: true for a new interface, false for an existing one
}

// maxUserData is the limit in bytes (EC2 User Guide, "User data").
const maxUserData = 16384

var imageID = regexp.MustCompile(`^ami-[0-9a-f]{8}([0-9a-f]{9})?$`)

func (r *RunInstances) apply(t *tx) (Result, error) {
	classic, err := r.classic(t)
	if err != nil {
		return Result{}, err
	}
	if err := r.check(); err != nil {
		return Result{}, err
	}
	if err := t.checkOptions(r.Account, r.Region, &r.Options); err != nil {
		return Result{}, err
	}
	shape := shapeOf(r)
	if r.ClientToken != "" {
		if made := t.instancesOfToken(r.Account, r.Region, r.ClientToken); len(made) > 0 {
			if made[0].RequestShape != shape {
				return Result{}, tokenMismatch()
			}
			return Result{Instances: unchanged(made)}, nil
		}
	}
	if classic {
		return r.launchClassic(t, shape)
	}
	return r.launchVPC(t, shape)
}

// classic reports whether the launch goes into EC2-Classic.
func (r *RunInstances) classic(t *tx) (bool, error) {
	a := first[ec2.Account](t.Txn, tableAccount, indexID, key(r.Account))
	if a == nil || a.Platform == ec2.Classic && r.Subnet == "" && len(r.Interfaces) == 0 {
		if err := t.requireClassic(r.Account, r.Region); err != nil {
			return false, err
		}
		if r.Private.IsValid() || len(r.Secondary) > 0 || r.SecondaryCount != 0 {
			return false, ec2.Errorf("InvalidParameterCombination", "An instance in EC2-Classic cannot choose its addresses")
		}
		return true, nil
	}
	return false, nil
}

func (r *RunInstances) launchClassic(t *tx, shape string) (Result, error) {
	groups, err := t.launchGroups(r.Account, r.Region, r.Groups)
	if err != nil {
		return Result{}, err
	}
	if err := t.checkLaunchKey(r); err != nil {
		return Result{}, err
	}
	count, err := t.launchCount(r)
	if err != nil {
		return Result{}, err
	}
	spread, err := t.newSpread(r.Region, r.Zone)
	if err != nil {
		return Result{}, err
	}

	system, err := t.fromTemplate(r)
	if err != nil {
		return Result{}, err
	}

	reservation := t.meta.classicID("r", t.serial())
	network := classicNetwork(t.Txn, r.Region)
	leases := t.newLeaser(network)
	var result Result
	for n := range count {
		i := r.newInstance(t, ec2.InstanceID(t.meta.classicID("i", t.serial())), shape)
		i.Reservation, i.LaunchIndex, i.Groups, i.Node = reservation, n, groups, spread.next()
		i.Zone = spread.zone[i.Node]
		if !leases.lease(i) {
			if n < r.MinCount {
				return Result{}, ec2.Errorf("InsufficientAddressCapacity", "There are not enough free addresses in network %d for %d more instances", network.VNI, r.MinCount-n)
			}
			break
		}
		t.put(tableInstance, i)
		if err := r.addVolumes(t, i); err != nil {
			return Result{}, err
		}
		if err := r.tagInstance(t, i, system); err != nil {
			return Result{}, err
		}
		result.Instances = append(result.Instances, Change[ec2.Instance]{After: i})
	}
	return result, nil
}

// newInstance returns an instance with what all instances of the launch have in common.
func (r *RunInstances) newInstance(t *tx, id ec2.InstanceID, shape string) *ec2.Instance {
	return &ec2.Instance{
		ID:           id,
		Account:      r.Account,
		Region:       r.Region,
		Image:        r.Image,
		Type:         r.Type,
		KeyName:      r.KeyName,
		UserData:     r.UserData,
		State:        ec2.Pending,
		LaunchTime:   t.meta.Time,
		ClientToken:  r.ClientToken,
		RequestShape: shape,

		TerminationProtected: r.TerminationProtected,
		StopProtected:        r.StopProtected,
		TerminateOnShutdown:  r.TerminateOnShutdown,
		Metadata:             r.Metadata,
		Monitored:            r.Monitored,
		Options:              r.Options,
		RootDevice:           r.RootDevice,
	}
}

func (r *RunInstances) check() error {
	if r.Image == "" {
		return ec2.Missing("ImageId")
	}
	if !imageID.MatchString(r.Image) {
		return ec2.Errorf("InvalidAMIID.Malformed", `Invalid id: "%s" (expecting "ami-...")`, ec2.Clip(r.Image))
	}
	if r.MinCount < 1 || r.MaxCount < 1 {
		return ec2.Errorf("InvalidParameterValue", "Value (%d) for parameter %s is invalid. Minimum value is 1.", min(r.MinCount, r.MaxCount), "minCount")
	}
	if r.MinCount > r.MaxCount {
		return ec2.Errorf("InvalidParameterCombination", "MinCount (%d) may not exceed MaxCount (%d)", r.MinCount, r.MaxCount)
	}
	if len(r.UserData) > maxUserData {
		return ec2.Errorf("InvalidParameterValue", "User data is limited to %d bytes", maxUserData)
	}
	if err := checkClientToken(r.ClientToken); err != nil {
		return err
	}
	if m := r.Metadata; m != nil {
		if err := checkMetadata(m); err != nil {
			return err
		}
	}
	if err := r.checkVolumes(); err != nil {
		return err
	}
	if !ec2.Printable(r.Type, 64) {
		return ec2.Errorf("InvalidParameterValue", "Invalid value '%s' for InstanceType.", ec2.Clip(r.Type))
	}
	return nil
}

func checkMetadata(m *ec2.MetadataOptions) error {
	for _, x := range []struct{ name, value, either, or string }{
		{"HttpEndpoint", m.Endpoint, "enabled", "disabled"},
		{"HttpTokens", m.Tokens, "optional", "required"},
		{"InstanceMetadataTags", m.Tags, "enabled", "disabled"},
		{"HttpProtocolIpv6", m.IPv6, "enabled", "disabled"},
	} {
		if x.value != "" && x.value != x.either && x.value != x.or {
			return ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter %s is invalid. It is %s or %s.", ec2.Clip(x.value), x.name, x.either, x.or)
		}
	}
	if m.Hops < 0 || m.Hops > 64 {
		return ec2.Errorf("InvalidParameterValue", "Value (%d) for parameter HttpPutResponseHopLimit is invalid. It is from 1 to 64.", m.Hops)
	}
	return nil
}

func (t *tx) instancesOfToken(account ec2.AccountID, region ec2.Region, token string) []*ec2.Instance {
	made := slices.Collect(rows[ec2.Instance](t.Txn, tableInstance, indexToken, key(account)+key(region)+key(token)))
	slices.SortFunc(made, func(a, b *ec2.Instance) int { return a.LaunchIndex - b.LaunchIndex })
	return made
}

func (t *tx) checkLaunchKey(r *RunInstances) error {
	if r.KeyName != "" && first[ec2.KeyPair](t.Txn, tableKeyPair, indexID, key(r.Account)+key(r.Region)+key(r.KeyName)) == nil {
		return ec2.Errorf("InvalidKeyPair.NotFound", "The key pair '%s' does not exist", ec2.Clip(r.KeyName))
	}
	return nil
}

func (t *tx) launchGroups(account ec2.AccountID, region ec2.Region, selectors []GroupSelector) ([]ec2.GroupID, error) {
	if len(selectors) == 0 {
		selectors = []GroupSelector{{Name: defaultGroup}}
	}
	var ids []ec2.GroupID
	for _, sel := range selectors {
		g, err := t.group(account, region, sel)
		if err != nil {
			return nil, err
		}
		if g.VPC != "" {
			return nil, ec2.Errorf("InvalidParameterCombination", "VPC security groups may not be used for a non-VPC launch")
		}
		ids = append(ids, g.ID)
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// launchCount returns how many instances the account may launch, at most MaxCount, or EC2's error
// if they are fewer than MinCount.
func (t *tx) launchCount(r *RunInstances) (int, error) {
	free := t.meta.Settings.InstancesPerRegion
	for i := range rows[ec2.Instance](t.Txn, tableInstance, indexOwner, key(r.Account)+key(r.Region)) {
		if i.State != ec2.Terminated {
			free--
		}
	}
	if r.MinCount > free {
		return 0, ec2.Errorf("InstanceLimitExceeded", "You have requested more instances (%d) than your current instance limit of %d allows.", r.MinCount, t.meta.Settings.InstancesPerRegion)
	}
	return t.limitByVolumes(r, min(r.MaxCount, free))
}

// A spread places instances on the members with the fewest interfaces, and among equals on the
// member with the first name. Instances of a region go to nodes that carry its zones.
type spread struct {
	nodes []ec2.NodeID
	load  map[ec2.NodeID]int
	zone  map[ec2.NodeID]string // of an instance on the node; empty if it is the label of the node
}

func (t *tx) newSpread(region ec2.Region, zone string) (*spread, error) {
	s := &spread{load: make(map[ec2.NodeID]int), zone: make(map[ec2.NodeID]string)}
	known := zone == ""
	for _, z := range t.regionZones(region) {
		if zone != "" && z.Name != zone {
			continue
		}
		known = true
		for _, id := range z.Nodes {
			if _, twice := s.load[id]; twice {
				continue
			}
			s.nodes = append(s.nodes, id)
			s.load[id] = 0
			for range rows[ec2.Interface](t.Txn, tableInterface, indexNode, key(id)) {
				s.load[id]++
			}
			if t.planned(region) {
				s.zone[id] = z.Name
			}
		}
	}
	slices.Sort(s.nodes)
	switch {
	case len(s.nodes) > 0:
		return s, nil
	case !known:
		return nil, t.invalidZone(region, zone)
	}
	return nil, ec2.Errorf("InsufficientInstanceCapacity", "There is no node to launch instances on")
}

func (s *spread) next() ec2.NodeID {
	least := slices.MinFunc(s.nodes, func(a, b ec2.NodeID) int { return s.load[a] - s.load[b] })
	s.load[least]++
	return least
}

// unchanged returns Changes of instances that are the same before and after.
func unchanged(list []*ec2.Instance) []Change[ec2.Instance] {
	var c []Change[ec2.Instance]
	for _, i := range list {
		c = append(c, Change[ec2.Instance]{Before: i, After: i})
	}
	return c
}
