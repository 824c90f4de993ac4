package query_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"palisade/cluster"
	"palisade/ec2"
	"palisade/ec2/query"
	"palisade/ec2/state"
)

// A laggingBackend is a node that asks the leader for the newest state, and counts how often. Its own
// state is the one of the moment when lag was called.
type laggingBackend struct {
	*cluster.Cluster
	own   atomic.Pointer[state.View]
	reads atomic.Int32
}

func (b *laggingBackend) lag() { b.own.Store(b.Cluster.View()) }

func (b *laggingBackend) View() *state.View {
	if v := b.own.Load(); v != nil {
		return v
	}
	return b.Cluster.View()
}

func (b *laggingBackend) ReadView(ctx context.Context) (*state.View, error) {
	b.reads.Add(1)
	return b.Cluster.ReadView(ctx)
}

// newLimitedWorld returns a world with EC2's rates, whose clock is ahead by later.
func newLimitedWorld(t *testing.T, later *atomic.Int64) (*world, *laggingBackend) {
	b := &laggingBackend{}
	w := newWorldConfigured(t, ec2.Settings{}, func(c *query.Config, cl *cluster.Cluster) {
		b.Cluster = cl
		c.Backend, c.Rate = b, 1
		c.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	})
	return w, b
}

const describe = "Action=DescribeSecurityGroups&Version=2016-11-15"

// as signs a form as an account and returns the status and code of its answer.
func (w *world) call(t testing.TB, account, form string) (int, string) {
	t.Helper()
	r := httpRequest(t, http.MethodPost, w.url, form)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	sign(t, r, form, account, "ec2", time.Now())
	return answer(t, do(t, r))
}

// A caller who is not known costs the leader nothing, or only a few calls if the signature has the right form.
func TestLeaderIsNotAskedForUnknownCallers(t *testing.T) {
	w, b := newLimitedWorld(t, new(atomic.Int64))
	for range 30 {
		for what, change := range map[string]func(*http.Request){
			"unsigned":  func(r *http.Request) { r.Header.Del("Authorization") },
			"malformed": func(r *http.Request) { r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=x") },
			"expired":   func(r *http.Request) { sign(t, r, describe, "albert", "ec2", time.Now().Add(-time.Hour)) },
			"service":   func(r *http.Request) { sign(t, r, describe, "albert", "s3", time.Now()) },
		} {
			r := httpRequest(t, http.MethodPost, w.url, describe)
			change(r)
			if status, code := answer(t, do(t, r)); status < 400 || status >= 500 {
				t.Errorf("%s: got %d %s, want a refusal", what, status, code)
			}
		}
	}
	if n := b.reads.Load(); n != 0 {
		t.Errorf("the leader was asked %d times for requests without a signature of the right form, time and service, want never", n)
	}
	failed, throttled := 0, 0
	for range 10 {
		var all sync.WaitGroup
		codes := make(chan string, 10)
		for i := range 10 {
			all.Go(func() {
				account := []string{"nobody", "albert"}[i%2]
				r := httpRequest(t, http.MethodPost, w.url, describe)
				sign(t, r, describe, account, "ec2", time.Now())
				if account == "albert" {
					r.Header.Set("X-Amz-Date", time.Now().Add(time.Second).UTC().Format("20060102T150405Z"))
				}
				status, code := answer(t, do(t, r))
				codes <- fmt.Sprint(status, " ", code)
			})
		}
		all.Wait()
		close(codes)
		for code := range codes {
			switch code {
			case "401 AuthFailure":
				failed++
			case "503 RequestLimitExceeded":
				throttled++
			default:
				t.Errorf("a wrong signature: got %s, want AuthFailure or RequestLimitExceeded", code)
			}
		}
	}
	if n := b.reads.Load(); n < 20 || n > 60 || throttled == 0 || failed != int(n) {
		t.Errorf("of 100 wrong signatures %d failed and %d were throttled, and the leader was asked %d times; want it asked 20 times and 5 more each second", failed, throttled, n)
	}
	if status, code := w.call(t, "albert", describe); status != 200 {
		t.Errorf("a right signature from the same address: got %d %s, want 200", status, code)
	}
}

// A key that was made at another node a moment ago is accepted, and one that was deleted there is not.
func TestNewestKeysCountEvenIfThisNodeLags(t *testing.T) {
	w, b := newLimitedWorld(t, new(atomic.Int64))
	b.lag()
	apply := func(r state.Request) {
		t.Helper()
		if _, _, err := w.cluster.Apply(t.Context(), state.Command{Request: r}); err != nil {
			t.Fatal(err)
		}
	}
	apply(&state.CreateAccount{ID: "111122223333", Name: "new", Platform: ec2.Classic, AccessKey: "AKIDNEW", Secret: "secret of new"})
	if status, code := w.call(t, "new", describe); status != 200 {
		t.Errorf("a key that this node does not know yet: got %d %s, want 200", status, code)
	}
	apply(&state.UpdateAccessKey{Account: mary, ID: "AKIDMARY", Inactive: true})
	if status, code := w.call(t, "mary", describe); status != 401 || code != "AuthFailure" {
		t.Errorf("a key that was deactivated at another node: got %d %s, want 401 AuthFailure", status, code)
	}
}

// Each account has EC2's rates for each action, and none of another's.
func TestRequestsBeyondRateAreThrottled(t *testing.T) {
	var later atomic.Int64
	w, b := newLimitedWorld(t, &later)
	calls := func(account, form string) (passed int) {
		t.Helper()
		for range 300 {
			status, code := w.call(t, account, form)
			if status == http.StatusServiceUnavailable && code == "RequestLimitExceeded" {
				return passed
			}
			passed++
		}
		return passed
	}
	within := func(what string, got, size int, rate float64, since time.Time) {
		t.Helper()
		if most := size + int(rate*time.Since(since).Seconds()) + 1; got < size || got > most {
			t.Errorf("%s: %d calls passed, want %d to %d", what, got, size, most)
		}
	}
	start := time.Now()
	within("DescribeSecurityGroups", calls("albert", describe), 50, 10, start)
	start = time.Now()
	within("DescribeSecurityGroups with a filter", calls("albert", describe+"&Filter.1.Name=group-name&Filter.1.Value.1=default"), 100, 20, start)
	start = time.Now()
	within("the same of another account", calls("mary", describe), 50, 10, start)
	start = time.Now()
	within("RunInstances, refused", calls("albert", "Action=RunInstances&Version=2016-11-15"), 5, 2, start)
	reads := b.reads.Load()
	if status, code := w.call(t, "albert", "Action=RunInstances&Version=2016-11-15"); status != 503 || code != "RequestLimitExceeded" || b.reads.Load() != reads {
		t.Errorf("a throttled call: got %d %s, and the leader was asked %d times; want 503 RequestLimitExceeded and never", status, code, b.reads.Load()-reads)
	}
	start = time.Now()
	within("actions that do not exist", calls("albert", "Action=Nothing&Version=2016-11-15"), 50, 5, start)
	later.Store(int64(3 * time.Second))
	start = time.Now()
	within("DescribeSecurityGroups three seconds later", calls("albert", describe), 30, 10, start.Add(-10*time.Second))
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.counted[albert+" RequestLimitExceeded"] < 5 || len(w.refused) > 20 {
		t.Errorf("counted %v, recorded %d; want the throttled calls counted, not recorded", w.counted, len(w.refused))
	}
}

// A body beyond 64 KiB is read only if the request has a signature of the right form and time.
func TestLargeBodyIsNotReadWithoutSignature(t *testing.T) {
	w := newWorld(t)
	api, err := query.New(query.Config{Backend: w.cluster})
	if err != nil {
		t.Fatal(err)
	}
	body := describe + "&a=" + strings.Repeat("a", 900<<10)
	for what, c := range map[string]struct {
		at     time.Time
		unsign bool
		status int
		most   int64
	}{
		"signed":   {time.Now(), false, 200, 1 << 20},
		"unsigned": {time.Now(), true, 413, 65 << 10},
		"expired":  {time.Now().Add(-time.Hour), false, 400, 65 << 10},
	} {
		r := httptest.NewRequest(http.MethodPost, w.url, nil)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		sign(t, r, body, "albert", "ec2", c.at)
		if c.unsign {
			r.Header.Del("Authorization")
		}
		sent := &counted{from: strings.NewReader(body)}
		r.Body, r.ContentLength = io.NopCloser(sent), int64(len(body))
		got := httptest.NewRecorder()
		api.ServeHTTP(got, r)
		if got.Code != c.status || sent.n > c.most {
			t.Errorf("%s: status %d after %d bytes, want %d after at most %d: %s", what, got.Code, sent.n, c.status, c.most, got.Body)
		}
	}
}
