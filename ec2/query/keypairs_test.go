package query_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// Terraform reads a key pair back by its name, by the tags it gave it in the same call,
// and deletes it; scripts use the id.
func TestKeyPairsHaveIDsAndTags(t *testing.T) {
	w := newWorld(t)
	api, ctx := w.as("dev"), t.Context()
	tagged := []types.TagSpecification{{ResourceType: types.ResourceTypeKeyPair, Tags: []types.Tag{{Key: aws.String("by"), Value: aws.String("terraform")}}}}
	made := ok[*sdk.CreateKeyPairOutput](t)(api.CreateKeyPair(ctx, &sdk.CreateKeyPairInput{KeyName: aws.String("made"), KeyType: types.KeyTypeEd25519, TagSpecifications: tagged}))
	kept, _ := w.cluster.View().KeyPair("123456789012", region, "made")
	imported := ok[*sdk.ImportKeyPairOutput](t)(api.ImportKeyPair(ctx, &sdk.ImportKeyPairInput{KeyName: aws.String("imported"), PublicKeyMaterial: []byte(kept.PublicKey), TagSpecifications: tagged}))
	if !strings.HasPrefix(*made.KeyPairId, "key-0") || *made.KeyPairId == *imported.KeyPairId || len(made.Tags) != 1 || len(imported.Tags) != 1 {
		t.Errorf("made %s %v, imported %s %v", *made.KeyPairId, made.Tags, *imported.KeyPairId, imported.Tags)
	}
	one := ok[*sdk.DescribeKeyPairsOutput](t)(api.DescribeKeyPairs(ctx, &sdk.DescribeKeyPairsInput{KeyPairIds: []string{*imported.KeyPairId}, IncludePublicKey: aws.Bool(true)})).KeyPairs
	if len(one) != 1 || *one[0].KeyName != "imported" || one[0].KeyType != types.KeyTypeEd25519 || *one[0].PublicKey != kept.PublicKey || *one[0].Tags[0].Value != "terraform" {
		t.Errorf("by its id: %+v", one)
	}
	both := ok[*sdk.DescribeKeyPairsOutput](t)(api.DescribeKeyPairs(ctx, &sdk.DescribeKeyPairsInput{Filters: []types.Filter{{Name: aws.String("tag:by"), Values: []string{"terra*"}}}})).KeyPairs
	if len(both) != 2 || both[0].PublicKey != nil {
		t.Errorf("by their tag: %+v", both)
	}
	if _, err := api.CreateTags(ctx, &sdk.CreateTagsInput{Resources: []string{*made.KeyPairId}, Tags: []types.Tag{{Key: aws.String("more"), Value: aws.String("")}}}); err != nil {
		t.Error(err)
	}
	deleted := ok[*sdk.DeleteKeyPairOutput](t)(api.DeleteKeyPair(ctx, &sdk.DeleteKeyPairInput{KeyPairId: made.KeyPairId}))
	if !*deleted.Return || *deleted.KeyPairId != *made.KeyPairId {
		t.Errorf("deleted %+v", deleted)
	}
	_, err := api.DescribeKeyPairs(ctx, &sdk.DescribeKeyPairsInput{KeyPairIds: []string{*made.KeyPairId}})
	wantCode(t, "describe by a dead id", err, "InvalidKeyPair.NotFound", "The key pair ID '"+*made.KeyPairId+"' does not exist")
	_, err = api.DeleteKeyPair(ctx, &sdk.DeleteKeyPairInput{KeyPairId: made.KeyPairId})
	wantCode(t, "delete by a dead id", err, "InvalidKeyPair.NotFound", "")
	_, err = api.DeleteKeyPair(ctx, &sdk.DeleteKeyPairInput{KeyPairId: imported.KeyPairId, KeyName: aws.String("other")})
	wantCode(t, "delete by an id and another's name", err, "InvalidParameterCombination", "")
	for tag := range w.cluster.View().Tags(*made.KeyPairId) {
		t.Errorf("the tag %s outlives its key pair", tag.Key)
	}
}
