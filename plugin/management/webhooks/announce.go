package webhooks

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/events"
)

// MaxEventData bounds the data of a product's own event, in bytes.
const MaxEventData = 64 << 10

// PostedEvent is a product's own event that was published.
type PostedEvent struct {
	ID   string    `json:"id"`
	Type string    `json:"type"`
	At   time.Time `json:"at"`
	// Deliveries is how many webhooks receive the event.
	Deliveries int `json:"deliveries"`
}

// PostEvent publishes a product's own event of a tenant. data is a JSON object of at most MaxEventData bytes; none is {}.
// It appends no audit event, since no record changes.
func (reg *Registry) PostEvent(ctx context.Context, a management.Actor, keyspace, slug, eventType string, data json.RawMessage) (r PostedEvent, err error) {
	var f management.Faults
	if wrong := events.CheckCustomType(eventType); wrong != "" {
		f.Invalid("type", "%s", wrong)
	}
	data = compactObject(&f, "data", data)
	if err := f.Err(); err != nil {
		return r, err
	}
	err = reg.manager.Publish(ctx, a, keyspace, func(c *management.Call) error {
		t, err := c.FindTenant(slug, false)
		if err != nil {
			return err
		}
		var f management.Faults
		c.CheckSecret(&f, "data", string(data))
		if err := f.Err(); err != nil {
			return err
		}
		to, err := c.Events.Recipients(t.Slug, eventType)
		if err != nil {
			return err
		}
		e := events.Event{ID: c.NewID(events.IDPrefix), Keyspace: c.Keyspace.Name, Tenant: t.Slug, Type: eventType, At: c.Now, Data: data}
		r = PostedEvent{ID: e.ID, Type: e.Type, At: e.At, Deliveries: len(to.Webhooks)}
		// The audit event is not stored. It makes a request that is repeated with its idempotency
		// key publish only once.
		c.Event = &audit.Event{Action: e.Type, Target: e.ID}
		return c.Events.Publish(to, e)
	})
	return r, err
}

// compactObject returns a JSON object without white space between its elements; {} for an empty text.
func compactObject(f *management.Faults, field string, raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return json.RawMessage("{}")
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil || b.Bytes()[0] != '{' {
		f.Invalid(field, "must be a JSON object")
	} else if b.Len() > MaxEventData {
		f.Invalid(field, "must be at most %d bytes, is %d", MaxEventData, b.Len())
	}
	return b.Bytes()
}

// configured reports whether the active configuration has the keyspace.
func (reg *Registry) configured(keyspace string) bool {
	v := reg.manager.View()
	return v != nil && v.Keyspaces[keyspace] != nil
}

// Announce publishes one-shot events that have recipients and were not published before. It leaves out keyspaces that are
// not configured.
func (reg *Registry) Announce(ctx context.Context, list []events.OneShot) error {
	for len(list) > 0 {
		keyspace, n := list[0].Keyspace, 1
		for n < len(list) && list[n].Keyspace == keyspace {
			n++
		}
		part := list[:n]
		list = list[n:]
		if !reg.configured(keyspace) {
			continue
		}
		// Most events have no recipient. Looking for recipients in a read-only transaction does
		// not block writers.
		wanted := false
		if err := reg.manager.Read(ctx, management.System, keyspace, func(c *management.Call) error {
			for _, o := range part {
				if to, err := c.Events.OneShotRecipients(o); err != nil || !to.Empty() {
					wanted = true
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
		if !wanted {
			continue
		}
		if err := reg.manager.Publish(ctx, management.System, keyspace, func(c *management.Call) error {
			for _, o := range part {
				if err := c.Events.PublishOneShot(o); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// CheckCredits announces the balances of tenants that have become low or empty.
func (reg *Registry) CheckCredits(ctx context.Context, keyspace string, tenants []string) error {
	if !reg.configured(keyspace) {
		return nil
	}
	var list []events.OneShot
	err := reg.manager.Read(ctx, management.System, keyspace, func(c *management.Call) error {
		list = nil
		for _, slug := range tenants {
			to, err := c.Events.Recipients(slug, events.CreditsThreshold)
			if err != nil {
				return err
			}
			if to.Empty() {
				continue
			}
			t, err := c.FindTenant(slug, false)
			if management.IsNotFound(err) {
				continue
			}
			if err != nil {
				return err
			}
			o, low, err := c.LowCredits(t)
			if err != nil {
				return err
			}
			if low {
				list = append(list, o)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return reg.Announce(ctx, list)
}
