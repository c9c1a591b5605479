package caddymodule

import (
	"context"
	"log/slog"

	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/store/replica"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
	"github.com/keygate-dev/keygate/plugin/usage"
)

// store is what a store package provides: the engine's side and management's.
type store interface {
	gateway.Store
	management.Store
	usage.Store
}

// openReplica opens a node's own copy of a shared store. h takes what is refused while that is away to
// the other nodes.
func openReplica(ctx context.Context, shared *sqlstore.Store, file string, h replica.Broadcaster, log *slog.Logger) (store, error) {
	r, err := replica.Open(ctx, replica.Options{File: file, Primary: shared, Broadcaster: h, Logger: log})
	if err != nil {
		shared.Close()
		return nil, err
	}
	return r, nil
}

// openStore opens a store. SQLite's is migrated then; PostgreSQL's when it answers, which
// is not waited for. This is the one place where stores are opened; what a configuration
// calls them is in stores.go.
func openStore(ctx context.Context, where storePlace, h replica.Broadcaster, log *slog.Logger) (store, error) {
	if where.shared() {
		shared, err := sqlstore.NewPostgres(sqlstore.PostgresConfig{Address: where.dsn, Listen: where.listen, Logger: log})
		if err != nil || where.replica == "" {
			return shared, err
		}
		return openReplica(ctx, shared, where.replica, h, log)
	}
	return sqlstore.Open(ctx, where.path, log)
}
