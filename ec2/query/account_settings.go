package query

import (
	"slices"

	"palisade/ec2"
	"palisade/ec2/query/wire"
)

// accountSettingActions show the settings of an account in a region. None can be changed here,
// so the answers are those of an account that has set nothing.
var accountSettingActions = map[string]handler{
	"DescribeAccountVpcEncryptionControl":         always(encryptionControlAnswer{encryptionControlItem{"unmanaged", "default-state", "account"}}),
	"DescribeAggregateIdFormat":                   action(describeIDFormats),
	"DescribeApplicationStatus":                   action(describeApplicationStatus),
	"DescribeIdFormat":                            action(describeIDFormats),
	"DescribeIdentityIdFormat":                    action(describeIDFormats),
	"DescribeInstanceEventNotificationAttributes": action(describeEventNotifications),
	"DescribeSpotDatafeedSubscription":            action(describeSpotDatafeed),
	"DescribeVpcBlockPublicAccessOptions":         action(describeBlockPublicAccess),
	"GetAllowedImagesSettings":                    always(allowedImagesAnswer{State: "disabled", ManagedBy: "account"}),
	"GetCapacityManagerAttributes":                always(capacityManagerAnswer{Status: "disabled"}),
	"GetDefaultCreditSpecification":               action(getDefaultCredits),
	"GetEbsDefaultKmsKeyId":                       always(kmsKeyAnswer{"alias/aws/ebs"}),
	"GetEbsEncryptionByDefault":                   always(ebsEncryptionAnswer{}),
	"GetEnabledIpamPolicy":                        always(ipamPolicyAnswer{}),
	"GetImageBlockPublicAccessState":              always(imageSharingAnswer{State: "block-new-sharing", ManagedBy: "account"}),
	"GetInstanceMetadataDefaults":                 always(metadataDefaultsAnswer{}),
	"GetManagedResourceVisibility":                always(visibilityAnswer{visibilityItem{"visible"}}),
	"GetSerialConsoleAccessStatus":                always(serialConsoleAnswer{ManagedBy: "account"}),
	"GetSnapshotBlockPublicAccessState":           always(snapshotSharingAnswer{State: "unblocked", ManagedBy: "account"}),
}

// always returns the handler of an action whose answer is the same for every account.
func always[Answer any](answer Answer) handler {
	return action(func(*call, *struct{}) (*Answer, error) { return &answer, nil })
}

type (
	encryptionControlAnswer struct {
		Control encryptionControlItem `wire:"accountVpcEncryptionControl"`
	}
	encryptionControlItem struct {
		Mode      string `wire:"mode"`
		State     string `wire:"state"`
		ManagedBy string `wire:"managedBy"`
	}
	allowedImagesAnswer struct {
		State     string `wire:"state"`
		Criteria  []tag  `wire:"imageCriterionSet"`
		ManagedBy string `wire:"managedBy"`
	}
	capacityManagerAnswer struct {
		Status        string `wire:"capacityManagerStatus"`
		Organizations bool   `wire:"organizationsAccess"`
		Exports       int    `wire:"dataExportCount"`
	}
	kmsKeyAnswer struct {
		Key string `wire:"kmsKeyId"`
	}
	ebsEncryptionAnswer struct {
		Enabled bool `wire:"ebsEncryptionByDefault"`
	}
	ipamPolicyAnswer struct {
		Enabled bool `wire:"ipamPolicyEnabled"`
	}
	imageSharingAnswer struct {
		State     string `wire:"imageBlockPublicAccessState"`
		ManagedBy string `wire:"managedBy"`
	}
	metadataDefaultsAnswer struct {
		Account struct{} `wire:"accountLevel"`
	}
	visibilityAnswer struct {
		Visibility visibilityItem `wire:"visibility"`
	}
	visibilityItem struct {
		Default string `wire:"defaultVisibility"`
	}
	serialConsoleAnswer struct {
		Enabled   bool   `wire:"serialConsoleAccessEnabled"`
		ManagedBy string `wire:"managedBy"`
	}
	snapshotSharingAnswer struct {
		State     string `wire:"state"`
		ManagedBy string `wire:"managedBy"`
	}
)

// longIDs are the resource types of DescribeIdFormat. All have had long ids since 2018 (EC2 API
// Reference, DescribeIdFormat).
var longIDs = []string{
	"bundle", "conversion-task", "customer-gateway", "dhcp-options", "elastic-ip-allocation", "elastic-ip-association", "export-task", "flow-log",
	"image", "import-task", "instance", "internet-gateway", "network-acl", "network-acl-association", "network-interface",
	"network-interface-attachment", "prefix-list", "reservation", "route-table", "route-table-association", "security-group", "snapshot", "subnet",
	"subnet-cidr-block-association", "volume", "vpc", "vpc-cidr-block-association", "vpc-endpoint", "vpc-peering-connection", "vpn-connection", "vpn-gateway",
}

type idFormatRequest struct {
	Principal string `wire:"PrincipalArn"`
	Resource  string `wire:"Resource"`
}

type idFormatAnswer struct {
	Aggregated *bool          `wire:"useLongIdsAggregated"` // of DescribeAggregateIdFormat
	Statuses   []idFormatItem `wire:"statusSet"`
}

type idFormatItem struct {
	Resource string `wire:"resource"`
	Long     bool   `wire:"useLongIds"`
}

func describeIDFormats(c *call, r *idFormatRequest) (*idFormatAnswer, error) {
	switch {
	case c.action == "DescribeIdentityIdFormat" && r.Principal == "":
		return nil, ec2.Missing("PrincipalArn")
	case r.Resource != "" && !slices.Contains(longIDs, r.Resource):
		return nil, ec2.Errorf("InvalidParameterValue", "Value (%s) for parameter resource is invalid.", wire.Quote(r.Resource))
	}
	answer := &idFormatAnswer{}
	if c.action == "DescribeAggregateIdFormat" {
		answer.Aggregated = new(true)
	}
	for _, resource := range longIDs {
		if r.Resource == "" || r.Resource == resource {
			answer.Statuses = append(answer.Statuses, idFormatItem{resource, true})
		}
	}
	return answer, nil
}

type applicationStatusRequest struct {
	InstanceIDs []ec2.InstanceID `wire:"InstanceId"`
	paged
}

type applicationStatusAnswer struct {
	Statuses struct {
		Instances []tag `wire:"instanceSet"`
	} `wire:"applicationStatusesResponseType"`
}

// describeApplicationStatus shows none, because no check of an application can be made.
func describeApplicationStatus(c *call, r *applicationStatusRequest) (*applicationStatusAnswer, error) {
	_, err := c.selectInstances(r.InstanceIDs)
	return &applicationStatusAnswer{}, err
}

type eventNotificationsAnswer struct {
	Attribute struct {
		Keys []tag `wire:"instanceTagKeySet"`
		All  bool  `wire:"includeAllTagsOfInstance"`
	} `wire:"instanceTagAttribute"`
}

func describeEventNotifications(*call, *struct{}) (*eventNotificationsAnswer, error) {
	return &eventNotificationsAnswer{}, nil
}

func describeSpotDatafeed(*call, *struct{}) (*struct{}, error) {
	return nil, ec2.Errorf("InvalidSpotDatafeed.NotFound", "Spot datafeed subscription does not exist.")
}

type blockPublicAccessAnswer struct {
	Options blockPublicAccessItem `wire:"vpcBlockPublicAccessOptions"`
}

type blockPublicAccessItem struct {
	Account    ec2.AccountID `wire:"awsAccountId"`
	Region     ec2.Region    `wire:"awsRegion"`
	State      string        `wire:"state"`
	Mode       string        `wire:"internetGatewayBlockMode"`
	ManagedBy  string        `wire:"managedBy"`
	Exclusions string        `wire:"exclusionsAllowed"`
}

func describeBlockPublicAccess(c *call, _ *struct{}) (*blockPublicAccessAnswer, error) {
	return &blockPublicAccessAnswer{blockPublicAccessItem{c.account, c.region, "default-state", "off", "account", "allowed"}}, nil
}

type defaultCreditsRequest struct {
	Family string `wire:"InstanceFamily"`
}

type defaultCreditsAnswer struct {
	Specification struct {
		Family  string `wire:"instanceFamily"`
		Credits string `wire:"cpuCredits"`
	} `wire:"instanceFamilyCreditSpecification"`
}

// getDefaultCredits shows what EC2 has for the families with credits (EC2 User Guide, "Default
// credit specification").
func getDefaultCredits(_ *call, r *defaultCreditsRequest) (*defaultCreditsAnswer, error) {
	answer := &defaultCreditsAnswer{}
	answer.Specification.Family = r.Family
	switch r.Family {
	case "":
		return nil, ec2.Missing("InstanceFamily")
	case "t2":
		answer.Specification.Credits = "standard"
	case "t3", "t3a", "t4g":
		answer.Specification.Credits = "unlimited"
	default:
		return nil, ec2.Errorf("InvalidInstanceFamily", "The instance family '%s' is not supported. It must be t2, t3, t3a or t4g.", wire.Quote(r.Family))
	}
	return answer, nil
}
