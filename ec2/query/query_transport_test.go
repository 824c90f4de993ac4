package query_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// presigned makes a request signed by albert in the query string.
func (w *world) presigned(t testing.TB, method, query, body string, stamp time.Time, expires string) *http.Request {
	t.Helper()
	target := w.url + "/?" + query
	if expires != "" {
		target += "&X-Amz-Expires=" + expires
	}
	r, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	uri, _, err := v4.NewSigner().PresignHTTP(t.Context(), accessKey("albert"), r, hashOf(body), "ec2", region, stamp)
	if err != nil {
		t.Fatal(err)
	}
	if r.URL, err = url.Parse(uri); err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded") // not signed; the JavaScript SDK v2 does not sign it either
	}
	return r
}

func TestQueryStringSignaturesAreChecked(t *testing.T) {
	w := newWorld(t)
	const describe = "Action=DescribeSecurityGroups&Version=2016-11-15"
	now := time.Now()
	edit := func(from, to string) func(*http.Request) {
		return func(r *http.Request) {
			if !strings.Contains(r.URL.RawQuery, from) {
				t.Errorf("the test cannot replace %s in the query string %s", from, r.URL.RawQuery)
			}
			r.URL.RawQuery = strings.Replace(r.URL.RawQuery, from, to, 1)
		}
	}
	for _, c := range []struct {
		what    string
		stamp   time.Time
		expires string
		change  func(*http.Request)
		status  int
		code    string
	}{
		{"as signed", now, "60", nil, 200, ""},
		{"an hour ago, good for two", now.Add(-time.Hour), "7200", nil, 200, ""},
		{"a week", now, "604800", nil, 200, ""},
		{"an hour ago, good for half", now.Add(-time.Hour), "1800", nil, 400, "RequestExpired"},
		{"in ten minutes", now.Add(10 * time.Minute), "3600", nil, 400, "RequestExpired"},
		{"more than a week", now, "604801", nil, 401, "AuthFailure"},
		{"no time at all", now, "0", nil, 401, "AuthFailure"},
		{"less than none", now, "-1", nil, 401, "AuthFailure"},
		{"no expiry", now, "", nil, 401, "AuthFailure"},
		{"expiry changed", now, "60", edit("X-Amz-Expires=60", "X-Amz-Expires=61"), 401, "AuthFailure"},
		{"action changed", now, "60", edit("Action=DescribeSecurityGroups", "Action=DescribeInstances"), 401, "AuthFailure"},
		{"something added", now, "60", edit("Action=", "DryRun=true&Action="), 401, "AuthFailure"},
		{"another key", now, "60", edit("AKIDALBERT", "AKIDMARY"), 401, "AuthFailure"},
		{"another region", now, "60", edit("us-east-1", "eu-west-1"), 401, "AuthFailure"},
		{"another algorithm", now, "60", edit("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"), 401, "AuthFailure"},
		{"twice", now, "60", edit("X-Amz-Expires=60", "X-Amz-Expires=60&X-Amz-Expires=60"), 401, "AuthFailure"},
		{"host not signed", now, "60", edit("X-Amz-SignedHeaders=host", "X-Amz-SignedHeaders=date"), 401, "AuthFailure"},
		{"a header as well", now, "60", func(r *http.Request) { r.Header.Set("Authorization", "AWS4-HMAC-SHA256 x") }, 401, "AuthFailure"},
		{"another host", now, "60", func(r *http.Request) { r.Host = "ec2.amazonaws.com" }, 401, "AuthFailure"},
		{"by POST", now, "60", func(r *http.Request) { r.Method = http.MethodPost }, 401, "AuthFailure"},
		{"a body", now, "60", func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("DryRun=true")) }, 401, "AuthFailure"},
	} {
		r := w.presigned(t, http.MethodGet, describe, "", c.stamp, c.expires)
		if c.change != nil {
			c.change(r)
		}
		status, code := answer(t, do(t, r))
		if status != c.status || code != c.code {
			t.Errorf("%s: got %d %s, want %d %s", c.what, status, code, c.status, c.code)
		}
	}

	r := w.presigned(t, http.MethodPost, "Version=2016-11-15", "Action=CreateSecurityGroup&GroupName=a%20b&GroupDescription=c+d~*", now, "60")
	if status, code := answer(t, do(t, r)); status != 200 {
		t.Errorf("a signed form: got %d %s, want 200", status, code)
	}
	if g, ok := w.cluster.View().GroupNamed(albert, region, "", "a b"); !ok || g.Description != "c d~*" {
		t.Errorf("the form made group %+v, want it with the description c d~*", g)
	}
	for _, form := range []string{
		"Action=DescribeInstances&Version=2012-05-01&AWSAccessKeyId=AKIDALBERT&SignatureVersion=2&SignatureMethod=HmacSHA256&Timestamp=2012-05-01T00%3A00%3A00Z&Signature=x",
	} {
		for _, r := range []*http.Request{httpRequest(t, http.MethodGet, w.url+"/?"+form, ""), httpRequest(t, http.MethodPost, w.url, form)} {
			if status, code := answer(t, do(t, r)); status != 401 || code != "AuthFailure" {
				t.Errorf("Signature Version 2 by %s: got %d %s, want 401 AuthFailure", r.Method, status, code)
			}
		}
	}
}

func httpRequest(t testing.TB, method, target, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func do(t testing.TB, r *http.Request) *http.Response {
	t.Helper()
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// Every date from EC2's first to its last version is accepted and is in the namespace of
// the answer.
func TestEveryVersionDateIsAccepted(t *testing.T) {
	w := newWorld(t)
	for version, want := range map[string]string{
		"2006-06-26": "", "2006-10-01": "", "2009-04-04": "", "2012-05-01": "", "2014-10-01": "", "2016-11-15": "",
		"2006-06-25": "NoSuchVersion", "2016-11-16": "NoSuchVersion", "2012-02-30": "NoSuchVersion", "2012-5-1": "NoSuchVersion",
		"2011-06-15T": "NoSuchVersion", "latest": "NoSuchVersion", "": "MissingParameter",
	} {
		res := w.post(t, "Action=DescribeRegions&Version="+version, nil)
		data, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		res.Body = io.NopCloser(bytes.NewReader(data))
		if _, code := answer(t, res); code != want {
			t.Errorf("version %q: got %s, want %s", version, code, want)
		}
		if name := fmt.Sprintf(`xmlns="http://ec2.amazonaws.com/doc/%s/"`, version); want == "" && !bytes.Contains(data, []byte(name)) {
			t.Errorf("the answer lacks %s: %s", name, data)
		}
	}
}

func TestEveryAnswerHasRequestIDAndDate(t *testing.T) {
	w := newWorld(t)
	for _, form := range []string{"Action=DescribeRegions&Version=2016-11-15", "Action=Nothing&Version=2016-11-15"} {
		res := w.post(t, form, nil)
		data, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		id := res.Header.Get("x-amzn-RequestId")
		date, err := http.ParseTime(res.Header.Get("Date"))
		if err != nil || time.Since(date).Abs() > time.Minute {
			t.Errorf("the header Date is %q, want the time of the answer: SDKs correct their clocks by it", res.Header.Get("Date"))
		}
		if got := res.Header.Get("Content-Type"); got != "text/xml;charset=UTF-8" {
			t.Errorf("Content-Type is %q, want text/xml;charset=UTF-8", got)
		}
		element := "<requestId>" + id + "</requestId>"
		if res.StatusCode != 200 {
			element = "<RequestID>" + id + "</RequestID>"
		}
		if len(id) != 36 || !bytes.Contains(data, []byte(element)) {
			t.Errorf("the request id is %q, want %s in the answer %s", id, element, data)
		}
	}
}

// Every request of a broken or hostile client gets a 4xx, never a 5xx.
func TestBadTransportIsClientError(t *testing.T) {
	w := newWorld(t)
	const form = "Action=DescribeSecurityGroups&Version=2016-11-15"
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for _, c := range []struct {
		what   string
		form   string
		change func(*http.Request) // changes the request before it is signed
		status int
		code   string
	}{
		{"bad UTF-8", form + "&GroupName.1=%C3%28", nil, 400, "InvalidCharacter"},
		{"overlong UTF-8", form + "&GroupName.1=%C0%AF", nil, 400, "InvalidCharacter"},
		{"surrogate", form + "&GroupName.1=%ED%A0%80", nil, 400, "InvalidCharacter"},
		{"NUL", form + "&GroupName.1=a%00b", nil, 400, "InvalidCharacter"},
		{"U+FFFE", form + "&GroupName.1=%EF%BF%BE", nil, 400, "InvalidCharacter"},
		{"bad UTF-8 in a name", form + "&%FF=1", nil, 400, "InvalidCharacter"},
		{"%zz", form + "&GroupName.1=%zz", nil, 400, "MalformedQueryString"},
		{"% at the end", form + "&GroupName.1=%", nil, 400, "MalformedQueryString"},
		{"semicolons", strings.ReplaceAll(form, "&", ";"), nil, 400, "MalformedQueryString"},
		{"right to left", form + "&GroupName.1=%E2%80%AEdefault", nil, 400, "InvalidGroup.NotFound"},
		{"an entity for a form", `<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>`, nil, 400, "MalformedQueryString"},
		{"an entity for a name", "Action=CreateSecurityGroup&GroupDescription=x&Version=2016-11-15&GroupName=%26lol9%3B%3C%21ENTITY%3E", nil, 200, ""},
		{"XML", "<a/>", header("Content-Type", "text/xml"), 415, "UnsupportedMediaType"},
		{"JSON", `{"Action": "DescribeInstances"}`, header("Content-Type", "application/json"), 415, "UnsupportedMediaType"},
		{"deep JSON", strings.Repeat("[", 100_000), header("Content-Type", "application/x-amz-json-1.1"), 415, "UnsupportedMediaType"},
		{"several parts", "--x\r\n", header("Content-Type", "multipart/form-data; boundary=x"), 415, "UnsupportedMediaType"},
		{"UTF-16", form, header("Content-Type", "application/x-www-form-urlencoded; charset=utf-16"), 415, "UnsupportedMediaType"},
		{"no media type", form, header("Content-Type", "/;;"), 415, "UnsupportedMediaType"},
		{"compressed", form, header("Content-Encoding", "gzip"), 415, "UnsupportedMediaType"},
		{"twenty thousand parameters", form + strings.Repeat("&a=b", 20_000), nil, 413, "RequestEntityTooLarge"},
		{"ten thousand rules", tenThousandRules(), nil, 413, "RequestEntityTooLarge"},
		{"a long name", form + "&" + strings.Repeat("a", 100_000) + "=1", nil, 200, ""},
		{"a deep name", form + "&a" + strings.Repeat(".1", 1000) + "=1", nil, 400, "InvalidParameterValue"},
		{"wrong version", "Action=DescribeInstances&Version=1.0", nil, 400, "NoSuchVersion"},
		{"wrong action", "Action=%3Cscript%3E&Version=2016-11-15", nil, 400, "InvalidAction"},
		{"a dot for a name", form + "&.=1&..=2", nil, 200, ""},
		{"nothing for a name", form + "&=1&&&", nil, 200, ""},
	} {
		if c.change == nil {
			c.change = func(*http.Request) {}
		}
		r := httpRequest(t, http.MethodPost, w.url, c.form)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
		c.change(r)
		sign(t, r, c.form, "albert", "ec2", time.Now())
		if status, code := answer(t, do(t, r)); status != c.status || code != c.code {
			t.Errorf("%s: got %d %s, want %d %s", c.what, status, code, c.status, c.code)
		}
	}

	for _, method := range []string{http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions} {
		if status, code := answer(t, do(t, w.signed(t, method, form, nil))); status != 405 || code != "MethodNotAllowed" {
			t.Errorf("%s: got %d %s, want 405 MethodNotAllowed", method, status, code)
		}
	}
	if res := do(t, w.signed(t, http.MethodHead, form, nil)); res.StatusCode != 405 {
		t.Errorf("HEAD: got %s, want 405", res.Status)
	}
	// The server reads only the first MiB of 64.
	r := httpRequest(t, http.MethodPost, w.url, "")
	sent := &counted{from: io.LimitReader(zeros{}, 64<<20)}
	r.Body, r.ContentLength = io.NopCloser(sent), 64<<20
	res, err := http.DefaultClient.Do(r)
	if err == nil { // the server may close the connection early
		if status, code := answer(t, res); status != 413 || code != "RequestEntityTooLarge" {
			t.Errorf("64 MiB: got %d %s, want 413 RequestEntityTooLarge", status, code)
		}
	}
	if sent.n > 32<<20 {
		t.Errorf("the server read %d bytes of 64 MiB, want at most half", sent.n)
	}
}

func tenThousandRules() string {
	var b strings.Builder
	b.WriteString("Action=AuthorizeSecurityGroupIngress&GroupName=default&Version=2016-11-15")
	for i := range 10_000 {
		fmt.Fprintf(&b, "&IpPermissions.%d.IpProtocol=tcp&IpPermissions.%d.FromPort=%d", i, i, i)
	}
	return b.String()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type counted struct {
	from io.Reader
	n    int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.from.Read(p)
	c.n += int64(n)
	return n, err
}
