package auditfile

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"slices"

	"palisade/ec2"
)

// maxLine bounds a line, in bytes. A record has about 5 kB at most; the header has a ring for each account.
const maxLine = 16 << 20

// An Export is a file that Write wrote.
type Export struct {
	Name    string
	Content io.Reader
}

// A Finding is a place where a file does not have what the cluster recorded.
type Finding struct {
	File string
	Line int // counted from 1
	Text string
}

func (f *Finding) Error() string { return fmt.Sprintf("%s, line %d: %s", f.File, f.Line, f.Text) }

// A Summary says what verified files have.
type Summary struct {
	Records int
	Rings   []RingSummary // ordered by account
}

// RingSummary is the part of a ring that verified files have.
type RingSummary struct {
	Account     ec2.AccountID
	First, Last uint64
	Newer       uint64 // records that the cluster has after Last
}

// Verify checks exports of one cluster, in the order in which they were made, against the cluster's
// chain. The error is a *Finding, or an error of reading. A file that ends before the chain is an
// error too, because nothing in a file tells whether its end was cut off, unless older is true.
func Verify(files []Export, chain Chain, older bool) (Summary, error) {
	v := verifier{chain: map[ec2.AccountID]*ChainRing{}, rings: map[ec2.AccountID]*progress{}}
	for i := range chain.Rings {
		v.chain[chain.Rings[i].Account] = &chain.Rings[i]
	}
	for _, f := range files {
		if err := v.file(f); err != nil {
			return Summary{}, err
		}
	}
	if len(files) == 0 {
		return Summary{}, fmt.Errorf("there is no file to verify")
	}
	if err := v.end(older); err != nil {
		return Summary{}, err
	}
	return v.summary(), nil
}

// progress is what was read of a ring.
type progress struct {
	first, last uint64            // of all files
	hashes      map[uint64]string // of the files before, by position
	position    uint64            // of the last record in this file
	hash        string            // of that record
	line        int               // of that record
}

type verifier struct {
	chain   map[ec2.AccountID]*ChainRing
	rings   map[ec2.AccountID]*progress
	records int

	name   string
	line   int
	number uint64 // of the last record in this file
}

func (v *verifier) found(format string, args ...any) error {
	return &Finding{v.name, v.line, fmt.Sprintf(format, args...)}
}

// file checks one file against itself, the files before and the chain.
func (v *verifier) file(f Export) error {
	v.name, v.line, v.number = f.Name, 0, 0
	in := bufio.NewReaderSize(f.Content, 1<<16)
	var h header
	line, err := v.next(in)
	if err != nil {
		return err
	}
	if !decodeLine(line, &h) || h.Format != format || h.Version != version {
		return v.found("it is not the first line of an audit export, or it was changed")
	}
	if err := v.begin(h); err != nil {
		return err
	}
	for {
		line, err := v.next(in)
		if err != nil {
			return err
		}
		if line == nil {
			break
		}
		if err := v.record(line); err != nil {
			return err
		}
	}
	v.line++ // the line that is missing
	for _, r := range h.Rings {
		if p := v.rings[r.Account]; p.position != r.Last {
			return v.found("the file ends with record %d of %s, but its first line says that it has those up to %d: its end was cut off", p.position, who(r.Account), r.Last)
		}
	}
	for _, r := range h.Rings {
		if v.rings[r.Account].hash != r.End {
			return &Finding{v.name, 1, fmt.Sprintf("the ring of %s does not end with this hash: the line was changed", who(r.Account))}
		}
	}
	return nil
}

// next returns the next line with its newline, or nil at the end of the file.
func (v *verifier) next(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			v.line++
			return line, nil
		case err == bufio.ErrBufferFull && len(line) <= maxLine:
			continue
		case err == io.EOF && len(line) == 0 && v.line > 0:
			return nil, nil
		case err == io.EOF || err == bufio.ErrBufferFull:
			v.line++
			return nil, v.found("the line is cut off, or too long")
		}
		return nil, fmt.Errorf("read %s: %w", v.name, err)
	}
}

// begin checks the header: each ring of the file begins where the file before ended, or before.
func (v *verifier) begin(h header) error {
	if !slices.IsSortedFunc(h.Rings, func(a, b ring) int { return bytes.Compare([]byte(a.Account), []byte(b.Account)) }) {
		return v.found("its rings are not in order: the line was changed")
	}
	listed := map[ec2.AccountID]bool{}
	for _, r := range h.Rings {
		c := v.chain[r.Account]
		if c == nil || listed[r.Account] || r.First == 0 || r.Last < r.First-1 {
			return v.found("it has a ring of %s that the cluster does not have", who(r.Account))
		}
		listed[r.Account] = true
		for position, hash := range map[uint64]string{r.First - 1: r.Start, r.Last: r.End} {
			if known := c.at(position); known != "" && known != hash {
				return v.found("record %d of %s has another hash in the cluster: the line was changed", position, who(r.Account))
			}
		}
		if r.Last > c.last() {
			return v.found("it has record %d of %s, but the cluster's chain ends with %d: the file is of another cluster, or the cluster was restored from an older backup", r.Last, who(r.Account), c.last())
		}
		if err := v.join(r, c); err != nil {
			return err
		}
	}
	for account := range v.rings {
		if !listed[account] {
			return v.found("it lacks the ring of %s, which the file before has", who(account))
		}
	}
	return nil
}

// join connects the beginning of a ring with the file before, or with the cluster.
func (v *verifier) join(r ring, c *ChainRing) error {
	p := v.rings[r.Account]
	switch {
	case p == nil && r.First > c.First:
		return v.found("it begins with record %d of %s, but the cluster still has those from %d on: its beginning was cut off", r.First, who(r.Account), c.First)
	case p == nil:
		p = &progress{first: r.First, last: r.First - 1, hashes: map[uint64]string{r.First - 1: r.Start}}
		v.rings[r.Account] = p
	case r.First > p.last+1:
		return v.found("it begins with record %d of %s, but the file before ends with %d: records %d to %d are in no file", r.First, who(r.Account), p.last, p.last+1, r.First-1)
	case r.First < p.first:
		return v.found("it begins with record %d of %s, before the first of the file before, %d: give the files in the order in which they were made", r.First, who(r.Account), p.first)
	case p.hashes[r.First-1] != r.Start:
		return v.found("record %d of %s has another hash in the file before: the line was changed", r.First-1, who(r.Account))
	case r.Last < p.last:
		return v.found("it ends with record %d of %s, before the last of the file before, %d: its end was cut off, or the files are not in order", r.Last, who(r.Account), p.last)
	}
	p.position, p.hash, p.line = r.First-1, r.Start, 1
	return nil
}

// record checks one line.
func (v *verifier) record(line []byte) error {
	var r record
	if !decodeLine(line, &r) {
		return v.found("it is not a record as it was exported: the line was changed")
	}
	p := v.rings[r.Account]
	if p == nil {
		return v.found("the first line does not have the ring of %s: the line was inserted or changed", who(r.Account))
	}
	c := v.chain[r.Account]
	switch want, known := p.position+1, c.at(r.Position); {
	case r.chainHash() != r.Hash:
		return v.found("record %d of %s has another content than its hash says: the line was changed", r.Position, who(r.Account))
	case known != "" && known != r.Hash:
		return v.found("record %d of %s is another in the cluster: the line was changed or inserted", r.Position, who(r.Account))
	case r.Position > want:
		return v.found("record %d of %s follows record %d in line %d: what was between was removed", r.Position, who(r.Account), p.position, p.line)
	case r.Position < want:
		return v.found("record %d of %s follows record %d: the line was inserted or moved", r.Position, who(r.Account), p.position)
	case r.Previous != p.hash || p.hashes[r.Position] != "" && p.hashes[r.Position] != r.Hash:
		return v.found("record %d of %s does not follow the record before: one of them was changed", r.Position, who(r.Account))
	case r.Number <= v.number:
		return v.found("change %d follows change %d: the line was moved", r.Number, v.number)
	}
	p.position, p.hash, p.line, v.number = r.Position, r.Hash, v.line, r.Number
	if r.Position > p.last {
		p.last, p.hashes[r.Position] = r.Position, r.Hash
		v.records++
	}
	return nil
}

// end compares the ends of all rings with the cluster.
func (v *verifier) end(older bool) error {
	v.line++
	for account, c := range v.chain {
		p := v.rings[account]
		if p == nil {
			if older && c.First == 1 {
				continue // the account made its first change after the export
			}
			return v.found("there is no record of %s, but the cluster has %d: they were removed, or made after the export", who(account), c.last())
		}
		if p.last == c.last() {
			continue
		}
		next := c.at(p.last)
		switch {
		case !older:
			return v.found("the file ends with record %d of %s, but the cluster's chain ends with %d: its end was cut off, or the other records were made after the export", p.last, who(account), c.last())
		case next == "":
			return v.found("the file ends with record %d of %s, which the cluster no longer has: give the exports that were made since, too", p.last, who(account))
		}
	}
	return nil
}

func (v *verifier) summary() Summary {
	s := Summary{Records: v.records}
	for account, p := range v.rings {
		s.Rings = append(s.Rings, RingSummary{account, p.first, p.last, v.chain[account].last() - p.last})
	}
	slices.SortFunc(s.Rings, func(a, b RingSummary) int { return bytes.Compare([]byte(a.Account), []byte(b.Account)) })
	return s
}

// who names the owner of a ring.
func who(account ec2.AccountID) string {
	if account == "" {
		return "the operators"
	}
	return "account " + string(account)
}
