package ec2tools

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

var runInstancesTool = tool{
	changes:  true,
	summary:  "launch instances of an image",
	synopsis: []string{"AMI [-n COUNT|MIN-MAX] [-g GROUP]... [-s SUBNET] [-k KEYPAIR] [-d DATA | -f FILE]"},
	example:  "ec2-run-instances ami-fba54092 -n 7 -g mywebtier -k albert",
	flags: func(fs *pflag.FlagSet) action {
		var o launchOptions
		fs.StringVarP(&o.count, "instance-count", "n", "1", "number of instances: `COUNT`, or MIN-MAX for as many as possible")
		fs.StringArrayVarP(&o.groups, "group", "g", nil, "security `GROUP`, by name or id; default if none is given")
		fs.StringVarP(&o.key, "key", "k", "", "`KEYPAIR` for logging in")
		fs.StringVarP(&o.data, "user-data", "d", "", "user `DATA` for the instances")
		fs.StringVarP(&o.dataFile, "user-data-file", "f", "", "`FILE` with user data for the instances")
		fs.StringVarP(&o.kind, "instance-type", "t", "", "`TYPE` of the instances, such as m1.small")
		fs.StringVarP(&o.zone, "availability-zone", "z", "", "`ZONE` to launch in")
		fs.StringVarP(&o.subnet, "subnet", "s", "", "`SUBNET` of a VPC to launch in; groups must then be given by id")
		fs.StringVar(&o.private, "private-ip-address", "", "private `IP` in the subnet")
		fs.StringVar(&o.public, "associate-public-ip-address", "", "`BOOL`: whether to assign a public address; default: as the subnet is set")
		return func(ctx context.Context, s *invocation, args []string) error {
			if len(args) != 1 {
				return usagef("give exactly one image, as in: ami-eca54085; data with blanks needs quotes")
			}
			params, err := o.params(args[0])
			if err != nil {
				return err
			}
			if err := o.place(ctx, s, params); err != nil {
				return err
			}
			var answer reservation
			if err := s.call(ctx, "RunInstances", params, &answer); err != nil {
				return err
			}
			s.era.printReservation(s.out, answer)
			return nil
		}
	},
}

type launchOptions struct {
	count, key, data, dataFile, kind, zone string
	subnet, private, public                string
	groups                                 []string
}

func (o *launchOptions) params(image string) (url.Values, error) {
	least, most, isRange := strings.Cut(o.count, "-")
	if !isRange {
		most = least
	}
	a, errA := strconv.Atoi(least)
	b, errB := strconv.Atoi(most)
	if errA != nil || errB != nil || a < 1 || a > b {
		return nil, usagef("-n %s is not a number of instances; give -n 7, or -n 1-7 for as many as possible", o.count)
	}
	params := url.Values{"ImageId": {image}, "MinCount": {strconv.Itoa(a)}, "MaxCount": {strconv.Itoa(b)}}
	data := []byte(o.data)
	if o.dataFile != "" {
		if o.data != "" {
			return nil, usagef("-d and -f both give user data; use only one")
		}
		var err error
		if data, err = os.ReadFile(o.dataFile); err != nil {
			return nil, fmt.Errorf("read user data: %w", err)
		}
	}
	if len(data) > 0 {
		params.Set("UserData", base64.StdEncoding.EncodeToString(data))
	}
	for name, value := range map[string]string{
		"KeyName": o.key, "InstanceType": o.kind, "Placement.AvailabilityZone": o.zone,
	} {
		if value != "" {
			params.Set(name, value)
		}
	}
	return params, nil
}

// place sets the parameters of subnet, addresses and groups. A public address is a parameter
// of the interface. Subnet and groups must then be parameters of the interface too (API
// Reference, RunInstances), which takes only ids of groups.
func (o *launchOptions) place(ctx context.Context, s *invocation, params url.Values) error {
	var ids, names []string
	for _, ref := range o.groups {
		if isGroupID(ref) {
			ids = append(ids, ref)
		} else {
			names = append(names, ref)
		}
	}
	prefix := ""
	if o.public != "" {
		if o.public != "true" && o.public != "false" {
			return usagef("--associate-public-ip-address %s: %s", o.public, hints["associate-public-ip-address"])
		}
		prefix = "NetworkInterface.1."
		params.Set(prefix+"DeviceIndex", "0")
		params.Set(prefix+"AssociatePublicIpAddress", o.public)
		for _, name := range names {
			g, err := s.group(ctx, name)
			if err != nil {
				return err
			}
			ids = append(ids, g.ID)
		}
		names = nil
	}
	numbered(params, prefix+"SecurityGroupId", ids)
	numbered(params, "SecurityGroup", names)
	if o.subnet != "" {
		params.Set(prefix+"SubnetId", o.subnet)
	}
	if o.private != "" {
		params.Set(prefix+"PrivateIpAddress", o.private)
	}
	return nil
}

var describeInstancesTool = tool{
	summary:  "list instances, grouped by launch",
	synopsis: []string{"[INSTANCE]... [-F NAME=VALUE]..."},
	example:  "ec2-describe-instances i-cfd732a6",
	flags: func(fs *pflag.FlagSet) action {
		filter := filterFlag(fs)
		return func(ctx context.Context, s *invocation, args []string) error {
			params := url.Values{}
			numbered(params, "InstanceId", args)
			if err := filter(params); err != nil {
				return err
			}
			var answer struct {
				Reservations []reservation `xml:"reservationSet>item"`
			}
			if err := s.call(ctx, "DescribeInstances", params, &answer); err != nil {
				return err
			}
			for _, r := range answer.Reservations {
				s.era.printReservation(s.out, r)
			}
			return nil
		}
	},
}

var (
	terminateInstancesTool = changeTool("terminate", "TerminateInstances", "terminate instances")
	stopInstancesTool      = changeTool("stop", "StopInstances", "stop instances; a start gives them a new address")
	startInstancesTool     = changeTool("start", "StartInstances", "start stopped instances")
)

// changeTool makes a tool that changes the state of instances.
func changeTool(verb, call, summary string) tool {
	return tool{
		changes:  true,
		summary:  summary,
		synopsis: []string{"INSTANCE..."},
		example:  "ec2-" + verb + "-instances i-cfd732a6",
		flags: func(*pflag.FlagSet) action {
			return func(ctx context.Context, s *invocation, args []string) error {
				if len(args) == 0 {
					return usagef("which instances? ec2-describe-instances lists them")
				}
				params := url.Values{}
				numbered(params, "InstanceId", args)
				var answer struct {
					Changes []struct {
						ID       string `xml:"instanceId"`
						Previous string `xml:"previousState>name"`
						Current  string `xml:"currentState>name"`
					} `xml:"instancesSet>item"`
				}
				if err := s.call(ctx, call, params, &answer); err != nil {
					return err
				}
				for _, c := range answer.Changes {
					line(s.out, "INSTANCE", c.ID, c.Previous, c.Current)
				}
				return nil
			}
		},
	}
}

// A reservation has the instances of one launch.
type reservation struct {
	ID        string     `xml:"reservationId"`
	Owner     string     `xml:"ownerId"`
	Groups    []groupID  `xml:"groupSet>item"`
	Instances []instance `xml:"instancesSet>item"`
}

type groupID struct {
	ID   string `xml:"groupId"`
	Name string `xml:"groupName"`
}

// An instance is one item of a reservation.
type instance struct {
	ID             string    `xml:"instanceId"`
	Image          string    `xml:"imageId"`
	State          string    `xml:"instanceState>name"`
	PrivateDNS     string    `xml:"privateDnsName"`
	PublicDNS      string    `xml:"dnsName"`
	Key            string    `xml:"keyName"`
	LaunchIndex    string    `xml:"amiLaunchIndex"`
	Type           string    `xml:"instanceType"`
	LaunchTime     string    `xml:"launchTime"`
	Zone           string    `xml:"placement>availabilityZone"`
	Tenancy        string    `xml:"placement>tenancy"`
	Kernel         string    `xml:"kernelId"`
	Ramdisk        string    `xml:"ramdiskId"`
	Platform       string    `xml:"platform"`
	Monitoring     string    `xml:"monitoring>state"`
	PublicAddress  string    `xml:"ipAddress"`
	PrivateAddress string    `xml:"privateIpAddress"`
	VPC            string    `xml:"vpcId"`
	Subnet         string    `xml:"subnetId"`
	RootDevice     string    `xml:"rootDeviceType"`
	Virtualization string    `xml:"virtualizationType"`
	Hypervisor     string    `xml:"hypervisor"`
	ClientToken    string    `xml:"clientToken"`
	Groups         []groupID `xml:"groupSet>item"`

	Interfaces []networkInterface `xml:"networkInterfaceSet>item"`
}

// printReservation prints a launch and its instances.
//
// 2006 (EC2 Developer Guide, "Default Group", step 1); an instance that is not running yet
// has no name:
//
//	RESERVATION  ID  OWNER
//	INSTANCE     ID  IMAGE  PUBLIC-NAME  STATE
//
// 2012 adds the groups' names to RESERVATION, and more columns to INSTANCE. The empty ones
// are product codes, lifecycle, spot request, license and placement group (EC2 Command
// Line Reference, "ec2-describe-instances"). The lines of an instance's interfaces follow.
func (e era) printReservation(w io.Writer, r reservation) {
	for n := range r.Instances {
		// A pending instance may have a lease with addresses already. The guides
		// show empty columns, because EC2-Classic showed no address before an
		// instance ran.
		i := &r.Instances[n]
		if i.State == "pending" {
			i.PublicDNS, i.PublicAddress = "", ""
		}
		if i.State == "pending" && i.VPC == "" {
			i.PrivateDNS, i.PrivateAddress = "", ""
		}
	}
	if e == era2006 {
		line(w, "RESERVATION", r.ID, r.Owner)
		for _, i := range r.Instances {
			name := i.PublicDNS
			if name == "" {
				name = i.PublicAddress
			}
			line(w, "INSTANCE", i.ID, i.Image, name, i.State)
		}
		return
	}
	var names []string
	for _, g := range r.Groups {
		names = append(names, g.Name)
	}
	line(w, "RESERVATION", r.ID, r.Owner, strings.Join(names, ","))
	for _, i := range r.Instances {
		var ids []string
		for _, g := range i.Groups {
			ids = append(ids, g.ID)
		}
		monitoring := i.Monitoring
		if monitoring != "" {
			monitoring = "monitoring-" + monitoring
		}
		line(w, "INSTANCE", i.ID, i.Image, i.PublicDNS, i.PrivateDNS, i.State, i.Key, i.LaunchIndex,
			"", i.Type, stamp(i.LaunchTime), i.Zone, i.Kernel, i.Ramdisk, i.Platform, monitoring,
			i.PublicAddress, i.PrivateAddress, i.VPC, i.Subnet, i.RootDevice, "", "", "", "",
			i.Virtualization, i.Hypervisor, i.ClientToken, strings.Join(ids, ","), i.Tenancy)
		for _, nic := range i.Interfaces {
			for _, columns := range nic.rowsOfInstance() {
				line(w, columns...)
			}
		}
	}
}
