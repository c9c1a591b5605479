package replication

import (
	"context"
	"database/sql"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// RevocationState is the state of a revocation in a store. The revocation may have been decided while
// the store had another state, such as before a backup was restored.
type RevocationState int

const (
	// NotRevoked means that the row exists and is not revoked, and that no later event reversed the
	// revocation.
	NotRevoked RevocationState = iota
	// Revoked means that the row is revoked by the same or a stronger decision.
	Revoked
	// Reversed means that a later event reversed the revocation.
	Reversed
	// UnknownID means that the store has no row with the revocation's id, but may get the row back.
	UnknownID
)

// CompareRevocations returns the state of each revocation in the store, in the order of list.
func (s Source) CompareRevocations(ctx context.Context, list []management.Revocation) (out []RevocationState, err error) {
	err = s.store.Snapshot(ctx, "comparing revocations", func(t *sqlstore.Tx) (err error) {
		out, err = Compare(t, list)
		return err
	})
	return out, err
}

// Compare returns the state of each revocation in list within a transaction. It reads each row once,
// even if several revocations concern the row.
func Compare(t *sqlstore.Tx, list []management.Revocation) ([]RevocationState, error) {
	out := make([]RevocationState, 0, len(list))
	err := sqlstore.Chunks(list, func(list []management.Revocation) error {
		rows, err := readRevocationRows(t, list)
		if err != nil {
			return err
		}
		for _, r := range list {
			state := rows.state(r)
			if state == NotRevoked && r.Reversible() {
				reversed, err := reversedSince(t, r)
				if err != nil {
					return err
				}
				if reversed {
					state = Reversed
				}
			}
			out = append(out, state)
		}
		return nil
	})
	return out, err
}

// revocationRows are the rows that revocations concern, by keyspace and id. The id of a tenant is its
// slug in lower case.
type revocationRows struct {
	tenants map[[2]string]tenantState
	keys    map[[2]string]keyState
	// secrets holds the times at which secrets end, in Unix microseconds. The value 0 means that a secret
	// does not end.
	secrets map[[2]string]int64
	// tokens records for each token whether it is revoked.
	tokens map[[2]string]bool
}

type tenantState struct {
	created         int64
	active, deleted bool
}

type keyState struct{ disabled, revoked, deleted bool }

// readRevocationRows reads the rows that the revocations in list concern.
func readRevocationRows(t *sqlstore.Tx, list []management.Revocation) (c revocationRows, err error) {
	c = revocationRows{map[[2]string]tenantState{}, map[[2]string]keyState{}, map[[2]string]int64{}, map[[2]string]bool{}}
	slugs := map[string][]string{}
	var keys, secrets, tokens []string
	for _, r := range list {
		switch r.Change().Kind {
		case gateway.ChangeTenant:
			slugs[r.Keyspace] = append(slugs[r.Keyspace], sqlstore.Fold(r.ID))
		case gateway.ChangeToken:
			tokens = append(tokens, r.ID)
		default:
			if r.Action == management.SecretEnded {
				secrets = append(secrets, r.ID)
			}
			keys = append(keys, r.Change().ID)
		}
	}
	for keyspace, slugs := range slugs {
		cond, args := sqlstore.In([]any{keyspace}, slugs)
		if err := t.Rows(`SELECT folded, coalesce(created_at, 0), active, deleted_at IS NOT NULL FROM tenants WHERE keyspace = $1 AND folded`+cond, args,
			func(rows *sql.Rows) error {
				var slug string
				var s tenantState
				err := rows.Scan(&slug, &s.created, &s.active, &s.deleted)
				c.tenants[[2]string{keyspace, slug}] = s
				return err
			}); err != nil {
			return c, err
		}
	}
	if len(keys) > 0 {
		cond, args := sqlstore.In(nil, keys)
		if err := t.Rows(`SELECT keyspace, id, disabled, revoked_at IS NOT NULL, deleted_at IS NOT NULL FROM keys WHERE id`+cond, args,
			func(rows *sql.Rows) error {
				var id [2]string
				var s keyState
				err := rows.Scan(&id[0], &id[1], &s.disabled, &s.revoked, &s.deleted)
				c.keys[id] = s
				return err
			}); err != nil {
			return c, err
		}
	}
	if len(secrets) > 0 {
		cond, args := sqlstore.In(nil, secrets)
		if err := t.Rows(`SELECT keyspace, id, coalesce(expires_at, 0) FROM secrets WHERE id`+cond, args,
			func(rows *sql.Rows) error {
				var id [2]string
				var ends int64
				err := rows.Scan(&id[0], &id[1], &ends)
				c.secrets[id] = ends
				return err
			}); err != nil {
			return c, err
		}
	}
	if len(tokens) > 0 {
		cond, args := sqlstore.In(nil, tokens)
		if err := t.Rows(`SELECT keyspace, id, revoked_at IS NOT NULL FROM tokens WHERE id`+cond, args,
			func(rows *sql.Rows) error {
				var id [2]string
				var revoked bool
				err := rows.Scan(&id[0], &id[1], &revoked)
				c.tokens[id] = revoked
				return err
			}); err != nil {
			return c, err
		}
	}
	return c, nil
}

// state returns the state of a revocation according to the rows alone. It never returns Reversed.
func (c *revocationRows) state(r management.Revocation) RevocationState {
	stateOf := func(found, revoked bool) RevocationState {
		switch {
		case !found:
			return UnknownID
		case revoked:
			return Revoked
		}
		return NotRevoked
	}
	id := [2]string{r.Keyspace, RowID(r)}
	switch r.Action {
	case management.TenantDeleted, management.TenantSuspended:
		t, ok := c.tenants[id]
		// A later tenant may have the slug of the revoked tenant. The two tenants differ in their times of
		// creation.
		ok = ok && (r.Created.IsZero() || r.Created.UnixMicro() == t.created)
		return stateOf(ok, t.deleted || r.Action == management.TenantSuspended && !t.active)
	case management.TokenRevoked:
		revoked, ok := c.tokens[id]
		return stateOf(ok, revoked)
	case management.SecretEnded:
		if k := c.keys[[2]string{r.Keyspace, r.Key}]; k.revoked || k.deleted {
			return Revoked
		}
		ends, ok := c.secrets[id]
		return stateOf(ok, ends != 0 && ends <= r.At.UnixMicro())
	}
	k, ok := c.keys[id]
	return stateOf(ok, k.deleted ||
		r.Action != management.KeyDeleted && k.revoked ||
		r.Action == management.KeyDisabled && k.disabled)
}

// reversedSince reports whether an audit event after r.At reverses the revocation.
func reversedSince(t *sqlstore.Tx, r management.Revocation) (bool, error) {
	column, action := "key_id", "key.enabled"
	if r.Action == management.TenantSuspended {
		column, action = "tenant", "tenant.activated"
	}
	var n int
	err := t.Row(`SELECT count(*) FROM audit WHERE keyspace = $1 AND `+column+` = $2 AND action = $3 AND at > $4`,
		[]any{r.Keyspace, r.ID, action, r.At.UnixMicro()}, &n)
	return n > 0, err
}
