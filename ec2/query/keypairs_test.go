package query_test

import (
	"encoding/pem"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/crypto/ssh"
)

// Terraform finds a key pair by its name and by the tags of the call that created it;
// scripts use the id.
func TestKeyPairsHaveIDsAndTags(t *testing.T) {
	w := newWorld(t)
	api, ctx := w.as("dev"), t.Context()
	tagged := []types.TagSpecification{{ResourceType: types.ResourceTypeKeyPair, Tags: []types.Tag{{Key: aws.String("by"), Value: aws.String("terraform")}}}}
	made := ok[*sdk.CreateKeyPairOutput](t)(api.CreateKeyPair(ctx, &sdk.CreateKeyPairInput{KeyName: aws.String("made"), KeyType: types.KeyTypeEd25519, TagSpecifications: tagged}))
	kept, _ := w.cluster.View().KeyPair("123456789012", region, "made")
	imported := ok[*sdk.ImportKeyPairOutput](t)(api.ImportKeyPair(ctx, &sdk.ImportKeyPairInput{KeyName: aws.String("imported"), PublicKeyMaterial: []byte(kept.PublicKey), TagSpecifications: tagged}))
	if !strings.HasPrefix(*made.KeyPairId, "key-0") || *made.KeyPairId == *imported.KeyPairId || len(made.Tags) != 1 || len(imported.Tags) != 1 {
		t.Errorf("created key pair %s with tags %v and imported %s with tags %v, want different ids and one tag each", *made.KeyPairId, made.Tags, *imported.KeyPairId, imported.Tags)
	}
	one := ok[*sdk.DescribeKeyPairsOutput](t)(api.DescribeKeyPairs(ctx, &sdk.DescribeKeyPairsInput{KeyPairIds: []string{*imported.KeyPairId}, IncludePublicKey: aws.Bool(true)})).KeyPairs
	if len(one) != 1 || *one[0].KeyName != "imported" || one[0].KeyType != types.KeyTypeEd25519 || *one[0].PublicKey != kept.PublicKey || *one[0].Tags[0].Value != "terraform" {
		t.Errorf("DescribeKeyPairs by id shows %+v, want the imported pair with its key and tag", one)
	}
	both := ok[*sdk.DescribeKeyPairsOutput](t)(api.DescribeKeyPairs(ctx, &sdk.DescribeKeyPairsInput{Filters: []types.Filter{{Name: aws.String("tag:by"), Values: []string{"terra*"}}}})).KeyPairs
	if len(both) != 2 || both[0].PublicKey != nil {
		t.Errorf("DescribeKeyPairs by tag shows %+v, want both pairs without keys", both)
	}
	if _, err := api.CreateTags(ctx, &sdk.CreateTagsInput{Resources: []string{*made.KeyPairId}, Tags: []types.Tag{{Key: aws.String("more"), Value: aws.String("")}}}); err != nil {
		t.Error(err)
	}
	deleted := ok[*sdk.DeleteKeyPairOutput](t)(api.DeleteKeyPair(ctx, &sdk.DeleteKeyPairInput{KeyPairId: made.KeyPairId}))
	if !*deleted.Return || *deleted.KeyPairId != *made.KeyPairId {
		t.Errorf("DeleteKeyPair returned %+v, want success and id %s", deleted, *made.KeyPairId)
	}
	_, err := api.DescribeKeyPairs(ctx, &sdk.DescribeKeyPairsInput{KeyPairIds: []string{*made.KeyPairId}})
	wantCode(t, "describe a deleted id", err, "InvalidKeyPair.NotFound", "The key pair ID '"+*made.KeyPairId+"' does not exist")
	_, err = api.DeleteKeyPair(ctx, &sdk.DeleteKeyPairInput{KeyPairId: made.KeyPairId})
	wantCode(t, "delete a deleted id", err, "InvalidKeyPair.NotFound", "")
	_, err = api.DeleteKeyPair(ctx, &sdk.DeleteKeyPairInput{KeyPairId: imported.KeyPairId, KeyName: aws.String("other")})
	wantCode(t, "delete by id and by another name", err, "InvalidParameterCombination", "")
	for tag := range w.cluster.View().Tags(*made.KeyPairId) {
		t.Errorf("tag %s of the deleted key pair still exists", tag.Key)
	}
}

func TestPrivateKeyIsReturnedOnce(t *testing.T) {
	w := newWorld(t)
	api, ctx := w.as("albert"), t.Context()
	made := ok[*sdk.CreateKeyPairOutput](t)(api.CreateKeyPair(ctx, &sdk.CreateKeyPairInput{KeyName: aws.String("gsg")}))
	signer, err := ssh.ParsePrivateKey([]byte(*made.KeyMaterial))
	if err != nil {
		t.Fatalf("parse the returned private key: %v", err)
	}
	if block, _ := pem.Decode([]byte(*made.KeyMaterial)); block.Type != "RSA PRIVATE KEY" || len(*made.KeyFingerprint) != 59 {
		t.Errorf("the private key is %s with fingerprint %s, want RSA PRIVATE KEY and a SHA-1", block.Type, *made.KeyFingerprint)
	}
	kept, _ := w.cluster.View().KeyPair(albert, region, "gsg")
	public := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	if kept.PublicKey != public {
		t.Errorf("the state has public key %s, want %s", kept.PublicKey, public)
	}
	_, err = api.CreateKeyPair(ctx, &sdk.CreateKeyPairInput{KeyName: aws.String("gsg")})
	wantCode(t, "create twice", err, "InvalidKeyPair.Duplicate", "The keypair 'gsg' already exists.")

	imported := ok[*sdk.ImportKeyPairOutput](t)(api.ImportKeyPair(ctx, &sdk.ImportKeyPairInput{KeyName: aws.String("mine"), PublicKeyMaterial: []byte(public + " albert@laptop\n")}))
	if len(*imported.KeyFingerprint) != 47 {
		t.Errorf("imported key has fingerprint %s, want an MD5", *imported.KeyFingerprint)
	}
	_, err = api.ImportKeyPair(ctx, &sdk.ImportKeyPairInput{KeyName: aws.String("evil"), PublicKeyMaterial: []byte(`command="reboot" ` + public)})
	wantCode(t, "import options", err, "InvalidKey.Format", "")

	pairs := ok[*sdk.DescribeKeyPairsOutput](t)(api.DescribeKeyPairs(ctx, nil)).KeyPairs
	if len(pairs) != 2 || *pairs[0].KeyName != "gsg" || *pairs[1].KeyName != "mine" {
		t.Errorf("got key pairs %+v, want gsg and mine", pairs)
	}
	_, err = api.DescribeKeyPairs(ctx, &sdk.DescribeKeyPairsInput{KeyNames: []string{"none"}})
	wantCode(t, "describe unknown", err, "InvalidKeyPair.NotFound", "The key pair 'none' does not exist")
	for range 2 { // deleting twice is no error
		if _, err := api.DeleteKeyPair(ctx, &sdk.DeleteKeyPairInput{KeyName: aws.String("gsg")}); err != nil {
			t.Fatal(err)
		}
	}
}
