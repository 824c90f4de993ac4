package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// WriteMarkdown replaces the section of the report's kind in a file, between its two
// markers, or appends it if the file has no markers. Charts, if not "", is the directory of
// the charts.
func (r *Report) WriteMarkdown(path, charts string) error {
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	links := ""
	if charts != "" {
		if links, err = filepath.Rel(filepath.Dir(path), charts); err != nil {
			return err
		}
	}
	text, err := replaceSection(old, r.Plan.Kind, r.markdown(filepath.ToSlash(links)))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, text, 0o644)
}

func markers(kind string) (begin, end string) {
	return fmt.Sprintf("<!-- palisade bench: %s, begin -->", kind), fmt.Sprintf("<!-- palisade bench: %s, end -->", kind)
}

func replaceSection(text []byte, kind, section string) ([]byte, error) {
	begin, end := markers(kind)
	section = begin + "\n\n" + strings.TrimSpace(section) + "\n\n" + end
	from, to := bytes.Index(text, []byte(begin)), bytes.Index(text, []byte(end))
	switch {
	case from < 0 && to < 0:
		if len(text) > 0 {
			text = append(bytes.TrimRight(text, "\n"), "\n\n"...)
		}
		return append(text, section+"\n"...), nil
	case from < 0 || to < from:
		return nil, fmt.Errorf("the markers %q and %q do not enclose a section", begin, end)
	}
	var b bytes.Buffer
	b.Write(text[:from])
	b.WriteString(section)
	b.Write(text[to+len(end):])
	return b.Bytes(), nil
}

// markdown returns the section without its markers.
func (r *Report) markdown(charts string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s.\n\n%s\n", r.Machine.line(), r.about())
	for _, why := range r.Void {
		fmt.Fprintf(&b, "\n**Void:** %s\n", why)
	}
	if len(r.Judgements) > 0 {
		fmt.Fprintf(&b, "\n### Claims\n\n")
		writeMarkdownTable(&b, r.claimTable(), 4)
		if open := r.open(); open != "" {
			fmt.Fprintf(&b, "\n%s.\n", capital(open))
		}
	}
	for _, p := range r.Phases {
		fmt.Fprintf(&b, "\n### %s\n\n", capital(p.Title))
		for _, line := range p.who() {
			fmt.Fprintf(&b, "- %s\n", line)
		}
		fmt.Fprintf(&b, "\n%d repetitions.\n\n", p.Repetitions)
		writeMarkdownTable(&b, r.table(p), 2)
		if charts == "" {
			continue
		}
		for _, c := range r.phaseCharts(p) {
			fmt.Fprintf(&b, "\n![%s](%s)\n", c.title, charts+"/"+c.file)
		}
	}
	return b.String()
}

// writeMarkdownTable writes a table. Columns are aligned to the right from index right on.
func writeMarkdownTable(b *strings.Builder, table cells, right int) {
	for i, row := range table {
		for j, cell := range row {
			row[j] = strings.ReplaceAll(cell, "|", `\|`)
		}
		fmt.Fprintf(b, "| %s |\n", strings.Join(row, " | "))
		if i > 0 {
			continue
		}
		for j := range row {
			if j < right {
				b.WriteString("| --- ")
			} else {
				b.WriteString("| ---: ")
			}
		}
		b.WriteString("|\n")
	}
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
