package query_test

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
)

const (
	amazonLinux = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
	jammy       = "/aws/service/canonical/ubuntu/server/22.04/stable/current/amd64/hvm/ebs-gp2/ami-id"
)

// ssm sends a request of SSM in the form of the SDKs, and decodes the answer.
func (w *world) ssm(t *testing.T, action, body, region string, change func(*http.Request)) (int, map[string]any) {
	t.Helper()
	r := httpRequest(t, http.MethodPost, w.url, body)
	r.Header.Set("Content-Type", "application/x-amz-json-1.1")
	r.Header.Set("X-Amz-Target", "AmazonSSM."+action)
	signIn(t, r, body, "dev", "ssm", region, time.Now())
	if change != nil {
		change(r)
	}
	res := do(t, r)
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer map[string]any
	if err := json.Unmarshal(data, &answer); err != nil {
		t.Fatalf("the answer to %s is no JSON: %v: %s", action, err, data)
	}
	if res.Header.Get("Content-Type") != "application/x-amz-json-1.1" || res.Header.Get("x-amzn-RequestId") == "" {
		t.Errorf("the answer to %s has the headers %v, want JSON 1.1 and a request id", action, res.Header)
	}
	return res.StatusCode, answer
}

func TestPublicImageParametersAreRead(t *testing.T) {
	w := newVPCWorld(t)
	status, answer := w.ssm(t, "GetParameter", `{"Name":"`+amazonLinux+`","WithDecryption":true}`, region, nil)
	p, _ := answer["Parameter"].(map[string]any)
	id, _ := p["Value"].(string)
	if status != 200 || p["Name"] != amazonLinux || p["Type"] != "String" || p["DataType"] != "text" || p["Version"].(float64) < 2 ||
		p["ARN"] != "arn:aws:ssm:us-east-1::parameter"+amazonLinux || p["LastModifiedDate"].(float64) < 1.7e9 {
		t.Fatalf("GetParameter answers %d with %v, want the parameter", status, answer)
	}
	api := w.as("dev")
	newest := images(t, api, &sdk.DescribeImagesInput{ImageIds: []string{id}})[0]
	if !strings.HasPrefix(*newest.Name, "al2023-ami-2023.") || !strings.HasSuffix(*newest.Name, "-kernel-6.1-x86_64") {
		t.Errorf("%s names %s, want an image of Amazon Linux 2023", amazonLinux, *newest.Name)
	}
	i := w.run(t, func(in *sdk.RunInstancesInput) { in.ImageId = aws.String("resolve:ssm:" + amazonLinux) })
	if *i.ImageId != id {
		t.Errorf("a launch of the parameter's image has image %s, want %s", *i.ImageId, id)
	}
	_, err := api.RunInstances(t.Context(), w.input(func(in *sdk.RunInstancesInput) { in.ImageId = aws.String("resolve:ssm:/no/such") }))
	wantCode(t, "launching the image of an unknown parameter", err, "InvalidParameterValue", "The parameter /no/such of SSM is not there: only public image parameters are")

	status, answer = w.ssm(t, "GetParameters", `{"Names":["`+jammy+`","/no/such","`+amazonLinux+`"]}`, region, nil)
	if list := answer["Parameters"].([]any); status != 200 || len(list) != 2 || !slices.Equal(answer["InvalidParameters"].([]any), []any{"/no/such"}) ||
		list[0].(map[string]any)["DataType"] != "aws:ec2:image" {
		t.Errorf("GetParameters answers %d with %v, want two parameters and an invalid name", status, answer)
	}
}

func TestParametersBelowAPathAreRead(t *testing.T) {
	w := newWorld(t)
	var names []string
	token := ""
	for pages := 0; ; pages++ {
		status, answer := w.ssm(t, "GetParametersByPath", `{"Path":"/aws/service/canonical/ubuntu","Recursive":true`+token+`}`, region, nil)
		list := answer["Parameters"].([]any)
		if status != 200 || len(list) > 10 || pages > 50 {
			t.Fatalf("page %d has status %d and %d parameters, want at most 10", pages, status, len(list))
		}
		for _, p := range list {
			names = append(names, p.(map[string]any)["Name"].(string))
		}
		next, _ := answer["NextToken"].(string)
		if next == "" {
			break
		}
		token = `,"NextToken":"` + next + `"`
	}
	if !slices.Contains(names, jammy) || !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("the pages have %d parameters, want each once, sorted, and %s among them", len(names), jammy)
	}
	if _, answer := w.ssm(t, "GetParametersByPath", `{"Path":"/aws/service/canonical/ubuntu/"}`, region, nil); len(answer["Parameters"].([]any)) != 0 {
		t.Errorf("the path has direct parameters %v, want none without Recursive", answer)
	}
	if _, answer := w.ssm(t, "GetParametersByPath", `{"Path":"/aws/service/ami-amazon-linux-latest","MaxResults":3}`, region, nil); len(answer["Parameters"].([]any)) != 3 {
		t.Errorf("a page of 3 has %v", answer)
	}
}

func TestRequestsOfSSMAreRefusedInItsForm(t *testing.T) {
	w := newWorld(t)
	names := `["` + strings.Repeat(`/a","/b`, 10) + `"]`
	for _, c := range []struct {
		what, action, body, region string
		change                     func(*http.Request)
		status                     int
		code                       string
	}{
		{"an unknown name", "GetParameter", `{"Name":"/no/such"}`, region, nil, 400, "ParameterNotFound"},
		{"another version", "GetParameter", `{"Name":"` + amazonLinux + `:7000"}`, region, nil, 400, "ParameterVersionNotFound"},
		{"no name", "GetParameter", `{}`, region, nil, 400, "ValidationException"},
		{"a list as name", "GetParameter", `{"Name":["a"]}`, region, nil, 400, "ValidationException"},
		{"too many names", "GetParameters", `{"Names":` + names + `}`, region, nil, 400, "ValidationException"},
		{"no path", "GetParametersByPath", `{"Path":"aws"}`, region, nil, 400, "ValidationException"},
		{"large pages", "GetParametersByPath", `{"Path":"/aws","MaxResults":11}`, region, nil, 400, "ValidationException"},
		{"a filter", "GetParametersByPath", `{"Path":"/aws","ParameterFilters":[{"Key":"Type"}]}`, region, nil, 400, "InvalidFilterKey"},
		{"a bad token", "GetParametersByPath", `{"Path":"/aws","NextToken":"x"}`, region, nil, 400, "InvalidNextToken"},
		{"another action", "PutParameter", `{"Name":"/a","Value":"b"}`, region, nil, 400, "UnknownOperationException"},
		{"no JSON", "GetParameter", `Name=a`, region, nil, 400, "SerializationException"},
		{"deep JSON", "GetParameter", `{"Name":` + strings.Repeat(`{"a":`, 20) + `1` + strings.Repeat(`}`, 20) + `}`, region, nil, 400, "SerializationException"},
		{"another region", "GetParameter", `{"Name":"` + amazonLinux + `"}`, "xx-nowhere-1", nil, 400, "InvalidSignatureException"},
		{"unsigned", "GetParameter", `{"Name":"` + amazonLinux + `"}`, region, func(r *http.Request) { r.Header.Del("Authorization") }, 400, "MissingAuthenticationTokenException"},
		{"unknown key", "GetParameter", `{}`, region, func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), "AKIDDEV", "AKIDNOBODY", 1))
		}, 400, "UnrecognizedClientException"},
	} {
		status, answer := w.ssm(t, c.action, c.body, c.region, c.change)
		if status != c.status || answer["__type"] != c.code || answer["message"] == "" {
			t.Errorf("%s: got %d with %v, want %d with %s", c.what, status, answer, c.status, c.code)
		}
	}
}
