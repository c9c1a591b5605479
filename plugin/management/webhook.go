package management

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

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/audit"
)

const (
	webhookIDPrefix  = "whk_"
	deliveryIDPrefix = "dlv_"

	// WebhookSecretPrefix begins a webhook's secret, as the Standard Webhooks specification has it.
	WebhookSecretPrefix = "whsec_"
	// webhookSecretBytes is how many random bytes follow, in base64.
	webhookSecretBytes = 32
	// WebhookGrace is for how long deliveries are signed with a rotated secret too.
	WebhookGrace = 24 * time.Hour

	// MaxWebhooks bounds the webhooks of one tenant, and those of a keyspace that hear all tenants: each
	// change writes a delivery for each of them.
	MaxWebhooks      = 20
	maxWebhookURL    = 2048
	maxWebhookEvents = 50
)

// Codes of refusals about webhooks.
const (
	CodeWebhooksOff         = "webhooks_unavailable"
	CodeWebhookLimitReached = "webhook_limit_reached"
	CodeWebhookInactive     = "webhook_inactive"
)

// WebhookSettings is what a configuration says of a keyspace's webhooks.
type WebhookSettings struct {
	// Sealer encrypts their secrets. nil: there is no secret to do it with, and no webhook can be made.
	Sealer Sealer
	// Reach is the set of addresses to which they are delivered.
	Reach Reach
	// Expiring is how long before a key's expiry key.expiring happens, each once.
	Expiring []time.Duration
	// Unused is after how long without use key.unused happens. 0: never.
	Unused time.Duration
}

// Sealer encrypts what must be stored readably. Safe for concurrent use.
type Sealer interface {
	// Seal encrypts plain, bound to what it is for: it is opened for that only.
	Seal(plain []byte, purpose string) ([]byte, error)
	Open(sealed []byte, purpose string) ([]byte, error)
}

var errWebhooksOff = Reject(http.StatusUnprocessableEntity, CodeWebhooksOff,
	"Webhooks can't be had here: their secrets are stored encrypted, and there is nothing to encrypt them with. "+
		"State secret {env.KEYGATE_SECRET} in the keygate global option, with at least 16 bytes in that variable, and reload.")

// WebhookPurpose is what the secrets of the webhook with that id are sealed for.
func WebhookPurpose(id string) string { return "webhook " + id }

// WebhookRecord is a webhook as the API shows it.
type WebhookRecord struct {
	ID  string `json:"id"`
	URL string `json:"url"`
	// Events are the types it hears.
	Events []string `json:"events"`
	// Tenant is whose events it hears; null: all tenants'.
	Tenant *string `json:"tenant"`
	Active bool    `json:"active"`
	// DisabledReason says why it is not active, where nobody asked for that.
	DisabledReason *string `json:"disabled_reason"`
	// PreviousSecretUntil is until when deliveries are signed with the rotated secret too.
	PreviousSecretUntil *time.Time `json:"previous_secret_until"`
	CreatedAt           time.Time  `json:"created_at"`
	CreatedBy           string     `json:"created_by"`
	UpdatedAt           time.Time  `json:"updated_at"`
	// Version is the record's ETag.
	Version int64 `json:"-"`
}

// IssuedWebhook is a webhook's record with its secret, which is not shown again.
type IssuedWebhook struct {
	WebhookRecord
	Secret string `json:"secret"`
}

// WebhookFields is what may be stated of a webhook.
type WebhookFields struct {
	// URL is where events are posted, http or https. Needed in a new webhook.
	URL Optional[string]
	// Events are types, such as "key.created", "key.*" or "*". Default and null: "*".
	Events Optional[[]string]
	// Tenant is whose events it hears; it can't be changed later. Default and null: all tenants'.
	Tenant Optional[string]
	// Active is true unless stated. One that is not active hears nothing, also later.
	Active Optional[bool]
}

func (c *Call) webhookRecord(w *WebhookRow) WebhookRecord {
	r := WebhookRecord{
		ID: w.ID, URL: w.URL, Events: w.Events, Tenant: OrNull(w.Tenant), Active: w.Active, DisabledReason: OrNull(w.Disabled),
		CreatedAt: w.CreatedAt.UTC(), CreatedBy: w.CreatedBy, UpdatedAt: w.UpdatedAt.UTC(), Version: w.Version,
	}
	if w.PreviousUntil.After(c.Now) {
		r.PreviousSecretUntil = TimeOrNull(w.PreviousUntil)
	}
	return r
}

// webhookFields is what events show of a webhook. The path and query of its URL may hold a token
// of the receiver's, so that only where it is stands there.
func webhookFields(w *WebhookRow) audit.Fields {
	at := w.URL
	if u, err := url.Parse(w.URL); err == nil {
		at = u.Scheme + "://" + u.Host
	}
	return audit.Fields{"url": at, "events": w.Events, "tenant": OrNull(w.Tenant), "active": w.Active, "disabled_reason": OrNull(w.Disabled)}
}

// webhook reads a webhook that exists for the actor.
func (c *Call) webhook(id string) (*WebhookRow, error) {
	const what = "webhook"
	if !HasIDForm(id, webhookIDPrefix) {
		return nil, NotFound(what)
	}
	w, err := c.Tx.Webhook(c.Keyspace.Name, id)
	if err != nil {
		return nil, OrNotFound(err, what)
	}
	if !c.Actor.Sees(w.Tenant) {
		return nil, NotFound(what)
	}
	return w, nil
}

// applyWebhook writes the fields that are set into w, but the tenant.
func applyWebhook(f *Faults, w *WebhookRow, in WebhookFields, settings WebhookSettings, fresh bool) {
	if in.URL.Set || fresh {
		w.URL = in.URL.Value
		if wrong := CheckWebhookURL(w.URL, settings.Reach); wrong != "" {
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

// checkEvents returns the types a webhook hears, each once.
func checkEvents(f *Faults, field string, list []string) []string {
	if len(list) == 0 {
		f.Invalid(field, `must name at least one type; "*" stands for all`)
	}
	if len(list) > maxWebhookEvents {
		f.Invalid(field, "must be at most %d entries", maxWebhookEvents)
		return nil
	}
	var out []string
	for i, t := range list {
		family, all := strings.CutSuffix(t, ".*")
		ours := slices.Contains(reservedFamilies, family)
		if !all {
			before, _, _ := strings.Cut(t, ".")
			ours = slices.Contains(reservedFamilies, before)
		}
		switch {
		case t == "*":
		case all && ours && slices.ContainsFunc(eventTypes, func(e string) bool { return strings.HasPrefix(e, family+".") }):
		case all && !ours && checkCustomType(family+".x") == "":
		case !all && slices.Contains(eventTypes, t):
		case !all && !ours && checkCustomType(t) == "":
		default:
			f.Invalid(Indexed(field, i), "is no type of events; there are %s, types of your own such as job.finished, and patterns such as key.* or *",
				strings.Join(eventTypes, ", "))
			continue
		}
		if !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return out
}

// CheckWebhookURL says what is wrong with a URL; "" for nothing. What a name stands for is
// looked at when it is dialled: it may change.
func CheckWebhookURL(s string, reach Reach) string {
	u, err := url.Parse(s)
	switch {
	case s == "" || len(s) > maxWebhookURL || err != nil || !Printable(s) || strings.ContainsAny(s, " \\"):
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

// checkHost returns why webhooks are not delivered to a host, as far as its name says where it is; "" for no reason.
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
		return "must not lead to this gateway itself: deliveries never go to a port at which it listens; name the address of the receiver itself"
	}
	return ""
}

// newWebhookSecret makes a secret, and what the store keeps of it.
func newWebhookSecret(s Sealer, id string) (secret string, sealed []byte, err error) {
	b := make([]byte, webhookSecretBytes)
	rand.Read(b)
	secret = WebhookSecretPrefix + base64.StdEncoding.EncodeToString(b)
	sealed, err = s.Seal([]byte(secret), WebhookPurpose(id))
	return secret, sealed, err
}

// CreateWebhook makes a webhook and returns it with its secret. 422 webhooks_unavailable where
// there is no secret to encrypt it with, 409 webhook_limit_reached where there are MaxWebhooks.
func (m *Manager) CreateWebhook(ctx context.Context, a Actor, keyspace string, in WebhookFields) (r IssuedWebhook, err error) {
	err = m.Write(ctx, a, keyspace, func(c *Call) error {
		settings := m.webhooks(c.Keyspace.Name)
		if settings.Sealer == nil {
			return errWebhooksOff
		}
		w := &WebhookRow{
			ID: m.ids.next(webhookIDPrefix, c.Now), Keyspace: c.Keyspace.Name, Tenant: c.Actor.Tenant, Active: true,
			CreatedAt: c.Now, CreatedBy: c.Actor.Name, UpdatedAt: c.Now, Version: 1,
		}
		var f Faults
		if in.Tenant.Set && !in.Tenant.Null {
			// Also where the actor is confined, to which others' tenants are not there.
			t, err := c.FindTenant(in.Tenant.Value, true)
			switch {
			case IsNotFound(err):
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
		others, err := c.Tx.Webhooks(WebhookQuery{Keyspace: c.Keyspace.Name, Tenant: w.Tenant, OrAll: w.Tenant == ""})
		if err != nil {
			return err
		}
		if len(others) >= MaxWebhooks {
			return Reject(http.StatusConflict, CodeWebhookLimitReached, "There are %d webhooks already, which is the most. Delete one first, or let one hear more types.", len(others))
		}
		if r.Secret, w.Secret, err = newWebhookSecret(settings.Sealer, w.ID); err != nil {
			return err
		}
		if err := c.InsertWebhook(w); err != nil {
			return err
		}
		c.Event = &audit.Event{Action: "webhook.created", Target: w.ID, Tenant: w.Tenant, After: webhookFields(w)}
		r.WebhookRecord = c.webhookRecord(w)
		return nil
	})
	if err != nil {
		return IssuedWebhook{}, err
	}
	return r, nil
}

// Webhook returns one webhook, without its secret.
func (m *Manager) Webhook(ctx context.Context, a Actor, keyspace, id string) (r WebhookRecord, err error) {
	err = m.Read(ctx, a, keyspace, func(c *Call) error {
		w, err := c.webhook(id)
		if err != nil {
			return err
		}
		r = c.webhookRecord(w)
		return nil
	})
	return r, err
}

// WebhookFilter selects webhooks, newest first.
type WebhookFilter struct {
	// Tenant selects that tenant's; "" for all.
	Tenant string
	PageQuery
}

// Webhooks lists webhooks. A tenant that does not exist has none.
func (m *Manager) Webhooks(ctx context.Context, a Actor, keyspace string, q WebhookFilter) (Page[WebhookRecord], error) {
	limit, last, err := q.After("w")
	if err != nil {
		return Page[WebhookRecord]{}, err
	}
	if q.Tenant == "" {
		q.Tenant = a.Tenant
	}
	var out []WebhookRecord
	err = m.Read(ctx, a, keyspace, func(c *Call) error {
		out = nil
		query := WebhookQuery{Keyspace: c.Keyspace.Name, Before: last, Limit: limit + 1}
		if q.Tenant != "" {
			t, err := c.FindTenant(q.Tenant, false)
			if IsNotFound(err) {
				return nil
			}
			if err != nil {
				return err
			}
			query.Tenant = t.Slug
		}
		rows, err := c.Tx.Webhooks(query)
		for _, w := range rows {
			out = append(out, c.webhookRecord(w))
		}
		return err
	})
	return CutPage(out, limit, func(r WebhookRecord) string { return CursorOf("w", r.ID) }), err
}

// UpdateWebhook changes the fields that are set. One that is made inactive hears nothing more:
// what was pending is dead, and can be replayed when it is active again.
func (m *Manager) UpdateWebhook(ctx context.Context, a Actor, keyspace, id string, in WebhookFields, match Match) (r WebhookRecord, err error) {
	err = m.changeWebhook(ctx, a, keyspace, id, &r, func(c *Call, w *WebhookRow) error {
		if !match.Matches(w.Version) {
			return ErrPrecondition
		}
		var f Faults
		if in.Tenant.Set && !strings.EqualFold(in.Tenant.Value, w.Tenant) {
			f.Invalid("tenant", "can't be changed; make another webhook")
		}
		heard, address := slices.Clone(w.Events), w.URL
		applyWebhook(&f, w, in, m.webhooks(c.Keyspace.Name), false)
		if in.URL.Set {
			c.CheckSecret(&f, "url", w.URL)
		}
		if err := f.Err(); err != nil || slices.Equal(heard, w.Events) && address == w.URL && !in.Active.Value {
			return err
		}
		return c.checkSubscription(w.Events)
	})
	return r, err
}

// DisableWebhook ends a webhook for a reason that its owner is told.
func (m *Manager) DisableWebhook(ctx context.Context, keyspace, id, reason string) error {
	var r WebhookRecord
	return m.changeWebhook(ctx, System, keyspace, id, &r, func(_ *Call, w *WebhookRow) error {
		w.Active, w.Disabled = false, reason
		return nil
	})
}

// changeWebhook changes a webhook by set, with its event, and leaves its record in r.
func (m *Manager) changeWebhook(ctx context.Context, a Actor, keyspace, id string, r *WebhookRecord, set func(*Call, *WebhookRow) error) error {
	return m.Write(ctx, a, keyspace, func(c *Call) error {
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
			return OrNotFound(err, "webhook")
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

// RotateWebhookSecret gives a webhook a new secret and returns it. For WebhookGrace
// deliveries are signed with the one before too.
func (m *Manager) RotateWebhookSecret(ctx context.Context, a Actor, keyspace, id string) (r IssuedWebhook, err error) {
	err = m.Write(ctx, a, keyspace, func(c *Call) error {
		w, err := c.webhook(id)
		if err != nil {
			return err
		}
		settings := m.webhooks(c.Keyspace.Name)
		if settings.Sealer == nil {
			return errWebhooksOff
		}
		w.Previous, w.PreviousUntil, w.UpdatedAt = w.Secret, c.Now.Add(WebhookGrace), c.Now
		if r.Secret, w.Secret, err = newWebhookSecret(settings.Sealer, w.ID); err != nil {
			return err
		}
		if err := c.Tx.UpdateWebhook(w); err != nil {
			return OrNotFound(err, "webhook")
		}
		c.Event = &audit.Event{Action: "webhook.secret_rotated", Target: w.ID, Tenant: w.Tenant,
			After: audit.Fields{"previous_secret_until": TimeOrNull(w.PreviousUntil)}}
		r.WebhookRecord = c.webhookRecord(w)
		return nil
	})
	if err != nil {
		return IssuedWebhook{}, err
	}
	return r, nil
}

// DeleteWebhook removes a webhook with its deliveries.
func (m *Manager) DeleteWebhook(ctx context.Context, a Actor, keyspace, id string, match Match) error {
	return m.Write(ctx, a, keyspace, func(c *Call) error {
		w, err := c.webhook(id)
		if err != nil {
			return err
		}
		if !match.Matches(w.Version) {
			return ErrPrecondition
		}
		if err := c.Tx.DeleteWebhook(c.Keyspace.Name, w.ID); err != nil {
			return OrNotFound(err, "webhook")
		}
		c.Event = &audit.Event{Action: "webhook.deleted", Target: w.ID, Tenant: w.Tenant, Before: webhookFields(w)}
		return nil
	})
}

// removeWebhooks removes the webhooks of a tenant that is being deleted.
func (c *Call) removeWebhooks(t *gateway.Tenant) error {
	hooks, err := c.Tx.Webhooks(WebhookQuery{Keyspace: c.Keyspace.Name, Tenant: t.Slug})
	if err != nil {
		return err
	}
	for _, w := range hooks {
		if err := c.Tx.DeleteWebhook(c.Keyspace.Name, w.ID); err != nil {
			return err
		}
	}
	return nil
}
