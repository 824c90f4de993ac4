package query_test

import "testing"

// Ids and rules of groups, as ec2-api.md's sections on them say.
func TestAnswersAboutGroupsElementByElement(t *testing.T) {
	for _, name := range []string{"groups.txt", "rules.txt", "describerules.txt"} {
		t.Run(name, func(t *testing.T) { newWorld(t).dialog(t, name) })
	}
}
