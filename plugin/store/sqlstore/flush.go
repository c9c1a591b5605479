package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"slices"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// WriteFlush implements gateway.Store. A stored time of last use is only replaced by a later time.
// WriteFlush renews the node's leases of credits. If the flush is empty, it only renews the leases,
// and writes nothing if the node holds no leases.
func (s *Store) WriteFlush(ctx context.Context, node string, f *gateway.Flush) error {
	if len(f.Touches) == 0 && len(f.Usage) == 0 && len(f.Spends) == 0 {
		holds, err := s.holdsLeases(ctx, node)
		if err != nil || !holds {
			return err
		}
	}
	return s.WriteRelaxed(ctx, "writing counts", func(t *Tx) error {
		if !t.d.Shared {
			for i := range f.Touches {
				if err := t.touch(&f.Touches[i]); err != nil {
					return err
				}
			}
		}
		if err := t.countAll(f.Usage); err != nil {
			return err
		}
		at := f.At
		if at.IsZero() {
			at = t.Now
		}
		// Refunds are recorded before other spends, because a spend may already have used the refunded credits.
		// Without the refunds, the spend would exceed the balance.
		spends := slices.Clone(f.Spends)
		slices.SortStableFunc(spends, func(a, b gateway.Spend) int {
			// The tenants are sorted so that all nodes lock them in the same order.
			return cmp.Or(strings.Compare(a.Keyspace, b.Keyspace), strings.Compare(a.Tenant, b.Tenant),
				cmp.Compare(min(a.Amount-a.Returned, 0), min(b.Amount-b.Returned, 0)))
		})
		for i := range spends {
			if err := t.recordSpend(node, at, &spends[i]); err != nil {
				return err
			}
		}
		if t.d.Shared {
			// Times of last use are written last, because other nodes lock the same rows and would wait longer.
			if err := t.touchAll(f.Touches); err != nil {
				return err
			}
		}
		_, err := t.Exec(`UPDATE nodes SET lease_until = $2 WHERE name = $1 AND lease_until < $2`, node, t.Now.Add(LeaseTTL).UnixMicro())
		return err
	})
}

func (s *Store) holdsLeases(ctx context.Context, node string) (holds bool, err error) {
	err = s.Query(ctx, "reading leases", func(f *Conns) error {
		var n int
		err := f.Read.QueryRowContext(ctx, `SELECT count(*) FROM (SELECT 1 FROM leases WHERE node = $1 LIMIT 1) AS l`, node).Scan(&n)
		holds = n > 0
		return err
	})
	return holds, err
}

func (t *Tx) touch(in *gateway.Touch) error {
	at := in.At.UnixMicro()
	if _, err := t.Exec(`UPDATE keys SET last_used_at = $2, last_used_ip = $3
		WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)`, in.KeyID, at, in.IP); err != nil {
		return err
	}
	_, err := t.Exec(`UPDATE secrets SET last_used_at = $2, last_used_ip = $3
		WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)`, in.SecretID, at, in.IP)
	return err
}

// count stores a usage count in its row, and reports whether the row exists.
func (t *Tx) count(u *gateway.Usage) (bool, error) {
	n, err := t.Exec(`UPDATE quota_counts SET used = $4 WHERE subject = $1 AND calendar = $2 AND start = $3`,
		u.Subject, int64(u.Calendar), startOf(u), u.Used)
	return n > 0, err
}

// keptPeriods is how many earlier periods of a quota keep their counts. One would do if no clock ever ran ahead: the counts
// of a wrong clock must not delete those of the present period.
const keptPeriods = 3

// countFirst stores the first count of a period. It deletes older counts of the same quota, except those of the newest
// keptPeriods.
func (t *Tx) countFirst(u *gateway.Usage) error {
	start := startOf(u)
	if _, err := t.Exec(`DELETE FROM quota_counts WHERE subject = $1 AND calendar = $2 AND start <
		(SELECT start FROM quota_counts WHERE subject = $1 AND calendar = $2 AND start < $3 ORDER BY start DESC LIMIT 1 OFFSET $4)`,
		u.Subject, int64(u.Calendar), start, keptPeriods-1); err != nil {
		return err
	}
	_, err := t.Exec(`INSERT INTO quota_counts (subject, calendar, start, used) VALUES ($1, $2, $3, $4)
		ON CONFLICT (subject, calendar, start) DO UPDATE SET used = excluded.used`,
		u.Subject, int64(u.Calendar), start, u.Used)
	return err
}

// startOf returns the value of the column start in Unix microseconds. The value 0 means a period that
// never ends.
func startOf(u *gateway.Usage) int64 {
	if u.Calendar == ratelimit.Total || u.Start.IsZero() {
		return 0
	}
	return u.Start.UnixMicro()
}

const usageSQL = `SELECT subject, calendar, start, used FROM quota_counts WHERE subject = $1 ORDER BY calendar, start DESC`

func usageInto(rows *sql.Rows, out []gateway.Usage) ([]gateway.Usage, error) {
	var u gateway.Usage
	var calendar, start int64
	if err := rows.Scan(&u.Subject, &calendar, &start, &u.Used); err != nil {
		return out, err
	}
	u.Calendar = ratelimit.Calendar(calendar)
	if u.Calendar != ratelimit.Total {
		u.Start = time.UnixMicro(start).UTC()
	}
	return append(out, u), nil
}

// LoadUsage implements gateway.Store.
func (s *Store) LoadUsage(ctx context.Context, subject string, now time.Time) ([]gateway.Usage, error) {
	y, m, d := now.UTC().Date()
	day, month := time.Date(y, m, d, 0, 0, 0, 0, time.UTC), time.Date(y, m, 1, 0, 0, 0, 0, time.UTC)
	var out []gateway.Usage
	err := s.Query(ctx, "reading counts", func(f *Conns) error {
		out = out[:0]
		rows, err := f.hot.usage.QueryContext(ctx, subject)
		return Each(rows, err, func(rows *sql.Rows) error {
			all, err := usageInto(rows, out)
			if err != nil {
				return err
			}
			switch u := all[len(all)-1]; {
			case u.Calendar == ratelimit.Total,
				u.Calendar == ratelimit.Day && !u.Start.Before(day),
				u.Calendar == ratelimit.Month && !u.Start.Before(month):
				out = all
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Usage implements management.Tx.
func (t *Tx) Usage(subject string) ([]gateway.Usage, error) {
	var out []gateway.Usage
	err := t.Rows(usageSQL, []any{subject}, func(rows *sql.Rows) (err error) {
		out, err = usageInto(rows, out)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// touchAll stores times of last use in a shared database. It uses few statements. It locks the rows in
// one order, so that no two nodes wait for each other.
func (t *Tx) touchAll(touches []gateway.Touch) error {
	if len(touches) == 0 {
		return nil
	}
	if err := t.touchTable("keys", touches, func(in *gateway.Touch) string { return in.KeyID }); err != nil {
		return err
	}
	return t.touchTable("secrets", touches, func(in *gateway.Touch) string { return in.SecretID })
}

func (t *Tx) touchTable(table string, touches []gateway.Touch, id func(*gateway.Touch) string) error {
	// Only the newest time of each row is written.
	newest := make([]*gateway.Touch, len(touches))
	for i := range touches {
		newest[i] = &touches[i]
	}
	slices.SortFunc(newest, func(a, b *gateway.Touch) int {
		if c := strings.Compare(id(a), id(b)); c != 0 {
			return c
		}
		return b.At.Compare(a.At)
	})
	newest = slices.CompactFunc(newest, func(a, b *gateway.Touch) bool { return id(a) == id(b) })
	ids, ats, ips := make([]string, len(newest)), make([]int64, len(newest)), make([]string, len(newest))
	for i, in := range newest {
		ids[i], ats[i], ips[i] = id(in), in.At.UnixMicro(), in.IP
	}
	if _, err := t.Exec(`SELECT num FROM `+table+` WHERE id = ANY($1) ORDER BY num FOR NO KEY UPDATE`, ids); err != nil {
		return err
	}
	_, err := t.Exec(`UPDATE `+table+` AS r SET last_used_at = v.at, last_used_ip = v.ip
		FROM unnest($1::text[], $2::bigint[], $3::text[]) AS v (id, at, ip)
		WHERE r.id = v.id AND (r.last_used_at IS NULL OR r.last_used_at < v.at)`, ids, ats, ips)
	return err
}
