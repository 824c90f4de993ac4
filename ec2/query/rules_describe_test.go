package query_test

import (
	"fmt"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
)

func TestRulesAreDescribedInPages(t *testing.T) {
	w := newWorld(t)
	api, ctx := w.as("dev"), t.Context()
	for g := range 4 {
		name := fmt.Sprint("g", g)
		form := "Version=2016-11-15&Action=AuthorizeSecurityGroupIngress&GroupName=" + name
		for n := range 7 {
			form += permissionForm(n+1, "tcp", fmt.Sprint(n), "80", "0.0.0.0/0")
		}
		ok[*sdk.CreateSecurityGroupOutput](t)(api.CreateSecurityGroup(ctx, &sdk.CreateSecurityGroupInput{GroupName: &name, Description: &name}))
		w.body(t, "dev", form)
	}
	all := ok[*sdk.DescribeSecurityGroupRulesOutput](t)(api.DescribeSecurityGroupRules(ctx, nil)).SecurityGroupRules
	if len(all) != 4*8+2 {
		t.Fatalf("DescribeSecurityGroupRules without pages returned %d rules, want %d", len(all), 4*8+2)
	}
	left := make(map[string]bool)
	for _, r := range all {
		left[*r.SecurityGroupRuleId] = true
	}
	gone := 0
	pages := sdk.NewDescribeSecurityGroupRulesPaginator(api, &sdk.DescribeSecurityGroupRulesInput{MaxResults: aws.Int32(5)})
	for pages.HasMorePages() {
		page := ok[*sdk.DescribeSecurityGroupRulesOutput](t)(pages.NextPage(ctx)).SecurityGroupRules
		if len(page) > 5 {
			t.Fatalf("a page has %d rules, want at most 5", len(page))
		}
		for _, r := range page {
			if !left[*r.SecurityGroupRuleId] {
				t.Errorf("rule %s is on two pages or is unknown", *r.SecurityGroupRuleId)
			}
			delete(left, *r.SecurityGroupRuleId)
		}
		// Revoking the last rule of the page must not shift the next page.
		last := page[len(page)-1]
		if !*last.IsEgress {
			ok[*sdk.RevokeSecurityGroupIngressOutput](t)(api.RevokeSecurityGroupIngress(ctx, &sdk.RevokeSecurityGroupIngressInput{GroupId: last.GroupId, SecurityGroupRuleIds: []string{*last.SecurityGroupRuleId}}))
			gone++
		}
	}
	if len(left) > 0 || gone < 3 {
		t.Errorf("%d rules were on no page, want 0; %d were revoked meanwhile, want at least 3", len(left), gone)
	}
}
