package query

import (
	"palisade/ec2"
	"palisade/ec2/instancetype"
	"palisade/ec2/query/wire"
	"palisade/ec2/state"
)

// instanceOptionActions change options of instances that no packet depends on.
var instanceOptionActions = map[string]handler{
	"MonitorInstances":                            action(monitorInstances),
	"UnmonitorInstances":                          action(unmonitorInstances),
	"ModifyInstanceMetadataOptions":               action(modifyMetadataOptions),
	"ModifyInstancePlacement":                     action(modifyPlacement),
	"ModifyInstanceCpuOptions":                    action(modifyCPUOptions),
	"ModifyInstanceMaintenanceOptions":            action(modifyMaintenance),
	"ModifyInstanceCapacityReservationAttributes": action(modifyCapacity),
	"ModifyPrivateDnsNameOptions":                 action(modifyDNSNames),
	"ModifyInstanceCreditSpecification":           action(modifyCredits),
	"DescribeInstanceCreditSpecifications":        action(describeCredits),
}

// launchOptions has the parameters of a launch that are stored and shown.
type launchOptions struct {
	Placement   placementParam   `wire:"Placement"`
	Metadata    *metadataParam   `wire:"MetadataOptions"`
	Monitoring  monitoringParam  `wire:"Monitoring"`
	Credits     creditsParam     `wire:"CreditSpecification"`
	CPU         cpuParam         `wire:"CpuOptions"`
	EBS         bool             `wire:"EbsOptimized"`
	Maintenance maintenanceParam `wire:"MaintenanceOptions"`
	Hibernation hibernationParam `wire:"HibernationOptions"`
	Enclave     enclaveParam     `wire:"EnclaveOptions"`
	Capacity    capacityParam    `wire:"CapacityReservationSpecification"`
	Names       dnsNamesParam    `wire:"PrivateDnsNameOptions"`
}

type (
	placementParam struct {
		zoneRequest
		groupPlacement
	}
	groupPlacement struct {
		GroupName *string              `wire:"GroupName"`
		GroupID   ec2.PlacementGroupID `wire:"GroupId"`
		Partition *int                 `wire:"PartitionNumber"`
		Tenancy   *string              `wire:"Tenancy"`
		Affinity  *string              `wire:"Affinity"`
		Host      string               `wire:"HostId"`
		HostGroup string               `wire:"HostResourceGroupArn"`
	}
	metadataParam struct {
		Endpoint string `wire:"HttpEndpoint"`
		Tokens   string `wire:"HttpTokens"`
		Hops     int    `wire:"HttpPutResponseHopLimit"`
		Tags     string `wire:"InstanceMetadataTags"`
		IPv6     string `wire:"HttpProtocolIpv6"`
	}
	monitoringParam struct {
		Enabled bool `wire:"Enabled"`
	}
	creditsParam struct {
		CPU string `wire:"CpuCredits"`
	}
	cpuParam struct {
		Cores   *int   `wire:"CoreCount"`
		Threads *int   `wire:"ThreadsPerCore"`
		SEVSNP  string `wire:"AmdSevSnp"`
	}
	maintenanceParam struct {
		Recovery string `wire:"AutoRecovery"`
	}
	hibernationParam struct {
		Configured bool `wire:"Configured"`
	}
	enclaveParam struct {
		Enabled bool `wire:"Enabled"`
	}
	capacityParam struct {
		Preference string    `wire:"CapacityReservationPreference"`
		Target     *struct{} `wire:"CapacityReservationTarget"`
	}
	dnsNamesParam struct {
		Type string `wire:"HostnameType"`
		A    bool   `wire:"EnableResourceNameDnsARecord"`
		AAAA bool   `wire:"EnableResourceNameDnsAAAARecord"`
	}
)

// options returns the options that a launch asks for.
func (o *launchOptions) options(c *call) (ec2.InstanceOptions, error) {
	var asked ec2.InstanceOptions
	name, err := o.Placement.group(c)
	if err != nil {
		return asked, err
	}
	recovery, err := o.Maintenance.noRecovery()
	if err != nil {
		return asked, err
	}
	if o.Capacity.Target != nil || o.Capacity.Preference == "capacity-reservations-only" {
		return asked, noReservation()
	}
	return ec2.InstanceOptions{
		PlacementGroup: deref(name),
		Partition:      deref(o.Placement.Partition),
		Tenancy:        deref(storedTenancy(o.Placement.Tenancy)),
		Affinity:       deref(o.Placement.Affinity),
		Credits:        o.Credits.CPU,
		Cores:          deref(o.CPU.Cores),
		ThreadsOfCore:  deref(o.CPU.Threads),
		SEVSNP:         o.CPU.SEVSNP,
		EBSOptimized:   o.EBS,
		Hibernation:    o.Hibernation.Configured,
		Enclave:        o.Enclave.Enabled,
		NoRecovery:     deref(recovery),
		Reservation:    o.Capacity.Preference,
		HostnameType:   o.Names.Type,
		ARecord:        o.Names.A,
		AAAARecord:     o.Names.AAAA,
	}, nil
}

// group returns the name of the placement group that a request gives by name or by id. No account
// has dedicated hosts here, so each id of a host is unknown.
func (p *groupPlacement) group(c *call) (*string, error) {
	switch {
	case p.Host != "":
		return nil, ec2.Errorf("InvalidHostID.NotFound", "The host ID '%s' does not exist", wire.Quote(p.Host))
	case p.HostGroup != "":
		return nil, ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter hostResourceGroupArn is invalid. There is no such group.", wire.Quote(p.HostGroup))
	case p.GroupID == "":
		return p.GroupName, nil
	case deref(p.GroupName) != "":
		return nil, ec2.Errorf("InvalidParameterCombination", "The parameters GroupName and GroupId of a placement group cannot be used together")
	}
	for g := range c.view.PlacementGroupsOf(c.account, c.region) {
		if g.ID == p.GroupID {
			return &g.Name, nil
		}
	}
	return nil, ec2.NoSuch("pg", p.GroupID)
}

// storedTenancy returns the tenancy in the form of the state, in which "default" is "".
func storedTenancy(asked *string) *string {
	if asked != nil && *asked == "default" {
		return new("")
	}
	return asked
}

func noReservation() error {
	return ec2.Errorf("InvalidCapacityReservationId.NotFound", "There are no capacity reservations in this region")
}

func (m maintenanceParam) noRecovery() (*bool, error) {
	switch m.Recovery {
	case "":
		return nil, nil
	case "default", "disabled":
		return new(m.Recovery == "disabled"), nil
	}
	return nil, ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter autoRecovery is invalid. It is default or disabled.", wire.Quote(m.Recovery))
}

func (m *metadataParam) options() *ec2.MetadataOptions {
	if m == nil {
		return nil
	}
	return &ec2.MetadataOptions{Endpoint: m.Endpoint, Tokens: m.Tokens, Hops: m.Hops, Tags: m.Tags, IPv6: m.IPv6}
}

type monitorRequest struct {
	InstanceIDs []ec2.InstanceID `wire:"InstanceId"`
}

type monitorAnswer struct {
	Instances []monitorItem `wire:"instancesSet"`
}

type monitorItem struct {
	ID         ec2.InstanceID `wire:"instanceId"`
	Monitoring monitoringItem `wire:"monitoring"`
}

func monitorInstances(c *call, r *monitorRequest) (*monitorAnswer, error) {
	return c.monitor(r.InstanceIDs, true)
}

func unmonitorInstances(c *call, r *monitorRequest) (*monitorAnswer, error) {
	return c.monitor(r.InstanceIDs, false)
}

func (c *call) monitor(ids []ec2.InstanceID, on bool) (*monitorAnswer, error) {
	result, err := c.apply(&state.MonitorInstances{Account: c.account, Region: c.region, Instances: ids, On: on})
	if err != nil {
		return nil, err
	}
	answer := &monitorAnswer{}
	for _, i := range result.Instances {
		answer.Instances = append(answer.Instances, monitorItem{i.After.ID, newMonitoringItem(i.After)})
	}
	return answer, nil
}

func newMonitoringItem(i *ec2.Instance) monitoringItem {
	if i.Monitored {
		return monitoringItem{"enabled"}
	}
	return monitoringItem{"disabled"}
}

type oneInstanceRequest struct {
	Instance ec2.InstanceID `wire:"InstanceId"`
}

// modify changes the options of an instance and returns the instance.
func (c *call) modify(r oneInstanceRequest, change state.ModifyInstanceOptions) (*ec2.Instance, error) {
	change.Account, change.Region, change.Instance = c.account, c.region, r.Instance
	result, err := c.apply(&change)
	if err != nil {
		return nil, err
	}
	return result.Instances[0].After, nil
}

type modifyMetadataRequest struct {
	oneInstanceRequest
	metadataParam
}

type modifyMetadataAnswer struct {
	Instance ec2.InstanceID `wire:"instanceId"`
	Options  metadataItem   `wire:"instanceMetadataOptions"`
}

func modifyMetadataOptions(c *call, r *modifyMetadataRequest) (*modifyMetadataAnswer, error) {
	if r.metadataParam == (metadataParam{}) {
		return nil, ec2.Missing("httpTokens, httpEndpoint, httpPutResponseHopLimit, instanceMetadataTags or httpProtocolIpv6")
	}
	i, err := c.modify(r.oneInstanceRequest, state.ModifyInstanceOptions{Metadata: r.metadataParam.options()})
	if err != nil {
		return nil, err
	}
	return &modifyMetadataAnswer{i.ID, newMetadataItem(*i.Metadata)}, nil
}

type modifyPlacementRequest struct {
	oneInstanceRequest
	groupPlacement
}

func modifyPlacement(c *call, r *modifyPlacementRequest) (*returned, error) {
	name, err := r.group(c)
	if err != nil {
		return nil, err
	}
	_, err = c.modify(r.oneInstanceRequest, state.ModifyInstanceOptions{
		PlacementGroup: name, Partition: r.Partition, Tenancy: storedTenancy(r.Tenancy), Affinity: r.Affinity,
	})
	return &done, err
}

type modifyCPURequest struct {
	oneInstanceRequest
	Cores   *int `wire:"CoreCount"`
	Threads *int `wire:"ThreadsPerCore"`
}

type modifyCPUAnswer struct {
	Instance ec2.InstanceID `wire:"instanceId"`
	Cores    int            `wire:"coreCount"`
	Threads  int            `wire:"threadsPerCore"`
}

func modifyCPUOptions(c *call, r *modifyCPURequest) (*modifyCPUAnswer, error) {
	if r.Cores == nil || r.Threads == nil {
		return nil, ec2.Errorf("MissingParameter", "The request must contain the parameters CoreCount and ThreadsPerCore")
	}
	i, err := c.modify(r.oneInstanceRequest, state.ModifyInstanceOptions{Cores: r.Cores, ThreadsOfCore: r.Threads})
	if err != nil {
		return nil, err
	}
	return &modifyCPUAnswer{i.ID, i.Options.Cores, i.Options.ThreadsOfCore}, nil
}

type modifyMaintenanceRequest struct {
	oneInstanceRequest
	maintenanceParam
}

type modifyMaintenanceAnswer struct {
	Instance ec2.InstanceID `wire:"instanceId"`
	Recovery string         `wire:"autoRecovery"`
}

func modifyMaintenance(c *call, r *modifyMaintenanceRequest) (*modifyMaintenanceAnswer, error) {
	none, err := r.noRecovery()
	if err != nil {
		return nil, err
	}
	i, err := c.modify(r.oneInstanceRequest, state.ModifyInstanceOptions{NoRecovery: none})
	if err != nil {
		return nil, err
	}
	return &modifyMaintenanceAnswer{i.ID, recoveryOf(i)}, nil
}

func recoveryOf(i *ec2.Instance) string {
	if i.Options.NoRecovery {
		return "disabled"
	}
	return "default"
}

type modifyCapacityRequest struct {
	oneInstanceRequest
	Capacity capacityParam `wire:"CapacityReservationSpecification"`
}

func modifyCapacity(c *call, r *modifyCapacityRequest) (*returned, error) {
	if r.Capacity.Target != nil || r.Capacity.Preference == "capacity-reservations-only" {
		return nil, noReservation()
	}
	_, err := c.modify(r.oneInstanceRequest, state.ModifyInstanceOptions{Reservation: &r.Capacity.Preference})
	return &done, err
}

type modifyDNSNamesRequest struct {
	oneInstanceRequest
	Type *string `wire:"PrivateDnsHostnameType"`
	A    *bool   `wire:"EnableResourceNameDnsARecord"`
	AAAA *bool   `wire:"EnableResourceNameDnsAAAARecord"`
}

func modifyDNSNames(c *call, r *modifyDNSNamesRequest) (*returned, error) {
	_, err := c.modify(r.oneInstanceRequest, state.ModifyInstanceOptions{HostnameType: r.Type, ARecord: r.A, AAAARecord: r.AAAA})
	return &done, err
}

type modifyCreditsRequest struct {
	Credits []struct {
		oneInstanceRequest
		creditsParam
	} `wire:"InstanceCreditSpecification"`
}

type modifyCreditsAnswer struct {
	Successful   []instanceIDItem    `wire:"successfulInstanceCreditSpecificationSet"`
	Unsuccessful []failedCreditsItem `wire:"unsuccessfulInstanceCreditSpecificationSet"`
}

type instanceIDItem struct {
	ID ec2.InstanceID `wire:"instanceId"`
}

type failedCreditsItem struct {
	ID    ec2.InstanceID `wire:"instanceId"`
	Error reasonItem     `wire:"error"`
}

// modifyCredits changes each instance for itself: one that cannot be changed is in the second list
// of the answer.
func modifyCredits(c *call, r *modifyCreditsRequest) (*modifyCreditsAnswer, error) {
	if len(r.Credits) == 0 {
		return nil, ec2.Missing("InstanceCreditSpecification")
	}
	answer := &modifyCreditsAnswer{}
	for _, x := range r.Credits {
		i, err := c.view.FindInstance(c.account, c.region, x.Instance)
		if err == nil {
			err = mayHaveCredits(i)
		}
		if err == nil {
			_, err = c.modify(x.oneInstanceRequest, state.ModifyInstanceOptions{Credits: &x.CPU})
		}
		switch e, ok := err.(*ec2.Error); {
		case err == nil:
			answer.Successful = append(answer.Successful, instanceIDItem{x.Instance})
		case !ok || e.Code == "DryRunOperation":
			return nil, err
		default:
			answer.Unsuccessful = append(answer.Unsuccessful, failedCreditsItem{x.Instance, reasonItem{e.Code, e.Message}})
		}
	}
	return answer, nil
}

func mayHaveCredits(i *ec2.Instance) error {
	if !instancetype.Burstable(i.Type) {
		return ec2.Errorf("InstanceCreditSpecification.NotSupported", "The specified instance does not use CPU credits for billing: %s", i.ID)
	}
	return nil
}

type describeCreditsRequest struct {
	InstanceIDs []ec2.InstanceID `wire:"InstanceId"`
	listed
}

type describeCreditsAnswer struct {
	Credits   []creditsItem `wire:"instanceCreditSpecificationSet"`
	NextToken string        `wire:"nextToken"`
}

type creditsItem struct {
	ID      ec2.InstanceID `wire:"instanceId"`
	Credits string         `wire:"cpuCredits"`
}

var creditsListing = listing[creditsItem]{
	kind:    "i",
	id:      func(i creditsItem) string { return string(i.ID) },
	filters: filterable[creditsItem]{"instance-id": func(i creditsItem) []string { return nonEmpty(i.ID) }},
}

// describeCredits shows the requested instances, which must be burstable, or without ids those with
// the option unlimited.
func describeCredits(c *call, r *describeCreditsRequest) (*describeCreditsAnswer, error) {
	if err := r.checkNoIDs(len(r.InstanceIDs), "instancesSet"); err != nil {
		return nil, err
	}
	instances, err := c.selectInstances(r.InstanceIDs)
	if err != nil {
		return nil, err
	}
	var items []creditsItem
	for _, i := range instances {
		item := creditsItem{i.ID, i.Options.Credits}
		if err := mayHaveCredits(i); err != nil {
			if len(r.InstanceIDs) > 0 {
				return nil, err
			}
			continue
		}
		if item.Credits == "" {
			item.Credits = instancetype.DefaultCredits(i.Type)
		}
		if len(r.InstanceIDs) > 0 || item.Credits == "unlimited" {
			items = append(items, item)
		}
	}
	items, next, err := creditsListing.pick(c, items, nil, r.listed)
	if err != nil {
		return nil, err
	}
	return &describeCreditsAnswer{items, next}, nil
}
