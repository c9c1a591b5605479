package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// rollAtOnce limits how many rows of hours one transaction adds up, so that other writers do not wait
// long.
const rollAtOnce = 500

// RollUsage implements usage.Store.
func (s *Store) RollUsage(ctx context.Context, before func(keyspace string) time.Time) (more bool, err error) {
	keyspace := ""
	for {
		var next string
		var oldest int64
		err := s.Query(ctx, "looking for old usage", func(f *Conns) error {
			next, oldest = "", 0
			// The order by the primary key lets the query find the next keyspace without reading every row.
			err := f.Read.QueryRowContext(ctx, `SELECT keyspace, hour FROM usage WHERE keyspace > $1 ORDER BY keyspace, hour LIMIT 1`, keyspace).Scan(&next, &oldest)
			if errors.Is(err, sql.ErrNoRows) {
				return nil
			}
			return err
		})
		if err != nil || next == "" {
			return false, err
		}
		keyspace = next
		// Only whole days are added up, so that a day has either all its hours or none.
		if end := before(keyspace).UTC().Truncate(24 * time.Hour).Unix(); oldest < end {
			return true, s.Write(ctx, "adding up the usage of days", func(t *Tx) error { return t.roll(keyspace, end) })
		}
	}
}

// dayID identifies a row of usage_days within a keyspace.
type dayID struct {
	day       int64
	key, node string
}

// roll adds the usage of a keyspace's oldest hours before end to the usage of days. One call adds at
// most rollAtOnce rows.
func (t *Tx) roll(keyspace string, end int64) error {
	type sum struct {
		tenant string
		usage.Counts
	}
	days := map[dayID]*sum{}
	type hourID struct {
		hour      int64
		key, node string
	}
	var hours []hourID
	err := t.Rows(`SELECT hour, key_id, node, tenant, requests, allowed, refused, upstream_errors, credits, bytes_in, bytes_out, latency
		FROM usage WHERE keyspace = $1 AND hour < $2 ORDER BY hour, key_id, node LIMIT $3`, []any{keyspace, end, rollAtOnce},
		func(rows *sql.Rows) error {
			var h hourID
			var tenant string
			var c usage.Counts
			var in countsInto
			if err := rows.Scan(append([]any{&h.hour, &h.key, &h.node, &tenant}, in.columns(&c)...)...); err != nil {
				return err
			}
			if err := in.finish(&c); err != nil {
				return err
			}
			hours = append(hours, h)
			id := dayID{h.hour - h.hour%86400, h.key, h.node}
			if days[id] == nil {
				days[id] = &sum{tenant: tenant}
			}
			days[id].Merge(&c)
			return nil
		})
	if err != nil {
		return err
	}
	for id, d := range days {
		if err := t.addDay(keyspace, id, d.tenant, &d.Counts); err != nil {
			return err
		}
	}
	for _, h := range hours {
		if _, err := t.Exec(`DELETE FROM usage WHERE keyspace = $1 AND hour = $2 AND key_id = $3 AND node = $4`, keyspace, h.hour, h.key, h.node); err != nil {
			return err
		}
	}
	return nil
}

// addDay adds usage counts to the row of a day.
func (t *Tx) addDay(keyspace string, id dayID, tenant string, sum *usage.Counts) error {
	var stored usage.Counts
	var old countsInto
	err := t.Row(`SELECT requests, allowed, refused, upstream_errors, credits, bytes_in, bytes_out, latency FROM usage_days
		WHERE keyspace = $1 AND day = $2 AND key_id = $3 AND node = $4`+t.lockRow, []any{keyspace, id.day, id.key, id.node}, old.columns(&stored)...)
	switch {
	case err == nil:
		if err := old.finish(&stored); err != nil {
			return t.Fail(err)
		}
		sum.Merge(&stored)
	case !errors.Is(err, gateway.ErrNotFound):
		return err
	}
	latency, err := sum.Latency.AppendBinary(nil)
	if err != nil {
		return err
	}
	_, err = t.Exec(`INSERT INTO usage_days (keyspace, day, key_id, node, tenant, requests, allowed, refused, upstream_errors, credits, bytes_in, bytes_out, latency)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
		ON CONFLICT (keyspace, day, key_id, node) DO UPDATE SET requests = excluded.requests, allowed = excluded.allowed,
			refused = excluded.refused, upstream_errors = excluded.upstream_errors, credits = excluded.credits,
			bytes_in = excluded.bytes_in, bytes_out = excluded.bytes_out, latency = excluded.latency`,
		keyspace, id.day, id.key, id.node, tenant, sum.Requests, sum.Allowed, rejectedText(sum), sum.UpstreamErrors,
		sum.Credits, sum.BytesIn, sum.BytesOut, bytes(latency))
	return err
}

// addressMonths and addressDays are how long counts of client addresses are kept after the beginning of their month or day.
// The times are short because there may be many addresses.
const addressMonths, addressDays = 62 * 24 * time.Hour, 2 * 24 * time.Hour

// pruneQuotas deletes quota counts of client addresses whose periods ended long ago. It deletes no counts of keys and
// tenants: there are at most a few for each (see countFirst), and a clock that runs ahead must not delete the present ones.
func (t *Tx) pruneQuotas(now time.Time) (int64, error) {
	long, days := now.Add(-addressMonths).UnixMicro(), now.Add(-addressDays).UnixMicro()
	for calendar, before := range map[ratelimit.Calendar]int64{ratelimit.Day: days, ratelimit.Month: long} {
		first := addressSeq(calendar)
		if _, err := t.Exec(`DELETE FROM sequences WHERE name >= $1 AND name < $2`, first, fmt.Sprintf("%s%020d", first, before)); err != nil {
			return 0, err
		}
	}
	return t.Exec(`DELETE FROM quota_counts WHERE (subject, calendar, start) IN
		(SELECT subject, calendar, start FROM quota_counts WHERE start > 0 AND subject >= 'a:' AND subject < 'a;' AND
			(start < $1 OR start < $2 AND calendar = $3) ORDER BY start LIMIT $4)`,
		long, days, int64(ratelimit.Day), PruneBatch)
}
