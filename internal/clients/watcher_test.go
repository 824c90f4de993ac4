package clients

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"

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
}

// join puts the watcher behind a client's calls.
func (w *watcher) join(stack *middleware.Stack) error {
	return stack.Deserialize.Add(middleware.DeserializeMiddlewareFunc("watcher", w.see), middleware.Before)
}

func (w *watcher) see(ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler) (middleware.DeserializeOutput, middleware.Metadata, error) {
	out, metadata, err := next.HandleDeserialize(ctx, in)
	if err != nil {
		return out, metadata, err
	}
	action := awsmiddleware.GetOperationName(ctx)
	w.mu.Lock()
	if w.actions == nil {
		w.actions = map[string]bool{}
	}
	w.actions[action] = true
	w.mu.Unlock()
	response, ok := out.RawResponse.(*smithyhttp.Response)
	if w.wait && ok && !onlyReads.MatchString(action) {
		err = w.enforced(ctx, response.Header.Get(query.IndexHeader))
	}
	return out, metadata, err
}

// enforced returns when every node goes by the state of an index.
func (w *watcher) enforced(ctx context.Context, index string) error {
	form := url.Values{"Action": {"DescribeEnforcement"}, "Version": {"2016-11-15"}, "Index": {index}, "Timeout": {"20"}}
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
}
