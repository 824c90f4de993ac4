package query_test

import (
	"encoding/xml"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// The documents have the form of the STS API Reference.
func TestGetCallerIdentityShowsAccount(t *testing.T) {
	w := newWorld(t)
	const form = "Action=GetCallerIdentity&Version=2011-06-15"
	ask := func(form, service, region string, at time.Time, change func(*http.Request)) (*http.Response, string) {
		r := httpRequest(t, http.MethodPost, w.url, form)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
		signIn(t, r, form, "dev", service, region, at)
		if change != nil {
			change(r)
		}
		res := do(t, r)
		defer res.Body.Close()
		data, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, string(data)
	}

	for _, region := range []string{"us-east-1", "eu-central-1", "aws-global"} {
		res, body := ask(form, "sts", region, time.Now(), nil)
		var got struct {
			XMLName xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ GetCallerIdentityResponse"`
			ARN     string   `xml:"GetCallerIdentityResult>Arn"`
			UserID  string   `xml:"GetCallerIdentityResult>UserId"`
			Account string   `xml:"GetCallerIdentityResult>Account"`
			ID      string   `xml:"ResponseMetadata>RequestId"`
		}
		if err := xml.Unmarshal([]byte(body), &got); err != nil {
			t.Fatalf("the answer is not of the form of STS: %v: %s", err, body)
		}
		if res.StatusCode != 200 || got.ARN != "arn:aws:iam::123456789012:root" || got.UserID != dev || got.Account != dev || got.ID != res.Header.Get("x-amzn-RequestId") {
			t.Errorf("got %s, want 200 with the root user of account %s: %s", res.Status, dev, body)
		}
	}

	now := time.Now()
	for _, c := range []struct {
		what, form, service string
		at                  time.Time
		change              func(*http.Request)
		status              int
		code                string
	}{
		{"unsigned", form, "sts", now, func(r *http.Request) { r.Header.Del("Authorization") }, 403, "MissingAuthenticationToken"},
		{"unknown key", form, "sts", now, func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), "AKIDDEV", "AKIDNOBODY", 1))
		}, 403, "InvalidClientTokenId"},
		{"an hour ago", form, "sts", now.Add(-time.Hour), nil, 403, "SignatureDoesNotMatch"},
		{"no such action", "Action=AssumeRole&Version=2011-06-15", "sts", now, nil, 400, "InvalidAction"},
		{"an action of EC2", "Action=DescribeRegions&Version=2011-06-15", "sts", now, nil, 400, "InvalidAction"},
		{"version of EC2", "Action=GetCallerIdentity&Version=2016-11-15", "sts", now, nil, 400, "InvalidAction"},
	} {
		res, body := ask(c.form, c.service, region, c.at, c.change)
		var got struct {
			XMLName xml.Name `xml:"https://sts.amazonaws.com/doc/2011-06-15/ ErrorResponse"`
			Type    string   `xml:"Error>Type"`
			Code    string   `xml:"Error>Code"`
			ID      string   `xml:"RequestId"`
		}
		if err := xml.Unmarshal([]byte(body), &got); err != nil {
			t.Fatalf("%s: the error is not of the form of STS: %v: %s", c.what, err, body)
		}
		if res.StatusCode != c.status || got.Code != c.code || got.Type != "Sender" || got.ID == "" {
			t.Errorf("%s: got %s, want %d with code %s: %s", c.what, res.Status, c.status, c.code, body)
		}
	}
	if res, body := ask(form, "ec2", region, now, nil); res.StatusCode != 400 || !strings.Contains(body, "<Code>InvalidAction</Code>") {
		t.Errorf("GetCallerIdentity signed for EC2: got %s, want 400 InvalidAction: %s", res.Status, body)
	}
}
