// Package transfer reads keys that come from elsewhere, and writes those that go
// there: CSV (RFC 4180) with a header line, or JSON lines.
//
// It knows the form of files and not what keys are: a row is the JSON object that the
// management API takes. Nothing here keeps a row, or puts one into an error.
package transfer

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Format is the form of a file.
type Format string

const (
	CSV   Format = "csv"
	JSONL Format = "jsonl"
)

// maxLine bounds a JSON line, in bytes.
const maxLine = 256 << 10

// kind says how a cell becomes a JSON value.
type kind uint8

const (
	text kind = iota
	flag
	number
	words  // several, separated by spaces or semicolons
	object // JSON as it stands
	count  // a number, or text
)

// columns are those that a CSV file may have, in the order in which one is written.
var columns = []struct {
	name string
	kind kind
}{
	{"tenant", text}, {"name", text}, {"description", text}, {"key", text}, {"hash", text}, {"algorithm", text}, {"pepper", text},
	{"prefix", text}, {"last_four", text}, {"environment", text}, {"scopes", words}, {"allowed_ips", words},
	{"rate", text}, {"quota", text}, {"concurrency", count}, {"concurrency_per", text}, {"credits_limit", number},
	{"created_at", text}, {"expires_at", text}, {"disabled", flag}, {"revoked", flag}, {"revoked_at", text}, {"metadata", object},
}

// RowError is a row that can't be read. Those after it can.
type RowError struct {
	Line int
	Text string
}

func (e *RowError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Text) }

// Row is one key.
type Row struct {
	// Line is where it begins in the file, from 1.
	Line int
	JSON json.RawMessage
}

// Reader reads rows one by one.
type Reader struct {
	next func() (Row, error)
}

// Next returns the next row; io.EOF after the last. A *RowError is about one row; after any other error there are no more.
func (r *Reader) Next() (Row, error) { return r.next() }

// NewReader returns a reader of in. A CSV file's header is read at once; one with a
// column that is not known, or twice there, is an error.
func NewReader(in io.Reader, format Format) (*Reader, error) {
	buffered := bufio.NewReaderSize(in, 64<<10)
	// A byte order mark, as spreadsheets write it, is no part of the first name.
	if mark, err := buffered.Peek(3); err == nil && string(mark) == "\ufeff" {
		_, _ = buffered.Discard(3)
	}
	switch format {
	case CSV:
		return readCSV(buffered)
	case JSONL:
		return readLines(buffered), nil
	}
	return nil, fmt.Errorf("%q is no format: it is csv or jsonl", format)
}

func readCSV(in io.Reader) (*Reader, error) {
	r := csv.NewReader(in)
	r.ReuseRecord = true
	header, err := r.Read()
	if err == io.EOF {
		return nil, errors.New("the file is empty: the first line names the columns")
	}
	if err != nil {
		return nil, fmt.Errorf("the first line is no header: %w", csvFault(err))
	}
	kinds := make([]kind, len(header))
	names := make([]string, len(header))
	for i, cell := range header {
		names[i] = strings.ToLower(strings.TrimSpace(cell))
		at := -1
		for j := range columns {
			if columns[j].name == names[i] {
				at = j
			}
		}
		if at < 0 {
			// Not repeated: where the header is missing it may be a key.
			return nil, fmt.Errorf("column %d of the first line is not known; there is %s", i+1, columnNames())
		}
		if slices.Contains(names[:i], names[i]) {
			return nil, fmt.Errorf("the column %s stands twice", names[i])
		}
		kinds[i] = columns[at].kind
	}
	return &Reader{next: func() (Row, error) {
		record, err := r.Read()
		var parse *csv.ParseError
		switch {
		case errors.As(err, &parse):
			fault := &RowError{Line: parse.StartLine, Text: csvFault(err).Error()}
			if errors.Is(err, csv.ErrFieldCount) {
				fault.Text = fmt.Sprintf("it has %d cells, and the first line %d", len(record), len(names))
			}
			return Row{}, fault
		case err != nil:
			return Row{}, err
		}
		line, _ := r.FieldPos(0)
		fields := make(map[string]any, len(record))
		for i, cell := range record {
			if cell = strings.TrimSpace(cell); cell == "" {
				continue
			}
			v, wrong := kinds[i].value(cell)
			if wrong != "" {
				return Row{}, &RowError{line, names[i] + " " + wrong}
			}
			fields[names[i]] = v
		}
		b, err := json.Marshal(fields)
		if err != nil {
			return Row{}, &RowError{line, "metadata is no JSON"}
		}
		return Row{line, b}, nil
	}}, nil
}

// csvFault is what is wrong with a line, without its position.
func csvFault(err error) error {
	var parse *csv.ParseError
	if errors.As(err, &parse) {
		return parse.Err
	}
	return err
}

func columnNames() string {
	var b strings.Builder
	for i, c := range columns {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(c.name)
	}
	return b.String()
}

// value returns what a cell says, or what is wrong with it.
func (k kind) value(cell string) (v any, wrong string) {
	switch k {
	case flag:
		b, err := strconv.ParseBool(strings.ToLower(cell))
		if err != nil {
			return nil, "must be true or false"
		}
		return b, ""
	case number:
		n, err := strconv.ParseInt(cell, 10, 64)
		if err != nil {
			return nil, "must be a whole number"
		}
		return n, ""
	case count:
		if n, err := strconv.ParseInt(cell, 10, 64); err == nil {
			return n, ""
		}
	case words:
		return strings.FieldsFunc(cell, func(r rune) bool { return r == ' ' || r == ';' }), ""
	case object:
		if !json.Valid([]byte(cell)) {
			return nil, "must be a JSON object"
		}
		return json.RawMessage(cell), ""
	}
	return strings.ToValidUTF8(cell, "\ufffd"), ""
}

func readLines(in *bufio.Reader) *Reader {
	line := 0
	return &Reader{next: func() (Row, error) {
		for {
			line++
			text, long, err := readLine(in)
			if err != nil {
				return Row{}, err
			}
			if long {
				return Row{}, &RowError{line, fmt.Sprintf("it is longer than %d bytes", maxLine)}
			}
			text = bytes.TrimSpace(text)
			if len(text) == 0 {
				continue
			}
			if text[0] != '{' || !json.Valid(text) {
				return Row{}, &RowError{line, "it is no JSON object"}
			}
			return Row{line, bytes.Clone(text)}, nil
		}
	}}
}

// readLine returns the next line, up to maxLine of it, and whether it is longer.
func readLine(in *bufio.Reader) (line []byte, long bool, err error) {
	for {
		part, err := in.ReadSlice('\n')
		if len(line)+len(part) <= maxLine {
			line = append(line, part...)
		} else {
			long = true
		}
		switch {
		case err == nil, err == io.EOF && (len(line) > 0 || long):
			return line, long, nil
		case err != bufio.ErrBufferFull:
			return nil, false, err
		}
	}
}
