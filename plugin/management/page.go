package management

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"strings"
	"sync/atomic"
)

// These constants bound the rows of a page.
const (
	DefaultPage = 50
	MaxPage     = 100
)

// PageQuery selects a page of a list.
type PageQuery struct {
	// Limit is the number of rows, 1 to 100. Default: 50.
	Limit int
	// Cursor is the NextCursor of the page before; "" selects the first page. A page begins after
	// the last row of the page before, so that rows that come and go repeat or hide no other rows.
	Cursor string
}

// BadParameter returns an *Error for a query parameter.
func BadParameter(name, detail string) *Error {
	return &Error{
		Status: http.StatusUnprocessableEntity, Code: CodeInvalidField,
		Detail: "A query parameter is not right.", Fields: []FieldError{{Parameter: name, Detail: detail}},
	}
}

// ErrCursor rejects a cursor that no page of the list returned.
var ErrCursor = BadParameter("cursor", "is not a cursor of this list; take next_cursor of the page before")

// CursorOf returns the cursor after a row of a list. kind names the list, and last the row.
func CursorOf(kind, last string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(kind + ":" + last))
}

// limit returns Limit, or an error if it is out of range.
func (q PageQuery) limit() (int, error) {
	switch {
	case q.Limit == 0:
		return DefaultPage, nil
	case q.Limit < 1 || q.Limit > MaxPage:
		return 0, BadParameter("limit", "must be between 1 and 100")
	}
	return q.Limit, nil
}

// After returns the limit, and the name of the row that the cursor of a list was made for.
func (q PageQuery) After(kind string) (limit int, last string, err error) {
	if limit, err = q.limit(); err != nil || q.Cursor == "" {
		return limit, "", err
	}
	b, err := base64.RawURLEncoding.DecodeString(q.Cursor)
	last, ok := strings.CutPrefix(string(b), kind+":")
	if err != nil || !ok || last == "" || len(last) > MaxSlug || !Printable(last) {
		return 0, "", ErrCursor
	}
	return limit, last, nil
}

// Some lists are ordered by a sequence number of the store. The sequence counts rows of all
// tenants, so that an actor of one tenant could learn from a number how much the others do.
// Therefore these cursors hold the number encrypted, with a key of the store. They are valid on
// every node, and after a restart.

// Place is the place of a row in a sequence of the store.
type Place struct {
	Seq int64
	// At is the place among rows with the same Seq; 0 where each row has its own.
	At int
}

// Cursors encrypts and decrypts the cursors of lists that are ordered by a sequence number. Safe
// for concurrent use.
type Cursors struct{ block cipher.Block }

// cursorCache holds the Cursors of a Manager after the first use.
type cursorCache struct{ atomic.Pointer[Cursors] }

// Each list has a kind, so that a cursor of one list is not valid in another.
const (
	auditCursor    = 'e'
	DeliveryCursor = 'd'
	ledgerCursor   = 'l'
	// RequestCursor is the kind of the list of a key's last requests.
	RequestCursor = 'r'
)

// Cursors returns the Cursors of the manager's store. It reads their key from the store once.
func (m *Manager) Cursors(ctx context.Context) (*Cursors, error) {
	if c := m.cursors.Load(); c != nil {
		return c, nil
	}
	var key []byte
	err := m.store.View(ctx, func(tx Tx) (err error) {
		_, key, err = tx.Identity()
		return err
	})
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	c := &Cursors{block}
	m.cursors.Store(c)
	return c, nil
}

// Of returns the cursor after the row at p. It is one block of AES. Without the key it reveals
// nothing, not even the distance between two rows.
func (c *Cursors) Of(kind byte, p Place) string {
	var b [aes.BlockSize]byte
	binary.BigEndian.PutUint64(b[:], uint64(p.Seq))
	binary.BigEndian.PutUint32(b[8:], uint32(p.At))
	b[12] = kind // The three bytes after the kind stay zero, so that Read notices a forged cursor.
	c.block.Encrypt(b[:], b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// Read returns the limit of a page of a list of that kind, and the place of the row before the
// page; the zero Place for the first page.
func (c *Cursors) Read(kind byte, q PageQuery) (limit int, after Place, err error) {
	if limit, err = q.limit(); err != nil || q.Cursor == "" {
		return limit, after, err
	}
	b, err := base64.RawURLEncoding.DecodeString(q.Cursor)
	if err != nil || len(b) != aes.BlockSize {
		return 0, after, ErrCursor
	}
	c.block.Decrypt(b, b)
	after = Place{int64(binary.BigEndian.Uint64(b)), int(binary.BigEndian.Uint32(b[8:]))}
	if b[12] != kind || b[13]|b[14]|b[15] != 0 || after.Seq < 1 {
		return 0, Place{}, ErrCursor
	}
	return limit, after, nil
}

// PageOf returns a page of at most limit rows with the cursor of its last row. rows must have one
// row more if there is another page. at returns the place of a row.
func PageOf[T any](c *Cursors, kind byte, rows []T, limit int, at func(T) Place) Page[T] {
	return CutPage(rows, limit, func(row T) string { return c.Of(kind, at(row)) })
}
