package sites

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/keygate-dev/keygate/caddymodule/config"
	"github.com/keygate-dev/keygate/caddymodule/version"
	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/engine"
	"github.com/keygate-dev/keygate/plugin/inspect"
	"github.com/keygate-dev/keygate/plugin/keytable"
)

// statusTimeout is how long a status request waits for the store.
const statusTimeout = 2 * time.Second

// nodeStaleAfter is the time since a gateway's last contact after which status reports a problem.
const nodeStaleAfter = 5 * time.Second

// Status returns the state of this gateway. It queries the store and blocks for at most
// statusTimeout.
func Status(ctx context.Context, a App) inspect.Status {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	stats := a.Engine().Gateway().Stats()
	caddyVersion, _ := caddy.Version()
	s := inspect.Status{
		Problems: []string{}, Version: version.String(), CaddyVersion: caddyVersion, Node: stats.Node,
		Keyspaces: slices.Sorted(maps.Keys(a.Compiled().Keyspaces)),
		Store:     inspect.StoreStatus{Kind: config.StoreSQLite},
		Limits:    a.Compiled().Config.LimitsKind(),
	}
	if since, ok := a.Engine().OpenedAt(); ok {
		s.StartedAt = &since
	}
	if store := a.Compiled().Config.Store; store != nil && store.Type != "" {
		s.Store.Kind = store.Type
	}
	if shared := a.Engine().Limits(); shared != nil {
		var problem string
		if s.SharedLimits, problem = limitsStatus(shared); problem != "" {
			s.Problems = append(s.Problems, problem)
		}
	}
	if err := queryStore(ctx, a, &s.Store); err != nil {
		s.Store.Error = err.Error()
		s.Problems = append(s.Problems, "the store does not answer, so keys in memory are accepted, changes and other keys are rejected: "+keytable.Remedy(err))
	}
	s.Problems = append(s.Problems, askReplica(a.Engine(), &s.Store, stats.Ready)...)
	if health := a.Engine().Gateway().Health(); stats.Degraded && s.Store.Error == "" {
		s.Store.Error = stats.LastError
		s.Problems = append(s.Problems, "the store failed at the last try, so keys are checked and counted in memory, and changes may be rejected: "+health.Remedy())
	}
	for _, name := range s.Keyspaces {
		if !a.Engine().Gateway().ReadyFor(name) {
			s.StaleKeyspaces = append(s.StaleKeyspaces, name)
		}
	}
	switch {
	case stats.Ready && a.Ready() && len(s.StaleKeyspaces) > 0:
		s.Problems = append(s.Problems, "the store has not answered for longer than max_staleness in some keyspaces: their requests are answered with 503")
	case stats.Stale:
		s.Problems = append(s.Problems, "the gateway is not ready: the store has not answered for longer than max_staleness, so requests are answered with 503")
	case !a.Ready():
		s.StaleKeyspaces = nil
		s.Problems = append(s.Problems, "the gateway is not ready: it is starting or stopping")
	}
	now := time.Now().UTC()
	s.Nodes = append(otherNodes(ctx, a, &s), inspect.NodeStatus{
		Node: stats.Node, Self: true, Version: s.Version, CaddyVersion: s.CaddyVersion, Seq: stats.Seq, Lag: max(0, s.Store.Seq-stats.Seq),
		ConfigHash: a.ConfigHash(), LastContact: &now, Ready: a.Ready(), KeysCached: stats.KeysCached,
	})
	slices.SortFunc(s.Nodes, func(a, b inspect.NodeStatus) int { return strings.Compare(a.Node, b.Node) })
	s.Degraded = len(s.Problems) > 0
	return s
}

// otherNodes returns the other gateways that share the store, and adds problems with them to s.
func otherNodes(ctx context.Context, a App, s *inspect.Status) (out []inspect.NodeStatus) {
	nodes, now, err := a.Engine().Gateway().Nodes(ctx)
	if err != nil {
		s.Problems = append(s.Problems, "the other gateways are unknown while the store does not answer")
		return nil
	}
	for i := range nodes {
		n := &nodes[i]
		if n.Name == s.Node {
			continue
		}
		keygateVersion, caddyVersion := version.ParseProduct(n.Version)
		out = append(out, inspect.NodeStatus{
			Node: n.Name, Version: keygateVersion, CaddyVersion: caddyVersion, Seq: n.Seq, Lag: max(0, s.Store.Seq-n.Seq), ConfigHash: n.ConfigHash,
			LastContact: &n.ContactAt, StopsBy: &n.Deadline, KeyspacesStopBy: keyspaceStops(n, s.Keyspaces), Ready: n.Ready && now.Sub(n.ContactAt) < nodeStaleAfter, KeysCached: n.KeysCached,
		})
		if now.Sub(n.ContactAt) >= nodeStaleAfter {
			s.Problems = append(s.Problems, "no contact with the gateway "+n.Name+" since "+n.ContactAt.Format(time.RFC3339)+
				": if it was removed, forget it (status --forget "+n.Name+")")
		}
	}
	return out
}

// keyspaceStops returns the keyspaces for which a node stops checking keys earlier than for the
// others, with the times.
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

func queryStore(ctx context.Context, a App, s *inspect.StoreStatus) (err error) {
	store := a.Engine().Store()
	if store == nil {
		return errors.New("the store is not open")
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

// limitsStatus returns the state of shared limits, and a description of their problem or "".
func limitsStatus(s *engine.SharedLimits) (out *inspect.LimitsStatus, problem string) {
	r, l := s.Stats()
	out = &inspect.LimitsStatus{
		Mode: config.ModeExact, OK: !r.Unreachable, Nodes: r.Nodes, Errors: r.Errors,
		Asked: l.Asked, Waited: l.Waited, FromMemory: l.Memory, InOutage: l.Outage,
	}
	if s.Leased() {
		out.Mode = config.ModeLeased
	}
	if r.Unreachable {
		out.Error = r.Problem
		if !r.Since.IsZero() {
			since := r.Since.UTC().Truncate(time.Second)
			out.Since = &since
		}
		problem = "Redis does not answer: limits follow each plan's on_redis_down until it does (" + r.Problem + ")"
	}
	return out, problem
}

// askReplica adds the state of the gateway's replica, if it has one, to s. It returns problems of
// the replica and of the primary. ready reports whether the gateway checks keys.
func askReplica(e *engine.Engine, s *inspect.StoreStatus, ready bool) (problems []string) {
	own := e.Replica()
	if own == nil {
		return nil
	}
	r := own.Status()
	s.Replica = &inspect.ReplicaStatus{Used: !r.PassThrough, Rows: max(r.Copied, 0), Pending: r.Pending}
	if !r.LastSync.IsZero() {
		synced := r.LastSync.UTC().Truncate(time.Millisecond)
		s.Replica.SyncedAt = &synced
	}
	if r.Unreachable != nil && s.OK {
		// s.OK comes from the replica, which answered in place of the unreachable primary.
		s.OK, s.Error = false, r.Unreachable.Error()
		problem := "the store does not answer: keys are checked against the replica; of all changes, only revocations are possible"
		if !ready {
			problem = "the store does not answer, and the replica is older than max_staleness because this gateway was stopped or cut off: requests are answered with 503 until the store answers"
		}
		problems = append(problems, problem)
	}
	if r.Pending > 0 {
		problems = append(problems, "the number of revocations that are not yet written to the store is "+strconv.FormatInt(r.Pending, 10))
	}
	return problems
}
