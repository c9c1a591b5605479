package postgres

import (
	"context"
	"database/sql"
	"math/rand/v2"
	"time"

	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

var _ cluster.Registry = (*Store)(nil)

const (
	// leaseMargin is added to the time for which a node accepts keys after its last report, because the
	// server may lose a report that is younger than a second.
	leaseMargin = 2 * time.Second
	// nameReuseAfter is how long a node must have sent no report before another node may use its name.
	nameReuseAfter = 5 * time.Second
	// nodeRetention is how long a node stays in the list of nodes after its deadline for accepting keys.
	nodeRetention = 24 * time.Hour
)

// reportNodeSQL writes a node's row in one round trip. It does not wait for the disk, because the next
// report follows within a second. If the database does not hold the change that the node read last, the
// statement stores 0 as the node's seq. After a fail-over to a server that lagged behind, another change
// may have that number.
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
func (s *Store) ReportNode(ctx context.Context, n *cluster.Node, staleness cluster.Staleness) error {
	earlier, err := sqlstore.EarlierText(n.Instance, staleness.Offsets())
	if err != nil {
		return err
	}
	var rows int64
	err = s.Query(ctx, "reporting a node", func(c *sqlstore.Conns) error {
		res, err := c.Read.ExecContext(ctx, reportNodeSQL, n.Name, n.Instance, n.Version, n.ConfigHash, n.Seq, sqlstore.Flag(n.Ready), n.KeysCached,
			(staleness.Longest() + leaseMargin).Microseconds(), nameReuseAfter.Microseconds(), earlier, n.LastRead.Seq, n.LastRead.Mark)
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
	return s.Write(ctx, "removing a node", func(t *sqlstore.Tx) error {
		if _, err := t.Exec(`DELETE FROM nodes WHERE name = $1 AND instance = $2`, name, instance); err != nil {
			return err
		}
		_, err := t.Exec(`DELETE FROM nodes WHERE stops_by < $1 AND lease_until < $1`, t.Now.Add(-nodeRetention).UnixMicro())
		return err
	})
}

const nodesSQL = `SELECT ` + sqlstore.NodeColumns + `, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
	FROM nodes WHERE contact_at IS NOT NULL ORDER BY name`

// Nodes implements cluster.Registry.
func (s *Store) Nodes(ctx context.Context) (nodes []cluster.Node, now time.Time, err error) {
	err = s.Query(ctx, "listing the nodes", func(c *sqlstore.Conns) error {
		nodes = nodes[:0]
		rows, err := c.Read.QueryContext(ctx, nodesSQL)
		return sqlstore.Each(rows, err, func(rows *sql.Rows) error {
			var n cluster.Node
			err := rows.Scan(append(sqlstore.NodeInto(&n), sqlstore.TimeInto(&now))...)
			nodes = append(nodes, n)
			return err
		})
	})
	if err != nil {
		return nil, now, err
	}
	return nodes, now, nil
}

const (
	// changeRetention is how long the database keeps changes. A node that was unreachable for longer can't
	// continue at its position and reads all data again.
	changeRetention = 24 * time.Hour
	// pruneInterval is the average time between two deletions of old changes by one node.
	pruneInterval = time.Hour
)

// pruneChanges deletes changes that are older than a time. It keeps the newest change of all, because
// nodes find out by the newest change whether they are up to date.
func (p *database) pruneChanges(ctx context.Context, before time.Time) error {
	for {
		var n int64
		err := p.s.WriteRelaxed(ctx, "dropping old changes", func(t *sqlstore.Tx) (err error) {
			n, err = t.Exec(`DELETE FROM changes WHERE seq IN (SELECT seq FROM changes WHERE at < $1
				AND seq < (SELECT value FROM sequences WHERE name = 'changes') ORDER BY at LIMIT $2)`, before.UnixMicro(), sqlstore.PruneBatch)
			return err
		})
		if err != nil || n < sqlstore.PruneBatch {
			return err
		}
	}
}

// prune deletes old changes about every pruneInterval, until the store is closed.
func (p *database) prune() {
	ctx, end := p.s.Alive(context.Background())
	defer end()
	for {
		// The wait has a random part, so that nodes which started together do not delete changes together.
		select {
		case <-time.After(pruneInterval/2 + rand.N(pruneInterval)):
		case <-ctx.Done():
			return
		}
		if err := p.pruneChanges(ctx, time.Now().Add(-changeRetention)); err != nil && ctx.Err() == nil {
			p.s.Log().Warn("old entries of the change sequence could not be deleted from the database; trying again within 90 minutes", "error", err)
		}
	}
}
