package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/usage"
)

var _ usage.Store = (*Store)(nil)

// WriteUsage implements usage.Store.
func (s *Store) WriteUsage(ctx context.Context, b *usage.Batch) error {
	return s.WriteRelaxed(ctx, "writing usage", func(t *Tx) error {
		var seq int64
		err := t.Row(`SELECT seq FROM usage_writers WHERE writer = $1`+t.lockRow, []any{b.Writer}, &seq)
		if err != nil && !errors.Is(err, gateway.ErrNotFound) {
			return err
		}
		if seq >= b.Seq {
			return nil // The batch was already committed, but its writer did not receive the answer.
		}
		if err := t.useAll(b.Node, b.Rows); err != nil {
			return err
		}
		for i := range b.Chunks {
			if err := t.storeRecent(&b.Chunks[i]); err != nil {
				return err
			}
		}
		_, err = t.Exec(`INSERT INTO usage_writers (writer, seq, until, written_at) VALUES ($1, $2, $3, $4)
			ON CONFLICT (writer) DO UPDATE SET seq = excluded.seq, until = excluded.until, written_at = excluded.written_at`,
			b.Writer, b.Seq, b.Until.UnixMicro(), t.Now.UnixMicro())
		return err
	})
}

// countsInto scans the usage columns that useTogether and addDay write.
type countsInto struct {
	refused string
	latency []byte
}

func (in *countsInto) columns(c *usage.Counts) []any {
	return []any{&c.Requests, &c.Allowed, &in.refused, &c.UpstreamErrors, &c.Credits, &c.BytesIn, &c.BytesOut, &in.latency}
}

// finish parses the scanned texts of refused and latency into c.
func (in *countsInto) finish(c *usage.Counts) error {
	c.Rejected = [gateway.NumReasons]int64{}
	for word := range strings.FieldsSeq(in.refused) {
		name, number, _ := strings.Cut(word, ":")
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return fmt.Errorf("a stored count is damaged: %q", word)
		}
		if reason, ok := gateway.ParseReason(name); ok {
			c.Rejected[reason] = n
		}
	}
	return c.Latency.UnmarshalBinary(in.latency)
}

func rejectedText(c *usage.Counts) string {
	var b []byte
	for reason, n := range c.Rejected {
		if n == 0 {
			continue
		}
		if len(b) > 0 {
			b = append(b, ' ')
		}
		b = append(append(b, gateway.Reason(reason).String()...), ':')
		b = strconv.AppendInt(b, n, 10)
	}
	return string(b)
}

// ReadUsage implements usage.Store.
func (s *Store) ReadUsage(ctx context.Context, q usage.Query, yield func(*usage.Row) error) error {
	var w where
	w.and("keyspace = " + w.arg(q.Keyspace))
	if q.Tenant != "" {
		w.and("tenant = " + w.arg(q.Tenant))
	}
	if q.Key != "" {
		w.and("key_id = " + w.arg(q.Key))
	}
	to := w.arg(q.To.Unix())
	days := w.text + " AND day >= " + w.arg(q.From.UTC().Truncate(24*time.Hour).Unix()) + " AND day < " + to
	w.and("hour >= " + w.arg(q.From.Unix()))
	w.and("hour < " + to)
	var stopped error
	err := s.Query(ctx, "reading usage", func(f *Conns) error {
		if stopped != nil {
			return nil
		}
		rows, err := f.Read.QueryContext(ctx, `SELECT tenant, key_id, hour AS since, 3600,
			requests, allowed, refused, upstream_errors, credits, bytes_in, bytes_out, latency FROM usage`+w.text+`
			UNION ALL SELECT tenant, key_id, day, 86400,
			requests, allowed, refused, upstream_errors, credits, bytes_in, bytes_out, latency FROM usage_days`+days+`
			ORDER BY since, key_id`, w.args...)
		row := usage.Row{Keyspace: q.Keyspace, Counts: new(usage.Counts)}
		var in countsInto
		var hour, seconds int64
		columns := append([]any{&row.Tenant, &row.Key, &hour, &seconds}, in.columns(row.Counts)...)
		given := false
		err = Each(rows, err, func(rows *sql.Rows) error {
			if err := rows.Scan(columns...); err != nil {
				return err
			}
			if err := in.finish(row.Counts); err != nil {
				return err
			}
			row.Hour, row.Daily = time.Unix(hour, 0).UTC(), seconds > 3600
			given = true
			stopped = yield(&row)
			return stopped
		})
		if given && err != nil && stopped == nil {
			stopped = s.Explain("reading usage", err) // The query must not start again, because yield has already received some rows.
		}
		if stopped != nil {
			return nil
		}
		return err
	})
	if stopped != nil {
		return stopped
	}
	return err
}

// UsageUntil implements usage.Store.
func (s *Store) UsageUntil(ctx context.Context) (until time.Time, err error) {
	err = s.Query(ctx, "reading up to when usage was counted", func(f *Conns) error {
		return f.Read.QueryRowContext(ctx, `SELECT max(until) FROM usage_writers`).Scan(TimeInto(&until))
	})
	return until, err
}

// storeRecent stores a chunk of a key's recent requests. It deletes older chunks of the same key that
// are not needed for the newest Keep requests. It stores nothing for a deleted key, because the key's
// requests may have been erased.
func (t *Tx) storeRecent(c *usage.Chunk) error {
	if _, err := t.Exec(`INSERT INTO recent_requests (keyspace, key_id, newest, expires_at, n, entries) SELECT $1, $2, $3, $4, $5, $6
		WHERE NOT EXISTS (SELECT 1 FROM keys WHERE id = $2 AND deleted_at IS NOT NULL)`,
		c.Keyspace, c.Key, c.Newest.UnixMicro(), c.Expires.UnixMicro(), int64(c.Count), string(c.Entries)); err != nil || c.Keep == 0 {
		return err
	}
	kept, last := 0, int64(0)
	err := t.Rows(`SELECT seq, n FROM recent_requests WHERE key_id = $1 ORDER BY seq DESC`, []any{c.Key}, func(rows *sql.Rows) error {
		var seq int64
		var n int
		err := rows.Scan(&seq, &n)
		if kept < c.Keep {
			last = seq
		}
		kept += n
		return err
	})
	if err != nil || kept <= c.Keep {
		return err
	}
	_, err = t.Exec(`DELETE FROM recent_requests WHERE key_id = $1 AND seq < $2`, c.Key, last)
	return err
}

// RecentRequests implements usage.Store.
func (s *Store) RecentRequests(ctx context.Context, keyspace, key string) ([]usage.Chunk, error) {
	var out []usage.Chunk
	err := s.Query(ctx, "reading the last requests", func(f *Conns) error {
		out = out[:0]
		rows, err := f.Read.QueryContext(ctx, `SELECT seq, newest, expires_at, n, entries FROM recent_requests
			WHERE key_id = $1 AND keyspace = $2 ORDER BY seq DESC`, key, keyspace)
		return Each(rows, err, func(rows *sql.Rows) error {
			c := usage.Chunk{Keyspace: keyspace, Key: key}
			var entries string
			err := rows.Scan(&c.Seq, TimeInto(&c.Newest), TimeInto(&c.Expires), &c.Count, &entries)
			c.Entries = []byte(entries)
			out = append(out, c)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// PruneBatch limits how many rows one transaction deletes, so that other writers do not wait long.
const PruneBatch = 2000

// PruneUsage implements usage.Store.
func (s *Store) PruneUsage(ctx context.Context, now, silent time.Time) error {
	for {
		var n int64
		err := s.Write(ctx, "dropping old requests", func(t *Tx) (err error) {
			if n, err = t.pruneQuotas(now); err != nil || n == PruneBatch {
				return err
			}
			if n, err = t.Exec(`DELETE FROM recent_requests WHERE seq IN
				(SELECT seq FROM recent_requests WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)`, now.UnixMicro(), PruneBatch); err != nil {
				return err
			}
			// The newest row stays, because it records up to which time usage is complete.
			_, err = t.Exec(`DELETE FROM usage_writers WHERE written_at < $1 AND until < (SELECT max(until) FROM usage_writers)`, silent.UnixMicro())
			return err
		})
		if err != nil || n < PruneBatch {
			return err
		}
	}
}
