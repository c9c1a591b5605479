// Package transfer reads files of keys to import and writes files of exported keys: CSV (RFC 4180)
// with a header line, or JSON lines.
//
// The package knows only the form of the files: a row is the JSON object that the management API
// accepts for one key. It keeps no row, and its errors never hold one, since a row may hold a
// secret key.
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

// kind is the JSON type to which the cells of a column are converted.
type kind uint8

const (
	text kind = iota
	flag
	number
	words  // an array of strings, which spaces or semicolons separate in the cell
	object // object is the type of a cell that holds a JSON object.
	count  // count is the type of a cell that becomes a number if it is a whole number, and a text otherwise.
)

// columns are the columns that a CSV file may have, in the order of the documentation.
var columns = []struct {
	name string
	kind kind
}{
	{"tenant", text}, {"name", text}, {"description", text}, {"key", text}, {"hash", text}, {"algorithm", text}, {"pepper", text},
	{"prefix", text}, {"last_four", text}, {"environment", text}, {"scopes", words}, {"allowed_ips", words},
	{"rate", text}, {"quota", text}, {"concurrency", count}, {"concurrency_per", text}, {"credits_limit", number},
	{"created_at", text}, {"expires_at", text}, {"disabled", flag}, {"revoked", flag}, {"revoked_at", text}, {"metadata", object},
}

// RowError reports a row that can't be read. The reader continues with the next row.
type RowError struct {
	Line int
	Text string
}

func (e *RowError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Text) }

// Row is one key of an import file.
type Row struct {
	// Line is the number of the row's first line in the file, counted from 1.
	Line int
	JSON json.RawMessage
}

// Reader reads rows one by one.
type Reader struct {
	next func() (Row, error)
}

// Next returns the next row, and io.EOF after the last one. After a *RowError the caller may read
// on; any other error ends the file.
func (r *Reader) Next() (Row, error) { return r.next() }

// NewReader returns a reader of in. It reads the header of a CSV file at once; unknown and repeated columns are errors.
func NewReader(in io.Reader, format Format) (*Reader, error) {
	buffered := bufio.NewReaderSize(in, 64<<10)
	// Spreadsheets write a byte order mark before the first name.
	if mark, err := buffered.Peek(3); err == nil && string(mark) == "\ufeff" {
		_, _ = buffered.Discard(3)
	}
	switch format {
	case CSV:
		return readCSV(buffered)
	case JSONL:
		return readLines(buffered), nil
	}
	return nil, fmt.Errorf("unknown format %q: use csv or jsonl", format)
}

func readCSV(in io.Reader) (*Reader, error) {
	r := csv.NewReader(in)
	r.ReuseRecord = true
	header, err := r.Read()
	if err == io.EOF {
		return nil, errors.New("the file is empty: the first line names the columns")
	}
	if err != nil {
		return nil, fmt.Errorf("the first line is not a header: %w", csvReason(err))
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
			// The error must not show the name of the column, because in a file without a header the name may be a key.
			return nil, fmt.Errorf("column %d of the first line is unknown; the columns are %s", i+1, columnNames())
		}
		if slices.Contains(names[:i], names[i]) {
			return nil, fmt.Errorf("the column %s is repeated", names[i])
		}
		kinds[i] = columns[at].kind
	}
	return &Reader{next: func() (Row, error) {
		record, err := r.Read()
		var parse *csv.ParseError
		switch {
		case errors.As(err, &parse):
			fault := &RowError{Line: parse.StartLine, Text: csvReason(err).Error()}
			if errors.Is(err, csv.ErrFieldCount) {
				fault.Text = fmt.Sprintf("it has %d cells, but the first line has %d", len(record), len(names))
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
			return Row{}, &RowError{line, "metadata is not JSON"}
		}
		return Row{line, b}, nil
	}}, nil
}

// csvReason returns the reason of a *csv.ParseError without its position in the file, and any
// other error as it is.
func csvReason(err error) error {
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

// value converts a cell to the JSON type of its column. If the cell has another type, wrong is the fault, a text that follows
// the name of the column.
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
				return Row{}, &RowError{line, "it is not a JSON object"}
			}
			return Row{line, bytes.Clone(text)}, nil
		}
	}}
}

// readLine returns the next line with its line break, or reports that the line is longer than
// maxLine.
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
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, false, err
		}
	}
}
