// Package reserve lets a gateway on an SQLite file take revocations while the file can't be written, for instance because
// its disk is full or another process has locked it. The revocations are kept in a small file that is made in advance, so that
// keeping them needs no space. They are written to the database when it can be written again.
package reserve

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store"
	"github.com/keygate-dev/keygate/plugin/store/sqlite"
)

const (
	// fileSize is the size of the reserve in bytes. It has room for some hundred revocations.
	fileSize = 128 << 10
	// retryInterval is the time between two attempts to write the kept revocations to the database.
	retryInterval = time.Second
	// deliverTimeout bounds the write of one revocation to the database.
	deliverTimeout = 10 * time.Second
)

// Store is an SQLite store with a reserve. Look-ups respect the kept revocations. Open returns a Store.
type Store struct {
	*sqlite.Store
	log *slog.Logger
	// file is nil if the reserve could not be made.
	file  *os.File
	write atomic.Pointer[func(context.Context, management.Revocation) error]
	stop  chan struct{}
	done  sync.WaitGroup
	// delivery is held by the call that writes kept revocations to the database.
	delivery sync.Mutex

	mu sync.Mutex
	// kept are the revocations in the file, in the order of the decisions.
	kept []management.Revocation
	// count is len(kept). It is read without the lock.
	count atomic.Int64
}

// Open adds a reserve to the store s, which Close closes. The reserve is the file path + ".reserve" for the database path. If
// the reserve can't be made, Open logs a warning, and the Store keeps no revocations. Open renames a damaged reserve, and takes
// over the revocations before the damage.
func Open(s *sqlite.Store, log *slog.Logger) (*Store, error) {
	r := &Store{Store: s, log: log, stop: make(chan struct{})}
	path := s.Identity() + ".reserve"
	if err := r.open(path); err != nil {
		return nil, fmt.Errorf("reading the reserve %s, which may hold revocations that are not in the database: %w", path, err)
	}
	if len(r.kept) > 0 {
		log.Warn("the reserve holds revocations that are not in the database yet: they apply, and are written to the database when that is possible", "path", path, "revocations", len(r.kept))
	}
	r.done.Go(r.deliverLoop)
	return r, nil
}

// open opens and reads the file at path, and makes the file if it does not exist.
func (r *Store) open(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		r.log.Warn("the reserve could not be made: while the database can't be written, revocations are answered 503", "path", path, "error", err)
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(f, fileSize))
	if err != nil {
		f.Close()
		return err
	}
	if damage := r.read(text); damage != nil {
		f.Close()
		aside := path + ".damaged-" + time.Now().UTC().Format("20060102T150405.000Z")
		if err := os.Rename(path, aside); err != nil {
			return errors.Join(damage, err)
		}
		r.log.Error("the reserve is damaged and was renamed: revoke again the keys that were revoked while the database could not be written",
			"file", aside, "revocations_read", len(r.kept), "error", damage)
		return r.open(path)
	}
	r.file = f
	if len(text) == fileSize {
		return nil
	}
	if err := r.save(r.kept); err != nil {
		f.Close()
		r.file = nil
		r.log.Warn("the reserve could not be made: while the database can't be written, revocations are answered 503", "path", path, "error", err)
	}
	return nil
}

// read sets kept to the revocations in text, the content of the file: a line of JSON for each, and then blanks.
func (r *Store) read(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(bytes.TrimRight(text, " \x00")))
	for {
		var v management.Revocation
		err := d.Decode(&v)
		if errors.Is(err, io.EOF) {
			r.count.Store(int64(len(r.kept)))
			return nil
		}
		if err != nil {
			return err
		}
		r.kept = append(r.kept, v)
	}
}

// save replaces the content of the file by list, and syncs the file. The size of the file does not change, so the write needs
// no space. The caller holds mu.
func (r *Store) save(list []management.Revocation) error {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	for _, v := range list {
		if err := e.Encode(v); err != nil {
			return err
		}
	}
	if text.Len() > fileSize {
		return errors.New("the reserve is full")
	}
	text.Write(bytes.Repeat([]byte(" "), fileSize-text.Len()))
	if _, err := r.file.WriteAt(text.Bytes(), 0); err != nil {
		return err
	}
	return r.file.Sync()
}

// Close stops the delivery of kept revocations and closes the store. Kept revocations stay in the file.
func (r *Store) Close() error {
	close(r.stop)
	r.done.Wait()
	err := r.Store.Close()
	if r.file != nil {
		err = errors.Join(err, r.file.Close())
	}
	return err
}

// Revoke implements management.OfflineRevoker.
func (r *Store) Revoke(ctx context.Context, v management.Revocation) error {
	if r.file == nil {
		return fmt.Errorf("%w: there is no reserve", gateway.ErrStore)
	}
	v.At = v.At.UTC().Truncate(time.Microsecond)
	if err := r.View(ctx, func(tx management.Tx) (err error) {
		switch v.Action {
		case management.TenantSuspended, management.TenantDeleted:
			_, err = tx.Tenant(v.Keyspace, v.ID)
		default:
			_, err = tx.Key(v.Keyspace, v.ID)
		}
		return err
	}); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range r.kept {
		if k.Action == v.Action && k.Keyspace == v.Keyspace && k.ID == v.ID {
			return nil
		}
	}
	list := append(r.kept[:len(r.kept):len(r.kept)], v)
	if err := r.save(list); err != nil {
		return fmt.Errorf("%w: writing the reserve: %w", gateway.ErrStore, err)
	}
	r.kept = list
	r.count.Store(int64(len(list)))
	return nil
}

// Pending returns the number of kept revocations.
func (r *Store) Pending() int64 { return r.count.Load() }

// SetReplay implements management.OfflineRevoker.
func (r *Store) SetReplay(write func(context.Context, management.Revocation) error) {
	r.write.Store(&write)
}

// deliverLoop writes the kept revocations to the database, until Close.
func (r *Store) deliverLoop() {
	tick := time.NewTicker(retryInterval)
	defer tick.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-tick.C:
		}
		if r.count.Load() > 0 {
			_ = r.deliver(context.Background()) // The next attempt follows in a moment.
		}
	}
}

// delivering is the type of a context key. Its value marks a call that writes a kept revocation to the database.
type delivering struct{}

// deliver writes the kept revocations to the database, in the order of the decisions, and returns the first error.
func (r *Store) deliver(ctx context.Context) error {
	write := r.write.Load()
	if write == nil {
		return fmt.Errorf("%w: kept revocations can't be written yet", gateway.ErrStore)
	}
	r.delivery.Lock()
	defer r.delivery.Unlock()
	for {
		r.mu.Lock()
		if len(r.kept) == 0 {
			r.mu.Unlock()
			return nil
		}
		v := r.kept[0]
		r.mu.Unlock()
		err := func() error {
			ctx, cancel := context.WithTimeout(context.WithValue(ctx, delivering{}, true), deliverTimeout)
			defer cancel()
			return (*write)(ctx, v)
		}()
		if err != nil {
			return err
		}
		r.mu.Lock()
		rest := r.kept[1:]
		// If the file can't be written, the revocation is delivered once more after the next start, which changes nothing.
		if err := r.save(rest); err != nil {
			r.log.Warn("a revocation is in the database now, but could not be removed from the reserve", "action", v.Action, "id", v.ID, "error", err)
		}
		r.kept = rest
		r.count.Store(int64(len(rest)))
		r.mu.Unlock()
		r.log.Info("a revocation that was kept in the reserve is in the database now", "action", v.Action, "keyspace", v.Keyspace, "id", v.ID)
	}
}

// Update implements management.Store. It first writes the kept revocations, because a later decision must not be undone by an
// earlier one that is written late.
func (r *Store) Update(ctx context.Context, f func(management.Tx) error) error {
	if r.count.Load() > 0 && ctx.Value(delivering{}) == nil {
		if err := r.deliver(ctx); err != nil {
			return err
		}
	}
	return r.Store.Update(ctx, f)
}

// View implements management.Store.
func (r *Store) View(ctx context.Context, f func(management.Tx) error) error {
	if r.count.Load() == 0 {
		return r.Store.View(ctx, f)
	}
	return r.Store.View(ctx, func(tx management.Tx) error { return f(&revokedTx{tx.(store.Tx), r}) })
}

// Lookup implements gateway.Store.
func (r *Store) Lookup(ctx context.Context, keyspace string, digests []apikey.Candidate) (*gateway.Record, error) {
	return r.record(r.Store.Lookup(ctx, keyspace, digests))
}

// LookupSecret implements gateway.Store.
func (r *Store) LookupSecret(ctx context.Context, keyspace, secretID string) (*gateway.Record, error) {
	return r.record(r.Store.LookupSecret(ctx, keyspace, secretID))
}

// record applies the kept revocations to the result of a look-up.
func (r *Store) record(rec *gateway.Record, err error) (*gateway.Record, error) {
	if err != nil || r.count.Load() == 0 {
		return rec, err
	}
	r.key(rec.Key)
	r.tenant(rec.Tenant)
	if !rec.Key.DeletedAt.IsZero() || !rec.Tenant.DeletedAt.IsZero() {
		return nil, gateway.ErrNotFound
	}
	return rec, nil
}

// key applies the kept revocations of a key to its record, which may be nil.
func (r *Store) key(k *gateway.Key) {
	if k == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range r.kept {
		if v.Keyspace != k.Keyspace || v.ID != k.ID {
			continue
		}
		switch {
		case v.Action == management.KeyRevoked && k.RevokedAt.IsZero():
			k.RevokedAt = v.At
		case v.Action == management.KeyDisabled:
			k.Disabled = true
		case v.Action == management.KeyDeleted && k.DeletedAt.IsZero():
			k.DeletedAt = v.At
		}
	}
}

// tenant applies the kept revocations of a tenant to its record, which may be nil.
func (r *Store) tenant(t *gateway.Tenant) {
	if t == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range r.kept {
		if v.Keyspace != t.Keyspace || v.ID != t.Slug {
			continue
		}
		switch v.Action {
		case management.TenantSuspended:
			t.Active = false
		case management.TenantDeleted:
			t.Active = false
			if t.DeletedAt.IsZero() {
				t.DeletedAt = v.At
			}
		}
	}
}

// revokedTx shows keys and tenants with their kept revocations.
type revokedTx struct {
	store.Tx
	r *Store
}

func (t *revokedTx) Key(keyspace, id string) (*gateway.Key, error) {
	k, err := t.Tx.Key(keyspace, id)
	t.r.key(k)
	return k, err
}

func (t *revokedTx) Keys(q management.KeyQuery) ([]*gateway.Key, error) {
	list, err := t.Tx.Keys(q)
	for _, k := range list {
		t.r.key(k)
	}
	return list, err
}

func (t *revokedTx) Tenant(keyspace, slug string) (*gateway.Tenant, error) {
	in, err := t.Tx.Tenant(keyspace, slug)
	t.r.tenant(in)
	return in, err
}

func (t *revokedTx) Tenants(q management.TenantQuery) ([]*gateway.Tenant, error) {
	list, err := t.Tx.Tenants(q)
	for _, in := range list {
		t.r.tenant(in)
	}
	return list, err
}

var _ management.OfflineRevoker = (*Store)(nil)
