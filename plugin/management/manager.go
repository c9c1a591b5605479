// Package management makes changes to tenants and keys. It holds every rule about them, and
// records who made each change. The API, the command line and the console all call a Manager, and
// have no rules of their own.
//
// Every write is one transaction of the store. It holds the rows, exactly one audit event, and a
// numbered change that makes every node read the rows again. A call that wrote returns after this
// node has applied the change, so that the next request meets the new state.
package management

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/events"
	"github.com/keygate-dev/keygate/plugin/ratelimit"
)

// Engine is the running gateway, as management uses it.
type Engine interface {
	// Apply applies changes on this node. When it returns nil, the next request meets the new
	// state, and running requests that the changes end are being cancelled.
	Apply(ctx context.Context, changes []gateway.Change) error
	// Confirm returns which nodes have applied all changes up to seq; seq 0 stands for the newest
	// change. It waits until all nodes have confirmed, at most for wait.
	Confirm(ctx context.Context, keyspace string, seq int64, wait time.Duration) cluster.Confirmation
	// WithCredits settles and returns the credits of a tenant that this node holds leased. Then it
	// runs f, while the node leases none, and returns f's error.
	WithCredits(ctx context.Context, keyspace, tenant string, f func() error) error
	// UnwrittenCredits returns how many credits were spent from a tenant's balance that the store does not know yet. known is
	// false if another process may have spent some.
	UnwrittenCredits(keyspace, tenant string) (n int64, known bool)
	// TokenChanges counts the changes to management tokens that this node has learned of, its own
	// included. While the count stays the same, cached tokens are valid.
	TokenChanges() uint64
	// Limits returns the state of the limits of a tenant and, if k is not nil, of its key.
	Limits(ctx context.Context, v *gateway.View, t *gateway.Tenant, k *gateway.Key, now time.Time) ([]ratelimit.Standing, error)
	// ResetLimits resets the limits of those names, or all, of a key or, if k is nil, of the tenant. It returns after the
	// store was written.
	ResetLimits(ctx context.Context, v *gateway.View, t *gateway.Tenant, k *gateway.Key, now time.Time, names ...string) error
}

// Config configures a Manager. Store, Engine and View must be set.
type Config struct {
	Store  Store
	Engine Engine
	// View returns the active configuration; nil while there is none.
	View func() *gateway.View
	// Now is the clock. Default: time.Now.
	Now func() time.Time
	// Logger receives failures that no caller sees. Default: nothing is logged.
	Logger *slog.Logger
	// Listener receives events, as webhooks do. Default: none.
	Listener events.Listener
	// Signer returns the signer of checkpoints of the audit chain; nil for none. Default:
	// checkpoints are not signed.
	Signer func() audit.Signer
}

// Manager makes changes to tenants and keys. Its methods may block on the store and are safe for
// concurrent use. They return an *Error if a rule does not allow the operation, and an error that
// wraps gateway.ErrStore if the store did not answer.
type Manager struct {
	store  Store
	engine Engine
	view   func() *gateway.View
	now    func() time.Time
	log    *slog.Logger
	ids    idSource

	cursors cursorCache

	signer func() audit.Signer
	outbox *events.Outbox
}

// New returns a Manager. It panics if Store, Engine or View is nil.
func New(c Config) *Manager {
	if c.Store == nil || c.Engine == nil || c.View == nil {
		panic("management: Store, Engine and View must be set")
	}
	m := &Manager{store: c.Store, engine: c.Engine, view: c.View, now: c.Now, log: c.Logger,
		signer: c.Signer, outbox: events.New(c.Listener)}
	if m.now == nil {
		m.now = time.Now
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	if d, ok := m.store.(OfflineRevoker); ok {
		d.SetReplay(m.Replay)
	}
	return m
}

// Actor is who makes a change or reads data.
type Actor struct {
	// Name names a person, a token or a system user.
	Name string
	// IP is the actor's address; "" where there is none.
	IP string
	// Via is "api", "admin", "cli", "console" or "system".
	Via string
	// Tenant is the only tenant that exists for the actor. "": all tenants of the keyspace exist
	// for it.
	Tenant string
	// Token is the id of the actor's management token; "" for none.
	Token string
	// Scopes bound the scopes that the actor may give to others. nil: the scopes of Token bound
	// them; without a Token, nothing does.
	Scopes []string
}

// Sees reports whether a tenant exists for the actor. slug must be in the stored case.
func (a Actor) Sees(slug string) bool { return a.Tenant == "" || a.Tenant == slug }

// Keyspace returns the keyspace of that name, or a 404. "" stands for the only keyspace, or else
// for "default".
func (m *Manager) Keyspace(name string) (*gateway.Keyspace, error) {
	ks, _, err := m.KeyspaceView(name)
	return ks, err
}

// KeyspaceView is Keyspace, and also returns the configuration of the keyspace.
func (m *Manager) KeyspaceView(name string) (*gateway.Keyspace, *gateway.View, error) {
	v := m.view()
	if v == nil {
		return nil, nil, fmt.Errorf("no configuration is running: %w", gateway.ErrStore)
	}
	if name == "" {
		if len(v.Keyspaces) == 1 {
			for _, ks := range v.Keyspaces {
				return ks, v, nil
			}
		}
		name = "default"
	}
	if ks := v.Keyspaces[name]; ks != nil {
		return ks, v, nil
	}
	return nil, nil, Reject(http.StatusNotFound, CodeNotFound, "There is no keyspace %q.", Clip(name))
}

// Clip returns the text that a caller sent, cut to a length at which an error can repeat it.
func Clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}

// Call is one transaction of management: the rows of the store, with the actor and the
// configuration.
type Call struct {
	Tx
	Manager  *Manager
	Keyspace *gateway.Keyspace
	View     *gateway.View
	Now      time.Time
	Actor    Actor
	// changed holds the changes, and Event the audit event, that the transaction will append.
	changed []gateway.Change
	Event   *audit.Event
	// Events publishes events in the transaction.
	Events *events.Batch
}

// newCall returns the Call of a transaction.
func (m *Manager) newCall(tx Tx, a Actor, ks *gateway.Keyspace, v *gateway.View) *Call {
	c := &Call{Tx: tx, Manager: m, Keyspace: ks, View: v, Now: m.Clock(), Actor: a}
	c.Events = m.outbox.Begin(tx, ks.Name, c.Now, c.NewID)
	return c
}

// UseTx replaces the rows of the call by tx, which wraps them.
func (c *Call) UseTx(tx Tx) { c.Tx, c.Events.Tx = tx, tx }

// System is the actor of changes and events that no request causes.
var System = Actor{Name: "system", Via: "system"}

// AddChange records a change, because of which every node reads a key, a tenant or a token again.
func (c *Call) AddChange(kind gateway.ChangeKind, id string) {
	c.changed = append(c.changed, gateway.Change{Kind: kind, Keyspace: c.Keyspace.Name, ID: id})
}

// NewID returns a new id that begins with prefix.
func (c *Call) NewID(prefix string) string { return c.Manager.ids.next(prefix, c.Now) }

// NewID returns a new id that begins with prefix.
func (m *Manager) NewID(prefix string) string { return m.ids.next(prefix, m.Clock()) }

// CheckpointKey returns the key with which this node signs checkpoints of the store of that name;
// nil for none.
func (m *Manager) CheckpointKey(store string) (ed25519.PrivateKey, error) {
	if m.signer == nil {
		return nil, nil
	}
	s := m.signer()
	if s == nil {
		return nil, nil
	}
	return s.CheckpointKey(store)
}

// Store returns the manager's store.
func (m *Manager) Store() Store { return m.store }

// Engine returns the running gateway.
func (m *Manager) Engine() Engine { return m.engine }

// View returns the active configuration; nil while there is none.
func (m *Manager) View() *gateway.View { return m.view() }

// Logger returns the manager's logger, which is never nil.
func (m *Manager) Logger() *slog.Logger { return m.log }

// Clock returns the current time with the precision of the store: UTC, in microseconds.
func (m *Manager) Clock() time.Time { return m.now().UTC().Truncate(time.Microsecond) }

// Read runs f in a transaction that reads from a snapshot.
func (m *Manager) Read(ctx context.Context, a Actor, keyspace string, f func(*Call) error) error {
	ks, v, err := m.KeyspaceView(keyspace)
	if err != nil {
		return err
	}
	return m.store.View(ctx, func(tx Tx) error {
		return f(m.newCall(tx, a, ks, v))
	})
}

// Write runs f in a transaction, appends the event and the changes that f left in the call, and
// commits. If f leaves no event, Write stores nothing. Write returns after this node has applied
// the changes, and after all other nodes have confirmed them or the wait of ctx has passed.
func (m *Manager) Write(ctx context.Context, a Actor, keyspace string, f func(*Call) error) error {
	_, err := m.commit(ctx, a, keyspace, f)
	return err
}

// commit does the work of Write. It also returns which nodes have confirmed the changes, if there are any.
func (m *Manager) commit(ctx context.Context, a Actor, keyspace string, f func(*Call) error) (where cluster.Confirmation, err error) {
	ks, v, err := m.KeyspaceView(keyspace)
	if err != nil {
		return where, err
	}
	// A secret in the actor's name is removed and is no error, so that a revocation never fails
	// because of a name.
	a.Name = WithoutSecrets(ks, a.Name)
	var changes []gateway.Change
	var published *events.Batch
	err = m.store.Update(ctx, func(tx Tx) error {
		// The store may run this function again, so each run begins with empty results.
		changes, published = nil, nil
		c := m.newCall(tx, a, ks, v)
		if err := f(c); err != nil || c.Event == nil {
			return err
		}
		// The event holds every text of the caller that was stored, so that checking the event is
		// enough.
		if err := c.checkEvent(); err != nil {
			return err
		}
		if err := c.AppendEvent(); err != nil {
			return err
		}
		if err := c.record(ctx); err != nil {
			return err
		}
		// The changes come last, because assigning a change number blocks every other writer.
		if err := tx.Changes(c.changed); err != nil {
			return err
		}
		changes, published = c.changed, c.Events
		return nil
	})
	if err != nil {
		return where, err
	}
	published.Committed()
	confirmation := confirmationOf(ctx)
	if len(changes) == 0 {
		if confirmation != nil {
			// Another call may have made the same change, and some nodes may not have confirmed it
			// yet.
			where = m.confirmAll(ctx, ks.Name)
			*confirmation = where
		}
		return where, nil
	}
	// The change is stored, so this node must apply it even if the caller has gone.
	if err := m.engine.Apply(context.WithoutCancel(ctx), changes); err != nil {
		m.log.ErrorContext(ctx, "a stored change could not be applied at once: this node applies it when it next reads the changes of the store", "error", err)
		return where, fmt.Errorf("the change is stored, but this node has not applied it yet: %w", errors.Join(gateway.ErrStore, err))
	}
	where = m.engine.Confirm(ctx, keyspaceOf(changes), changes[len(changes)-1].Seq, waitOf(ctx))
	if confirmation != nil {
		*confirmation = where
	}
	return where, nil
}

// Publish runs f in a transaction. f publishes events and changes nothing else. An audit event
// that f leaves in the call is not stored; it only tells the recorder of ctx what was done.
func (m *Manager) Publish(ctx context.Context, a Actor, keyspace string, f func(*Call) error) error {
	ks, v, err := m.KeyspaceView(keyspace)
	if err != nil {
		return err
	}
	var published *events.Batch
	err = m.store.Update(ctx, func(tx Tx) error {
		c := m.newCall(tx, a, ks, v)
		published = c.Events
		if err := f(c); err != nil || c.Event == nil {
			return err
		}
		return c.record(ctx)
	})
	if err == nil {
		published.Committed()
	}
	return err
}

type recorderKey struct{}

// WithRecorder returns a context in which record runs in each transaction that writes, after its
// event is appended. If record returns an error, nothing is stored.
func WithRecorder(ctx context.Context, record func(*Call) error) context.Context {
	return context.WithValue(ctx, recorderKey{}, record)
}

// record runs the function that WithRecorder added to ctx, if there is one.
func (c *Call) record(ctx context.Context) error {
	if record, ok := ctx.Value(recorderKey{}).(func(*Call) error); ok {
		return record(c)
	}
	return nil
}

// Outbox returns the outbox of events.
func (m *Manager) Outbox() *events.Outbox { return m.outbox }

// keyspaceOf returns the keyspace of all changes; "" if they belong to several keyspaces.
func keyspaceOf(changes []gateway.Change) string {
	for i := range changes {
		if changes[i].Keyspace != changes[0].Keyspace {
			return ""
		}
	}
	return changes[0].Keyspace
}
