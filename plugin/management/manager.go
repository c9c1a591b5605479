// Package management is what may be done to tenants and keys: every rule about it,
// who did it, and the record kept of it. The API, the CLI and the console all call
// a Manager; none of them has a rule of its own.
//
// Every write is one transaction of the store: the rows, exactly one audit event, and
// the change that makes every node judge anew. A call that wrote returns when this
// node's engine has heard of it, so the very next request meets the new state.
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

// Engine is what management needs of the running gateway.
type Engine interface {
	// Apply makes this node judge by the changes: when it returns nil, the next
	// request meets the new state, and live requests that it ends are ending.
	Apply(ctx context.Context, changes []gateway.Change) error
	// Confirm returns which nodes act by all changes up to seq, or where it is 0 by all
	// there are: at once when all do, else when wait has passed.
	Confirm(ctx context.Context, keyspace string, seq int64, wait time.Duration) cluster.Confirmation
	// WithCredits settles and returns what this node holds leased of a tenant's credits,
	// runs f while nothing is leased anew, and returns f's error.
	WithCredits(ctx context.Context, keyspace, tenant string, f func() error) error
	// TokenChanges counts the changes to management tokens that it has heard of, Apply's
	// and those that others wrote: while it is the same, what was read of them is right.
	TokenChanges() uint64
	// Limits returns the state of the limits of a tenant and, if k is not nil, of its key.
	Limits(ctx context.Context, v *gateway.View, t *gateway.Tenant, k *gateway.Key, now time.Time) ([]ratelimit.Standing, error)
	// ResetLimits resets the limits of those names, or all, of a key or, if k is nil, of the tenant. It returns after the
	// store was written.
	ResetLimits(ctx context.Context, v *gateway.View, t *gateway.Tenant, k *gateway.Key, now time.Time, names ...string) error
}

// Config is what a Manager works with. All but Logger and Now must be set.
type Config struct {
	Store  Store
	Engine Engine
	// View returns the configuration that management goes by: that of the last
	// started app. nil from it means that none is running.
	View func() *gateway.View
	// Now is the clock. Default: time.Now.
	Now func() time.Time
	// Logger hears what a caller is not told. Default: nothing is logged.
	Logger *slog.Logger
	// Listener receives events, as webhooks do. Default: none.
	Listener events.Listener
	// Signer signs heads of the audit chain; nil, or nil from it: they are not signed. Default: nil.
	Signer func() audit.Signer
}

// Manager does what may be done to tenants and keys. Its methods may block on the
// store, are safe for concurrent use, and return *Error for refusals and errors that
// wrap gateway.ErrStore where the store did not answer.
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

// New returns a Manager. It panics where Store, Engine or View is missing.
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

// Actor is who does something.
type Actor struct {
	// Name is a person, a token or a system user.
	Name string
	// IP is the address it was done from; "" where there is none.
	IP string
	// Via is "api", "admin", "cli", "console" or "system".
	Via string
	// Tenant confines the actor to one tenant of the keyspace: nothing else exists
	// for it. "" confines it to nothing.
	Tenant string
	// Token is the id of the management token that is acted by; "" where it is none.
	Token string
	// Scopes bound what can be given to others, where it is not the token that does. nil:
	// the token does or, without one, nothing does.
	Scopes []string
}

// Sees reports whether a tenant exists for the actor. slug is as stored.
func (a Actor) Sees(slug string) bool { return a.Tenant == "" || a.Tenant == slug }

// Keyspace returns the keyspace of that name. An empty name means the only one, or
// where there are several "default". The refusal of an unknown one is a 404.
func (m *Manager) Keyspace(name string) (*gateway.Keyspace, error) {
	ks, _, err := m.KeyspaceView(name)
	return ks, err
}

// KeyspaceView is Keyspace, and returns the configuration that the keyspace is of.
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

// Clip shortens a caller's input before it is repeated in an error.
func Clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}

// Call is one transaction of management: the store's rows, and what is known around them.
type Call struct {
	Tx
	Manager  *Manager
	Keyspace *gateway.Keyspace
	View     *gateway.View
	Now      time.Time
	Actor    Actor
	// changed and event are what the transaction will append.
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

// UseTx replaces the call's rows by tx, which wraps them.
func (c *Call) UseTx(tx Tx) { c.Tx, c.Events.Tx = tx, tx }

// System is the actor of changes and events that no request causes.
var System = Actor{Name: "system", Via: "system"}

// AddChange records that every node must check a key or a tenant again.
func (c *Call) AddChange(kind gateway.ChangeKind, id string) {
	c.changed = append(c.changed, gateway.Change{Kind: kind, Keyspace: c.Keyspace.Name, ID: id})
}

// NewID returns a new id that begins with prefix.
func (c *Call) NewID(prefix string) string { return c.Manager.ids.next(prefix, c.Now) }

// NewID returns a new id that begins with prefix.
func (m *Manager) NewID(prefix string) string { return m.ids.next(prefix, m.Clock()) }

// CheckpointKey returns the key with which this node signs checkpoints of the store of that name; nil for none.
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

// View returns the configuration of the last started app; nil while none is running.
func (m *Manager) View() *gateway.View { return m.view() }

// Logger returns the manager's logger; not nil.
func (m *Manager) Logger() *slog.Logger { return m.log }

// Clock returns now as the store keeps times: UTC, in microseconds.
func (m *Manager) Clock() time.Time { return m.now().UTC().Truncate(time.Microsecond) }

// Read runs f on a snapshot.
func (m *Manager) Read(ctx context.Context, a Actor, keyspace string, f func(*Call) error) error {
	ks, v, err := m.KeyspaceView(keyspace)
	if err != nil {
		return err
	}
	return m.store.View(ctx, func(tx Tx) error {
		return f(m.newCall(tx, a, ks, v))
	})
}

// Write runs f in a transaction, appends the event and the changes that f left in
// the call, commits, and returns when this node acts by them, and the others do or
// the wait of ctx has passed. Where f leaves no event nothing was to be done, and nothing is.
func (m *Manager) Write(ctx context.Context, a Actor, keyspace string, f func(*Call) error) error {
	_, err := m.commit(ctx, a, keyspace, f)
	return err
}

// commit is write; it returns which nodes act by the changes, if there were any.
func (m *Manager) commit(ctx context.Context, a Actor, keyspace string, f func(*Call) error) (where cluster.Confirmation, err error) {
	ks, v, err := m.KeyspaceView(keyspace)
	if err != nil {
		return where, err
	}
	// Who does it is written in any case: a revocation does not fail for a name.
	a.Name = WithoutSecrets(ks, a.Name)
	var changes []gateway.Change
	var published *events.Batch
	err = m.store.Update(ctx, func(tx Tx) error {
		// The store may run this more than once: nothing outlives a try but its end.
		changes, published = nil, nil
		c := m.newCall(tx, a, ks, v)
		if err := f(c); err != nil || c.Event == nil {
			return err
		}
		// All that a caller states and that changes is in the event.
		if err := c.checkEvent(); err != nil {
			return err
		}
		if err := c.AppendEvent(); err != nil {
			return err
		}
		if err := c.record(ctx); err != nil {
			return err
		}
		// Last, because assigning a sequence number holds up every other writer.
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
	noted := confirmationOf(ctx)
	if len(changes) == 0 {
		if noted != nil {
			// Another call may have made it so, which other nodes have not heard of yet.
			where = m.confirmAll(ctx, ks.Name)
			*noted = where
		}
		return where, nil
	}
	// It is written, so this node must act by it whether or not the caller still waits.
	if err := m.engine.Apply(context.WithoutCancel(ctx), changes); err != nil {
		m.log.ErrorContext(ctx, "a stored change could not be applied at once; it will be by the change feed", "error", err)
		return where, fmt.Errorf("the change is stored, but this node has not applied it yet: %w", errors.Join(gateway.ErrStore, err))
	}
	where = m.engine.Confirm(ctx, keyspaceOf(changes), changes[len(changes)-1].Seq, waitOf(ctx))
	if noted != nil {
		*noted = where
	}
	return where, nil
}

// Publish runs f, which publishes events and changes nothing else, in a transaction. Where f leaves an audit event in the
// call, it is not stored, but a request that is repeated with its idempotency key is not carried out again.
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

// WithRecorder returns a context in which record runs in each transaction that writes, after its event and before its
// changes. Where it returns an error, nothing is written.
func WithRecorder(ctx context.Context, record func(*Call) error) context.Context {
	return context.WithValue(ctx, recorderKey{}, record)
}

// record runs the recorder of the context, if there is one.
func (c *Call) record(ctx context.Context) error {
	if record, ok := ctx.Value(recorderKey{}).(func(*Call) error); ok {
		return record(c)
	}
	return nil
}

// Outbox returns the outbox of events.
func (m *Manager) Outbox() *events.Outbox { return m.outbox }

// keyspaceOf returns the keyspace that all changes are of, "" where there is no such.
func keyspaceOf(changes []gateway.Change) string {
	for i := range changes {
		if changes[i].Keyspace != changes[0].Keyspace {
			return ""
		}
	}
	return changes[0].Keyspace
}
