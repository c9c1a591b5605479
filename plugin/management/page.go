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

// Bounds of a page.
const (
	DefaultPage = 50
	MaxPage     = 100
)

// PageQuery says which page of a list is wanted.
type PageQuery struct {
	// Limit is 1 to 100. 0: 50.
	Limit int
	// Cursor is a page's NextCursor; "" for the first page. A page begins after the last
	// row of the one before, so rows that come and go meanwhile neither repeat nor hide others.
	Cursor string
}

// BadParameter refuses a query parameter.
func BadParameter(name, detail string) *Error {
	return &Error{
		Status: http.StatusUnprocessableEntity, Code: CodeInvalidField,
		Detail: "A query parameter is not right.", Fields: []FieldError{{Parameter: name, Detail: detail}},
	}
}

// ErrCursor refuses a cursor that is none of the list's.
var ErrCursor = BadParameter("cursor", "is not a cursor of this list; take next_cursor of the page before")

// CursorOf returns the opaque cursor of a list (kind) after the row named last.
func CursorOf(kind, last string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(kind + ":" + last))
}

// limit returns the checked limit.
func (q PageQuery) limit() (int, error) {
	switch {
	case q.Limit == 0:
		return DefaultPage, nil
	case q.Limit < 1 || q.Limit > MaxPage:
		return 0, BadParameter("limit", "must be between 1 and 100")
	}
	return q.Limit, nil
}

// After returns the checked limit and the row that the cursor stands after.
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

// Lists in the order of a sequence of the store have cursors that hold its number. Those
// sequences count what happens to everybody, so that whoever sees one tenant only could count the
// others' by them. Therefore the number is encrypted, under a key of the store: cursors mean the same
// on every node and after a restart, and nothing to those who hold them.

// Place is where in a sequence of the store a row stands.
type Place struct {
	Seq int64
	// At is the row's place within what has that seq; 0 where there is only one.
	At int
}

// Cursors makes and reads the cursors of lists in the order of a sequence. Safe for concurrent use.
type Cursors struct{ block cipher.Block }

// cursorCache holds a Manager's Cursors, once they are known.
type cursorCache struct{ atomic.Pointer[Cursors] }

// The kinds of such lists.
const (
	auditCursor    = 'e'
	DeliveryCursor = 'd'
	ledgerCursor   = 'l'
	// RequestCursor is of a key's last requests.
	RequestCursor = 'r'
)

// Cursors returns what makes the cursors of the manager's store. It reads the store once.
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

// Of returns the cursor after a row of a list of that kind: one block of AES, so that without the
// key it says nothing, not even how far two are apart.
func (c *Cursors) Of(kind byte, p Place) string {
	var b [aes.BlockSize]byte
	binary.BigEndian.PutUint64(b[:], uint64(p.Seq))
	binary.BigEndian.PutUint32(b[8:], uint32(p.At))
	b[12] = kind // and three zeros, by which what we did not make is noticed
	c.block.Encrypt(b[:], b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// Read returns the checked limit of a page of a list of that kind, and the place of the row that its
// cursor stands after; the zero Place for the first page.
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

// PageOf returns a page of at most limit rows, of which one more was read where there is
// one, and the cursor after its last row, whose place is at.
func PageOf[T any](c *Cursors, kind byte, rows []T, limit int, at func(T) Place) Page[T] {
	return CutPage(rows, limit, func(row T) string { return c.Of(kind, at(row)) })
}
