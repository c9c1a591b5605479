package caddymodule

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/keygate-dev/keygate/caddymodule/version"
	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/management"
)

// statusTimeout bounds how long a status waits for a store that does not answer.
const statusTimeout = 2 * time.Second

// nodeStaleAfter is after how long without a word from a gateway something is taken to be wrong.
const nodeStaleAfter = 5 * time.Second

// status says how this gateway is. It asks the store, for at most statusTimeout.
func (a *App) status(ctx context.Context) management.Status {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	stats := a.gateway.Stats()
	caddyVersion, _ := caddy.Version()
	s := management.Status{
		Problems: []string{}, Version: version.String(), CaddyVersion: caddyVersion, Node: stats.Node,
		Keyspaces: slices.Sorted(maps.Keys(a.keyspaces)),
		Store:     management.StoreStatus{Kind: storeSQLite},
		Limits:    a.limitsKind(),
	}
	if since, ok := a.engine.OpenedAt(); ok {
		s.StartedAt = &since
	}
	if a.Store != nil && a.Store.Type != "" {
		s.Store.Kind = a.Store.Type
	}
	if shared := a.engine.Limits(); shared != nil {
		var problem string
		if s.SharedLimits, problem = limitsStatus(shared); problem != "" {
			s.Problems = append(s.Problems, problem)
		}
	}
	if err := a.queryStore(ctx, &s.Store); err != nil {
		s.Store.Error = err.Error()
		s.Problems = append(s.Problems, "the store does not answer: known keys go on, changes and unknown keys are refused")
	}
	s.Problems = append(s.Problems, askReplica(a.engine, &s.Store, stats.Ready)...)
	if stats.Degraded {
		s.Problems = append(s.Problems, "the gateway is degraded: "+stats.LastError)
	}
	for _, name := range s.Keyspaces {
		if !a.gateway.ReadyFor(name) {
			s.StaleKeyspaces = append(s.StaleKeyspaces, name)
		}
	}
	switch {
	case stats.Ready && a.Ready() && len(s.StaleKeyspaces) > 0:
		s.Problems = append(s.Problems, "nothing was heard of the store for longer than max_staleness allows in some keyspaces: their keys are answered with 503")
	case stats.Stale:
		s.Problems = append(s.Problems, "the gateway is not ready: nothing was heard of the store for longer than max_staleness, so that every key is answered with 503")
	case !a.Ready():
		s.StaleKeyspaces = nil
		s.Problems = append(s.Problems, "the gateway is not ready: it is starting or stopping")
	}
	now := time.Now().UTC()
	s.Nodes = append(a.otherNodes(ctx, &s), management.NodeStatus{
		Node: stats.Node, Self: true, Version: s.Version, CaddyVersion: s.CaddyVersion, Seq: stats.Seq, Lag: max(0, s.Store.Seq-stats.Seq),
		ConfigHash: a.hash(), LastContact: &now, Ready: a.Ready(), KeysCached: stats.KeysCached,
	})
	slices.SortFunc(s.Nodes, func(a, b management.NodeStatus) int { return strings.Compare(a.Node, b.Node) })
	s.Degraded = len(s.Problems) > 0
	return s
}

// otherNodes returns the gateways that share the store with this one.
func (a *App) otherNodes(ctx context.Context, s *management.Status) (out []management.NodeStatus) {
	nodes, now, err := a.gateway.Nodes(ctx)
	if err != nil {
		s.Problems = append(s.Problems, "the other gateways are not known while the store does not answer")
		return nil
	}
	for i := range nodes {
		n := &nodes[i]
		if n.Name == s.Node {
			continue
		}
		keygateVersion, caddyVersion := version.ParseProduct(n.Version)
		out = append(out, management.NodeStatus{
			Node: n.Name, Version: keygateVersion, CaddyVersion: caddyVersion, Seq: n.Seq, Lag: max(0, s.Store.Seq-n.Seq), ConfigHash: n.ConfigHash,
			LastContact: &n.ContactAt, StopsBy: &n.Deadline, KeyspacesStopBy: keyspaceStops(n, s.Keyspaces), Ready: n.Ready && now.Sub(n.ContactAt) < nodeStaleAfter, KeysCached: n.KeysCached,
		})
		if now.Sub(n.ContactAt) >= nodeStaleAfter {
			s.Problems = append(s.Problems, "nothing was heard of the gateway "+n.Name+" since "+n.ContactAt.Format(time.RFC3339)+
				": where it is gone for good, forget it (status --forget "+n.Name+")")
		}
	}
	return out
}

// keyspaceStops returns when a node stops judging those keyspaces of which it stops before it stops altogether.
func keyspaceStops(n *cluster.Node, keyspaces []string) (out map[string]time.Time) {
	for _, name := range keyspaces {
		if at := n.DeadlineFor(name); at.Before(n.Deadline) {
			if out == nil {
				out = make(map[string]time.Time)
			}
			out[name] = at
		}
	}
	return out
}

func (a *App) queryStore(ctx context.Context, s *management.StoreStatus) (err error) {
	store := a.engine.Store()
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

// hash returns configHash, made once.
func (a *App) hash() string {
	a.hashOnce.Do(func() { a.hashed = a.configHash() })
	return a.hashed
}

// configHash tells configurations apart. It is made of the configuration as it is
// saved, in which secrets are placeholders, without what each gateway has of its own.
func (c *Config) configHash() string {
	b, err := json.Marshal(c)
	if err != nil {
		return ""
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		return ""
	}
	delete(fields, "node")
	if store, ok := fields["store"].(map[string]any); ok {
		delete(store, "replica")
	}
	if b, err = json.Marshal(fields); err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}
