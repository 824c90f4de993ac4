package scenarios

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdFresh resets the account to its state in a new lab: no instances, no key pairs, only the default
// VPC, and only the default group with its initial rules. After that, an interrupted story can be
// played again.
func (p *player) cmdFresh(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: fresh")
	}
	ts.Check(p.clearInstances(ts))
	ts.Check(p.clearGroups(ts))
	ts.Check(p.clearNetworks(ts))
	pairs, err := p.rows(ts, "ec2-describe-keypairs")
	ts.Check(err)
	for _, k := range pairs {
		_, err := p.rows(ts, "ec2-delete-keypair", k[1])
		ts.Check(err)
	}
}

// clearInstances terminates all instances and waits until they are terminated.
func (p *player) clearInstances(ts *testscript.TestScript) error {
	deadline := time.Now().Add(p.config.Limit)
	for asked := false; ; {
		rows, err := p.rows(ts, "ec2-describe-instances")
		if err != nil {
			return err
		}
		left := []string{"ec2-terminate-instances"}
		for _, r := range rows {
			if r[0] == "INSTANCE" && r[5] != "terminated" {
				left = append(left, r[1])
			}
		}
		switch {
		case len(left) == 1:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("instances not terminated in time: %v", left[1:])
		case !asked:
			p.narrator.note("clearing account %s: %s", p.account, typed(left))
			if _, err := p.rows(ts, left...); err != nil {
				return err
			}
			asked = true
		}
		p.wait(ts, retryEvery)
	}
}

// clearGroups revokes all rules, so that no rule refers to a group, and then deletes the groups.
func (p *player) clearGroups(ts *testscript.TestScript) error {
	rows, err := p.rows(ts, "ec2-describe-group")
	if err != nil {
		return err
	}
	var id string
	var others []string
	for _, r := range rows {
		if r[0] == "GROUP" {
			id = r[1]
			if r[3] != "default" {
				others = append(others, id)
			}
			continue
		}
		// PERMISSION OWNER NAME ALLOWS PROTOCOL FROM TO FROM CIDR|USER SOURCE …
		revoke := []string{"ec2-revoke", id, "-P", r[4]}
		switch {
		case r[5] == "": // a protocol without ports
		case r[4] == "icmp":
			revoke = append(revoke, "-t", r[5]+":"+r[6])
		default:
			revoke = append(revoke, "-p", r[5]+"-"+r[6])
		}
		out := r[len(r)-1] == "egress"
		if out {
			revoke = append(revoke, "--egress")
		}
		switch {
		case out && r[2] == "default" && r[4] == "all" && r[9] == "0.0.0.0/0":
			continue // initial rule: members may send everything
		case r[8] == "CIDR":
			revoke = append(revoke, "-s", r[9])
		case r[8] == "PREFIXLIST":
			continue // goes with its group
		case strings.HasSuffix(strings.Join(r, "\t"), "ID "+id+"\tingress") && r[2] == "default":
			continue // initial rule: members admit each other
		default:
			source, ok := strings.CutPrefix(r[len(r)-2], "ID ")
			if !ok {
				source = strings.TrimPrefix(r[10], "NAME ")
			}
			revoke = append(revoke, "-u", r[9], "-o", source)
		}
		if _, err := p.rows(ts, revoke...); err != nil {
			return err
		}
	}
	for _, id := range others {
		if _, err := p.rows(ts, "ec2-delete-group", id); err != nil {
			return err
		}
	}
	return nil
}

// rows runs an ec2-* tool as the account and returns the columns of each line of its output. The story does
// not show the tool.
func (p *player) rows(ts *testscript.TestScript, args ...string) ([][]string, error) {
	run := p.prepare(ts, append([]string{"run"}, args...))
	var stdout, stderr bytes.Buffer
	if err := p.exec(run, &stdout, &stderr); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", run.text, err, strings.TrimSpace(stderr.String()))
	}
	var rows [][]string
	for line := range strings.Lines(stdout.String()) {
		rows = append(rows, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
	}
	return rows, nil
}
