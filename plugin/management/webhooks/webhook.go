package webhooks

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/events"
)

const (
	// SecretPrefix begins a webhook's secret, as the Standard Webhooks specification defines.
	SecretPrefix = "whsec_"
	// webhookSecretBytes is the number of random bytes in a secret, which follow SecretPrefix in
	// base64.
	webhookSecretBytes = 32
	// Grace is how long deliveries are also signed with the former secret after a rotation.
	Grace = 24 * time.Hour

	// MaxWebhooks bounds the webhooks of one tenant, and those of a keyspace that receive the
	// events of all tenants. Each change may write a delivery for each of them.
	MaxWebhooks      = 20
	maxWebhookURL    = 2048
	maxWebhookEvents = 50
)

// These are the codes of errors about webhooks.
const (
	CodeOff          = "webhooks_unavailable"
	CodeLimitReached = "webhook_limit_reached"
	CodeInactive     = "webhook_inactive"
)

// Settings are the settings of a keyspace's webhooks in a configuration.
type Settings struct {
	// Sealer encrypts the secrets of webhooks. nil: the configuration has no secret for that, and
	// no webhook can be created.
	Sealer Sealer
	// Reach is the set of addresses to which webhooks are delivered.
	Reach Reach
	// Expiring holds how long before a key's expiry key.expiring is published, once for each.
	Expiring []time.Duration
	// Unused is after how long without use of a key key.unused is published. 0: never.
	Unused time.Duration
}

// Sealer encrypts secrets that must be decrypted later. Safe for concurrent use.
type Sealer interface {
	// Seal encrypts plain for a purpose. Open fails for any other purpose.
	Seal(plain []byte, purpose string) ([]byte, error)
	Open(sealed []byte, purpose string) ([]byte, error)
}

var errWebhooksOff = management.Reject(http.StatusUnprocessableEntity, CodeOff,
	"Webhooks are not available: the configuration has no secret with which their secrets are encrypted. "+
		"State secret {env.KEYGATE_SECRET} in the keygate global option, with at least 16 bytes in that variable, and reload.")

// Purpose returns the purpose for which the secrets of the webhook with that id are encrypted.
func Purpose(id string) string { return "webhook " + id }

// Record is a webhook as the API shows it.
type Record struct {
	ID  string `json:"id"`
	URL string `json:"url"`
	// Events are the patterns of the types that the webhook receives.
	Events []string `json:"events"`
	// Tenant is the tenant whose events the webhook receives; nil for the events of all tenants.
	Tenant *string `json:"tenant"`
	Active bool    `json:"active"`
	// DisabledReason is the reason why Keygate made the webhook inactive; nil if a request did.
	DisabledReason *string `json:"disabled_reason"`
	// PreviousSecretUntil is until when deliveries are also signed with the former secret; nil if
	// they are not.
	PreviousSecretUntil *time.Time `json:"previous_secret_until"`
	CreatedAt           time.Time  `json:"created_at"`
	CreatedBy           string     `json:"created_by"`
	UpdatedAt           time.Time  `json:"updated_at"`
	// Version is the version for the ETag header.
	Version int64 `json:"-"`
}

// Issued is a webhook's record with its secret, which is not shown again.
type Issued struct {
	Record
	Secret string `json:"secret"`
}

// Fields are the fields of a webhook that a request may state.
type Fields struct {
	// URL is the http or https URL that events are sent to. A new webhook needs one.
	URL management.Optional[string]
	// Events are patterns of types, such as "key.created", "key.*" or "*". Default and null: "*".
	Events management.Optional[[]string]
	// Tenant is the tenant whose events the webhook receives. It can't be changed later. Default
	// and null: the events of all tenants.
	Tenant management.Optional[string]
	// Active is true by default. An inactive webhook misses the events of that time for good.
	Active management.Optional[bool]
}

func (c *call) webhookRecord(w *events.WebhookRow) Record {
	r := Record{
		ID: w.ID, URL: w.URL, Events: w.Events, Tenant: management.OrNull(w.Tenant), Active: w.Active, DisabledReason: management.OrNull(w.Disabled),
		CreatedAt: w.CreatedAt.UTC(), CreatedBy: w.CreatedBy, UpdatedAt: w.UpdatedAt.UTC(), Version: w.Version,
	}
	if w.PreviousUntil.After(c.Now) {
		r.PreviousSecretUntil = management.TimeOrNull(w.PreviousUntil)
	}
	return r
}

// webhookFields returns the fields of a webhook that audit events show. Of the URL they show only
// scheme and host, since the rest may hold a token of the receiver.
func webhookFields(w *events.WebhookRow) audit.Fields {
	at := w.URL
	if u, err := url.Parse(w.URL); err == nil {
		at = u.Scheme + "://" + u.Host
	}
	return audit.Fields{"url": at, "events": w.Events, "tenant": management.OrNull(w.Tenant), "active": w.Active, "disabled_reason": management.OrNull(w.Disabled)}
}

// webhook returns a webhook that exists for the actor.
func (c *call) webhook(id string) (*events.WebhookRow, error) {
	const what = "webhook"
	if !management.HasIDForm(id, events.WebhookIDPrefix) {
		return nil, management.NotFound(what)
	}
	w, err := c.Tx.Webhook(c.Keyspace.Name, id)
	if err != nil {
		return nil, management.OrNotFound(err, what)
	}
	if !c.Actor.Sees(w.Tenant) {
		return nil, management.NotFound(what)
	}
	return w, nil
}

// applyWebhook writes the present fields of in to w, except the tenant, and records their faults.
// fresh is true for a new webhook.
func applyWebhook(f *management.Faults, w *events.WebhookRow, in Fields, settings Settings, fresh bool) {
	if in.URL.Set || fresh {
		w.URL = in.URL.Value
		if wrong := CheckURL(w.URL, settings.Reach); wrong != "" {
			f.Invalid("url", "%s", wrong)
		}
	}
	switch {
	case in.Events.Set && !in.Events.Null:
		w.Events = checkEvents(f, "events", in.Events.Value)
	case in.Events.Set, fresh:
		w.Events = []string{"*"}
	}
	if in.Active.Set {
		if in.Active.Null {
			f.Invalid("active", "must be true or false")
		}
		w.Active, w.Disabled = in.Active.Value, ""
	}
}

// checkEvents returns the patterns of list without duplicates, and records a fault for each that
// is not valid.
func checkEvents(f *management.Faults, field string, list []string) []string {
	if len(list) == 0 {
		f.Invalid(field, `must name at least one type; "*" stands for all`)
	}
	if len(list) > maxWebhookEvents {
		f.Invalid(field, "must be at most %d entries", maxWebhookEvents)
		return nil
	}
	var out []string
	for i, t := range list {
		if !events.ValidPattern(t) {
			f.Invalid(management.Indexed(field, i), "is no type of events; the types are %s, your own such as job.finished, and patterns such as key.* or *",
				strings.Join(events.Types, ", "))
			continue
		}
		if !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out
}

// CheckURL returns the fault of a URL, "" for none. It does not resolve the host's name: the
// address is checked at each delivery, because it may change.
func CheckURL(s string, reach Reach) string {
	u, err := url.Parse(s)
	switch {
	case s == "" || len(s) > maxWebhookURL || err != nil || !management.Printable(s) || strings.ContainsAny(s, " \\"):
		return "must be a URL of at most 2048 characters, such as https://app.example.com/hooks"
	case u.Scheme != "https" && u.Scheme != "http":
		return "must begin with https:// or http://"
	case u.Hostname() == "" || u.Opaque != "":
		return "must name a host"
	case u.User != nil:
		return "must not hold a user name or password; deliveries are signed instead"
	case u.Fragment != "" || strings.HasSuffix(s, "#"):
		return "must not have a fragment"
	}
	port := uint16(443)
	if u.Scheme == "http" {
		port = 80
	}
	if text := u.Port(); text != "" {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			return "must have a port between 1 and 65535, or none"
		}
		port = uint16(n)
	}
	return reach.checkHost(strings.TrimSuffix(strings.ToLower(u.Hostname()), "."), port)
}

// checkHost returns the reason why webhooks are not delivered to a host, as far as that is known
// without resolving its name; "" for none.
func (r Reach) checkHost(host string, port uint16) string {
	addr, err := netip.ParseAddr(host)
	switch {
	case err == nil:
		err = r.Check(netip.AddrPortFrom(addr, port))
	case host == "localhost" || strings.HasSuffix(host, ".localhost"):
		err = r.Check(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port))
		if _, private := err.(*PrivateError); private && r.Check(netip.AddrPortFrom(netip.IPv6Loopback(), port)) == nil {
			err = nil
		}
	default:
		return ""
	}
	if private, ok := err.(*PrivateError); ok {
		return fmt.Sprintf("must be at a public address; an operator can allow this one's block in the Caddyfile: webhooks { allow_private %s }", private.Block)
	}
	if err != nil {
		return "must not be at a port of this gateway itself; name the address of the receiver"
	}
	return ""
}

// newWebhookSecret returns a new secret, and its encrypted form for the store.
func newWebhookSecret(s Sealer, id string) (secret string, sealed []byte, err error) {
	b := make([]byte, webhookSecretBytes)
	rand.Read(b)
	secret = SecretPrefix + base64.StdEncoding.EncodeToString(b)
	sealed, err = s.Seal([]byte(secret), Purpose(id))
	return secret, sealed, err
}

// CreateWebhook creates a webhook and returns it with its secret. It returns 422
// webhooks_unavailable if the configuration has no secret to encrypt it with, and 409
// webhook_limit_reached if there are MaxWebhooks.
func (reg *Registry) CreateWebhook(ctx context.Context, a management.Actor, keyspace string, in Fields) (r Issued, err error) {
	err = reg.write(ctx, a, keyspace, func(c *call) error {
		settings := reg.settings(c.Keyspace.Name)
		if settings.Sealer == nil {
			return errWebhooksOff
		}
		w := &events.WebhookRow{
			ID: c.NewID(events.WebhookIDPrefix), Keyspace: c.Keyspace.Name, Tenant: c.Actor.Tenant, Active: true,
			CreatedAt: c.Now, CreatedBy: c.Actor.Name, UpdatedAt: c.Now, Version: 1,
		}
		var f management.Faults
		if in.Tenant.Set && !in.Tenant.Null {
			// For an actor of one tenant, the tenants of others do not exist.
			t, err := c.FindTenant(in.Tenant.Value, true)
			switch {
			case management.IsNotFound(err):
				f.Invalid("tenant", "there is no such tenant")
			case err != nil:
				return err
			default:
				w.Tenant = t.Slug
			}
		} else if w.Tenant != "" {
			if _, err := c.FindTenant(w.Tenant, true); err != nil {
				return err
			}
		}
		applyWebhook(&f, w, in, settings, true)
		if in.URL.Set {
			c.CheckSecret(&f, "url", w.URL)
		}
		if err := f.Err(); err != nil {
			return err
		}
		if err := c.checkSubscription(w.Events); err != nil {
			return err
		}
		others, err := c.Webhooks(events.WebhookQuery{Keyspace: c.Keyspace.Name, Tenant: w.Tenant, OrAll: w.Tenant == ""})
		if err != nil {
			return err
		}
		if len(others) >= MaxWebhooks {
			return management.Reject(http.StatusConflict, CodeLimitReached, "There are already %d webhooks, and no more are possible. Delete one first, or add types of events to one.", len(others))
		}
		if r.Secret, w.Secret, err = newWebhookSecret(settings.Sealer, w.ID); err != nil {
			return err
		}
		if err := c.InsertWebhook(w); err != nil {
			return err
		}
		c.Event = &audit.Event{Action: "webhook.created", Target: w.ID, Tenant: w.Tenant, After: webhookFields(w)}
		r.Record = c.webhookRecord(w)
		return nil
	})
	if err != nil {
		return Issued{}, err
	}
	return r, nil
}

// Webhook returns one webhook, without its secret.
func (reg *Registry) Webhook(ctx context.Context, a management.Actor, keyspace, id string) (r Record, err error) {
	err = reg.read(ctx, a, keyspace, func(c *call) error {
		w, err := c.webhook(id)
		if err != nil {
			return err
		}
		r = c.webhookRecord(w)
		return nil
	})
	return r, err
}

// Filter selects webhooks, newest first.
type Filter struct {
	// Tenant selects the webhooks of a tenant; "" selects all.
	Tenant string
	management.PageQuery
}

// Webhooks returns a page of webhooks. It is empty for a tenant that does not exist.
func (reg *Registry) Webhooks(ctx context.Context, a management.Actor, keyspace string, q Filter) (management.Page[Record], error) {
	limit, last, err := q.After("w")
	if err != nil {
		return management.Page[Record]{}, err
	}
	if q.Tenant == "" {
		q.Tenant = a.Tenant
	}
	var out []Record
	err = reg.read(ctx, a, keyspace, func(c *call) error {
		out = nil
		query := events.WebhookQuery{Keyspace: c.Keyspace.Name, Before: last, Limit: limit + 1}
		if q.Tenant != "" {
			t, err := c.FindTenant(q.Tenant, false)
			if management.IsNotFound(err) {
				return nil
			}
			if err != nil {
				return err
			}
			query.Tenant = t.Slug
		}
		rows, err := c.Webhooks(query)
		for _, w := range rows {
			out = append(out, c.webhookRecord(w))
		}
		return err
	})
	return management.CutPage(out, limit, func(r Record) string { return management.CursorOf("w", r.ID) }), err
}

// UpdateWebhook changes the fields that are present. If it makes the webhook inactive, the pending
// deliveries become dead. They can be replayed when the webhook is active again.
func (reg *Registry) UpdateWebhook(ctx context.Context, a management.Actor, keyspace, id string, in Fields, match management.Match) (r Record, err error) {
	err = reg.changeWebhook(ctx, a, keyspace, id, &r, func(c *call, w *events.WebhookRow) error {
		if !match.Matches(w.Version) {
			return management.ErrPrecondition
		}
		var f management.Faults
		if in.Tenant.Set && !strings.EqualFold(in.Tenant.Value, w.Tenant) {
			f.Invalid("tenant", "can't be changed; make another webhook")
		}
		types, address := slices.Clone(w.Events), w.URL
		applyWebhook(&f, w, in, reg.settings(c.Keyspace.Name), false)
		if in.URL.Set {
			c.CheckSecret(&f, "url", w.URL)
		}
		if err := f.Err(); err != nil || slices.Equal(types, w.Events) && address == w.URL && !in.Active.Value {
			return err
		}
		return c.checkSubscription(w.Events)
	})
	return r, err
}

// DisableWebhook makes a webhook inactive. reason is shown to the webhook's owner.
func (reg *Registry) DisableWebhook(ctx context.Context, keyspace, id, reason string) error {
	var r Record
	return reg.changeWebhook(ctx, management.System, keyspace, id, &r, func(_ *call, w *events.WebhookRow) error {
		w.Active, w.Disabled = false, reason
		return nil
	})
}

// changeWebhook changes a webhook by set, with its audit event, and stores its record in r.
func (reg *Registry) changeWebhook(ctx context.Context, a management.Actor, keyspace, id string, r *Record, set func(*call, *events.WebhookRow) error) error {
	return reg.write(ctx, a, keyspace, func(c *call) error {
		w, err := c.webhook(id)
		if err != nil {
			return err
		}
		before, address := webhookFields(w), w.URL
		if err := set(c, w); err != nil {
			return err
		}
		after := webhookFields(w)
		if !audit.Diff(before, after) && address == w.URL {
			*r = c.webhookRecord(w)
			return nil
		}
		w.UpdatedAt = c.Now
		if err := c.Tx.UpdateWebhook(w); err != nil {
			return management.OrNotFound(err, "webhook")
		}
		if !w.Active {
			if err := c.EndDeliveries(w.ID, "the webhook was made inactive"); err != nil {
				return err
			}
		}
		c.Event = &audit.Event{Action: "webhook.updated", Target: w.ID, Tenant: w.Tenant, Before: before, After: after}
		*r = c.webhookRecord(w)
		return nil
	})
}

// RotateWebhookSecret gives a webhook a new secret and returns it. For Grace, deliveries are also
// signed with the former secret.
func (reg *Registry) RotateWebhookSecret(ctx context.Context, a management.Actor, keyspace, id string) (r Issued, err error) {
	err = reg.write(ctx, a, keyspace, func(c *call) error {
		w, err := c.webhook(id)
		if err != nil {
			return err
		}
		settings := reg.settings(c.Keyspace.Name)
		if settings.Sealer == nil {
			return errWebhooksOff
		}
		w.Previous, w.PreviousUntil, w.UpdatedAt = w.Secret, c.Now.Add(Grace), c.Now
		if r.Secret, w.Secret, err = newWebhookSecret(settings.Sealer, w.ID); err != nil {
			return err
		}
		if err := c.Tx.UpdateWebhook(w); err != nil {
			return management.OrNotFound(err, "webhook")
		}
		c.Event = &audit.Event{Action: "webhook.secret_rotated", Target: w.ID, Tenant: w.Tenant,
			After: audit.Fields{"previous_secret_until": management.TimeOrNull(w.PreviousUntil)}}
		r.Record = c.webhookRecord(w)
		return nil
	})
	if err != nil {
		return Issued{}, err
	}
	return r, nil
}

// DeleteWebhook deletes a webhook with its deliveries.
func (reg *Registry) DeleteWebhook(ctx context.Context, a management.Actor, keyspace, id string, match management.Match) error {
	return reg.write(ctx, a, keyspace, func(c *call) error {
		w, err := c.webhook(id)
		if err != nil {
			return err
		}
		if !match.Matches(w.Version) {
			return management.ErrPrecondition
		}
		if err := c.DeleteWebhook(c.Keyspace.Name, w.ID); err != nil {
			return management.OrNotFound(err, "webhook")
		}
		c.Event = &audit.Event{Action: "webhook.deleted", Target: w.ID, Tenant: w.Tenant, Before: webhookFields(w)}
		return nil
	})
}
