package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"palisade/ec2"
	"palisade/internal/controlclient"
	"palisade/internal/node/control"
)

// newAccountCommand returns `palisade account`, with which an operator creates the accounts
// and access keys of the API.
func newAccountCommand() *cobra.Command {
	var choice nodeChoice
	cmd := &cobra.Command{
		Use:   "account",
		Short: "Manage who may call the API: accounts and their access keys",
		Example: `  palisade account create --name carol                   # prints her keys, once
  palisade account create --count 30 --prefix student --json
  palisade account keys add carol                        # a second key, to replace the first
  palisade account keys delete carol AKIA...`,
		RunE: helpOrUnknown,
	}
	// The lab is named with --lab, not with --name as in other commands: `account create` has
	// a flag --name for the account.
	cmd.PersistentFlags().StringVar(&choice.config, "config", "", "ask the node with this configuration `FILE`")
	labFlag(cmd.PersistentFlags(), &choice.lab, "lab", "ask a node of the lab `NAME`")
	cmd.PersistentFlags().StringVar(&choice.node, "node", "", "ask this `NODE` of the lab (default: the first that answers)")
	cmd.PersistentFlags().BoolVar(&choice.json, "json", false, "print JSON")
	keys := &cobra.Command{Use: "keys", Short: "Access keys of an account", RunE: helpOrUnknown}
	keys.AddCommand(newAccountKeysList(&choice), newAccountKeysAdd(&choice),
		newAccountKeysChange(&choice, control.DeactivateKey, "Refuse a key's signatures until it is activated again", "deactivated"),
		newAccountKeysChange(&choice, control.ActivateKey, "Accept a deactivated key again", "activated"),
		newAccountKeysChange(&choice, control.DeleteKey, "Delete a key for good", "deleted"))
	cmd.AddCommand(newAccountCreate(&choice), newAccountList(&choice), keys)
	return cmd
}

func newAccountCreate(choice *nodeChoice) *cobra.Command {
	var r control.AccountRequest
	var id, platform string
	cmd := &cobra.Command{
		Use:   "create --name NAME | --count N --prefix PREFIX",
		Short: "Create one or many accounts and print their keys; the secrets are shown only this once",
		Args:  usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r.ID, r.Platform = ec2.AccountID(id), ec2.Platform(platform)
			switch {
			case (r.Name == "") == (r.Count == 0):
				return usageError{errors.New("account create needs --name NAME, or --count N and --prefix PREFIX")}
			case r.Count != 0 && r.Prefix == "":
				return usageError{errors.New("--count needs --prefix: the accounts are named PREFIX01, PREFIX02 and so on")}
			case r.Count == 0 && r.Prefix != "":
				return usageError{errors.New("--prefix needs --count")}
			case r.Platform != ec2.VPCOnly && r.Platform != ec2.Classic:
				return usageError{fmt.Errorf("--platform %s: must be %s or %s", r.Platform, ec2.VPCOnly, ec2.Classic)}
			}
			var made []control.NewKey
			err := choice.ask(cmd.Context(), func(socket string) error {
				return controlclient.Post(cmd.Context(), socket, "/v1/accounts", r, &made)
			})
			if err != nil {
				return err
			}
			if choice.json {
				return printJSON(cmd.OutOrStdout(), made)
			}
			for _, k := range made {
				printKey(cmd.OutOrStdout(), k)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&r.Name, "name", "", "the account's `NAME`")
	cmd.Flags().StringVar(&id, "id", "", "the account `ID`, 12 digits (default: a random unused one)")
	cmd.Flags().StringVar(&platform, "platform", string(ec2.VPCOnly), "the `PLATFORM`: vpc (with a default VPC in each region) or classic")
	cmd.Flags().IntVar(&r.Count, "count", 0, "create `N` accounts, or none if one fails")
	cmd.Flags().StringVar(&r.Prefix, "prefix", "", "the beginning of their names")
	return cmd
}

// printKey prints shell commands that set the environment in which aws, the SDKs and the ec2-*
// tools act as the account of k.
func printKey(out io.Writer, k control.NewKey) {
	fmt.Fprintf(out, "# %s: account %s (%s)\n", k.Name, k.Account, k.Platform)
	fmt.Fprintf(out, "export AWS_ACCESS_KEY_ID=%s\nexport AWS_SECRET_ACCESS_KEY=%s\nexport AWS_DEFAULT_REGION=%s\n", k.AccessKey, k.SecretKey, k.Region)
}

func (c *nodeChoice) accounts(cmd *cobra.Command) (all []control.AccountStatus, err error) {
	err = c.ask(cmd.Context(), func(socket string) error { return controlclient.Get(cmd.Context(), socket, "/v1/accounts", &all) })
	return all, err
}

func newAccountList(choice *nodeChoice) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "Show the accounts",
		Args:  usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := choice.accounts(cmd)
			if err != nil {
				return err
			}
			if choice.json {
				return printJSON(cmd.OutOrStdout(), all)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tID\tPLATFORM\tKEYS")
			for _, a := range all {
				var keys []string
				for _, k := range a.Keys {
					text := k.ID
					if !k.Active {
						text += " (inactive)"
					}
					keys = append(keys, text)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", a.Name, a.ID, a.Platform, strings.Join(keys, ", "))
			}
			return w.Flush()
		},
	}
}

func newAccountKeysList(choice *nodeChoice) *cobra.Command {
	return &cobra.Command{
		Use:   "list ACCOUNT",
		Short: "Show the keys of an account",
		Args:  usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := choice.accounts(cmd)
			if err != nil {
				return err
			}
			for _, a := range all {
				if a.Name != args[0] && string(a.ID) != args[0] {
					continue
				}
				if choice.json {
					return printJSON(cmd.OutOrStdout(), a.Keys)
				}
				return printAccessKeys(cmd.OutOrStdout(), a.Keys)
			}
			return fmt.Errorf("no account %q; palisade account list shows all", args[0])
		},
	}
}

func printAccessKeys(out io.Writer, keys []control.AccessKeyStatus) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "KEY\tSTATE\tSECRET\tMADE")
	for _, k := range keys {
		state, sealed, made := "active", "sealed", "unknown (by an earlier release)"
		if !k.Active {
			state = "inactive"
		}
		if !k.Sealed {
			sealed = "in plain text"
		}
		if k.Created != nil {
			made = k.Created.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", k.ID, state, sealed, made)
	}
	return w.Flush()
}

func newAccountKeysAdd(choice *nodeChoice) *cobra.Command {
	return &cobra.Command{
		Use:   "add ACCOUNT",
		Short: "Create a second key and print it; the secret is shown only this once",
		Args:  usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			made, err := choice.changeKey(cmd, control.KeyRequest{Account: args[0], Do: control.AddKey})
			if err != nil {
				return err
			}
			if choice.json {
				return printJSON(cmd.OutOrStdout(), made)
			}
			printKey(cmd.OutOrStdout(), made)
			return nil
		},
	}
}

func newAccountKeysChange(choice *nodeChoice, do control.KeyChange, short, done string) *cobra.Command {
	return &cobra.Command{
		Use:   string(do) + " ACCOUNT KEY",
		Short: short,
		Args:  usageArgs(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			made, err := choice.changeKey(cmd, control.KeyRequest{Account: args[0], Do: do, Key: args[1]})
			if err != nil {
				return err
			}
			if choice.json {
				return printJSON(cmd.OutOrStdout(), map[string]string{"account": string(made.Account), "access_key": args[1], "state": done})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s of %s is %s.\n", args[1], made.Name, done)
			return nil
		},
	}
}

func (c *nodeChoice) changeKey(cmd *cobra.Command, r control.KeyRequest) (made control.NewKey, err error) {
	err = c.ask(cmd.Context(), func(socket string) error {
		return controlclient.Post(cmd.Context(), socket, "/v1/accounts/keys", r, &made)
	})
	return made, err
}
