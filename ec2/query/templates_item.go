package query

// item returns what answers show of the parameters. It has the elements of what was given.
func (d *templateData) item() templateDataItem {
	item := templateDataItem{
		Kernel: d.Kernel, EBS: d.EBS, Profile: (*profileItem)(convert(d.Profile, func(p profileParam) profileItem { return profileItem(p) })),
		Image: d.Image, Type: d.Type, Key: d.Key, RAMDisk: d.RAMDisk, NoTerminate: d.NoTerminate, NoStop: d.NoStop,
		OnShutdown: d.OnShutdown, UserData: d.UserData, GroupIDs: d.GroupIDs, Groups: d.Groups,

		Monitoring:  convert(d.Monitoring, func(m monitoringParam) enabledItem { return enabledItem(m) }),
		Placement:   convert(d.Placement, templatePlacement.item),
		Credits:     convert(d.Credits, func(c creditsParam) creditsOnlyItem { return creditsOnlyItem(c) }),
		CPU:         convert(d.CPU, func(c cpuParam) cpuItem { return cpuItem(c) }),
		Capacity:    convert(d.Capacity, func(c capacityParam) capacityItem { return capacityItem{c.Preference} }),
		Hibernation: convert(d.Hibernation, func(h hibernationParam) configuredItem { return configuredItem(h) }),
		Metadata:    convert(d.Metadata, metadataParam.item),
		Enclave:     convert(d.Enclave, func(e enclaveParam) enabledItem { return enabledItem(e) }),
		Names:       convert(d.Names, func(n dnsNamesParam) hostnameType { return hostnameType(n) }),
		Maintenance: convert(d.Maintenance, func(m maintenanceParam) recoveryItem { return recoveryItem(m) }),
		Market: convert(d.Market, func(m marketParam) marketItem {
			return marketItem{m.Type, convert(m.Spot, func(s spotParam) spotItem { return spotItem(s) })}
		}),
	}
	for _, l := range d.Licenses {
		item.Licenses = append(item.Licenses, licenseItem(l))
	}
	for _, n := range d.Interfaces {
		item.Interfaces = append(item.Interfaces, n.item())
	}
	for _, v := range d.Volumes {
		item.Volumes = append(item.Volumes, v.item())
	}
	for _, s := range d.Tags {
		tags := templateTagsItem{Type: s.ResourceType}
		for _, t := range s.Tags {
			tags.Tags = append(tags.Tags, tag(t))
		}
		item.Tags = append(item.Tags, tags)
	}
	return item
}

// convert returns what f makes of the value that p points to, or nil if p is nil.
func convert[From, To any](p *From, f func(From) To) *To {
	if p == nil {
		return nil
	}
	return new(f(*p))
}

func (p templatePlacement) item() templatePlacementItem {
	return templatePlacementItem{
		Zone: p.Zone, ZoneID: p.ZoneID, Affinity: deref(p.Affinity), Group: deref(p.GroupName), GroupID: p.GroupID, Host: p.Host, HostGroup: p.HostGroup,
		Tenancy: deref(p.Tenancy), Domain: p.Domain, Partition: p.Partition,
	}
}

func (m metadataParam) item() templateMetadataItem {
	item := templateMetadataItem{State: "applied", Tokens: m.Tokens, Endpoint: m.Endpoint, IPv6: m.IPv6, Tags: m.Tags}
	if m.Hops != 0 {
		item.Hops = &m.Hops
	}
	return item
}

func (v templateVolume) item() templateVolumeItem {
	item := templateVolumeItem{Device: v.Device, Virtual: v.Virtual, NoDevice: v.NoDevice}
	if e := v.EBS; e != nil {
		item.EBS = &templateVolEBSItem{e.Encrypted, e.Delete, e.IOPS, e.Key, e.Snapshot, e.Size, e.Type, e.Throughput}
	}
	return item
}

func (n templateInterface) item() templateInterfaceItem {
	item := templateInterfaceItem{
		Public: n.Public, DeleteOnTermination: n.DeleteOnTermination, Description: n.Description, DeviceIndex: n.DeviceIndex,
		Type: n.Type, Interface: n.Interface, Address: n.PrivateAddress, Subnet: n.Subnet, Card: n.Card,
	}
	for _, g := range n.Groups {
		item.Groups = append(item.Groups, string(g))
	}
	for _, a := range n.Addresses {
		item.Addresses = append(item.Addresses, templateAddressItem{a.Primary, a.Address})
	}
	if n.SecondaryCount != 0 {
		item.SecondaryCount = &n.SecondaryCount
	}
	return item
}
