package sqlstore

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/management/audit"
)

// Identity implements management.Tx.
func (t *tx) Identity() (id string, cursorKey []byte, err error) {
	var key string
	if err := t.row(`SELECT value FROM meta WHERE name = 'store_id'`, nil, &id); err != nil {
		return "", nil, err
	}
	if err := t.row(`SELECT value FROM meta WHERE name = 'cursor_key'`, nil, &key); err != nil {
		return "", nil, err
	}
	cursorKey, err = hex.DecodeString(key)
	return id, cursorKey, t.fail(err)
}

// CountAudit implements management.Tx.
func (t *tx) CountAudit(keyspace string, seq int64) (n int64, err error) {
	if keyspace == "" {
		err = t.row(`SELECT count(*) FROM audit WHERE seq <= $1`, []any{seq}, &n)
		return n, err
	}
	err = t.row(`SELECT count(*) FROM audit WHERE keyspace = $1 AND seq <= $2`, []any{keyspace, seq}, &n)
	return n, err
}

const givenHeadSQL = `SELECT value FROM meta WHERE name = 'audit_head'`

// PublishedCheckpoint implements management.Tx.
func (t *tx) PublishedCheckpoint() (audit.PublishedCheckpoint, error) {
	return t.givenHead(givenHeadSQL)
}

// LockPublishedCheckpoint implements management.Tx.
func (t *tx) LockPublishedCheckpoint() (audit.PublishedCheckpoint, error) {
	return t.givenHead(givenHeadSQL + t.d.lockRow)
}

func (t *tx) givenHead(query string) (g audit.PublishedCheckpoint, err error) {
	var value string
	if err := t.row(query, nil, &value); err != nil {
		return g, err
	}
	parts := strings.Split(value, " ")
	if len(parts) != 3 {
		return g, t.fail(fmt.Errorf("what is stored of the head given out last is damaged: %q", value))
	}
	var micros int64
	if g.Seq, err = strconv.ParseInt(parts[0], 10, 64); err == nil {
		micros, err = strconv.ParseInt(parts[1], 10, 64)
	}
	if err == nil {
		g.Hash, err = hex.DecodeString(parts[2])
	}
	if micros != 0 {
		g.At = time.UnixMicro(micros).UTC()
	}
	return g, t.fail(err)
}

// SetPublishedCheckpoint implements management.Tx.
func (t *tx) SetPublishedCheckpoint(g audit.PublishedCheckpoint) error {
	_, err := t.exec(`UPDATE meta SET value = $1 WHERE name = 'audit_head'`, fmt.Sprintf("%d %d %x", g.Seq, g.At.UnixMicro(), g.Hash))
	return err
}
