package replica

import (
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
)

// heldTx reads what the copy holds: tenants, keys, their secrets, and tokens. Of everything else it
// says why it can't be had, since an empty answer would be a wrong one. It can't write.
type heldTx struct {
	management.Tx
	away error
}

func (t *heldTx) Ledger(management.LedgerQuery) ([]management.LedgerEntry, error) {
	return nil, t.away
}
func (t *heldTx) LockNewestAudit() (int64, []byte, error)                    { return 0, nil, t.away }
func (t *heldTx) Audit(management.AuditQuery) ([]management.AuditRow, error) { return nil, t.away }
func (t *heldTx) Usage(string) ([]gateway.Usage, error)                      { return nil, t.away }
func (t *heldTx) Identity() (string, []byte, error)                          { return "", nil, t.away }
func (t *heldTx) CountAudit(string, int64) (int64, error)                    { return 0, t.away }
func (t *heldTx) PublishedCheckpoint() (management.PublishedCheckpoint, error) {
	return management.PublishedCheckpoint{}, t.away
}
func (t *heldTx) LockPublishedCheckpoint() (management.PublishedCheckpoint, error) {
	return management.PublishedCheckpoint{}, t.away
}
func (t *heldTx) ImportedAs(string, apikey.Mark) (*gateway.Key, error)          { return nil, t.away }
func (t *heldTx) LockIdempotency([]byte) (*management.IdempotencyRecord, error) { return nil, t.away }
func (t *heldTx) Session(string, string) (*management.Session, error)           { return nil, t.away }
func (t *heldTx) SessionByDigest([]byte) (*management.Session, error)           { return nil, t.away }
func (t *heldTx) PortalLink(string, []byte) (*management.PortalLink, error)     { return nil, t.away }
func (t *heldTx) Webhook(string, string) (*management.WebhookRow, error)        { return nil, t.away }
func (t *heldTx) NextDelivery() (time.Time, error)                              { return time.Time{}, t.away }
func (t *heldTx) TopUp(string, string) (management.LedgerEntry, error) {
	return management.LedgerEntry{}, t.away
}
func (t *heldTx) DueWebhooks(time.Time) ([]*management.WebhookRow, error) { return nil, t.away }
func (t *heldTx) Delivery(string, string, string) (*management.DeliveryRow, error) {
	return nil, t.away
}
func (t *heldTx) Sessions(management.SessionQuery) ([]*management.Session, error) {
	return nil, t.away
}
func (t *heldTx) Webhooks(management.WebhookQuery) ([]*management.WebhookRow, error) {
	return nil, t.away
}
func (t *heldTx) Deliveries(management.DeliveryQuery) ([]*management.DeliveryRow, error) {
	return nil, t.away
}
func (t *heldTx) ExpiringKeys(string, time.Time, time.Time, *gateway.Key, int) ([]*gateway.Key, error) {
	return nil, t.away
}
func (t *heldTx) UnusedKeys(string, time.Time, time.Time, int64) ([]*gateway.Key, int64, error) {
	return nil, 0, t.away
}

func (t *heldTx) Node(string) (*gateway.Node, time.Time, error) { return nil, time.Time{}, t.away }

func (t *heldTx) ExistingKeys(string, []apikey.Digest, []apikey.Mark) (map[apikey.Digest]bool, map[apikey.Mark]bool, error) {
	return nil, nil, t.away
}
