package sqlstore

import (
	"database/sql"
	"strconv"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/usage"
)

// Each second the store updates the usage row of every key in use, so one statement updates many rows.
// In a local database such a statement costs little more than one for a few rows. In a remote database
// it saves round trips.

// usedTogether limits the rows of one statement. SQLite compares each placeholder with all earlier
// placeholders, so more rows would cost more than they save.
const usedTogether = 16

// useAll adds usage rows to the stored rows of the same hours. Only this node writes the stored rows,
// because the node's name is part of their key.
func (t *Tx) useAll(node string, rows []usage.Row) error {
	for len(rows) > 0 {
		n := 1
		for n < min(len(rows), usedTogether) && rows[n].Keyspace == rows[0].Keyspace && rows[n].Hour.Equal(rows[0].Hour) {
			n++
		}
		if err := t.useTogether(node, rows[:n]); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// used is the sum that is written to one row of usage.
type used struct {
	key, tenant string
	usage.Counts
}

// useTogether adds usage rows of one keyspace and hour. Several of the rows may belong to one key.
func (t *Tx) useTogether(node string, rows []usage.Row) error {
	keyspace, hour := rows[0].Keyspace, rows[0].Hour
	sums, byKey := make([]used, 0, len(rows)), make(map[string]int, len(rows))
	for i := range rows {
		r := &rows[i]
		if k, ok := byKey[r.Key]; ok {
			sums[k].Merge(r.Counts)
			continue
		}
		byKey[r.Key] = len(sums)
		sums = append(sums, used{r.Key, r.Tenant, *r.Counts})
	}
	if err := t.addUsed(keyspace, hour, node, sums, byKey); err != nil {
		return err
	}
	args := make([]any, 0, len(sums)*usedColumns)
	for i := range sums {
		u := &sums[i]
		latency, err := u.Latency.AppendBinary(nil)
		if err != nil {
			return err
		}
		args = append(args, keyspace, hour.Unix(), u.key, node, u.tenant, u.Requests, u.Allowed, rejectedText(&u.Counts), u.UpstreamErrors,
			u.Credits, u.BytesIn, u.BytesOut, bytes(latency))
	}
	_, err := t.Exec(`INSERT INTO usage (keyspace, hour, key_id, node, tenant, requests, allowed, refused, upstream_errors, credits, bytes_in, bytes_out, latency)
		VALUES `+placeholders(1, len(sums), usedColumns)+`
		ON CONFLICT (keyspace, hour, key_id, node) DO UPDATE SET requests = excluded.requests, allowed = excluded.allowed,
			refused = excluded.refused, upstream_errors = excluded.upstream_errors, credits = excluded.credits,
			bytes_in = excluded.bytes_in, bytes_out = excluded.bytes_out, latency = excluded.latency`, args...)
	return err
}

// usedColumns is how many columns one row of usage has in the INSERT statement.
const usedColumns = 13

// addUsed reads the usage counts stored so far and adds them to sums.
func (t *Tx) addUsed(keyspace string, hour time.Time, node string, sums []used, byKey map[string]int) error {
	args := make([]any, 0, 3+len(sums))
	args = append(args, keyspace, hour.Unix(), node)
	for i := range sums {
		args = append(args, sums[i].key)
	}
	var (
		key    string
		stored usage.Counts
		in     countsInto
	)
	columns := append([]any{&key}, in.columns(&stored)...)
	return t.Rows(`SELECT key_id, requests, allowed, refused, upstream_errors, credits, bytes_in, bytes_out, latency FROM usage
		WHERE keyspace = $1 AND hour = $2 AND node = $3 AND key_id IN `+placeholders(4, 1, len(sums)), args, func(rows *sql.Rows) error {
		if err := rows.Scan(columns...); err != nil {
			return err
		}
		if err := in.finish(&stored); err != nil {
			return err
		}
		sums[byKey[key]].Merge(&stored)
		return nil
	})
}

// placeholders returns rows of n placeholders each, numbered from first: "($4, $5), ($6, $7)".
func placeholders(first, rows, n int) string {
	var b strings.Builder
	for i := range rows {
		if i > 0 {
			b.WriteString(", ")
		}
		for k := range n {
			if k == 0 {
				b.WriteString("($")
			} else {
				b.WriteString(", $")
			}
			b.WriteString(strconv.Itoa(first + i*n + k))
		}
		b.WriteByte(')')
	}
	return b.String()
}
