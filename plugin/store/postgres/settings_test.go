package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/cluster"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/store/sqlstore"
)

// write runs statements in one writing transaction of the store.
func write(ctx context.Context, s *Store, statements ...string) error {
	return s.Write(ctx, "testing", func(t *sqlstore.Tx) error {
		for _, statement := range statements {
			if _, err := t.Exec(statement); err != nil {
				return err
			}
		}
		return nil
	})
}

// TestIsolationLevels lets two stores change the same rows while the database's default isolation level is
// higher than the store needs. No change and no read may fail.
func TestIsolationLevels(t *testing.T) {
	pg := testserver.NewPostgres(t)
	for _, level := range []string{"repeatable read", "serializable"} {
		t.Run(level, func(t *testing.T) {
			pg.Exec("ALTER DATABASE postgres SET default_transaction_isolation = '" + level + "'")
			ctx := timeoutCtx(t)
			var all sync.WaitGroup
			for i := range 2 {
				s := openPostgres(t, pg.URL())
				all.Go(func() {
					for range 30 {
						n := cluster.Node{Name: fmt.Sprint(level, i), Instance: "one"}
						if err := s.ReportNode(ctx, &n, cluster.Staleness{}); err != nil {
							t.Errorf("reporting a node: %v", err)
						}
					}
				})
				for range 3 {
					all.Go(func() {
						for range 30 {
							if _, err := touch(ctx, s, "k"); err != nil {
								t.Errorf("a change: %v", err)
							}
							if _, err := s.LastSeq(ctx); err != nil {
								t.Errorf("a read: %v", err)
							}
						}
					})
				}
			}
			all.Wait()
		})
	}
}

// TestTimeoutsOfTheRole sets short timeouts for the store's user. The store's own timeouts must apply.
func TestTimeoutsOfTheRole(t *testing.T) {
	pg := testserver.NewPostgres(t)
	s := openPostgres(t, pg.Login("gate", "tulip"))
	if err := s.Ping(timeoutCtx(t)); err != nil {
		t.Fatal(err)
	}
	settings := []string{"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"}
	var version int
	pg.Query("SELECT current_setting('server_version_num')::int", &version)
	if version >= 170000 {
		settings = append(settings, "transaction_timeout")
	}
	for _, name := range settings {
		pg.Exec("ALTER ROLE gate SET " + name + " = '50ms'")
	}
	pg.Exec("ALTER ROLE gate SET synchronous_commit = off")
	s.db.closeIdle()
	err := s.Write(timeoutCtx(t), "testing", func(tx *sqlstore.Tx) error {
		var commit string
		if err := tx.Row("SELECT current_setting('synchronous_commit') FROM pg_sleep(0.2)", nil, &commit); err != nil {
			return err
		}
		if commit == "off" {
			t.Error("a durable commit does not wait for the disk")
		}
		return nil
	})
	if err != nil {
		t.Errorf("a slow change: %v", err)
	}
	err = s.db.Snapshot(timeoutCtx(t), func(tx *sqlstore.Tx) error {
		var n int
		return tx.Row("SELECT 1 FROM pg_sleep(0.2)", nil, &n)
	})
	if err != nil {
		t.Errorf("a slow snapshot: %v", err)
	}
	err = s.Query(timeoutCtx(t), "reading slowly", func(c *sqlstore.Conns) error {
		_, err := c.Read.ExecContext(t.Context(), "SELECT pg_sleep(5)")
		return err
	})
	expectRejected(t, err, "statement_timeout")
}

// TestIdleSessions has the server end idle connections. The next calls must open others.
func TestIdleSessions(t *testing.T) {
	pg := testserver.NewPostgres(t)
	s := openPostgres(t, pg.Login("gate", "tulip"))
	pg.Exec("ALTER ROLE gate SET idle_session_timeout = '100ms'")
	for range 3 {
		if _, err := touch(timeoutCtx(t), s, "k"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.LastSeq(timeoutCtx(t)); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, "the server has ended a connection", func() bool {
			var ended bool
			pg.Query("SELECT NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE usename = 'gate' AND query LIKE '%pg_current_xact_id%')", &ended)
			return ended
		})
	}
}

// TestDeadlock runs transactions that lock the same rows in different orders. The server ends one of
// them, and the store must try it again.
func TestDeadlock(t *testing.T) {
	pg := testserver.NewPostgres(t, "-c", "deadlock_timeout=20ms")
	s := openPostgres(t, pg.URL())
	if err := write(timeoutCtx(t), s, "CREATE TABLE pair (id int PRIMARY KEY, n int)", "INSERT INTO pair VALUES (1, 0), (2, 0)"); err != nil {
		t.Fatal(err)
	}
	var all, first sync.WaitGroup
	first.Add(2)
	for i := 1; i <= 2; i++ {
		all.Go(func() {
			var once sync.Once
			err := s.Write(timeoutCtx(t), "testing", func(tx *sqlstore.Tx) error {
				if _, err := tx.Exec("UPDATE pair SET n = n + 1 WHERE id = $1", i); err != nil {
					return err
				}
				once.Do(func() { first.Done(); first.Wait() })
				_, err := tx.Exec("UPDATE pair SET n = n + 1 WHERE id = $1", 3-i)
				return err
			})
			if err != nil {
				t.Errorf("transaction %d: %v", i, err)
			}
		})
	}
	all.Wait()
	var n, deadlocks int
	pg.Query("SELECT sum(n)::int FROM pair", &n)
	if n != 4 {
		t.Errorf("the transactions changed %d rows, not 4", n)
	}
	testkit.Eventually(t, "the server counts the deadlock", func() bool {
		pg.Query("SELECT deadlocks::int FROM pg_stat_database WHERE datname = 'postgres'", &deadlocks)
		return deadlocks > 0
	})
}

// TestConnectionEndsInTransaction ends the connection of a transaction, as a fail-over does. The store
// must run the transaction again, once.
func TestConnectionEndsInTransaction(t *testing.T) {
	pg := testserver.NewPostgres(t)
	s := openPostgres(t, pg.URL())
	if err := write(timeoutCtx(t), s, "CREATE TABLE single (n int)"); err != nil {
		t.Fatal(err)
	}
	tries := 0
	err := s.Write(timeoutCtx(t), "testing", func(tx *sqlstore.Tx) error {
		tries++
		if _, err := tx.Exec("INSERT INTO single VALUES (1)"); err != nil {
			return err
		}
		if tries == 1 {
			var pid int
			if err := tx.Row("SELECT pg_backend_pid()", nil, &pid); err != nil {
				return err
			}
			pg.Exec(fmt.Sprintf("SELECT pg_terminate_backend(%d, 10000)", pid))
		}
		_, err := tx.Exec("INSERT INTO single VALUES (2)")
		return err
	})
	var rows int
	pg.Query("SELECT count(*)::int FROM single", &rows)
	if err != nil || tries != 2 || rows != 2 {
		t.Errorf("%d tries, %d rows, %v", tries, rows, err)
	}
}

// TestCausesAreNamed puts the server into states in which the store can't work. The error must name the
// cause, and the store must work again after the state has ended.
func TestCausesAreNamed(t *testing.T) {
	for name, tt := range map[string]struct{ begin, mend, cause string }{
		"read-only":        {"ALTER ROLE gate SET default_transaction_read_only = on", "ALTER ROLE gate RESET default_transaction_read_only", "default_transaction_read_only"},
		"no privilege":     {"REVOKE ALL ON changes, sequences FROM gate", "GRANT ALL ON changes, sequences TO gate", "lacks a privilege"},
		"other schema":     {"CREATE SCHEMA other AUTHORIZATION gate; ALTER ROLE gate SET search_path = other", "ALTER ROLE gate RESET search_path", "search_path"},
		"no schema":        {"ALTER ROLE gate SET search_path = nowhere", "ALTER ROLE gate RESET search_path", "search_path"},
		"connection limit": {"ALTER ROLE gate CONNECTION LIMIT 0", "ALTER ROLE gate CONNECTION LIMIT -1", "CONNECTION LIMIT"},
		"no login":         {"ALTER ROLE gate NOLOGIN", "ALTER ROLE gate LOGIN", "rejects the user"},
		"no connections": {"ALTER DATABASE postgres CONNECTION LIMIT 0", "ALTER DATABASE postgres CONNECTION LIMIT -1",
			"CONNECTION LIMIT"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pg := testserver.NewPostgres(t)
			s := openPostgres(t, pg.Login("gate", "tulip"))
			if _, err := touch(timeoutCtx(t), s, "k"); err != nil {
				t.Fatal(err)
			}
			pg.Exec(tt.begin)
			// New settings of a role or a database apply to new connections.
			pg.Exec("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'gate'")
			_, err := touch(timeoutCtx(t), s, "k")
			if !errors.Is(err, gateway.ErrStore) || !strings.Contains(err.Error(), tt.cause) {
				t.Errorf("the error does not name %q: %v", tt.cause, err)
			}
			pg.Exec(tt.mend)
			pg.Exec("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'gate'")
			testkit.Eventually(t, "the store works again", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				_, err := touch(ctx, s, "k")
				return err == nil
			})
		})
	}
}
