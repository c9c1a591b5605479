package caddymodule

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/keygate-dev/keygate/plugin/management"
)

// statusTimeout bounds how long a status waits for a store that does not answer.
const statusTimeout = 2 * time.Second

// status says how this gateway is. It asks the store, for at most statusTimeout.
func (a *App) status(ctx context.Context) management.Status {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	stats := a.gateway.Stats()
	version, _ := caddy.Version()
	s := management.Status{
		Problems: []string{}, Version: version, Node: stats.Node,
		Keyspaces: slices.Sorted(maps.Keys(a.keyspaces)),
		Store:     management.StoreStatus{Kind: storeSQLite},
		Limits:    limitsLocal,
	}
	if a.Store != nil && a.Store.Type != "" {
		s.Store.Kind = a.Store.Type
	}
	if a.Limits != nil && a.Limits.Type != "" {
		s.Limits = a.Limits.Type
	}
	if shared := a.engine.sharedLimits(); shared != nil {
		var problem string
		if s.SharedLimits, problem = shared.status(); problem != "" {
			s.Problems = append(s.Problems, problem)
		}
	}
	if err := a.askStore(ctx, &s.Store); err != nil {
		s.Store.Error = err.Error()
		s.Problems = append(s.Problems, "the store does not answer: known keys go on, changes and unknown keys are refused")
	}
	if stats.Degraded {
		s.Problems = append(s.Problems, "the gateway is degraded: "+stats.LastError)
	}
	if !a.Ready() {
		s.Problems = append(s.Problems, "the gateway is not ready: it is starting or stopping")
	}
	now := time.Now().UTC()
	s.Nodes = []management.NodeStatus{{
		Node: stats.Node, Self: true, Seq: stats.Seq, Lag: max(0, s.Store.Seq-stats.Seq),
		ConfigHash: a.configHash(), LastContact: &now, Ready: a.Ready(), KeysCached: stats.KeysCached,
	}}
	s.Degraded = len(s.Problems) > 0
	return s
}

func (a *App) askStore(ctx context.Context, s *management.StoreStatus) (err error) {
	store := a.engine.opened()
	if store == nil {
		return errors.New("it is not open")
	}
	if err = store.Ping(ctx); err != nil {
		return err
	}
	if s.Seq, err = store.LastSeq(ctx); err != nil {
		return err
	}
	if s.Secrets, err = store.CountSecrets(ctx); err != nil {
		return err
	}
	s.OK = true
	return nil
}

// configHash tells configurations apart. It is made of the configuration as it is
// saved, in which secrets are placeholders.
func (a *App) configHash() string {
	b, err := json.Marshal(a)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// opened returns the engine's store, nil before the first start.
func (e *engine) opened() store {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.store
}
