//go:build soak

package clients

import (
	"testing"

	"palisade/internal/lab/labtest"
)

// These are the tests of Terraform, Ansible and the script that `make test` runs, on the other number of nodes,
// and Ansible in further regions.

func TestSoakTerraformPlatformOnOneNode(t *testing.T) { testPlatform(t, "tfone", 1, true) }

func TestSoakAnsibleAndScriptOnThreeNodes(t *testing.T) {
	l := labtest.Up(t, "ansthree", "--nodes", "3")
	a := newAccount(t, l, "ansible")
	for _, region := range platformRegions {
		t.Run(region, func(t *testing.T) { testPlaybooks(t, l, a, region) })
	}
	t.Run("script", func(t *testing.T) { testEmptyVPC(t, l) })
}
