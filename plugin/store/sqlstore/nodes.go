package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/keygate-dev/keygate/plugin/cluster"
)

var _ cluster.Registry = (*Store)(nil)

const (
	// leaseMargin is by how much longer a node counts as judging than it says: what it
	// wrote last may be lost with the server, within a second.
	leaseMargin = 2 * time.Second
	// nameReuseAfter is how long a node must have been silent before another may have its name.
	nameReuseAfter = 5 * time.Second
	// nodeRetention is how long a node that judges no more is still listed.
	nodeRetention = 24 * time.Hour
)

// errOwn says that a store has one gateway only.
var errOwn = errors.New("an SQLite store is one gateway's own")

// shared returns the database where several gateways share it.
func (s *Store) shared() (*postgresDB, error) {
	p, ok := s.db.(*postgresDB)
	if !ok {
		return nil, errOwn
	}
	return p, nil
}

// reportNodeSQL writes a node's row, in one round trip and without waiting for the disk:
// it is written again within a second. What it acts by counts where that is of this state of the database: after
// a fail-over to a server that was behind, the same number is another change's.
const reportNodeSQL = `INSERT INTO nodes AS n (name, lease_until, instance, version, config, seq, ready, keys_cached, started_at, contact_at, stops_by, earlier)
	SELECT $1, 0, $2, $3, $4,
		CASE WHEN $5 <= (SELECT value FROM sequences WHERE name = 'changes')
			AND ($11 = 0 OR EXISTS (SELECT 1 FROM changes WHERE seq = $11 AND at = $12)) THEN $5 ELSE 0 END,
		$6, $7, clock.now, clock.now, clock.now + $8, $10
	FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now, set_config('synchronous_commit', 'off', true) AS relaxed) AS clock
	WHERE clock.relaxed = 'off'
	ON CONFLICT (name) DO UPDATE SET instance = excluded.instance, version = excluded.version, config = excluded.config,
		seq = excluded.seq, ready = excluded.ready, keys_cached = excluded.keys_cached, contact_at = excluded.contact_at, stops_by = excluded.stops_by,
		earlier = excluded.earlier,
		started_at = CASE WHEN n.instance = excluded.instance THEN coalesce(n.started_at, excluded.started_at) ELSE excluded.started_at END
	WHERE n.instance = excluded.instance OR n.contact_at IS NULL OR n.contact_at < excluded.contact_at - $9`

// ReportNode implements cluster.Registry.
func (s *Store) ReportNode(ctx context.Context, n *cluster.Node, trust cluster.Staleness) error {
	if _, err := s.shared(); err != nil {
		return err
	}
	earlier, err := json.Marshal(nodeEarlier{n.Instance, trust.Offsets()})
	if err != nil {
		return err
	}
	var rows int64
	err = s.reading(ctx, "writing what a node says of itself", func(c *conns) error {
		res, err := c.read.ExecContext(ctx, reportNodeSQL, n.Name, n.Instance, n.Version, n.ConfigHash, n.Seq, flag(n.Ready), n.KeysCached,
			(trust.Longest() + leaseMargin).Microseconds(), nameReuseAfter.Microseconds(), string(earlier), n.LastRead.Seq, n.LastRead.Mark)
		if err == nil {
			rows, err = res.RowsAffected()
		}
		return err
	})
	if err == nil && rows == 0 {
		err = cluster.ErrNameTaken
	}
	return err
}

// RemoveNode implements cluster.Registry.
func (s *Store) RemoveNode(ctx context.Context, name, instance string) error {
	return s.writing(ctx, "taking a node from the list", func(t *tx) error {
		if _, err := t.exec(`DELETE FROM nodes WHERE name = $1 AND instance = $2`, name, instance); err != nil {
			return err
		}
		_, err := t.exec(`DELETE FROM nodes WHERE stops_by < $1 AND lease_until < $1`, t.now.Add(-nodeRetention).UnixMicro())
		return err
	})
}

const (
	nodeColumns = `name, instance, version, config, seq, ready, keys_cached, started_at, contact_at, stops_by, earlier`
	nodesSQL    = `SELECT ` + nodeColumns + `, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
	FROM nodes WHERE contact_at IS NOT NULL ORDER BY name`
)

// nodeEarlier is by how much sooner than stops_by an instance judges no more. One of before this was
// written leaves what another of its name wrote.
type nodeEarlier struct {
	Of string                   `json:"of"`
	By map[string]time.Duration `json:"by"`
}

// earlierInto scans it, after the instance.
type earlierInto struct{ *cluster.Node }

// Scan implements sql.Scanner.
func (e earlierInto) Scan(v any) error {
	var text json.RawMessage
	var of nodeEarlier
	if err := (jsonInto{&text}).Scan(v); err != nil {
		return err
	}
	if err := json.Unmarshal(text, &of); err != nil {
		return err
	}
	if of.Of == e.Instance {
		e.Offsets = of.By
	}
	return nil
}

func nodeInto(n *cluster.Node) []any {
	return []any{&n.Name, &n.Instance, &n.Version, &n.ConfigHash, &n.Seq, &n.Ready, &n.KeysCached,
		timeInto{&n.StartedAt}, timeInto{&n.ContactAt}, timeInto{&n.Deadline}, earlierInto{n}}
}

// Nodes implements cluster.Registry.
func (s *Store) Nodes(ctx context.Context) (nodes []cluster.Node, now time.Time, err error) {
	if _, err := s.shared(); err != nil {
		return nil, now, err
	}
	err = s.reading(ctx, "asking for the nodes", func(c *conns) error {
		nodes = nodes[:0]
		rows, err := c.read.QueryContext(ctx, nodesSQL)
		return each(rows, err, func(rows *sql.Rows) error {
			var n cluster.Node
			err := rows.Scan(append(nodeInto(&n), timeInto{&now})...)
			nodes = append(nodes, n)
			return err
		})
	})
	if err != nil {
		return nil, now, err
	}
	return nodes, now, nil
}

// Node implements management.Tx.
func (t *tx) Node(name string) (*cluster.Node, time.Time, error) {
	var n cluster.Node
	err := t.row(`SELECT `+nodeColumns+` FROM nodes WHERE name = $1 AND contact_at IS NOT NULL`+t.d.lockRow, []any{name}, nodeInto(&n)...)
	if err != nil {
		return nil, time.Time{}, err
	}
	return &n, t.now, nil
}

// DeleteNode implements management.Tx.
func (t *tx) DeleteNode(name string) error {
	if _, err := t.exec(`DELETE FROM leases WHERE node = $1`, name); err != nil {
		return err
	}
	_, err := t.exec(`DELETE FROM nodes WHERE name = $1`, name)
	return err
}

const (
	// changeRetention is for how long a node may be away and still go on from where it was;
	// one that comes back later reads everything anew.
	changeRetention = 24 * time.Hour
	// pruneInterval is how often older ones are dropped, by any node.
	pruneInterval = time.Hour
)

// pruneChanges drops changes from before a time, but for the newest of all: with it
// everyone can tell whether they are up to date.
func (s *Store) pruneChanges(ctx context.Context, before time.Time) error {
	for {
		var n int64
		err := s.counting(ctx, "dropping old changes", func(t *tx) (err error) {
			n, err = t.exec(`DELETE FROM changes WHERE seq IN (SELECT seq FROM changes WHERE at < $1
				AND seq < (SELECT value FROM sequences WHERE name = 'changes') ORDER BY at LIMIT $2)`, before.UnixMicro(), pruneAtOnce)
			return err
		})
		if err != nil || n < pruneAtOnce {
			return err
		}
	}
}

// prune drops old changes every now and then, until the store is closed.
func (p *postgresDB) prune() {
	ctx, end := p.s.alive(context.Background())
	defer end()
	for {
		// Not all nodes at once, whenever they were started.
		select {
		case <-time.After(pruneInterval/2 + rand.N(pruneInterval)):
		case <-ctx.Done():
			return
		}
		if err := p.s.pruneChanges(ctx, time.Now().Add(-changeRetention)); err != nil && ctx.Err() == nil {
			p.s.log.Warn("old changes could not be dropped; it is tried again", "error", err)
		}
	}
}
