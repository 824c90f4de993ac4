package sigv4

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// botocore 1.43 signed this query string with the secret "b", for a POST.
func TestSignatureOfBotocoreVerifies(t *testing.T) {
	const uri = "http://127.0.0.1:1/?Action=DescribeSecurityGroups&Version=2016-11-15&GroupName.1=a%20b&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a%2F20261121%2Fus-east-1%2Fec2%2Faws4_request&X-Amz-Date=20261121T172648Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=581a712b4643657922b112ddf169a494bef8136b5bd1e7916dc379f1dc75fe89"
	r, err := http.NewRequest(http.MethodPost, uri, nil)
	if err != nil {
		t.Fatal(err)
	}
	g, err := Parse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := g.compute(r, nil, "b"); err != nil || got != g.hex {
		t.Errorf("computed the signature %s, %v; want %s", got, err, g.hex)
	}
	stamp := time.Date(2026, 11, 21, 17, 26, 48, 0, time.UTC)
	for after, good := range map[time.Duration]bool{-6 * time.Minute: false, -4 * time.Minute: true, 0: true, time.Minute: true, 61 * time.Second: false} {
		if err := g.CheckTime(stamp.Add(after)); (err == nil) != good {
			t.Errorf("CheckTime %s after the stamp: got %v, want it accepted: %v", after, err, good)
		}
	}
}

// FuzzParseAuthorization checks that a signature which Parse accepts has all its parts and
// can be verified.
func FuzzParseAuthorization(f *testing.F) {
	const good = "AWS4-HMAC-SHA256 Credential=AKID/20261121/us-east-1/ec2/aws4_request, SignedHeaders=content-type;host;x-amz-date, Signature=0123abcd"
	f.Add(good, "20261121T172648Z", "")
	f.Add(strings.ReplaceAll(good, ", ", ","), "20261121T172648Z", "a=b")
	f.Add("", "", "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a%2F20261121%2Fus-east-1%2Fec2%2Faws4_request&X-Amz-Date=20261121T172648Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=58")
	f.Add("Basic Zm9vOmJhcg==", "", "Signature=x&SignatureVersion=2")
	f.Fuzz(func(t *testing.T, header, date, query string) {
		r := &http.Request{Method: http.MethodGet, Host: "127.0.0.1", Header: make(http.Header)}
		r = r.WithContext(t.Context())
		r.URL = &url.URL{Path: "/", RawQuery: query}
		if header != "" {
			r.Header.Set("Authorization", header)
			r.Header.Set("X-Amz-Date", date)
		}
		g, err := Parse(r, nil)
		if err != nil {
			if g != nil {
				t.Errorf("Parse returned both an error and a signature: %v, %+v", err, g)
			}
			return
		}
		if g.date == "" || g.Region == "" || g.hex == "" || g.stamp.IsZero() || g.inQuery != (g.expires > 0) || len(g.signedHeaders) == 0 {
			t.Errorf("Parse accepted an incomplete signature: %+v", g)
		}
		if _, err := g.compute(r, nil, "secret"); err != nil {
			t.Errorf("compute signature: %v", err)
		}
	})
}
