package model

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write actions.txt")

// The forms of the SDK's source.
var (
	sdkRequest   = regexp.MustCompile(`(?s)func awsEc2query_serializeOpDocument(\w+)Input\(.*?\n}\n`)
	sdkParameter = regexp.MustCompile(`if (?:v\.(\w+) != nil|len\(v\.(\w+)\) > 0) \{\s+objectKey := object\.(?:Flat)?Key\("([^"]+)"\)`)
	sdkAnswer    = regexp.MustCompile(`(?s)func awsEc2query_deserializeOpDocument(\w+)Output\(.*?\n}\n`)
	sdkElement   = regexp.MustCompile(`(?s)strings\.EqualFold\("(\w+)", t\.Name\.Local\):.*?sv\.(\w+)\b`)
	sdkStruct    = regexp.MustCompile(`(?sm)^type (\w+)(Input|Output) struct \{\n(.*?)^\}`)
	sdkField     = regexp.MustCompile(`(?m)((?:^\t//.*\n)*)^\t([A-Z]\w*) (\S+)$`)
	sdkFilter    = regexp.MustCompile(`(?m)^\t//   -\s+(?://   )?([a-z0-9][A-Za-z0-9./-]*)(?:$| ?:| - (?:[^C]|C[^V])| -$)`) // a CVSS score is a value
	sdkAlias     = regexp.MustCompile(`You can also use (\w+)(?: or (\w+))? as the\s+filter name`)
	sdkComment   = regexp.MustCompile(`\s+//\s*`)
)

// actions.txt is generated from the source of the Go SDK, which has every action, the
// elements of its requests and answers, and the reference's text about filters.
func TestActionsMatchSDK(t *testing.T) {
	sdk := readSDK(t)
	var lines []string
	for action, request := range sdk.requests {
		lines = append(lines, sdk.line(action, request)+"\n")
	}
	slices.Sort(lines)
	want := strings.Join(lines, "")
	if len(lines) < 700 {
		t.Fatalf("found only %d actions in the SDK: the form of its source has changed", len(lines))
	}
	if *update {
		if err := os.WriteFile("actions.txt", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(actionsText, want); diff != "" {
		t.Errorf("actions.txt differs from the SDK; go test ./ec2/query/model -update writes it:\n%s", diff)
	}
}

type field struct{ comment, typ string }

type sdkSource struct {
	requests, answers map[string]map[string]string // action: field: name on the wire
	structs           map[string]map[string]field  // "DescribeVpcsInput": field
}

func readSDK(t *testing.T) sdkSource {
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/aws/aws-sdk-go-v2/service/ec2").Output()
	if err != nil {
		t.Fatalf("find the source of the SDK: %v", err)
	}
	read := func(name string) string {
		source, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), name))
		if err != nil {
			t.Fatal(err)
		}
		return string(source)
	}
	s := sdkSource{make(map[string]map[string]string), make(map[string]map[string]string), make(map[string]map[string]field)}
	for _, m := range sdkRequest.FindAllStringSubmatch(read("serializers.go"), -1) {
		s.requests[m[1]] = make(map[string]string)
		for _, p := range sdkParameter.FindAllStringSubmatch(m[0], -1) {
			s.requests[m[1]][p[1]+p[2]] = p[3]
		}
	}
	for _, m := range sdkAnswer.FindAllStringSubmatch(read("deserializers.go"), -1) {
		s.answers[m[1]] = make(map[string]string)
		for _, e := range sdkElement.FindAllStringSubmatch(m[0], -1) {
			s.answers[m[1]][e[2]] = e[1]
		}
	}
	for action := range s.requests {
		for _, m := range sdkStruct.FindAllStringSubmatch(read("api_op_"+action+".go"), -1) {
			fields := make(map[string]field)
			for _, f := range sdkField.FindAllStringSubmatch(m[3], -1) {
				fields[f[2]] = field{f[1], f[3]}
			}
			s.structs[m[1]+m[2]] = fields
		}
	}
	return s
}

func (s sdkSource) line(action string, request map[string]string) string {
	words := []string{action}
	filters := []string{}
	for _, name := range sortedByWire(request) {
		f := s.structs[action+"Input"][name]
		word := request[name]
		if strings.HasPrefix(f.typ, "[]") {
			word += "[]"
		}
		if strings.Contains(f.comment, "This member is required.") {
			word += "!"
		}
		words = append(words, word)
		if f.typ == "[]types.Filter" {
			for _, m := range sdkFilter.FindAllStringSubmatch(f.comment, -1) {
				filters = append(filters, m[1])
			}
			for _, m := range sdkAlias.FindAllStringSubmatch(sdkComment.ReplaceAllString(f.comment, " "), -1) {
				filters = append(filters, m[1:]...)
			}
		}
	}
	if !OnlyReads(action) {
		return strings.Join(words, " ")
	}
	words = append(words, ">")
	for _, name := range sortedByWire(s.answers[action]) {
		word := s.answers[action][name]
		if strings.HasPrefix(s.structs[action+"Output"][name].typ, "[]") {
			word += "[]"
		}
		words = append(words, word)
	}
	if len(filters) > 0 {
		slices.Sort(filters)
		words = append(append(words, "|"), slices.DeleteFunc(slices.Compact(filters), func(name string) bool { return name == "" })...)
	}
	return strings.Join(words, " ")
}

func sortedByWire(names map[string]string) []string {
	var fields []string
	for name := range names {
		fields = append(fields, name)
	}
	slices.SortFunc(fields, func(a, b string) int { return strings.Compare(names[a], names[b]) })
	return fields
}
