package ec2tools

import (
	"bytes"
	"context"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write the output of the tools into testdata")

// TestOutputMatchesGoldenFiles runs each file of testdata. The file's comment cites the
// source of the output's form. "args" is the command line, one word a line; "ACTION.xml" is
// the answer to an action; "request" has the expected parameters of the last call; "2012"
// and "2006" the expected output.
func TestOutputMatchesGoldenFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("found no testdata/*.txtar, %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			playGolden(t, file)
		})
	}
}

func playGolden(t *testing.T, file string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	parts := make(map[string]string)
	for _, f := range archive.Files {
		parts[f.Name] = string(f.Data)
	}
	svc := newService(t, parts)
	args := strings.Split(strings.TrimSuffix(parts["args"], "\n"), "\n")

	for i, f := range archive.Files {
		if f.Name != "2012" && f.Name != "2006" {
			continue
		}
		got := svc.run(t, map[string]string{"EC2_TOOLS": f.Name}, args...)
		if got.exit != 0 || got.stderr != "" {
			t.Errorf("EC2_TOOLS=%s: got exit %d and stderr %q, want 0 and no text", f.Name, got.exit, got.stderr)
		}
		if *update {
			archive.Files[i].Data = []byte(got.stdout)
		} else if diff := cmp.Diff(parts[f.Name], got.stdout); diff != "" {
			t.Errorf("EC2_TOOLS=%s prints (-want +got):\n%s", f.Name, diff)
		}
	}
	if want, ok := parts["request"]; ok {
		if diff := cmp.Diff(want, svc.lastRequest()); diff != "" {
			t.Errorf("parameters of the last call (-want +got):\n%s", diff)
		}
	}
	if *update {
		if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// A service answers each action with a recorded answer and stores the requests.
type service struct {
	url      string
	requests []url.Values
	auth     string
}

func newService(t *testing.T, answers map[string]string) *service {
	s := new(service)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		form, err := url.ParseQuery(string(body))
		if err != nil {
			t.Error(err)
		}
		s.requests = append(s.requests, form)
		s.auth = r.Header.Get("Authorization")
		if answer, ok := answers[form.Get("Action")+".xml"]; ok {
			io.WriteString(w, answer)
			return
		}
		w.WriteHeader(http.StatusBadRequest)
		io.WriteString(w, answers["error.xml"])
	}))
	t.Cleanup(srv.Close)
	s.url = srv.URL
	return s
}

// lastRequest returns the parameters of the last call, one a line, without Version.
func (s *service) lastRequest() string {
	if len(s.requests) == 0 {
		return ""
	}
	var lines []string
	for name, values := range s.requests[len(s.requests)-1] {
		if name != "Version" {
			lines = append(lines, name+"="+values[0]+"\n")
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// A result is the exit status and the output of a tool.
type result struct {
	exit           int
	stdout, stderr string
}

func (s *service) run(t *testing.T, env map[string]string, args ...string) result {
	t.Helper()
	full := map[string]string{
		"EC2_URL": s.url, "AWS_ACCESS_KEY_ID": "AKIDALBERT", "AWS_SECRET_ACCESS_KEY": "secret",
		"AWS_DEFAULT_REGION": "us-east-1",
	}
	for k, v := range env {
		full[k] = v
	}
	var stdout, stderr bytes.Buffer
	exit := Main(context.Background(), args[0], args[1:], Config{
		Getenv: func(k string) string { return full[k] }, Stdout: &stdout, Stderr: &stderr,
	})
	return result{exit, stdout.String(), stderr.String()}
}

func TestRequestIsSignedForRegion(t *testing.T) {
	svc := newService(t, map[string]string{"DescribeSecurityGroups.xml": "<a/>"})
	svc.run(t, nil, "ec2-describe-group")
	if !strings.Contains(svc.auth, "AKIDALBERT/") || !strings.Contains(svc.auth, "/us-east-1/ec2/aws4_request") {
		t.Errorf("Authorization is %q, want AKIDALBERT in us-east-1", svc.auth)
	}
	svc.run(t, nil, "ec2-describe-group", "--region", "eu-west-1", "-O", "AKIDMARY", "-W", "s")
	if !strings.Contains(svc.auth, "AKIDMARY/") || !strings.Contains(svc.auth, "/eu-west-1/ec2/aws4_request") {
		t.Errorf("Authorization with -O and --region is %q, want AKIDMARY in eu-west-1", svc.auth)
	}
}

func TestServiceErrorNamesSideAndCode(t *testing.T) {
	const text = `<Response><Errors><Error><Code>InvalidGroup.NotFound</Code>` +
		`<Message>The security group 'web' does not exist</Message></Error></Errors><RequestID>1</RequestID></Response>`
	svc := newService(t, map[string]string{"error.xml": text})
	got := svc.run(t, nil, "ec2-describe-group", "web")
	want := result{1, "", "Client.InvalidGroup.NotFound: The security group 'web' does not exist\n"}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	err := refusal(503, []byte(strings.Replace(text, "InvalidGroup.NotFound", "Unavailable", 1)))
	if !strings.HasPrefix(err.Error(), "Server.Unavailable: ") {
		t.Errorf("a 503 is reported as %q, want Server.Unavailable", err)
	}
	err = refusal(502, []byte("<html>Bad Gateway</html>"))
	if want := "Server.BadGateway: <html>Bad Gateway</html>"; err.Error() != want {
		t.Errorf("a proxy's 502 is reported as %q, want %q", err, want)
	}
}

func TestUnreachableServiceSaysHowToStartIt(t *testing.T) {
	svc := newService(t, nil)
	got := svc.run(t, map[string]string{"EC2_URL": "http://127.0.0.1:1"}, "ec2-describe-group")
	if got.exit != 1 || !strings.Contains(got.stderr, "palisade lab up") {
		t.Errorf("got %+v, want exit 1 and the hint palisade lab up", got)
	}
}

func TestMissingEnvironmentSaysHowToSetIt(t *testing.T) {
	for _, name := range []string{"EC2_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"} {
		svc := newService(t, nil)
		got := svc.run(t, map[string]string{name: ""}, "ec2-describe-group")
		if got.exit != 2 || !strings.Contains(got.stderr, `eval "$(palisade lab env)"`) || len(svc.requests) != 0 {
			t.Errorf("without %s: got %+v, want exit 2 and the hint palisade lab env", name, got)
		}
	}
}

// TestUsageErrorSuggestsFix runs wrong command lines of users and of the guides. No request
// may be sent, and each error must show what to write instead.
func TestUsageErrorSuggestsFix(t *testing.T) {
	wantUsageErrors(t, []usageCase{
		{"ec2-authorize -p 22 -s203.0.113.25/32", "which group?"},
		{"ec2-authorize default -P tcp -p 22 -s", "-s 203.0.113.25/32"},
		{"ec2-authorize default -s -P tcp -p 22", "-s 203.0.113.25/32"},
		{"ec2-authorize default --cidr --port-range 22", "-s 203.0.113.25/32"},
		{"ec2-authorize default -s -p22", "-s 203.0.113.25/32"},
		{"ec2-authorize default -p 22 -s 203.0.113.25", "-s 203.0.113.25/32"},
		{"ec2-authorize default -p 22 -s 2001:db8::1", "-s 2001:db8::1/128"},
		{"ec2-authorize default -p 22 -s /32", "not a CIDR block"},
		{"ec2-authorize default -p 22 -s 203.0.113.0/33", "not a CIDR block"},
		{"ec2-authorize default -p 22 203.0.113.0/24", "-s 203.0.113.0/24"},
		{"ec2-authorize default web -p 22", "one group at a time"},
		{"ec2-authorize default", "which port?"},
		{"ec2-authorize default -P udp", "which udp port?"},
		{"ec2-authorize default -s 203.0.113.25/32", "which port?"},
		{"ec2-authorize default -p 80-22", "-p 22-80"},
		{"ec2-authorize default -p ssh", "not a port"},
		{"ec2-authorize default -p 65536", "not a port"},
		{"ec2-authorize default -p 22-", "not a port"},
		{"ec2-authorize default -P sctp -p 22", "tcp, udp or icmp"},
		{"ec2-authorize default -P icmp", "-t 8:0"},
		{"ec2-authorize default -P icmp -p 22", "icmp has no ports"},
		{"ec2-authorize default -t 8", "-t 8:0"},
		{"ec2-authorize default -t 300:0", "-1 to 255"},
		{"ec2-authorize default -P tcp -t 8:0", "-t is for icmp"},
		{"ec2-authorize default -p 22 -o web -s 203.0.113.25/32", "cannot be used together"},
		{"ec2-authorize default -p 22 -u 495219933132", "add -o GROUP"},
		{"ec2-authorize default -o", "-o Apache"},
		{"ec2-authorize default -o a -o b -o c -u 1 -u 2", "one for each"},
		{"ec2-authorize default -p 22 --everybody", "unknown flag"},
		{"ec2-revoke -p 22", "which group?"},
		{"ec2-create-group Apache -d Apache web server", `-d "Apache web server"`},
		{"ec2-create-group Apache", "needs a description"},
		{"ec2-create-group -d Apache", "which name?"},
		{"ec2-delete-group", "exactly one group"},
		{"ec2-run-instances", "exactly one image"},
		{"ec2-run-instances ami-eca54085 -n 0", "-n 7"},
		{"ec2-run-instances ami-eca54085 -n 7-1", "-n 7"},
		{"ec2-run-instances ami-eca54085 -g", "-g has no value"},
		{"ec2-run-instances ami-eca54085 -d some words", "needs quotes"},
		{"ec2-terminate-instances", "which instances?"},
		{"ec2-add-keypair", "exactly one key pair"},
		{"ec2-authorize default -P all -p 22", "has no ports"},
		{"ec2-authorize default -P 50 -t 8:0", "has no ports"},
		{"ec2-authorize default -P 256", "also a number"},
		{"ec2-run-instances ami-eca54085 -s", "-s has no value"},
		{"ec2-run-instances ami-eca54085 --associate-public-ip-address", "true or false"},
		{"ec2-run-instances ami-eca54085 --associate-public-ip-address yes", "true or false"},
		{"ec2-describe-vpcs -F vpc-1a2b3c4d", "-F vpc-id=vpc-1a2b3c4d"},
		{"ec2-create-vpc", "10.0.0.0/16"},
		{"ec2-create-vpc 10.0.0.0/16 10.1.0.0/16", "unexpected argument 10.1.0.0/16"},
		{"ec2-create-internet-gateway igw-1", "unexpected argument igw-1"},
		{"ec2-create-subnet -i 10.0.1.0/24", "-c vpc-1a2b3c4d"},
		{"ec2-create-subnet -c vpc-1a2b3c4d -c vpc-1 -i 10.0.1.0/24", "--vpc is given 2 times"},
		{"ec2-create-route rtb-1122334a -g igw-c3a643aa", "-r 0.0.0.0/0"},
	})
}

// A usageCase is a wrong command line, and what its error must contain.
type usageCase struct{ line, want string }

func wantUsageErrors(t *testing.T, cases []usageCase) {
	t.Helper()
	for _, tc := range cases {
		svc := newService(t, nil)
		got := svc.run(t, nil, strings.Fields(tc.line)...)
		if got.exit != 2 || !strings.Contains(got.stderr, tc.want) || got.stdout != "" {
			t.Errorf("%s\n got exit %d: %s%s want exit 2 and %q", tc.line, got.exit, got.stdout, got.stderr, tc.want)
		}
		if len(svc.requests) != 0 {
			t.Errorf("%s\n sent requests: %v", tc.line, svc.requests)
		}
	}
}

func TestHelpOptionIsFoundAnywhere(t *testing.T) {
	svc := newService(t, nil)
	for _, line := range []string{"ec2-authorize -h", "ec2-authorize default -p --help", "ec2-authorize -s -?"} {
		got := svc.run(t, map[string]string{"EC2_URL": ""}, strings.Fields(line)...)
		if got.exit != 0 || !strings.Contains(got.stdout, "Example:\n  ec2-authorize default -P tcp") {
			t.Errorf("%s: got %+v, want exit 0 and the usage with an example", line, got)
		}
	}
	for _, name := range Names() {
		got := svc.run(t, nil, name, "--help")
		if lines := strings.Count(got.stdout, "\n"); got.exit != 0 || lines > 24 {
			t.Errorf("%s --help: got exit %d and %d lines, want exit 0 and at most 24", name, got.exit, lines)
		}
	}
}

func TestUnknownEraIsRefused(t *testing.T) {
	svc := newService(t, nil)
	got := svc.run(t, map[string]string{"EC2_TOOLS": "2007"}, "ec2-describe-group")
	if got.exit != 2 || !strings.Contains(got.stderr, "2006 or 2012") {
		t.Errorf("EC2_TOOLS=2007: got %+v, want exit 2 and the valid values", got)
	}
}
