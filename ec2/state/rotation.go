package state

import (
	"crypto/sha256"
	"iter"
	"slices"

	"palisade/ec2"
)

// rotationRequests are the requests that replace keys of the cluster.
var rotationRequests = []Request{&BeginRotation{}, &AdvanceRotation{}}

// BeginRotation begins to replace a key. If the key is being replaced already, it changes nothing:
// that rotation continues.
type BeginRotation struct {
	Kind  ec2.KeyKind
	Cause string
}

func (r *BeginRotation) apply(t *tx) (Result, error) {
	switch r.Kind {
	case ec2.GossipKey, ec2.TunnelKeys, ec2.ClusterKey, ec2.Authority:
	default:
		return Result{}, ec2.Errorf("InvalidParameterValue", "%q is not a kind of key; it must be %s, %s, %s or %s", ec2.Clip(string(r.Kind)), ec2.GossipKey, ec2.TunnelKeys, ec2.ClusterKey, ec2.Authority)
	}
	if t.rotation(r.Kind) < 0 {
		t.rotate(r.Kind, ec2.Clip(r.Cause))
	}
	return Result{}, nil
}

// rotation returns the place of a kind's rotation in the meta row, or -1.
func (t *tx) rotation(kind ec2.KeyKind) int {
	return slices.IndexFunc(t.meta.Rotations, func(o ec2.Rotation) bool { return o.Kind == kind })
}

// rotate begins to replace a key, with yet another key if it is being replaced already. Tunnels have
// no key that a leader could make: nodes exchange new ones as soon as they apply the entry.
func (t *tx) rotate(kind ec2.KeyKind, cause string) {
	next := ec2.Rotation{Kind: kind, Step: ec2.RotationDue, Index: t.meta.Index, Cause: cause, Begun: t.meta.Time}
	if kind == ec2.TunnelKeys {
		next.Step, t.meta.Tunnels = ec2.RotationUse, t.meta.Index
	}
	rest := slices.DeleteFunc(slices.Clone(t.meta.Rotations), func(o ec2.Rotation) bool { return o.Kind == kind })
	t.meta.Rotations = append(rest, next)
}

// expel is called when a node is fenced or removed. Its identity is refused from now on. With rotate,
// the keys that it had are replaced, and those of access keys that it could read are exposed.
func (t *tx) expel(n *ec2.Node, rotate bool, how string) {
	if !rotate {
		return
	}
	if len(n.PublicKey) > 0 {
		e := ec2.Expelled{Node: n.ID, Key: sha256.Sum256(n.PublicKey)}
		if !slices.Contains(t.meta.Expelled, e) {
			t.meta.Expelled = append(slices.Clone(t.meta.Expelled), e)
		}
		if over := len(t.meta.Expelled) - maxExpelled; over > 0 {
			t.meta.Expelled = slices.Clone(t.meta.Expelled[over:])
		}
	}
	if !n.Member() {
		return // its keys were replaced when it was fenced
	}
	kinds := []ec2.KeyKind{ec2.GossipKey, ec2.TunnelKeys}
	if n.Votes() {
		kinds = append(kinds, ec2.ClusterKey, ec2.Authority)
		t.meta.Exposed = t.meta.Time
	}
	for _, kind := range kinds {
		t.rotate(kind, "node "+string(n.ID)+" was "+how)
	}
}

// maxExpelled bounds the identities of expelled nodes in a State, which are 100 bytes each. An older
// one is forgotten; its name is in no node table, and that is refused too.
const maxExpelled = 4096

// AdvanceRotation ends a step of a rotation, on behalf of the leader. It is refused if the rotation
// is not in the step From any more, or has begun anew, so that a former leader changes nothing.
type AdvanceRotation struct {
	Kind  ec2.KeyKind
	Index uint64 // of the rotation
	From  ec2.RotationStep
	To    ec2.RotationStep // due: the new key was lost before anybody used it
	Key   string           `json:",omitempty"` // id of the new key, if To is spread

	Certificate string `json:",omitempty"` // PEM, of a new authority, if To is spread
}

// maxAuthority bounds the certificate of an authority in a State, which has about 700 bytes.
const maxAuthority = 4 << 10

func (r *AdvanceRotation) apply(t *tx) (Result, error) {
	at := t.rotation(r.Kind)
	if at < 0 || t.meta.Rotations[at].Index != r.Index || t.meta.Rotations[at].Step != r.From {
		return Result{}, ec2.Errorf("IncorrectState", "the rotation of %s that began at index %d is not in step %q any more", ec2.Clip(string(r.Kind)), r.Index, ec2.Clip(string(r.From)))
	}
	t.meta.Rotations = slices.Clone(t.meta.Rotations)
	now := &t.meta.Rotations[at]
	switch {
	case r.From == ec2.RotationDue && r.To == ec2.RotationSpread:
		if !sealKeyID.MatchString(r.Key) || r.Key == t.meta.SealKey || slices.Contains(t.meta.Gossip, r.Key) {
			return Result{}, ec2.Errorf("InvalidParameterValue", "%q is not the id of a new key", ec2.Clip(r.Key))
		}
		if err := t.checkAuthority(r); err != nil {
			return Result{}, err
		}
		now.Key, now.Certificate = r.Key, r.Certificate
	case r.From == ec2.RotationSpread && r.To == ec2.RotationDue:
		now.Key, now.Certificate = "", ""
	case r.From == ec2.RotationSpread && r.To == ec2.RotationUse && r.Kind == ec2.GossipKey:
		t.meta.Gossip = append([]string{now.Key}, t.meta.Gossip...)
	case r.From == ec2.RotationSpread && r.To == ec2.RotationUse && r.Kind == ec2.Authority:
	case r.From == ec2.RotationUse && r.To == ec2.RotationDrop && r.Kind == ec2.Authority:
	case r.From == lastStep(r.Kind) && r.To == ec2.RotationDone:
		switch r.Kind {
		case ec2.GossipKey:
			t.meta.Gossip, t.meta.GossipKey = slices.Clone(t.meta.Gossip[:1]), nil
		case ec2.Authority:
			t.meta.Authority = now.Certificate
		}
		t.meta.Rotations = slices.Delete(t.meta.Rotations, at, at+1)
		return Result{}, nil
	default:
		return Result{}, ec2.Errorf("InvalidParameterValue", "a rotation of %s does not go from step %q to %q", r.Kind, r.From, ec2.Clip(string(r.To)))
	}
	now.Step = r.To
	return Result{}, nil
}

// lastStep returns the step before done.
func lastStep(kind ec2.KeyKind) ec2.RotationStep {
	if kind == ec2.Authority {
		return ec2.RotationDrop
	}
	return ec2.RotationUse
}

// checkAuthority checks the certificate of a new authority, which other kinds of key do not have.
func (t *tx) checkAuthority(r *AdvanceRotation) error {
	switch {
	case r.Kind != ec2.Authority && r.Certificate == "":
		return nil
	case r.Kind != ec2.Authority, len(r.Certificate) > maxAuthority, r.Key != ec2.AuthorityID(r.Certificate), r.Certificate == t.meta.Authority:
		return ec2.Errorf("InvalidParameterValue", "key %s of %s does not belong to the certificate of a new authority", r.Key, r.Kind)
	}
	return nil
}

// reseal carries out a SealSecrets that replaces the cluster key: all secrets change keys in one
// entry.
func (t *tx) reseal(r *SealSecrets) (Result, error) {
	at := t.rotation(ec2.ClusterKey)
	if at < 0 || t.meta.Rotations[at].Step != ec2.RotationSpread || t.meta.Rotations[at].Key != r.Key || t.meta.SealKey != r.Replaces {
		return Result{}, ec2.Errorf("IncorrectState", "cluster key %s is not being replaced by %s", ec2.Clip(r.Replaces), r.Key)
	}
	t.meta.SealKey = r.Key
	for _, was := range slices.Collect(rows[ec2.AccessKey](t.Txn, tableAccessKey, indexID, "")) {
		k := *was
		k.Secret, k.Sealed = "", ec2.SealedSecret{Key: r.Key, Box: r.AccessKeys[was.ID]}
		if len(k.Sealed.Box) == 0 {
			return Result{}, ec2.Errorf("IncorrectState", "access key %s has appeared meanwhile: seal all secrets again", k.ID)
		}
		if err := t.checkSealed(k.Sealed); err != nil {
			return Result{}, err
		}
		t.put(tableAccessKey, &k)
	}
	t.meta.Rotations = slices.Clone(t.meta.Rotations)
	t.meta.Rotations[at].Step = ec2.RotationUse
	return Result{}, nil
}

// GossipRing returns the ids of the gossip keys: nodes encrypt with the first and accept all. It is
// empty in a cluster that has replaced no key since an earlier release kept one in the State: see
// GossipKey. The caller must not change the slice.
func (v *View) GossipRing() []string { return v.v.meta.Gossip }

// Authority returns the certificate (PEM) of the authority that signs the certificates of nodes. It is
// "" in a cluster that still has the authority with which it began; nodes have that in a file.
func (v *View) Authority() string { return v.v.meta.Authority }

// TunnelEpoch returns the index of the entry since which tunnels need new keys; 0 if none has.
func (v *View) TunnelEpoch() uint64 { return v.v.meta.Tunnels }

// Rotations returns the keys that are being replaced. The caller must not change the slice.
func (v *View) Rotations() []ec2.Rotation { return v.v.meta.Rotations }

// Rotation returns the rotation of a kind of key, or false if there is none.
func (v *View) Rotation(kind ec2.KeyKind) (ec2.Rotation, bool) {
	for _, r := range v.v.meta.Rotations {
		if r.Kind == kind {
			return r, true
		}
	}
	return ec2.Rotation{}, false
}

// IsExpelled reports whether a public key (PKIX, DER) belongs to a node that was fenced or removed.
func (v *View) IsExpelled(publicKey []byte) bool { return v.v.meta.isExpelled(publicKey) }

func (m *meta) isExpelled(publicKey []byte) bool {
	sum := sha256.Sum256(publicKey)
	return slices.ContainsFunc(m.Expelled, func(e ec2.Expelled) bool { return e.Key == sum })
}

// ExposedAccessKeys yields the access keys that existed when a voter was last fenced or removed. The
// voter could read their secrets, so they should be replaced.
func (v *View) ExposedAccessKeys() iter.Seq[*ec2.AccessKey] {
	return func(yield func(*ec2.AccessKey) bool) {
		for k := range v.AccessKeys() {
			if exposed := v.v.meta.Exposed; !exposed.IsZero() && !k.Created.After(exposed) && !yield(k) {
				return
			}
		}
	}
}
