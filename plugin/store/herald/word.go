package herald

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

// The fields of an entry: the refusal as JSON, and its HMAC-SHA-256 under the kin's key (RFC 2104), base64url.
const (
	textField = "refusal"
	sealField = "seal"
)

// mostText bounds a refusal's JSON.
const mostText = 16 << 10

// told is a refusal as it is written down. The same refusal is always the same text.
type told struct {
	Action   string           `json:"action"`
	Keyspace string           `json:"keyspace"`
	ID       string           `json:"id"`
	At       int64            `json:"at"` // Unix microseconds
	Actor    management.Actor `json:"actor"`
}

func encode(r management.Revocation) (string, error) {
	b, err := json.Marshal(told{r.Action, r.Keyspace, r.ID, r.At.UnixMicro(), r.Actor})
	if err == nil && len(b) > mostText {
		err = fmt.Errorf("a refusal of %d bytes is not told", len(b))
	}
	return string(b), err
}

// seal returns what shows that one of the kin said it.
func seal(kin replica.Kin, text string) string {
	mac := hmac.New(sha256.New, kin.Key)
	mac.Write([]byte(text))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// open reads an entry, whoever wrote it.
func open(kin replica.Kin, fields map[string]string) (r management.Revocation, err error) {
	text := fields[textField]
	if len(text) > mostText {
		return r, errors.New("it is too long")
	}
	if !hmac.Equal([]byte(seal(kin, text)), []byte(fields[sealField])) {
		return r, errors.New("it is not sealed by a gateway of this store")
	}
	var t told
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return r, errors.New("it is not understood")
	}
	r = management.Revocation{Action: t.Action, Keyspace: t.Keyspace, ID: t.ID, At: time.UnixMicro(t.At).UTC(), Actor: t.Actor}
	switch r.Action {
	case management.KeyRevoked, management.KeyDisabled, management.KeyDeleted, management.TenantSuspended, management.TenantDeleted:
	default:
		return r, errors.New("it is nothing that refuses keys")
	}
	if r.Keyspace == "" || r.ID == "" || t.At <= 0 {
		return r, errors.New("it does not say what is refused since when")
	}
	return r, nil
}
