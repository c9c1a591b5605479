package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// busy reads and writes continuously until the caller calls stop. Each failure of a read or write fails
// the test.
func busy(t *testing.T, s *Store) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(timeoutCtx(t))
	var all sync.WaitGroup
	for range 3 {
		for _, work := range []func(context.Context) error{
			func(ctx context.Context) error { _, err := touch(ctx, s, "busy"); return err },
			func(ctx context.Context) error { _, err := s.Changes(ctx, 0, 1); return err },
		} {
			all.Go(func() {
				for ctx.Err() == nil {
					// stop does not interrupt an operation, so each error comes from the store
					// itself.
					if err := work(context.WithoutCancel(ctx)); err != nil {
						t.Errorf("meanwhile: %v", err)
						return
					}
				}
			})
		}
	}
	return func() { cancel(); all.Wait() }
}

// backends returns the process ids of the server's connections of all users whose name begins with
// "gate". The store s is connected as such a user.
func backends(t *testing.T, s *Store) (pids []int) {
	t.Helper()
	ctx := timeoutCtx(t)
	rows, err := s.db.conns.Read.QueryContext(ctx, `SELECT pid FROM pg_stat_activity WHERE usename LIKE 'gate%' ORDER BY pid`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var pid int
		if err := rows.Scan(&pid); err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// expectClosed waits until the server has ended all the given connections.
func expectClosed(t *testing.T, s *Store, pids []int) {
	t.Helper()
	testkit.Eventually(t, "the former connections end", func() bool {
		return !slices.ContainsFunc(backends(t, s), func(pid int) bool { return slices.Contains(pids, pid) })
	})
}

// expectRejected fails the test if err lacks one of the texts or holds a password.
func expectRejected(t *testing.T, err error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("the address was accepted")
	}
	for _, w := range texts {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not contain %q", err, w)
		}
	}
	if strings.Contains(err.Error(), "tulip") {
		t.Errorf("a password stands in %q", err)
	}
}

func TestRedirect(t *testing.T) {
	pg := testserver.NewPostgres(t)
	first := pg.Login("gate", "tulip-1")
	s := openPostgres(t, first)
	p := s.db
	if err := s.Ping(timeoutCtx(t)); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "notifications arrive", p.notified.Load)
	stop := busy(t, s)

	// The server gets a new password, and the store is redirected to an address with that password.
	pg.Exec("ALTER ROLE gate PASSWORD 'tulip-2'")
	second := strings.Replace(first, "tulip-1", "tulip-2", 1)
	expectRejected(t, s.Redirect(timeoutCtx(t), strings.Replace(first, "tulip-1", "tulip-0", 1), ""), "rejects the user or the password", "password authentication failed for user \"gate\"")
	before := backends(t, s)
	if err := s.Redirect(timeoutCtx(t), second, ""); err != nil {
		t.Fatal(err)
	}
	if after := backends(t, s); !slices.ContainsFunc(after, func(pid int) bool { return slices.Contains(before, pid) }) {
		t.Errorf("connections were closed before SetAddress: %v, then %v", before, after)
	}
	if err := s.SetAddress(second, ""); err != nil {
		t.Fatal(err)
	}
	expectClosed(t, s, before)
	testkit.Eventually(t, "notifications arrive again", p.notified.Load)
	expectNotified(t, s, openPostgres(t, pg.URL()))

	// The store is redirected to another user and address, and then back.
	proxy := testserver.NewProxy(t, pg.Addr())
	third := strings.Replace(pg.Login("gate2", "tulip-3", "gate"), pg.Addr(), proxy.Addr(), 1)
	before = backends(t, s)
	if err := s.Redirect(timeoutCtx(t), third, ""); err != nil {
		t.Fatal(err)
	}
	if id := s.Identity(); !strings.Contains(id, "gate2@") || strings.Contains(id, "tulip") {
		t.Errorf("its name is %s", id)
	}
	if err := s.SetAddress(second, ""); err != nil {
		t.Fatal(err)
	}
	if after := backends(t, s); !slices.ContainsFunc(after, func(pid int) bool { return slices.Contains(before, pid) }) {
		t.Errorf("the redirect back closed the former connections: %v, then %v", before, after)
	}
	testkit.Eventually(t, "no connection by the third address is left", func() bool { return proxy.Connections() == 0 })
	// Now the store is redirected to the third address and stays there.
	if err := errors.Join(s.Redirect(timeoutCtx(t), third, second), s.SetAddress(third, second)); err != nil {
		t.Fatal(err)
	}
	expectClosed(t, s, before)
	stop()

	// While neither the former nor the new address answers, the store uses the new address and retries.
	pg.Kill()
	if err := s.Redirect(timeoutCtx(t), second, ""); err != nil {
		t.Fatal(err)
	}
	if err := s.SetAddress(second, ""); err != nil {
		t.Fatal(err)
	}
	pg.Start()
	testkit.Eventually(t, "the server answers again", func() bool { return s.Ping(timeoutCtx(t)) == nil })
	if n := proxy.Connections(); n != 0 {
		t.Errorf("%d connections by the former address", n)
	}
}

func TestRedirectRejected(t *testing.T) {
	pg := testserver.NewPostgres(t)
	address := pg.Login("gate", "tulip-1")
	s := openPostgres(t, address)
	if err := s.Ping(timeoutCtx(t)); err != nil {
		t.Fatal(err)
	}
	stop := busy(t, s)
	defer stop()
	stranger := pg.Login("stranger", "tulip-2")
	pg.Exec("CREATE SCHEMA hidden; CREATE ROLE reader; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
	reader := pg.Login("reads", "tulip-3", "reader")
	pg.Exec("CREATE DATABASE other")
	other := strings.Replace(pg.URL(), "/postgres?", "/other?", 1)
	pg.Exec("CREATE DATABASE empty")
	if err := openPostgres(t, other).Ping(timeoutCtx(t)); err != nil {
		t.Fatal(err)
	}
	unreachable := testserver.NewProxy(t, "127.0.0.1:1")
	unreachable.Refuse()
	for _, tt := range []struct {
		name, address, listen string
		texts                 []string
	}{
		{"unreadable", "postgres://gate:tulip-1@[/", "", []string{"can't be parsed"}},
		{"another store", other, "", []string{"/other is not the store in use", "restart"}},
		{"no store", strings.Replace(pg.URL(), "/postgres?", "/empty?", 1), "", []string{"/empty is not the store in use"}},
		{"another schema", address + "&search_path=hidden", "", []string{"search_path=hidden is not the store in use"}},
		{"no database", strings.Replace(address, "/postgres?", "/none?", 1), "", []string{"no such database", `"none" does not exist`}},
		{"no privileges", stranger, "", []string{"the user lacks a privilege", "permission denied for table meta"}},
		{"may only read", reader, "", []string{"may not write"}},
		{"unreachable", strings.Replace(address, pg.Addr(), unreachable.Addr(), 1), "", []string{"cannot be reached", "stays in use"}},
		{"listening rejected", address + "&connect_timeout=9", strings.Replace(address, "tulip-1", "tulip-0", 1), []string{"to listen on", "password authentication failed"}},
		{"unreachable to listen on", address + "&connect_timeout=9", strings.Replace(address, pg.Addr(), unreachable.Addr(), 1), []string{"to listen on", "cannot be reached"}},
	} {
		err := s.Redirect(timeoutCtx(t), tt.address, tt.listen)
		t.Run(tt.name, func(t *testing.T) { expectRejected(t, err, tt.texts...) })
		if want, _ := newRoute(address, ""); s.Identity() != want.name || len(s.db.routes) != 1 {
			t.Fatalf("%s: the store uses %s", tt.name, s.Identity())
		}
	}
}

// TestUnauthorized checks that a rejected password is recognized, even in PgBouncer's own error messages.
func TestUnauthorized(t *testing.T) {
	for _, tt := range []struct {
		code, message string
		want          bool
	}{
		{"28P01", `password authentication failed for user "gate"`, true},
		{"28000", `role "gate" is not permitted to log in`, true},
		{"08P01", "SASL authentication failed", true},
		{"08P01", "password authentication failed", true},
		{"08P01", "server login has been failing, try again later (server_login_retry)", false},
		{"08P01", "no more connections allowed (max_client_conn)", false},
		{"57P03", "the database system is starting up", false},
	} {
		err := fmt.Errorf("connecting: %w", &pgconn.PgError{Code: tt.code, Message: tt.message})
		if unauthorized(err) != tt.want || serverRejected(err) != tt.want || connectionLost(err) == tt.want {
			t.Errorf("%s %s: unauthorized %v, rejected %v, lost %v", tt.code, tt.message, unauthorized(err), serverRejected(err), connectionLost(err))
		}
		if text := explain("trying", "postgres://gate@host/db", err).Error(); strings.Contains(text, "rejects the user") != tt.want {
			t.Errorf("%s %s: %s", tt.code, tt.message, text)
		}
	}
}

// TestRedirectToPgBouncer checks that a store can be redirected to a pooler and back. The store must
// receive notifications whenever the address to listen on leads to the server itself.
func TestRedirectToPgBouncer(t *testing.T) {
	url := testserver.PostgresURL(t)
	pooler := testserver.NewPgBouncer(t, url)
	s, other := openPostgres(t, url), openPostgres(t, url)
	p := s.db
	if err := s.Ping(timeoutCtx(t)); err != nil {
		t.Fatal(err)
	}
	stop := busy(t, s)
	defer stop()
	for _, way := range []struct {
		address, listen string
		notified        bool
	}{{pooler.Through(url), "", false}, {pooler.Through(url), url, true}, {url, "", true}} {
		if err := s.Redirect(timeoutCtx(t), way.address, way.listen); err != nil {
			t.Fatal(err)
		}
		if err := s.SetAddress(way.address, way.listen); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, "notifications arrive, or stop", func() bool { return p.notified.Load() == way.notified })
		expectNotified(t, s, other)
	}
}

// TestRedirectCorrectsPassword opens a store with a wrong password, so that the store never reaches its
// database. After a redirect with the right password the store must reach the database.
func TestRedirectCorrectsPassword(t *testing.T) {
	pg := testserver.NewPostgres(t)
	right := pg.Login("gate", "tulip-1")
	s := openPostgres(t, strings.Replace(right, "tulip-1", "tulip-0", 1))
	if err := s.Ping(timeoutCtx(t)); !errors.Is(err, gateway.ErrStore) {
		t.Fatalf("with a wrong password: %v", err)
	}
	expectRejected(t, s.Redirect(timeoutCtx(t), strings.Replace(right, "tulip-1", "tulip-2", 1), ""), "password authentication failed")
	if err := s.Redirect(timeoutCtx(t), right, ""); err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(timeoutCtx(t)); err != nil {
		t.Error(err)
	}
}
