package state

import (
	"bytes"
	"strings"
	"testing"

	"palisade/ec2"
)

var sampleSealed = ec2.SealedSecret{Key: "0123456789abcdef", Box: []byte("box")}

func accountSamples() map[string]Request {
	return map[string]Request{
		"CreateAccessKey":      &CreateAccessKey{albert, "AKIDALBERTSECOND", sampleSealed},
		"UpdateAccessKey":      &UpdateAccessKey{albert, "AKIDALBERTSECOND", true},
		"DeleteAccessKey":      &DeleteAccessKey{albert, "AKIDALBERTSECOND"},
		"SealSecrets":          &SealSecrets{Key: "0123456789abcdef", AccessKeys: map[string][]byte{"AKIDALBERT": []byte("box")}},
		"CreateAccount-sealed": &CreateAccount{ID: dev, Name: "dev", Platform: ec2.VPCOnly, AccessKey: "AKIDDEV", Sealed: sampleSealed},
	}
}

func (r *replay) keysOf(account ec2.AccountID) (keys []ec2.AccessKey) {
	for k := range r.state.View().AccessKeys() {
		if k.Account == account {
			keys = append(keys, *k)
		}
	}
	return keys
}

func TestSealSecretsReplacesPlainSecrets(t *testing.T) {
	r := newReplay(t)
	if k := r.keysOf(albert); len(k) != 1 || k[0].Secret != "a" {
		t.Fatalf("albert has access keys %+v, want one with the plain secret a", k)
	}
	r.refused(&CreateAccessKey{albert, "AKIDALBERTSECOND", sampleSealed}, "IncorrectState") // there is no cluster key yet
	r.refused(&SealSecrets{Key: "my key"}, "InvalidParameterValue")
	r.must(&SealSecrets{Key: "0123456789abcdef"})
	if k := r.keysOf(albert); k[0].Secret != "a" {
		t.Errorf("albert has %+v, want the plain secret, because SealSecrets had no sealed one for it", k)
	}
	r.refused(&SealSecrets{Key: "fedcba9876543210"}, "IncorrectState")
	r.must(&SealSecrets{Key: "0123456789abcdef", AccessKeys: map[string][]byte{"AKIDALBERT": []byte("box"), "AKIDNOBODY": []byte("box")}})
	r.must(&SealSecrets{Key: "0123456789abcdef", AccessKeys: map[string][]byte{"AKIDALBERT": []byte("another box")}})
	if k := r.keysOf(albert); len(k) != 1 || k[0].Secret != "" || string(k[0].Sealed.Box) != "box" {
		t.Errorf("albert has access keys %+v, want one with the sealed secret", k)
	}
	if _, ok := r.state.View().AccessKey("AKIDNOBODY"); ok {
		t.Error("SealSecrets created an access key")
	}
	if _, err := Restore(strings.NewReader(strings.Replace(string(r.snapshot()), `"SealKey":"0123456789abcdef"`, `"SealKey":"fedcba9876543210"`, 1))); err == nil {
		t.Error("a snapshot with secrets sealed with another key was restored")
	}

	r.must(&Recover{Node: ec2.Node{ID: "node1"}, WithoutSecrets: true})
	if k := r.keysOf(albert); len(k) != 0 || r.state.View().SealKey() != "" {
		t.Errorf("after a recovery without secrets albert has %+v, want none", k)
	}
	if k := r.keysOf(mary); len(k) != 1 || k[0].Secret != "m" {
		t.Errorf("mary has %+v, want her plain secret", k)
	}
}

func TestAccessKeysAreCreatedUpdatedAndDeleted(t *testing.T) {
	r := newReplay(t)
	r.must(&SealSecrets{Key: "0123456789abcdef"})
	r.must(&CreateAccessKey{albert, "AKIDALBERTSECOND", sampleSealed})
	r.refused(&CreateAccessKey{albert, "AKIDALBERTTHIRDX", sampleSealed}, "LimitExceeded")
	r.refused(&CreateAccessKey{mary, "AKIDALBERTSECOND", sampleSealed}, "EntityAlreadyExists")
	r.refused(&CreateAccessKey{mary, "short", sampleSealed}, "InvalidParameterValue")
	r.refused(&CreateAccessKey{mary, "AKIDMARYSECONDXX", ec2.SealedSecret{Key: "fedcba9876543210", Box: []byte("box")}}, "IncorrectState")
	r.refused(&CreateAccessKey{"000000000000", "AKIDNOBODYXXXXXX", sampleSealed}, "NoSuchEntity")
	r.refused(&UpdateAccessKey{mary, "AKIDALBERTSECOND", true}, "NoSuchEntity")
	r.refused(&DeleteAccessKey{mary, "AKIDALBERTSECOND"}, "NoSuchEntity")

	r.must(&UpdateAccessKey{albert, "AKIDALBERT", true})
	r.must(&UpdateAccessKey{albert, "AKIDALBERTSECOND", true})
	r.must(&UpdateAccessKey{albert, "AKIDALBERTSECOND", false})
	if k := r.keysOf(albert); len(k) != 2 || !k[0].Inactive || k[0].Secret != "a" || k[1].Inactive || k[1].Created.IsZero() {
		t.Errorf("albert has access keys %+v, want an inactive one with the secret a and an active new one", k)
	}
	r.must(&DeleteAccessKey{albert, "AKIDALBERT"})
	r.must(&CreateAccessKey{albert, "AKIDALBERTTHIRDX", sampleSealed})

	r.refused(&CreateAccount{ID: dev, Name: "mary", Platform: ec2.Classic, AccessKey: "AKIDDEV", Sealed: sampleSealed}, "EntityAlreadyExists")
	r.refused(&CreateAccount{ID: dev, Name: "dev", Platform: ec2.Classic, AccessKey: "AKIDDEV", Secret: "s", Sealed: sampleSealed}, "MissingParameter")
	r.refused(&CreateAccount{ID: dev, Name: "dev", Platform: ec2.Classic, AccessKey: "AKIDDEV"}, "MissingParameter")
	r.must(&CreateAccount{ID: dev, Name: "dev", Platform: ec2.Classic, AccessKey: "AKIDDEV", Sealed: sampleSealed})
	again, err := Restore(bytes.NewReader(r.snapshot()))
	if err != nil || !bytes.Equal(snapshotOf(t, again), r.snapshot()) {
		t.Errorf("the restored state differs: %v", err)
	}
}
