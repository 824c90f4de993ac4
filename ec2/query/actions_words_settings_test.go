package query

import "maps"

func init() { maps.Copy(descriptions, settingsDescriptions) }

// settingsDescriptions are those of actions that only show what cannot be changed here.
var settingsDescriptions = map[string]description{
	"DescribeAccountVpcEncryptionControl":         {"Shows that the encryption in VPCs is not controlled.", ""},
	"DescribeAggregateIdFormat":                   {"Shows that resources have long ids.", ""},
	"DescribeApplicationStatus":                   {"Shows checks of applications: there are none.", ""},
	"DescribeIdFormat":                            {"Shows that resources have long ids.", ""},
	"DescribeIdentityIdFormat":                    {"Shows that resources have long ids.", ""},
	"DescribeImageAttribute":                      {"Is AuthFailure, as for an image of another account.", "No account owns an image."},
	"DescribeInstanceImageMetadata":               {"Shows instances with their images.", ""},
	"DescribeInstanceEventNotificationAttributes": {"Shows the tags in notifications of events: there are none.", ""},
	"DescribeSpotDatafeedSubscription":            {"Is InvalidSpotDatafeed.NotFound.", ""},
	"DescribeVpcBlockPublicAccessOptions":         {"Shows that public access is not blocked.", ""},
	"DescribeVpcClassicLink":                      {"Shows that no VPC is linked to EC2-Classic.", ""},
	"DescribeVpcClassicLinkDnsSupport":            {"Shows that no VPC is linked to EC2-Classic.", ""},
	"GetAllowedImagesSettings":                    {"Shows that all images are allowed.", ""},
	"GetCapacityManagerAttributes":                {"Shows that the capacity manager is disabled.", ""},
	"GetConsoleOutput":                            {"Shows the console's output of an instance: there is none.", ""},
	"GetDefaultCreditSpecification":               {"Shows the default CPU credits of an instance family.", ""},
	"GetEbsDefaultKmsKeyId":                       {"Shows the default key of EBS: alias/aws/ebs.", ""},
	"GetEbsEncryptionByDefault":                   {"Shows that volumes are not encrypted by default.", ""},
	"GetEnabledIpamPolicy":                        {"Shows that no IPAM policy is enabled.", ""},
	"GetImageBlockPublicAccessState":              {"Shows that images cannot be made public, as in an account that has set nothing.", ""},
	"GetInstanceMetadataDefaults":                 {"Shows that the account has no defaults for metadata options.", ""},
	"GetManagedResourceVisibility":                {"Shows that managed resources are visible.", ""},
	"GetPasswordData":                             {"Shows the administrator's password: an instance of Linux has none.", ""},
	"GetSerialConsoleAccessStatus":                {"Shows that the serial console is not accessible.", ""},
	"GetSnapshotBlockPublicAccessState":           {"Shows that the sharing of snapshots is not blocked.", ""},
}
