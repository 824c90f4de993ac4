package query_test

import (
	"strings"
	"testing"
)

func TestSettingsOfAccountAreEC2sDefaults(t *testing.T) {
	w := newWorld(t)
	for form, want := range map[string]string{
		"DescribeAggregateIdFormat":                       "<useLongIdsAggregated>true</useLongIdsAggregated><statusSet><item><resource>bundle</resource><useLongIds>true</useLongIds></item>",
		"DescribeIdFormat&Resource=vpc":                   "</requestId><statusSet><item><resource>vpc</resource><useLongIds>true</useLongIds></item></statusSet></Describe",
		"DescribeVpcBlockPublicAccessOptions":             "<awsAccountId>" + dev + "</awsAccountId><awsRegion>us-east-1</awsRegion><state>default-state</state><internetGatewayBlockMode>off<",
		"DescribeInstanceEventNotificationAttributes":     "<instanceTagAttribute><instanceTagKeySet/><includeAllTagsOfInstance>false<",
		"DescribeSpotDatafeedSubscription":                "<Code>InvalidSpotDatafeed.NotFound</Code>",
		"GetAllowedImagesSettings":                        "<state>disabled</state><imageCriterionSet/><managedBy>account</managedBy>",
		"GetDefaultCreditSpecification&InstanceFamily=t2": "<instanceFamily>t2</instanceFamily><cpuCredits>standard</cpuCredits>",
		"GetDefaultCreditSpecification&InstanceFamily=t3": "<instanceFamily>t3</instanceFamily><cpuCredits>unlimited</cpuCredits>",
		"GetDefaultCreditSpecification&InstanceFamily=m5": "<Code>InvalidInstanceFamily</Code>",
		"GetEbsDefaultKmsKeyId":                           "<kmsKeyId>alias/aws/ebs</kmsKeyId>",
		"GetEbsEncryptionByDefault":                       "<ebsEncryptionByDefault>false</ebsEncryptionByDefault>",
		"GetImageBlockPublicAccessState":                  "<imageBlockPublicAccessState>block-new-sharing</imageBlockPublicAccessState>",
		"GetInstanceMetadataDefaults":                     "<accountLevel></accountLevel>",
		"GetSerialConsoleAccessStatus":                    "<serialConsoleAccessEnabled>false</serialConsoleAccessEnabled>",
		"GetSnapshotBlockPublicAccessState":               "<state>unblocked</state>",
	} {
		if body := string(w.body(t, "dev", "Action="+form+"&Version=2016-11-15")); !strings.Contains(body, want) {
			t.Errorf("%s: the answer lacks %s:\n%s", form, want, body)
		}
	}
}
