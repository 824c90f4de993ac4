package scenarios

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"palisade/internal/lab/labtest"
)

// A transcript is a command in README.md, behind a $, and the lines shown below it.
type transcript struct {
	command string
	lines   []string
}

// readTranscripts returns the transcripts in README.md, and the targets of make that README.md names.
func readTranscripts(t testing.TB) (all []transcript, targets []string) {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := false // true: indented lines belong to the last command
	for line := range strings.Lines(string(text)) {
		line, indented := strings.CutPrefix(strings.TrimRight(line, "\n"), "    ")
		switch command, ok := strings.CutPrefix(line, "$ "); {
		case !indented && line != "":
			shown = false
			for _, m := range targetSpan.FindAllStringSubmatch(line, -1) {
				targets = append(targets, m[1])
			}
		case indented && ok:
			command, _, _ = strings.Cut(command, "   #")
			all, shown = append(all, transcript{command: strings.TrimSpace(command)}), true
		case indented && strings.HasPrefix(line, "make "):
			targets = append(targets, strings.Fields(line)[1])
		case indented && shown && strings.TrimSpace(line) != "":
			last := &all[len(all)-1]
			last.lines = append(last.lines, line)
		}
	}
	return all, targets
}

var targetSpan = regexp.MustCompile("`make ([a-z-]+)`")

// A reader compares transcripts with real output. An id in README.md may differ from the real one, which is the
// id of the same kind in the same place of the output. Times, MACs, numbers of new accounts and the
// name of the leader may differ too.
type reader struct {
	bound map[string]string // real ids, by the id in README.md
}

var (
	spaces   = regexp.MustCompile(`\s+`)
	variable = regexp.MustCompile(`\.\.\.|\b(acl|i|r|sg|sgr|eni|subnet|vpc)-[0-9a-f]{8,17}\b|\b02(:[0-9a-f]{2}){5}\b|\b\d{4}-\d\d-\d\dT[0-9:]+Z\b|\baccount \d{12}\b|\bnode\d leads\b|\bleader\b|\bfollower\b`)
)

// command returns a command of README.md with its ids replaced by the real ones.
func (r *reader) command(text string) string {
	return variable.ReplaceAllStringFunc(text, func(v string) string {
		if real, ok := r.bound[v]; ok {
			return real
		}
		return v
	})
}

// compare fails t unless output has all lines of the transcript, in their order. The output may have more
// lines. "..." in the transcript stands for any text. One space equals several.
func (r *reader) compare(t testing.TB, s transcript, output string) {
	t.Helper()
	left := strings.Split(output, "\n")
	for _, line := range s.lines {
		want := strings.TrimSpace(spaces.ReplaceAllString(line, " "))
		if want == "..." {
			continue
		}
		found := false
		for len(left) > 0 && !found {
			found = r.matches(want, strings.TrimSpace(spaces.ReplaceAllString(left[0], " ")))
			left = left[1:]
		}
		if !found {
			t.Errorf("$ %s\nREADME.md shows the line\n\t%s\nwhich the output lacks, or has in another place:\n%s", s.command, line, output)
			return
		}
	}
}

// matches reports whether a line of output is as README.md shows it. If so, it keeps the real ids in
// r.bound.
func (r *reader) matches(want, got string) bool {
	var pattern strings.Builder
	var names []string // ids in README.md, one for each group of the pattern
	at := 0
	for _, m := range variable.FindAllStringIndex(want, -1) {
		pattern.WriteString(regexp.QuoteMeta(want[at:m[0]]))
		name := want[m[0]:m[1]]
		at = m[1]
		kind, _, _ := strings.Cut(name, "-")
		switch real, known := r.bound[name]; {
		case name == "...":
			pattern.WriteString(".*")
		case known:
			pattern.WriteString(regexp.QuoteMeta(real))
		case strings.HasPrefix(name, "account "):
			pattern.WriteString(`account \d{12}`)
		case strings.HasSuffix(name, " leads"):
			pattern.WriteString(`node\d leads`)
		case strings.HasPrefix(name, "02:"), strings.HasPrefix(name, "20"), name == "leader", name == "follower":
			pattern.WriteString(`\S+`)
		default:
			names = append(names, name)
			fmt.Fprintf(&pattern, `(%s-[0-9a-f]+)`, kind)
		}
	}
	pattern.WriteString(regexp.QuoteMeta(want[at:]))
	m := regexp.MustCompile("^" + pattern.String() + "$").FindStringSubmatch(got)
	for i, name := range names {
		if m != nil {
			r.bound[name] = m[i+1]
		}
	}
	return m != nil
}

func TestCompareIgnoresOnlyIdsSpacesAndFurtherLines(t *testing.T) {
	const shown = "RESERVATION  r-8ae7c4f5  598916040194\nINSTANCE  i-80d1156e  pending ...\n...\n22/tcp open  ssh"
	for _, tt := range []struct {
		name, output string
		same         bool
	}{
		{"equal but for ids and spaces", "RESERVATION\tr-11111111\t598916040194\nINSTANCE\ti-22222222\tpending\t0\n22/tcp open ssh\n", true},
		{"further lines", "first\nRESERVATION\tr-11111111\t598916040194\n\nINSTANCE\ti-22222222\tpending\t0\nPORT\n22/tcp open ssh\nlast", true},
		{"another account", "RESERVATION\tr-11111111\t598916040195\nINSTANCE\ti-22222222\tpending\t0\n22/tcp open ssh\n", false},
		{"a line is missing", "RESERVATION\tr-11111111\t598916040194\nINSTANCE\ti-22222222\tpending\t0\n", false},
		{"another order", "INSTANCE\ti-22222222\tpending\t0\nRESERVATION\tr-11111111\t598916040194\n22/tcp open ssh\n", false},
		{"an id of another kind", "RESERVATION\tr-11111111\t598916040194\nINSTANCE\tsg-22222222\tpending\t0\n22/tcp open ssh\n", false},
	} {
		r := &reader{bound: map[string]string{}}
		_, failed := labtest.Record(t, func(t testing.TB) { r.compare(t, transcript{lines: strings.Split(shown, "\n")}, tt.output) })
		if failed == tt.same {
			t.Errorf("%s: the comparison passed: %v, want %v", tt.name, !failed, tt.same)
		}
		if got := r.command("ec2-describe-instances i-80d1156e"); tt.same && got != "ec2-describe-instances i-22222222" {
			t.Errorf("%s: after the comparison, the command is %q, want it with the real id i-22222222", tt.name, got)
		}
	}
}

// TestReadmeNamesTargetsOfMake checks that the Makefile has the targets that README.md names. It cannot run
// them, because `make test` runs this test.
func TestReadmeNamesTargetsOfMake(t *testing.T) {
	makefile, err := os.ReadFile("../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	_, targets := readTranscripts(t)
	if len(targets) < 8 {
		t.Errorf("README.md names %d targets of make, want 8 or more", len(targets))
	}
	for _, target := range targets {
		if target == "bin/palisade," { // of make without a target
			target = "build"
		}
		if !strings.Contains(string(makefile), "\n"+target+":") {
			t.Errorf("README.md names make %s, which the Makefile does not have", target)
		}
	}
}

func TestReadmeShowsCommandsOnlyInTranscripts(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, span := range regexp.MustCompile("`(?:bin/)?palisade [^`]*`").FindAllString(string(text), -1) {
		t.Errorf("README.md has the command %s outside of transcripts, so no test runs it", span)
	}
}
