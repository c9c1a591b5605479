package sqlstore

import (
	"encoding/json"
	"time"

	"github.com/keygate-dev/keygate/plugin/cluster"
)

// NodeColumns are the columns that NodeInto scans.
const NodeColumns = `name, instance, version, config, seq, ready, keys_cached, started_at, contact_at, stops_by, earlier`

// nodeEarlier is the JSON in the column earlier: by how much the deadline of each keyspace is earlier
// than the column stops_by. Of names the instance that wrote the JSON, because an older version of
// Keygate leaves the text of a former instance in place.
type nodeEarlier struct {
	Of string                   `json:"of"`
	By map[string]time.Duration `json:"by"`
}

// EarlierText returns the text of the column earlier for an instance.
func EarlierText(instance string, by map[string]time.Duration) (string, error) {
	text, err := json.Marshal(nodeEarlier{instance, by})
	return string(text), err
}

// earlierInto scans the database column earlier. The node's Instance must have been scanned before.
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

// NodeInto returns the destinations for scanning NodeColumns.
func NodeInto(n *cluster.Node) []any {
	return []any{&n.Name, &n.Instance, &n.Version, &n.ConfigHash, &n.Seq, &n.Ready, &n.KeysCached,
		TimeInto(&n.StartedAt), TimeInto(&n.ContactAt), TimeInto(&n.Deadline), earlierInto{n}}
}

// Node implements management.NodeTx.
func (t *Tx) Node(name string) (*cluster.Node, time.Time, error) {
	var n cluster.Node
	err := t.Row(`SELECT `+NodeColumns+` FROM nodes WHERE name = $1 AND contact_at IS NOT NULL`+t.lockRow, []any{name}, NodeInto(&n)...)
	if err != nil {
		return nil, time.Time{}, err
	}
	return &n, t.Now, nil
}

// DeleteNode implements management.NodeTx.
func (t *Tx) DeleteNode(name string) error {
	if _, err := t.Exec(`DELETE FROM leases WHERE node = $1`, name); err != nil {
		return err
	}
	_, err := t.Exec(`DELETE FROM nodes WHERE name = $1`, name)
	return err
}
