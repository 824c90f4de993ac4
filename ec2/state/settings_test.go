package state

import "palisade/ec2"

// putSettings replaces the settings of a State under test. There is no such request for users: a
// cluster keeps the settings of its Bootstrap.
type putSettings struct{ Settings ec2.Settings }

func (r *putSettings) apply(t *tx) (Result, error) {
	t.meta.Settings = r.Settings.WithDefaults()
	return Result{}, nil
}
