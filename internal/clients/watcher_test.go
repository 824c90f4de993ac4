package clients

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"palisade/ec2/query"
	"palisade/internal/lab"
	"palisade/internal/lab/labtest"
)

// A watcher observes the calls of one client and records the actions that succeeded. If wait is
// set, it delays the return of a mutating call until every node enforces the change, because
// Palisade answers when only the answering node enforces it.
type watcher struct {
	lab     *labtest.Lab
	account lab.Account
	wait    bool

	mu      sync.Mutex
	actions map[string]bool
	unknown map[string]bool // actions with a call whose outcome is unknown
}

// addTo adds the watcher to a client's middleware.
func (w *watcher) addTo(stack *middleware.Stack) error {
	return stack.Deserialize.Add(middleware.DeserializeMiddlewareFunc("watcher", w.observe), middleware.Before)
}

func (w *watcher) observe(ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler) (middleware.DeserializeOutput, middleware.Metadata, error) {
	out, metadata, err := next.HandleDeserialize(ctx, in)
	action := awsmiddleware.GetOperationName(ctx)
	response, ok := out.RawResponse.(*smithyhttp.Response)
	w.mu.Lock()
	if w.actions == nil {
		w.actions, w.unknown = map[string]bool{}, map[string]bool{}
	}
	if err == nil {
		w.actions[action] = true
	} else if !ok || response.StatusCode >= http.StatusInternalServerError {
		w.unknown[action] = true
	}
	w.mu.Unlock()
	if err != nil {
		return out, metadata, err
	}
	if w.wait && ok && !readOnlyAction.MatchString(action) {
		err = w.enforced(ctx, response.Header.Get(query.IndexHeader))
	}
	return out, metadata, err
}

// enforced waits until every node enforces the change with this Raft index, or the newest change
// if index is "".
func (w *watcher) enforced(ctx context.Context, index string) error {
	form := url.Values{"Action": {"DescribeEnforcement"}, "Version": {"2016-11-15"}, "Timeout": {"20"}}
	if index != "" {
		form.Set("Index", index)
	}
	status, answer, err := post(ctx, w.lab, w.account, "ec2", form.Encode())
	if err == nil && (status != http.StatusOK || !strings.Contains(answer, "<state>enforced</state><nodeSet>")) {
		err = fmt.Errorf("not every node enforces index %q (\"\": the newest): status %d, answer %s", index, status, answer)
	}
	return err
}

// done reports whether a call of the action has succeeded since the last call of reset.
func (w *watcher) done(action string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.actions[action]
}

func (w *watcher) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.actions)
	clear(w.unknown)
}

// check fails the test if err is not nil, with one exception. On a busy machine the cluster may
// lose its leader during a call, and the SDK repeats the call, which has already succeeded. So
// check accepts an error with the code already if an earlier call of the action had an unknown
// outcome.
func (w *watcher) check(t *testing.T, action, already string, err error) {
	t.Helper()
	w.mu.Lock()
	uncertain := w.unknown[action]
	w.mu.Unlock()
	if uncertain && code(err) == already {
		t.Logf("%s had an unknown outcome, and its repetition returned %s", action, already)
		check(t, w.enforced(t.Context(), ""))
		return
	}
	check(t, err)
}
