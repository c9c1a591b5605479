package revocations

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/replica"
)

// A stream's entry has two fields: the revocation as JSON, and the HMAC-SHA-256 (RFC 2104) of the JSON
// text under the cluster's key, in base64url.
const (
	textField = "refusal"
	sealField = "seal"
)

// maxMessage is the greatest length of a revocation's JSON, in bytes.
const maxMessage = 16 << 10

// message is the JSON form of a revocation. The same revocation always gives the same text.
type message struct {
	Action   string           `json:"action"`
	Keyspace string           `json:"keyspace"`
	ID       string           `json:"id"`
	At       int64            `json:"at"` // At is the time of the decision in Unix microseconds.
	Actor    management.Actor `json:"actor"`
}

func encode(r management.Revocation) (string, error) {
	b, err := json.Marshal(message{r.Action, r.Keyspace, r.ID, r.At.UnixMicro(), r.Actor})
	if err == nil && len(b) > maxMessage {
		err = fmt.Errorf("a revocation of %d bytes is too long to publish", len(b))
	}
	return string(b), err
}

// seal returns the authentication code of a text, which only nodes of the cluster can compute.
func seal(cluster replica.ClusterID, text string) string {
	mac := hmac.New(sha256.New, cluster.Key)
	mac.Write([]byte(text))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// openMessage authenticates and parses an entry of the stream.
func openMessage(cluster replica.ClusterID, fields map[string]string) (r management.Revocation, err error) {
	text := fields[textField]
	if len(text) > maxMessage {
		return r, errors.New("it is too long")
	}
	if !hmac.Equal([]byte(seal(cluster, text)), []byte(fields[sealField])) {
		return r, errors.New("it is not authenticated by a gateway of this store")
	}
	var t message
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return r, errors.New("it is not valid JSON of a revocation")
	}
	r = management.Revocation{Action: t.Action, Keyspace: t.Keyspace, ID: t.ID, At: time.UnixMicro(t.At).UTC(), Actor: t.Actor}
	switch r.Action {
	case management.KeyRevoked, management.KeyDisabled, management.KeyDeleted, management.TenantSuspended, management.TenantDeleted:
	default:
		return r, errors.New("its action is not a revocation")
	}
	if r.Keyspace == "" || r.ID == "" || t.At <= 0 {
		return r, errors.New("it lacks a keyspace, an id or a time")
	}
	return r, nil
}
