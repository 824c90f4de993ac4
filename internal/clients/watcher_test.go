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

// A watcher sees the calls of one client: it remembers the actions that were done, and, if
// it is to wait, lets a change return only when every node enforces it. Palisade's answer
// means that the node that was asked does.
type watcher struct {
	lab     *labtest.Lab
	account lab.Account
	wait    bool

	mu      sync.Mutex
	actions map[string]bool
	unknown map[string]bool // actions of which a call has no clear answer
}

// join puts the watcher behind a client's calls.
func (w *watcher) join(stack *middleware.Stack) error {
	return stack.Deserialize.Add(middleware.DeserializeMiddlewareFunc("watcher", w.see), middleware.Before)
}

func (w *watcher) see(ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler) (middleware.DeserializeOutput, middleware.Metadata, error) {
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
	if w.wait && ok && !onlyReads.MatchString(action) {
		err = w.enforced(ctx, response.Header.Get(query.IndexHeader))
	}
	return out, metadata, err
}

// enforced returns when every node goes by the state of an index; "" is the last.
func (w *watcher) enforced(ctx context.Context, index string) error {
	form := url.Values{"Action": {"DescribeEnforcement"}, "Version": {"2016-11-15"}, "Timeout": {"20"}}
	if index != "" {
		form.Set("Index", index)
	}
	status, answer, err := post(ctx, w.lab, w.account, "ec2", form.Encode())
	if err == nil && (status != http.StatusOK || !strings.Contains(answer, "<state>enforced</state><nodeSet>")) {
		err = fmt.Errorf("index %q is not enforced everywhere: status %d, %s", index, status, answer)
	}
	return err
}

// done says whether an action was done since forget.
func (w *watcher) done(action string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.actions[action]
}

func (w *watcher) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.actions)
	clear(w.unknown)
}

// check is check, but that an action may be refused as done already if a call of it had no
// clear answer: its leader was gone, as on a machine with too much other work, and the SDK
// asked again.
func (w *watcher) check(t *testing.T, action, already string, err error) {
	t.Helper()
	w.mu.Lock()
	again := w.unknown[action]
	w.mu.Unlock()
	if again && code(err) == already {
		t.Logf("%s had no clear answer, and then %s", action, already)
		check(t, w.enforced(t.Context(), ""))
		return
	}
	check(t, err)
}
