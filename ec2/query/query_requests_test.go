package query_test

import (
	"context"
	"encoding/base64"
	"encoding/xml"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// signed makes a request signed by albert. If change is not nil, it then changes the
// signed request.
func (w *world) signed(t testing.TB, method, form string, change func(*http.Request)) *http.Request {
	t.Helper()
	target, body := w.url, form
	if method == http.MethodGet {
		target, body = w.url+"/?"+form, ""
	}
	r, err := http.NewRequestWithContext(context.Background(), method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	}
	sign(t, r, body, "albert", "ec2", time.Now())
	if change != nil {
		change(r)
	}
	return r
}

func (w *world) post(t testing.TB, form string, change func(*http.Request)) *http.Response {
	t.Helper()
	return do(t, w.signed(t, http.MethodPost, form, change))
}

// answer returns the status and the error code of an answer, "" if it has none.
func answer(t testing.TB, res *http.Response) (int, string) {
	t.Helper()
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Code string `xml:"Errors>Error>Code"`
		ID   string `xml:"RequestID"`
	}
	if err := xml.Unmarshal(data, &doc); err != nil {
		t.Errorf("the answer is not XML: %v\n%s", err, data)
	}
	if doc.Code != "" && doc.ID == "" {
		t.Errorf("the error has no RequestID: %s", data)
	}
	return res.StatusCode, doc.Code
}

func TestSignaturesAreChecked(t *testing.T) {
	w := newWorld(t)
	const form = "Action=DescribeSecurityGroups&Version=2016-11-15"
	authorization := func(edit func(string) string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", edit(r.Header.Get("Authorization"))) }
	}
	replace := func(old, new string) func(*http.Request) {
		return authorization(func(h string) string { return strings.Replace(h, old, new, 1) })
	}
	for _, c := range []struct {
		what   string
		change func(*http.Request)
		status int
		code   string
	}{
		{"as signed", nil, 200, ""},
		{"no header", func(r *http.Request) { r.Header.Del("Authorization") }, 401, "MissingAuthenticationToken"},
		{"another scheme", authorization(func(string) string { return "Basic Zm9vOmJhcg==" }), 401, "AuthFailure"},
		{"empty scheme", authorization(func(string) string { return "AWS4-HMAC-SHA256 " }), 401, "AuthFailure"},
		{"unknown key", replace("AKIDALBERT", "AKIDNOBODY"), 401, "AuthFailure"},
		{"another's key", replace("AKIDALBERT", "AKIDMARY"), 401, "AuthFailure"},
		{"another region", replace("us-east-1", "eu-west-1"), 401, "AuthFailure"},
		{"another service", replace("/ec2/", "/s3/"), 401, "AuthFailure"},
		{"another date", replace("/20", "/19"), 401, "AuthFailure"},
		{"short signature", authorization(func(h string) string { return h[:len(h)-1] }), 401, "AuthFailure"},
		{"host not signed", replace(";host", ""), 401, "AuthFailure"},
		{"date not signed", replace(";x-amz-date", ""), 401, "AuthFailure"},
		{"header changed", func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }, 401, "AuthFailure"},
		{"host changed", func(r *http.Request) { r.Host = "ec2.amazonaws.com" }, 401, "AuthFailure"},
		{"query added", func(r *http.Request) { r.URL.RawQuery = "DryRun=true" }, 401, "AuthFailure"},
		{"body changed", func(r *http.Request) {
			r.Body = io.NopCloser(strings.NewReader(strings.Replace(form, "2016", "2015", 1)))
		}, 401, "AuthFailure"},
		{"stamp later", func(r *http.Request) {
			r.Header.Set("X-Amz-Date", time.Now().UTC().Add(time.Second).Format("20060102T150405Z"))
		}, 401, "AuthFailure"},
		{"unsigned header added", func(r *http.Request) { r.Header.Set("X-Other", "1") }, 200, ""},
	} {
		status, code := answer(t, w.post(t, form, c.change))
		if status != c.status || code != c.code {
			t.Errorf("%s: got %d %s, want %d %s", c.what, status, code, c.status, c.code)
		}
	}

	// A valid signature with a time ten minutes in the past or future is refused.
	for _, off := range []time.Duration{-10 * time.Minute, 10 * time.Minute} {
		r := w.signed(t, http.MethodPost, form, nil)
		r.Header.Del("Authorization")
		sign(t, r, form, "albert", "ec2", time.Now().Add(off))
		if status, code := answer(t, do(t, r)); status != 400 || code != "RequestExpired" {
			t.Errorf("signed %s from now: got %d %s, want 400 RequestExpired", off, status, code)
		}
	}
}

// A body may encode a blank as + or as %20.
func TestGetAndPostAreEquivalent(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct{ method, form string }{
		{http.MethodGet, "Action=CreateSecurityGroup&GroupDescription=a%20b&GroupName=get&Version=2012-05-01"},
		{http.MethodPost, "Version=2016-11-15&GroupName=post&GroupDescription=a+b&Action=CreateSecurityGroup"},
		{http.MethodGet, "Action=AuthorizeSecurityGroupIngress&GroupName=get&IpPermissions.1.FromPort=80&IpPermissions.1.IpProtocol=tcp&IpPermissions.1.IpRanges.1.CidrIp=0.0.0.0%2F0&IpPermissions.1.ToPort=80&Version=2012-05-01"},
		{http.MethodPost, "Action=AuthorizeSecurityGroupIngress&Version=2006-06-26&UserId=x&GroupName=get&IpProtocol=tcp&FromPort=22&ToPort=22&CidrIp=203.0.113.25/32"},
		{http.MethodPost, "Action=DescribeSecurityGroups&Version=2016-11-15&GroupName.3=get&GroupName.10=post&GroupName.7=default&NewParameter=ignored"},
	} {
		if status, code := answer(t, do(t, w.signed(t, c.method, c.form, nil))); status != 200 {
			t.Errorf("%s %s: got %d %s, want 200", c.method, c.form, status, code)
		}
	}
	for _, g := range []string{"get", "post"} {
		if found, ok := w.cluster.View().GroupNamed(albert, region, "", g); !ok || found.Description != "a b" {
			t.Errorf("group %s is %+v, want the description %q", g, found, "a b")
		}
	}
}

func TestBadRequestsAreClientErrors(t *testing.T) {
	w := newWorld(t)
	const v = "&Version=2016-11-15"
	many := strings.Repeat("x", 300)
	for _, c := range []struct{ form, code string }{
		{"", "MissingAction"},
		{"Action=Nothing" + v, "InvalidAction"},
		{"Action=DescribeInstances", "MissingParameter"},
		{"Action=DescribeInstances&Version=2030-01-01", "NoSuchVersion"},
		{"Action=DescribeInstances&Version=%22%3E", "NoSuchVersion"},
		{"Action=%00%FF&Version=2016-11-15", "InvalidCharacter"},
		{"%zz", "MalformedQueryString"},
		{"Action=DescribeInstances&Action=RunInstances" + v, "InvalidParameterValue"},
		{"Action=DescribeInstances&a.b.c.d.e.f.g.h.i.j=1" + v, "InvalidParameterValue"},
		{"Action=DescribeInstances&InstanceId.x=i-1" + v, "UnknownParameter"},
		{"Action=DescribeInstances&InstanceId.1=i-1&InstanceId.01=i-2" + v, "UnknownParameter"},
		{"Action=DescribeInstances&MaxResults=4" + v, "InvalidParameterValue"},
		{"Action=DescribeInstances&MaxResults=ten" + v, "InvalidParameterValue"},
		{"Action=DescribeInstances&DryRun=perhaps" + v, "InvalidParameterValue"},
		{"Action=DescribeInstances&DryRun=true" + v, "DryRunOperation"},
		{"Action=DescribeInstances&Filter.1.Value.1=x" + v, "MissingParameter"},
		{"Action=RunInstances" + v, "MissingParameter"},
		{"Action=RunInstances&MinCount=99999999999&MaxCount=1&ImageId=ami-eca54085" + v, "InvalidParameterValue"},
		{"Action=CreateSecurityGroup" + v, "MissingParameter"},
		{"Action=CreateSecurityGroup&GroupName=x" + v, "MissingParameter"},
		{"Action=CreateSecurityGroup&GroupDescription=x&GroupName=" + many + v, "InvalidParameterValue"},
		{"Action=CreateSecurityGroup&GroupDescription=x&GroupName=%C3%A9" + v, "InvalidParameterValue"},
		{"Action=CreateSecurityGroup&GroupDescription=x&GroupName=a%01" + v, "InvalidCharacter"},
		{"Action=CreateSecurityGroup&GroupDescription=x&GroupName=sg-12345678" + v, "InvalidParameterValue"},
		{"Action=CreateSecurityGroup&GroupDescription=x&GroupName=x&VpcId=vpc-1" + v, "InvalidVpcID.NotFound"},
		{"Action=DeleteSecurityGroup" + v, "MissingParameter"},
		{"Action=DeleteSecurityGroup&GroupId=sg-1&GroupName=x" + v, "InvalidGroup.NotFound"},
		{"Action=DeleteSecurityGroup&GroupId=%FF%FE%00" + v, "InvalidCharacter"},
		{"Action=DeleteSecurityGroup&GroupName=%FF%FE%00" + v, "InvalidCharacter"},
		{"Action=AuthorizeSecurityGroupIngress&GroupName=default" + v, "MissingParameter"},
		{"Action=AuthorizeSecurityGroupIngress&GroupName=default&IpPermissions.1.IpRanges.1CidrIp=0.0.0.0/0&IpPermissions.1.IpProtocol=tcp" + v, "UnknownParameter"},
		{"Action=AuthorizeSecurityGroupIngress&GroupName=default&IpProtocol=tcp&FromPort=1&ToPort=1" + v, "MissingParameter"},
		{"Action=AuthorizeSecurityGroupIngress&GroupName=default&CidrIp=0.0.0.0/0" + v, "MissingParameter"},
		{"Action=AuthorizeSecurityGroupIngress&GroupName=default&IpProtocol=tcp&FromPort=1&ToPort=1&CidrIp=0.0.0.0/0&SourceSecurityGroupOwnerId=1" + v, "MissingParameter"},
		{"Action=RevokeSecurityGroupIngress&GroupName=default&SecurityGroupRuleId.1=sgr-1" + v, "InvalidSecurityGroupRuleId.NotFound"},
		{"Action=TerminateInstances" + v, "InvalidParameterCombination"},
		{"Action=CreateKeyPair" + v, "MissingParameter"},
		{"Action=CreateKeyPair&KeyName=x&KeyType=dsa" + v, "InvalidParameterValue"},
		{"Action=ImportKeyPair&KeyName=x&PublicKeyMaterial=%25" + v, "InvalidParameterValue"},
		{"Action=ImportKeyPair&KeyName=x&PublicKeyMaterial=YWJj" + v, "InvalidKey.Format"},
	} {
		status, code := answer(t, w.post(t, c.form, nil))
		if code != c.code || status >= 500 {
			t.Errorf("%s: got %d %s, want %s", c.form, status, code, c.code)
		}
	}
	if status, code := answer(t, w.post(t, "Action=x&Padding="+strings.Repeat("x", 1<<20), nil)); status != 413 || code != "RequestEntityTooLarge" {
		t.Errorf("a body of over one megabyte: got %d %s, want 413 RequestEntityTooLarge", status, code)
	}
}

// FuzzParameters sends any form, signed correctly. The answer must be XML and no server
// error.
func FuzzParameters(f *testing.F) {
	w := newWorld(f)
	for _, seed := range []string{
		"Action=DescribeSecurityGroups&Version=2016-11-15&Filter.1.Name=group-name&Filter.1.Value.1=*%5C%3F",
		"Action=AuthorizeSecurityGroupIngress&Version=2012-05-01&GroupName=default&IpPermissions.1.IpProtocol=tcp&IpPermissions.1.FromPort=1&IpPermissions.1.ToPort=2&IpPermissions.1.Groups.1.UserId=495219933132&IpPermissions.1.Groups.1.GroupName=default",
		"Action=RunInstances&Version=2016-11-15&ImageId=ami-eca54085&MinCount=1&MaxCount=1&UserData=" + base64.StdEncoding.EncodeToString([]byte("#!/bin/sh")),
		"Action=DescribeInstances&Version=2016-11-15&MaxResults=5&NextToken=aS0x",
		"Action=ImportKeyPair&Version=2016-11-15&KeyName=k&PublicKeyMaterial=" + url.QueryEscape("c3NoLXJzYSBBQUFB"),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, form string) {
		if status, code := answer(t, w.post(t, form, nil)); status >= 500 {
			t.Errorf("%q: got %d %s, want no server error", form, status, code)
		}
	})
}
