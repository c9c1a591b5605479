package replica

import (
	"context"
	"encoding/hex"
	"encoding/json"

	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// clusterID is the stored form of a cluster identity.
type clusterID struct{ Store, Key string }

// ClusterID returns what SetClusterID stored. ErrNotFound where nothing was.
func (c *Copy) ClusterID(ctx context.Context) (store string, key []byte, err error) {
	text, err := c.meta(ctx, "kin")
	if err != nil {
		return "", nil, err
	}
	var k clusterID
	if err = json.Unmarshal([]byte(text), &k); err == nil {
		key, err = hex.DecodeString(k.Key)
	}
	return k.Store, key, err
}

// SetClusterID stores the id of the copied store, and the key by which the nodes
// authenticate their messages.
func (c *Copy) SetClusterID(ctx context.Context, store string, key []byte) error {
	text, err := json.Marshal(clusterID{store, hex.EncodeToString(key)})
	if err != nil {
		return err
	}
	return c.Write(ctx, "writing to the replica", func(t *sqlstore.Tx) error {
		_, err := t.Exec(`INSERT INTO meta (name, value) VALUES ('kin', $1)
			ON CONFLICT (name) DO UPDATE SET value = excluded.value`, string(text))
		return err
	})
}
