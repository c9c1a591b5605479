package replica

import (
	"context"
	"encoding/hex"
	"encoding/json"

	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// clusterID is the JSON form in which a copy stores a cluster identity.
type clusterID struct{ Store, Key string }

// ClusterID returns the cluster identity that SetClusterID stored. It returns gateway.ErrNotFound if
// the copy holds no identity.
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

// SetClusterID stores the id of the copied store, and the key that authenticates the messages of
// its nodes.
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
