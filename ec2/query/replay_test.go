package query_test

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestSignedRequestIsServedOnce: a copy of a request that changes something is refused; reads, and equal
// requests with their own signatures, are not.
func TestSignedRequestIsServedOnce(t *testing.T) {
	w := newWorld(t)
	send := func(form string, r *http.Request) (*http.Request, int) {
		t.Helper()
		again, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url, strings.NewReader(form))
		if err != nil {
			t.Fatal(err)
		}
		again.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if r != nil {
			again.Header = r.Header
		} else {
			sign(t, again, form, "dev", "ec2", time.Now())
		}
		res, err := http.DefaultClient.Do(again)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return again, res.StatusCode
	}
	const allocate, describe = "Action=AllocateAddress&Domain=vpc&Version=2016-11-15", "Action=DescribeAddresses&Version=2016-11-15"
	count := func() (n int) {
		for range w.cluster.View().ElasticAddressesOf(dev, region) {
			n++
		}
		return n
	}
	first, status := send(allocate, nil)
	if status != http.StatusOK || count() != 1 {
		t.Fatalf("status %d and %d addresses, want 200 and 1", status, count())
	}
	index := w.cluster.View().Index()
	if _, status := send(allocate, first); status != http.StatusUnauthorized || count() != 1 {
		t.Errorf("a copy: status %d and %d addresses, want 401 and 1", status, count())
	}
	if now := w.cluster.View().Index(); now != index {
		t.Errorf("a copy became a log entry: index %d, want %d", now, index)
	}
	if _, status := send(allocate, nil); status != http.StatusOK || count() != 2 {
		t.Errorf("signed again: status %d and %d addresses, want 200 and 2", status, count())
	}
	read, status := send(describe, nil)
	if _, again := send(describe, read); status != http.StatusOK || again != http.StatusOK {
		t.Errorf("a read and its copy: status %d and %d, want 200", status, again)
	}
}
