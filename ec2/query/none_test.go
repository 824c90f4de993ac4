package query_test

import (
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/smithy-go"

	"palisade/ec2/query"
	"palisade/ec2/query/model"
)

// ask sends a request that an account has signed. It returns the error of the answer.
func (w *world) ask(t *testing.T, account, form string) (code, message string) {
	t.Helper()
	body := w.body(t, account, form)
	var doc struct {
		Code    string `xml:"Errors>Error>Code"`
		Message string `xml:"Errors>Error>Message"`
	}
	if err := xml.Unmarshal(body, &doc); err != nil {
		t.Errorf("%s: the answer is not XML: %v\n%s", form, err, body)
	}
	return doc.Code, doc.Message
}

// Every action of AWS that only reads has an answer that the Go SDK parses, or says that the
// resource of the request does not exist, or is refused with a reason.
func TestEveryReadOfAWSIsAnswered(t *testing.T) {
	w := newWorld(t)
	client := reflect.ValueOf(w.as("dev"))
	answered := 0
	for _, name := range model.Names() {
		if !model.OnlyReads(name) {
			continue
		}
		output, err := callWithFakes(client.MethodByName(name))
		refusal, _ := errors.AsType[smithy.APIError](err)
		switch why := model.WhyRefused(name); {
		case err == nil:
			answered++
			if why != "" && !served(name) {
				t.Errorf("%s is answered, although the model says that it is refused: %s", name, why)
			}
			checkEmpty(t, name, output)
		case refusal == nil:
			t.Errorf("%s: the SDK cannot read the answer: %v", name, err)
		case refusal.ErrorCode() == "UnsupportedOperation":
			if why == "" || !strings.Contains(refusal.ErrorMessage(), why) {
				t.Errorf("%s is refused with %q, want the reason %q", name, refusal.ErrorMessage(), why)
			}
		case !saysThatNothingIsThere(refusal.ErrorCode()) && !strings.Contains(validationOfServed[name], refusal.ErrorCode()):
			t.Errorf("%s: got %v, want an answer, or that a resource does not exist", name, err)
		}
	}
	if answered < 150 {
		t.Errorf("only %d actions had an answer, want 150: the requests are not valid", answered)
	}
}

// validationOfServed has errors that served actions return for the invented values.
var validationOfServed = map[string]string{
	"DescribeImageAttribute":           "AuthFailure", // another account's image
	"DescribeSpotDatafeedSubscription": "InvalidSpotDatafeed.NotFound",
	"DescribeLaunchTemplateVersions":   "MissingParameter", // needs a template, or versions like $Latest
}

func saysThatNothingIsThere(code string) bool {
	return strings.HasSuffix(code, "NotFound") || strings.HasSuffix(code, "Malformed") || strings.HasPrefix(code, "InvalidReservedInstances")
}

func served(name string) bool { return slices.Contains(query.ActionNames(), name) }

// callWithFakes calls a method of the SDK's client. It invents a value for each parameter that
// the SDK requires.
func callWithFakes(method reflect.Value) (any, error) {
	input := reflect.New(method.Type().In(1).Elem())
	for {
		out := method.Call([]reflect.Value{reflect.ValueOf(context.Background()), input})
		err, _ := out[1].Interface().(error)
		var missing smithy.InvalidParamsError
		if !errors.As(err, &missing) {
			return out[0].Interface(), err
		}
		for _, e := range missing.Errs() {
			var p interface{ Field() string }
			if !errors.As(e, &p) {
				return nil, err
			}
			field := strings.Split(p.Field(), ".")[1]
			field, _, _ = strings.Cut(field, "[")
			fake(input.Elem().FieldByName(field), field)
		}
	}
}

// fake sets a parameter to a value of the right form, below it everything.
func fake(v reflect.Value, name string) {
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.Unix(1e9, 0)))
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fake(v.Elem(), name)
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fake(v.Index(0), name)
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				fake(v.Field(i), f.Name)
			}
		}
	case v.Kind() == reflect.String:
		v.SetString(fakeText(v, name))
	case v.Kind() == reflect.Int32 || v.Kind() == reflect.Int64:
		v.SetInt(10)
	}
}

func fakeText(v reflect.Value, name string) string {
	if values := v.MethodByName("Values"); values.IsValid() {
		return values.Call(nil)[0].Index(0).String()
	}
	if kind, ok := model.KindNamedBy("", name); ok && kind.Prefix != "" {
		return kind.Prefix + "-0123456789abcdef0"
	}
	known := map[string]string{
		"ImageId": "ami-0123456789abcdef0", "InstanceId": "i-0123456789abcdef0", "SubnetId": "subnet-0123456789abcdef0", "VpcId": "vpc-0123456789abcdef0",
		"InstanceFamily": "t2", "GroupId": "sg-0123456789abcdef0", "NetworkInterfaceId": "eni-0123456789abcdef0", "Name": "state",
	}
	return cmp.Or(known[name], "x")
}

// checkEmpty checks that an answer of an action about what no account has shows nothing.
func checkEmpty(t *testing.T, name string, output any) {
	t.Helper()
	v := reflect.ValueOf(output).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Slice && !served(name) && (f.IsNil() || f.Len() > 0) {
			t.Errorf("%s: the SDK reads %s as %v, want an empty list", name, v.Type().Field(i).Name, f.Interface())
		}
	}
}

// Filters are checked by their names, also by actions that show none.
func TestFiltersOfEmptyAnswersAreChecked(t *testing.T) {
	w := newWorld(t)
	for _, name := range model.Names() {
		a, _ := model.Lookup(name)
		if !model.OnlyReads(name) || served(name) || !a.HasParameter("Filter") && !a.HasParameter("Filters") || slices.ContainsFunc(a.Parameters, func(p model.Member) bool { return p.Required && p.Name != "Filter" }) {
			continue
		}
		parameter := "Filter"
		if a.HasParameter("Filters") {
			parameter = "Filters"
		}
		form := func(filter string) string {
			return fmt.Sprintf("Action=%s&Version=2016-11-15&%s.1.Name=%s&%[2]s.1.Value.1=x", name, parameter, url.QueryEscape(filter))
		}
		for _, filter := range append([]string{"tag:Name", "vpc-id", "attachment.vpc-id"}, a.Filters...) {
			if filter == "tag" {
				continue
			}
			if code, _ := w.ask(t, "dev", form(filter)); code != "" {
				t.Errorf("%s with the filter %s: got %s, want an empty answer", name, filter, code)
			}
		}
		if code, _ := w.ask(t, "dev", form("no-such-filter")); code != "InvalidParameterValue" {
			t.Errorf("%s with an unknown filter: got %s, want InvalidParameterValue", name, code)
		}
	}
}

// An id of what no account has is malformed, or does not exist.
func TestIDsOfEmptyAnswersAreNotFound(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct{ form, code string }{
		{"DescribeNatGateways&NatGatewayId.1=nat-0123456789abcdef0", "NatGatewayNotFound"},
		{"DescribeNatGateways&NatGatewayId.1=nat-xyz", "NatGatewayMalformed"},
		{"DescribeNatGateways&NatGatewayId=nat-0123456789abcdef0", "NatGatewayNotFound"},
		{"DescribeVpcPeeringConnections&VpcPeeringConnectionId.1=pcx-12345678", "InvalidVpcPeeringConnectionID.NotFound"},
		{"DescribeVpcPeeringConnections&VpcPeeringConnectionId.1=12345678", "InvalidVpcPeeringConnectionId.Malformed"},
		{"DescribeVpcEndpoints&VpcEndpointId.1=vpce-12345678", "InvalidVpcEndpointId.NotFound"},
		{"DescribeTransitGateways&TransitGatewayIds.1=tgw-12345678", "InvalidTransitGatewayID.NotFound"},
		{"DescribeTransitGatewayVpcAttachments&TransitGatewayAttachmentIds.1=tgw-attach-12345678", "InvalidTransitGatewayAttachmentID.NotFound"},
		{"DescribeSnapshots&SnapshotId.1=snap-12345678", "InvalidSnapshot.NotFound"},
		{"DescribeFlowLogs&FlowLogId.1=fl-12345678", "InvalidFlowLogId.NotFound"},
		{"DescribeVpnGateways&VpnGatewayId.1=vgw-12345678", "InvalidVpnGatewayID.NotFound"},
		{"DescribeVpnConnections&VpnConnectionId.1=vpn-12345678", "InvalidVpnConnectionID.NotFound"},
		{"DescribeCustomerGateways&CustomerGatewayId.1=cgw-12345678", "InvalidCustomerGatewayID.NotFound"},
		{"DescribeManagedPrefixLists&PrefixListId.1=pl-12345678", "InvalidPrefixListID.NotFound"},
		{"GetManagedPrefixListEntries&PrefixListId=pl-12345678", "InvalidPrefixListID.NotFound"},
		{"GetManagedPrefixListEntries", "MissingParameter"},
		{"DescribeHosts&HostId.1=h-12345678", "InvalidHostID.NotFound"},
		{"DescribeSpotInstanceRequests&SpotInstanceRequestId.1=sir-12345678", "InvalidSpotInstanceRequestID.NotFound"},
		{"DescribeCapacityReservations&CapacityReservationId.1=cr-12345678", "InvalidCapacityReservationId.NotFound"},
		{"DescribeInstanceConnectEndpoints&InstanceConnectEndpointId.1=eice-12345678", "InvalidInstanceConnectEndpointId.NotFound"},
		{"DescribeNetworkInsightsPaths&NetworkInsightsPathId.1=nip-12345678", "InvalidNetworkInsightsPathId.NotFound"},
		{"DescribeTrafficMirrorSessions&TrafficMirrorSessionId.1=tms-12345678", "InvalidTrafficMirrorSessionId.NotFound"},
		{"DescribeIpamPools&IpamPoolId.1=ipam-pool-12345678", "InvalidIpamPoolId.NotFound"},
		{"DescribeVpcEndpointServices&ServiceName.1=com.amazonaws.us-east-1.s3", "InvalidServiceName"},
		{"GetSubnetCidrReservations&SubnetId=subnet-12345678", "InvalidSubnetID.NotFound"},
		{"DescribeMovingAddresses&PublicIp.1=192.0.2.1", "InvalidAddress.NotFound"},
		{"DescribeVpcs&VpcId=vpc-12345678", "InvalidVpcID.NotFound"},
		{"DescribeSnapshots&NextToken=x", "InvalidNextToken"},
		{"DescribeSnapshots&MaxResults=many", "InvalidParameterValue"},
		{"DescribeSnapshots&MaxResults=5&DryRun=true", "DryRunOperation"},
		{"DescribeSnapshots&Owner.1=self&MaxResults=5", ""},
	} {
		if code, _ := w.ask(t, "dev", "Action="+c.form+"&Version=2016-11-15"); code != c.code {
			t.Errorf("%s: got %s, want %s", c.form, code, c.code)
		}
	}
}

// A refused action says why.
func TestRefusedActionsSayWhy(t *testing.T) {
	w := newWorld(t)
	for _, name := range model.Names() {
		if model.OnlyReads(name) || served(name) {
			continue
		}
		if code, message := w.ask(t, "dev", "Action="+name+"&Version=2016-11-15"); code != "UnsupportedOperation" || !strings.Contains(message, model.WhyRefused(name)) {
			t.Errorf("%s: got %s %q, want UnsupportedOperation and the reason %q", name, code, message, model.WhyRefused(name))
		}
	}
}
