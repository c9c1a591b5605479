package testserver_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keygate-dev/keygate/internal/testserver"
)

// one opens a new connection, runs the query and returns the single text of its result.
func one(t *testing.T, url, query string) (text string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	err = conn.QueryRow(ctx, query).Scan(&text)
	return text, err
}

func TestPostgresIsKilledAndStartedAgain(t *testing.T) {
	t.Parallel()
	pg := testserver.NewPostgres(t)
	exec(t, pg.URL(), `CREATE TABLE a (b text)`)
	exec(t, pg.URL(), `INSERT INTO a VALUES ('c')`)
	exec(t, pg.URL(), `CHECKPOINT`)
	pg.Kill()
	if got, err := one(t, pg.URL(), `SELECT b FROM a`); err == nil {
		t.Fatalf("a killed server answered %q", got)
	}
	pg.Start()
	if got, err := one(t, pg.URL(), `SELECT b FROM a`); err != nil || got != "c" {
		t.Fatalf("after the restart: %q, %v", got, err)
	}
}

func exec(t *testing.T, url, statement string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, statement); err != nil {
		t.Fatal(err)
	}
}

func TestPostgresIsPaused(t *testing.T) {
	t.Parallel()
	pg := testserver.NewPostgres(t)
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	conn, err := pgx.Connect(ctx, pg.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	pg.Pause()
	answered := make(chan error, 1)
	go func() { answered <- conn.Ping(ctx) }()
	select {
	case err := <-answered:
		t.Fatalf("a paused server answered: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	pg.Resume()
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
}

func TestSharedPostgresDatabases(t *testing.T) {
	t.Parallel()
	a, b := testserver.PostgresURL(t), testserver.PostgresURL(t)
	exec(t, a, `CREATE TABLE a (b text)`)
	exec(t, b, `CREATE TABLE a (b text)`)
}

func TestPgBouncerPoolsTransactions(t *testing.T) {
	t.Parallel()
	url := testserver.PostgresURL(t)
	b := testserver.NewPgBouncer(t, url)
	exec(t, url, `CREATE TABLE a (b text)`)
	exec(t, url, `INSERT INTO a VALUES ('c')`)
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	config, err := pgx.ParseConfig(b.Through(url))
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var got string
	if err := conn.QueryRow(ctx, `SELECT b FROM a WHERE b = $1`, "c").Scan(&got); err != nil || got != "c" {
		t.Fatalf("through the pooler: %q, %v", got, err)
	}
}
