package replica

import (
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/auth"
	"github.com/keygate-dev/keygate/plugin/management/events"
	"github.com/keygate-dev/keygate/plugin/management/idempotency"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
	"github.com/keygate-dev/keygate/plugin/store"
)

// copyTx reads tenants, keys, secrets and tokens from the copy. All other reads return the reason
// why the primary is unreachable, since an empty result would be wrong. It can't write.
type copyTx struct {
	store.Tx
	unreachable error
}

func (t *copyTx) FreeAllowance(string, string, time.Time) (string, error) { return "", t.unreachable }
func (t *copyTx) AllowanceTaken(*gateway.Key, time.Time) (bool, error)    { return false, t.unreachable }

func (t *copyTx) Ledger(management.LedgerQuery) ([]management.LedgerEntry, error) {
	return nil, t.unreachable
}
func (t *copyTx) LockNewestAudit() (int64, []byte, error) { return 0, nil, t.unreachable }
func (t *copyTx) Audit(audit.Query) ([]audit.Row, error) {
	return nil, t.unreachable
}
func (t *copyTx) Usage(string) ([]gateway.Usage, error)   { return nil, t.unreachable }
func (t *copyTx) Identity() (string, []byte, error)       { return "", nil, t.unreachable }
func (t *copyTx) CountAudit(string, int64) (int64, error) { return 0, t.unreachable }
func (t *copyTx) PublishedCheckpoint() (audit.PublishedCheckpoint, error) {
	return audit.PublishedCheckpoint{}, t.unreachable
}
func (t *copyTx) LockPublishedCheckpoint() (audit.PublishedCheckpoint, error) {
	return audit.PublishedCheckpoint{}, t.unreachable
}
func (t *copyTx) ImportedAs(string, apikey.Mark) (*gateway.Key, error) { return nil, t.unreachable }
func (t *copyTx) LockIdempotency([]byte) (*idempotency.Record, error) {
	return nil, t.unreachable
}
func (t *copyTx) Session(string, string) (*auth.Session, error) { return nil, t.unreachable }
func (t *copyTx) SessionByDigest([]byte) (*auth.Session, error) { return nil, t.unreachable }
func (t *copyTx) PortalLink(string, []byte) (*auth.PortalLink, error) {
	return nil, t.unreachable
}
func (t *copyTx) Webhook(string, string) (*events.WebhookRow, error) { return nil, t.unreachable }
func (t *copyTx) NextDelivery() (time.Time, error)                   { return time.Time{}, t.unreachable }
func (t *copyTx) TopUp(string, string) (management.LedgerEntry, error) {
	return management.LedgerEntry{}, t.unreachable
}
func (t *copyTx) DueWebhooks(time.Time) ([]*events.WebhookRow, error) { return nil, t.unreachable }
func (t *copyTx) Delivery(string, string, string) (*webhooks.DeliveryRow, error) {
	return nil, t.unreachable
}
func (t *copyTx) Sessions(auth.SessionQuery) ([]*auth.Session, error) {
	return nil, t.unreachable
}
func (t *copyTx) Webhooks(events.WebhookQuery) ([]*events.WebhookRow, error) {
	return nil, t.unreachable
}
func (t *copyTx) Deliveries(webhooks.DeliveryQuery) ([]*webhooks.DeliveryRow, error) {
	return nil, t.unreachable
}
func (t *copyTx) ExpiringKeys(string, time.Time, time.Time, *gateway.Key, int) ([]*gateway.Key, error) {
	return nil, t.unreachable
}
func (t *copyTx) UnusedKeys(string, time.Time, time.Time, int64) ([]*gateway.Key, int64, error) {
	return nil, 0, t.unreachable
}

func (t *copyTx) Node(string) (*cluster.Node, time.Time, error) {
	return nil, time.Time{}, t.unreachable
}

func (t *copyTx) ExistingKeys(string, []apikey.Digest, []apikey.Mark) (map[apikey.Digest]bool, map[apikey.Mark]bool, error) {
	return nil, nil, t.unreachable
}
