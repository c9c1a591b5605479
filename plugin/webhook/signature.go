package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

// Sign returns the webhook-signature header of a body that is sent at a time under an id: one
// `v1,<base64>` for each secret, separated by spaces. Each is the HMAC-SHA256 of
// `id.timestamp.body`. Its key is the base64 text after whsec_, decoded.
// https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
func Sign(id string, at time.Time, body []byte, secrets ...string) (string, error) {
	out := make([]string, len(secrets))
	for i, secret := range secrets {
		encoded, ok := strings.CutPrefix(secret, webhooks.SecretPrefix)
		key, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil {
			return "", errors.New("the webhook's secret is damaged: rotate it")
		}
		h := hmac.New(sha256.New, key)
		h.Write([]byte(id + "." + strconv.FormatInt(at.Unix(), 10) + "."))
		h.Write(body)
		out[i] = "v1," + base64.StdEncoding.EncodeToString(h.Sum(nil))
	}
	return strings.Join(out, " "), nil
}
