package query

import "testing"

func TestZonesHaveIDs(t *testing.T) {
	for _, c := range []struct{ zone, want string }{
		{"us-east-1a", "use1-az1"},
		{"eu-west-3c", "euw3-az3"},
		{"ap-southeast-2b", "apse2-az2"},
		{"us-gov-west-1a", "usgw1-az1"},
		{"ca-central-1d", "cac1-az4"},
		{"rack-7", "rack-7"},
		{"", ""},
	} {
		if got := zoneID(c.zone); got != c.want {
			t.Errorf("zone %s has the id %s, want %s", c.zone, got, c.want)
		}
	}
}
