package state

import "palisade/ec2"

// putSettings replaces the settings of a State under test. Users have no such request: a cluster
// keeps the settings of its Bootstrap.
type putSettings struct{ Settings ec2.Settings }

func (r *putSettings) apply(t *tx) (Result, error) {
	t.meta.Settings = r.Settings.WithDefaults()
	return Result{}, nil
}
