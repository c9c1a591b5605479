package webhooks

import (
	"context"
	"slices"
	"time"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/events"
)

const (
	// maxEventDelay is the largest age of an expiry that is announced. A gateway that was down for
	// longer, or had no recipient, does not announce everything that happened meanwhile.
	maxEventDelay = 7 * 24 * time.Hour
	// oneShotBatch bounds the keys that are announced in one transaction.
	oneShotBatch = 500
)

// DefaultExpiring holds how long before the expiry of a key its expiry is announced. DefaultUnused is how long a key must be
// unused before that is announced.
var DefaultExpiring = []time.Duration{7 * 24 * time.Hour, 24 * time.Hour}

const DefaultUnused = 90 * 24 * time.Hour

// keyOneShot returns an event of a key, with the key's fields as data.
func keyOneShot(k *gateway.Key, eventType, what string, ref int64, at time.Time) events.OneShot {
	return events.OneShot{
		Type: eventType, Keyspace: k.Keyspace, Tenant: k.Tenant, At: at, Subject: "key:" + k.ID, Condition: what, Ref: ref,
		Data: map[string]any{"key_id": k.ID, "name": k.Name, "key_prefix": k.Prefix, "last_four": k.LastFour, "environment": k.Environment,
			"expires_at": management.TimeOrNull(k.ExpiresAt), "last_used_at": management.TimeOrNull(k.LastUsedAt)},
	}
}

// AnnounceExpiries announces the keys of a keyspace that expire soon or have expired. A key whose
// whole lifetime is shorter than a warning's time gets no such warning.
func (reg *Registry) AnnounceExpiries(ctx context.Context, keyspace string) error {
	warnings := slices.Clone(reg.settings(keyspace).Expiring)
	slices.Sort(warnings)
	ahead := time.Duration(0)
	if len(warnings) > 0 {
		ahead = warnings[len(warnings)-1]
	}
	var last *gateway.Key
	for {
		var list []events.OneShot
		var keys []*gateway.Key
		err := reg.read(ctx, management.System, keyspace, func(c *call) (err error) {
			list, keys = nil, nil
			if ok, err := c.Events.AnyRecipient(events.KeyExpired, events.KeyExpiring); err != nil || !ok {
				return err
			}
			keys, err = c.ExpiringKeys(c.Keyspace.Name, c.Now.Add(-maxEventDelay), c.Now.Add(ahead), last, oneShotBatch)
			if err != nil {
				return err
			}
			for _, k := range keys {
				if o, ok := expiry(k, warnings, c.Now); ok {
					list = append(list, o)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := reg.Announce(ctx, list); err != nil || len(keys) < oneShotBatch {
			return err
		}
		last = keys[len(keys)-1]
	}
}

// expiry returns the event of a key's expiry at now: that the key has expired, or the shortest
// warning that is due. warnings are in ascending order.
func expiry(k *gateway.Key, warnings []time.Duration, now time.Time) (o events.OneShot, ok bool) {
	ref := k.ExpiresAt.UnixMicro()
	if !k.ExpiresAt.After(now) {
		o = keyOneShot(k, events.KeyExpired, "expired", ref, k.ExpiresAt)
		// A webhook that was created after the expiry does not receive the event.
		o.Since = k.ExpiresAt
		return o, true
	}
	for _, w := range warnings {
		if k.ExpiresAt.Sub(now) <= w {
			if k.ExpiresAt.Sub(k.CreatedAt) <= w {
				return o, false
			}
			o = keyOneShot(k, events.KeyExpiring, "expiring:"+w.String(), ref, now)
			o.Data["expires_in_seconds"] = int64(k.ExpiresAt.Sub(now).Seconds())
			return o, true
		}
	}
	return o, false
}

// AnnounceUnused announces the keys of a keyspace that were not used for the configured time.
func (reg *Registry) AnnounceUnused(ctx context.Context, keyspace string) error {
	after := reg.settings(keyspace).Unused
	if after <= 0 {
		return nil
	}
	for next := int64(0); ; {
		var list []events.OneShot
		to := int64(0)
		err := reg.read(ctx, management.System, keyspace, func(c *call) error {
			list, to = nil, 0
			if ok, err := c.Events.AnyRecipient(events.KeyUnused); err != nil || !ok {
				return err
			}
			keys, end, err := c.UnusedKeys(c.Keyspace.Name, c.Now.Add(-after), c.Now, next)
			if err != nil {
				return err
			}
			to = end
			for _, k := range keys {
				since := k.LastUsedAt
				if since.IsZero() {
					since = k.CreatedAt
				}
				o := keyOneShot(k, events.KeyUnused, "unused", since.UnixMicro(), c.Now)
				// A key that became unused too long ago is not announced, as with expiries.
				if o.Since = since.Add(after); c.Now.Sub(o.Since) > maxEventDelay {
					continue
				}
				o.Data["unused_since"] = since.UTC()
				list = append(list, o)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for len(list) > 0 {
			n := min(len(list), oneShotBatch)
			if err := reg.Announce(ctx, list[:n]); err != nil {
				return err
			}
			list = list[n:]
		}
		if next = to; next == 0 {
			return nil
		}
	}
}
