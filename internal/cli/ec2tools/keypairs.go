package ec2tools

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/pflag"
)

// A keyPair is an item of DescribeKeyPairs, and the answer of CreateKeyPair and
// ImportKeyPair.
type keyPair struct {
	Name        string `xml:"keyName"`
	Fingerprint string `xml:"keyFingerprint"`
	Material    string `xml:"keyMaterial"`
}

var addKeyPairTool = tool{
	changes:  true,
	summary:  "create a key pair and print its private key, which is shown only once",
	synopsis: []string{"NAME"},
	example:  "ec2-add-keypair albert | sed 1d > albert.pem; chmod 600 albert.pem",
	flags: func(*pflag.FlagSet) action {
		return func(ctx context.Context, s *invocation, args []string) error {
			if len(args) != 1 {
				return usagef("name exactly one key pair, as in: albert")
			}
			var k keyPair
			if err := s.call(ctx, "CreateKeyPair", url.Values{"KeyName": {args[0]}}, &k); err != nil {
				return err
			}
			line(s.out, "KEYPAIR", k.Name, k.Fingerprint)
			fmt.Fprintln(s.out, strings.TrimSpace(k.Material))
			return nil
		}
	},
}

var importKeyPairTool = tool{
	changes:  true,
	summary:  "create a key pair from an existing public key",
	synopsis: []string{"NAME -f PUBLIC-KEY-FILE"},
	example:  "ec2-import-keypair albert -f ~/.ssh/id_rsa.pub",
	flags: func(fs *pflag.FlagSet) action {
		file := fs.StringP("public-key-file", "f", "", "`FILE` with the public key, as ssh-keygen writes it")
		return func(ctx context.Context, s *invocation, args []string) error {
			if len(args) != 1 || *file == "" {
				return usagef("name one key pair and the file of its public key, as in: albert -f ~/.ssh/id_rsa.pub")
			}
			data, err := os.ReadFile(*file)
			if err != nil {
				return fmt.Errorf("read public key: %w", err)
			}
			params := url.Values{
				"KeyName":           {args[0]},
				"PublicKeyMaterial": {base64.StdEncoding.EncodeToString(data)},
			}
			var k keyPair
			if err := s.call(ctx, "ImportKeyPair", params, &k); err != nil {
				return err
			}
			line(s.out, "KEYPAIR", k.Name, k.Fingerprint)
			return nil
		}
	},
}

var describeKeyPairsTool = tool{
	summary:  "list key pairs",
	synopsis: []string{"[NAME]..."},
	example:  "ec2-describe-keypairs albert",
	flags: func(*pflag.FlagSet) action {
		return func(ctx context.Context, s *invocation, args []string) error {
			params := url.Values{}
			numbered(params, "KeyName", args)
			var answer struct {
				KeyPairs []keyPair `xml:"keySet>item"`
			}
			if err := s.call(ctx, "DescribeKeyPairs", params, &answer); err != nil {
				return err
			}
			for _, k := range answer.KeyPairs {
				line(s.out, "KEYPAIR", k.Name, k.Fingerprint)
			}
			return nil
		}
	},
}

var deleteKeyPairTool = tool{
	changes:  true,
	summary:  "delete a key pair; instances launched with it keep it",
	synopsis: []string{"NAME"},
	example:  "ec2-delete-keypair albert",
	flags: func(*pflag.FlagSet) action {
		return func(ctx context.Context, s *invocation, args []string) error {
			if len(args) != 1 {
				return usagef("name exactly one key pair; ec2-describe-keypairs lists them")
			}
			if err := s.call(ctx, "DeleteKeyPair", url.Values{"KeyName": {args[0]}}, &struct{}{}); err != nil {
				return err
			}
			line(s.out, "KEYPAIR", args[0])
			return nil
		}
	},
}
