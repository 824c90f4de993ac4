package query

import (
	"palisade/ec2"
	"palisade/ec2/query/wire"
)

// unservedLaunch are the parameters of a launch that promise what instances do not have
// here: disks, rights, isolation from others. Each is refused unless it asks for nothing,
// for whoever got the instance would rely on it. What is about speed and price alone is
// ignored like other parameters, and no answer shows it.
type unservedLaunch struct {
	Volumes     []blockDeviceParam `wire:"BlockDeviceMapping"`
	Kernel      string             `wire:"KernelId"`
	RAMDisk     string             `wire:"RamdiskId"`
	Profile     *struct{}          `wire:"IamInstanceProfile"`
	Market      *struct{}          `wire:"InstanceMarketOptions"`
	GPU         []struct{}         `wire:"ElasticGpuSpecification"`
	Inference   []struct{}         `wire:"ElasticInferenceAccelerator"`
	License     []struct{}         `wire:"LicenseSpecification"`
	Hibernation struct {
		Configured bool `wire:"Configured"`
	} `wire:"HibernationOptions"`
	Enclave struct {
		Enabled bool `wire:"Enabled"`
	} `wire:"EnclaveOptions"`
	Capacity struct {
		Preference string    `wire:"CapacityReservationPreference"`
		Target     *struct{} `wire:"CapacityReservationTarget"`
	} `wire:"CapacityReservationSpecification"`
	Names struct {
		Type string `wire:"HostnameType"`
		A    bool   `wire:"EnableResourceNameDnsARecord"`
		AAAA bool   `wire:"EnableResourceNameDnsAAAARecord"`
	} `wire:"PrivateDnsNameOptions"`
}

type blockDeviceParam struct {
	NoDevice *string `wire:"NoDevice"`
}

// refuse says which of them the request has.
func (r *runInstancesRequest) refuse() error {
	if tenancy := r.Placement.Tenancy; tenancy != "" && tenancy != "default" {
		return ec2.Errorf("UnsupportedOperation", "Instances with tenancy %s are not served here", wire.Quote(tenancy))
	}
	volumes := false
	for _, v := range r.Volumes {
		volumes = volumes || v.NoDevice == nil
	}
	for _, x := range []struct {
		name string
		asks bool
	}{
		{"Placement.HostId", r.Placement.Host != ""},
		{"BlockDeviceMapping", volumes},
		{"KernelId", r.Kernel != ""},
		{"RamdiskId", r.RAMDisk != ""},
		{"IamInstanceProfile", r.Profile != nil},
		{"InstanceMarketOptions", r.Market != nil},
		{"ElasticGpuSpecification", len(r.GPU) > 0},
		{"ElasticInferenceAccelerator", len(r.Inference) > 0},
		{"LicenseSpecification", len(r.License) > 0},
		{"HibernationOptions.Configured", r.Hibernation.Configured},
		{"EnclaveOptions.Enabled", r.Enclave.Enabled},
		{"CapacityReservationSpecification", r.Capacity.Target != nil || r.Capacity.Preference == "capacity-reservations-only"},
		{"PrivateDnsNameOptions", r.Names.Type != "" && r.Names.Type != "ip-name" || r.Names.A || r.Names.AAAA},
	} {
		if x.asks {
			return ec2.Errorf("UnsupportedOperation", "The parameter %s of RunInstances is not served here", x.name)
		}
	}
	return nil
}
