package state

import "palisade/ec2"

// putSettings replaces the settings of a State under test. No user can: a cluster has the
// settings that it was begun with.
type putSettings struct{ Settings ec2.Settings }

func (r *putSettings) apply(t *tx) (Result, error) {
	t.meta.Settings = r.Settings.WithDefaults()
	return Result{}, nil
}
