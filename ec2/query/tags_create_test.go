package query

import (
	"testing"

	"palisade/ec2/query/model"
)

// Every action that creates a resource takes its tags, if AWS's does: the parameter
// TagSpecification is in the request of the action.
func TestEveryCreationTakesTags(t *testing.T) {
	count := 0
	for name, h := range actions {
		if a, _ := model.Lookup(name); !a.HasParameter("TagSpecification") || h.request == nil {
			continue
		}
		count++
		p := parametersOf(h.request, "")
		if !p["TagSpecification.n.ResourceType"] || !p["TagSpecification.n.Tag.n.Key"] || !p["TagSpecification.n.Tag.n.Value"] {
			t.Errorf("%s has no TagSpecification", name)
		}
	}
	if count < 15 {
		t.Errorf("only %d served actions have a TagSpecification at AWS, want at least 15: the list of parameters has changed", count)
	}
}
