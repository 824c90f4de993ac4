package refusal

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"palisade/ec2"
)

const albert, mary ec2.AccountID = "598916040194", "495219933132"

var refused = &ec2.Error{Code: "InvalidGroup.Duplicate", Message: "The security group 'web' already exists"}

func open(t *testing.T, path string) *Log {
	t.Helper()
	l, err := Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func add(l *Log, account ec2.AccountID, times int) {
	for i := range times {
		l.Add(time.Unix(int64(i), 0), ec2.Audit{Account: account, Action: fmt.Sprint("Action", i), Source: "192.0.2.1"}, refused)
	}
}

// of returns the refusals of an account.
func of(l *Log, account ec2.AccountID) (list []Refusal) {
	all, _ := l.Refusals()
	for _, r := range all {
		if r.Account == account {
			list = append(list, r)
		}
	}
	return list
}

// An account that is refused without end does not erase the refusals of another. Memory and file are bounded.
func TestRefusalsOfOneAccountDoNotEraseThoseOfAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "refused")
	l := open(t, path)
	add(l, albert, 700)
	add(l, mary, 10*PerAccount)
	if a, m := len(of(l, albert)), len(of(l, mary)); a != 700 || m != PerAccount {
		t.Errorf("albert has %d refusals and mary %d, want 700 and %d", a, m, PerAccount)
	}
	if m := of(l, mary); m[0].Action != fmt.Sprint("Action", 9*PerAccount) || m[0].Error != refused.Code || m[0].Message != refused.Message {
		t.Errorf("the oldest refusal of mary is %+v, want number %d of hers", m[0], 9*PerAccount)
	}
	for i := range 8 {
		add(l, ec2.AccountID(fmt.Sprint("account", i)), PerAccount)
	}
	all, counts := l.Refusals()
	if a := len(of(l, albert)); len(all) != InAll || a < InAll/10 {
		t.Errorf("with 10 accounts %d refusals are kept, %d of albert, want %d and at least %d", len(all), a, InAll, InAll/10)
	}
	if counts[mary][refused.Code] != 10*PerAccount || counts[albert][refused.Code] != 700 {
		t.Errorf("the counts are %v, want %d for mary and 700 for albert", counts, 10*PerAccount)
	}
	if info, err := os.Stat(path); err != nil || info.Size() > 2*InAll*300 {
		t.Errorf("the file is %v (error %v), want at most %d bytes", info, err, 2*InAll*300)
	}
}

// A process that is killed does not close its Log. The next has all refusals, and their counts.
func TestRefusalsSurviveRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "refused")
	for _, closed := range []bool{false, true} {
		l := open(t, path)
		before := len(of(l, albert))
		add(l, albert, 650)
		l.Count(mary, "RequestLimitExceeded")
		if closed {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
		again := open(t, path)
		_, counts := again.Refusals()
		all := of(again, albert)
		if want := min(before+650, PerAccount); len(all) != want || all[len(all)-1].Action != "Action649" {
			t.Errorf("closed %t: %d refusals after a restart, want %d, the last of them Action649", closed, len(all), want)
		}
		if want := uint64(before + 650); counts[albert][refused.Code] != want {
			t.Errorf("closed %t: the counts after a restart are %v, want %d for albert", closed, counts, want)
		}
		if closed && counts[mary]["RequestLimitExceeded"] != 1 {
			t.Errorf("the counts after Close are %v, want 1 for mary", counts)
		}
		everything, _ := again.Refusals()
		last := everything[len(everything)-1].Number
		again.Add(time.Now(), ec2.Audit{Account: mary}, refused)
		if m := of(again, mary); len(m) == 0 || m[len(m)-1].Number != last+1 {
			t.Errorf("the next refusal is %+v, want number %d", m, last+1)
		}
	}
}

// A line that was not written whole costs itself only.
func TestDamagedLinesAreLeftOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "refused")
	l := open(t, path)
	add(l, albert, 10)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data[:len(data)-20], 0o600); err != nil {
		t.Fatal(err)
	}
	if all, _ := open(t, path).Refusals(); len(all) != 9 || all[8].Action != "Action8" {
		t.Errorf("a file whose last line is cut off has the refusals %+v, want the first 9", all)
	}
}
