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

	"github.com/keygate-dev/keygate/internal/testserver"
	"github.com/keygate-dev/keygate/plugin/gateway"
)

// busy reads and writes until stop is called, which fails the test where anything failed meanwhile.
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
					// What is begun is ended: only what the store itself breaks off counts.
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

// backends returns the server's processes that serve the roles called gate, as s does.
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

// expectClosed waits until none of the processes serves s.
func expectClosed(t *testing.T, s *Store, pids []int) {
	t.Helper()
	waitUntil(t, "the former connections end", func() bool {
		return !slices.ContainsFunc(backends(t, s), func(pid int) bool { return slices.Contains(pids, pid) })
	})
}

// expectRejected wants an error that holds the words, and no secret.
func expectRejected(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("it was taken")
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
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
	waitUntil(t, "the server tells of changes", p.notified.Load)
	stop := busy(t, s)

	// Another password, which the server has already.
	pg.Exec("ALTER ROLE gate PASSWORD 'tulip-2'")
	second := strings.Replace(first, "tulip-1", "tulip-2", 1)
	expectRejected(t, s.Redirect(timeoutCtx(t), strings.Replace(first, "tulip-1", "tulip-0", 1), ""), "refuses the user or the password", "password authentication failed for user \"gate\"")
	before := backends(t, s)
	if err := s.Redirect(timeoutCtx(t), second, ""); err != nil {
		t.Fatal(err)
	}
	if after := backends(t, s); !slices.ContainsFunc(after, func(pid int) bool { return slices.Contains(before, pid) }) {
		t.Errorf("connections were given up before that was settled: %v, then %v", before, after)
	}
	if err := s.SetAddress(second, ""); err != nil {
		t.Fatal(err)
	}
	expectClosed(t, s, before)
	waitUntil(t, "the server tells of changes again", p.notified.Load)
	expectNotified(t, s, openPostgres(t, pg.URL()))

	// Another user, by another address, which is taken back.
	proxy := testserver.NewProxy(t, pg.Addr())
	third := strings.Replace(pg.Login("gate2", "tulip-3", "gate"), pg.Addr(), proxy.Addr(), 1)
	before = backends(t, s)
	if err := s.Redirect(timeoutCtx(t), third, ""); err != nil {
		t.Fatal(err)
	}
	if id := s.Identity(); !strings.Contains(id, "gate2@") || strings.Contains(id, "tulip") {
		t.Errorf("it is called %s", id)
	}
	if err := s.SetAddress(second, ""); err != nil {
		t.Fatal(err)
	}
	if after := backends(t, s); !slices.ContainsFunc(after, func(pid int) bool { return slices.Contains(before, pid) }) {
		t.Errorf("taking it back gave up what was there: %v, then %v", before, after)
	}
	waitUntil(t, "nothing is connected by what was taken back", func() bool { return proxy.Connections() == 0 })
	// And is not.
	if err := errors.Join(s.Redirect(timeoutCtx(t), third, second), s.SetAddress(third, second)); err != nil {
		t.Fatal(err)
	}
	expectClosed(t, s, before)
	stop()

	// Neither answers: the new one is waited for.
	pg.Kill()
	if err := s.Redirect(timeoutCtx(t), second, ""); err != nil {
		t.Fatal(err)
	}
	if err := s.SetAddress(second, ""); err != nil {
		t.Fatal(err)
	}
	pg.Start()
	waitUntil(t, "it is there again", func() bool { return s.Ping(timeoutCtx(t)) == nil })
	if n := proxy.Connections(); n != 0 {
		t.Errorf("%d connections by the former address", n)
	}
}

func TestRedirectRefused(t *testing.T) {
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
	nobody := testserver.NewProxy(t, "127.0.0.1:1")
	nobody.Refuse()
	for _, tt := range []struct {
		name, address, listen string
		words                 []string
	}{
		{"unreadable", "postgres://gate:tulip-1@[/", "", []string{"can't be read"}},
		{"another store", other, "", []string{"/other is not the store in use", "restart"}},
		{"no store", strings.Replace(pg.URL(), "/postgres?", "/empty?", 1), "", []string{"/empty is not the store in use"}},
		{"another schema", address + "&search_path=hidden", "", []string{"search_path=hidden is not the store in use"}},
		{"no database", strings.Replace(address, "/postgres?", "/none?", 1), "", []string{"no such database", `"none" does not exist`}},
		{"no privileges", stranger, "", []string{"the user may not do that", "permission denied for table meta"}},
		{"may only read", reader, "", []string{"may not write"}},
		{"nobody there", strings.Replace(address, pg.Addr(), nobody.Addr(), 1), "", []string{"cannot be reached", "stays in use"}},
		{"listening refused", address + "&connect_timeout=9", strings.Replace(address, "tulip-1", "tulip-0", 1), []string{"to listen on", "password authentication failed"}},
		{"nobody to listen to", address + "&connect_timeout=9", strings.Replace(address, pg.Addr(), nobody.Addr(), 1), []string{"to listen on", "cannot be reached"}},
	} {
		err := s.Redirect(timeoutCtx(t), tt.address, tt.listen)
		t.Run(tt.name, func(t *testing.T) { expectRejected(t, err, tt.words...) })
		if want, _ := newRoute(address, ""); s.Identity() != want.name || len(s.db.routes) != 1 {
			t.Fatalf("%s: it went over to %s", tt.name, s.Identity())
		}
	}
}

// PgBouncer says that a password is wrong in its own way.
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
			t.Errorf("%s %s: unauthorized %v, refuses %v, lost %v", tt.code, tt.message, unauthorized(err), serverRejected(err), connectionLost(err))
		}
		if said := explain("trying", "postgres://gate@host/db", err).Error(); strings.Contains(said, "refuses the user") != tt.want {
			t.Errorf("%s %s: %s", tt.code, tt.message, said)
		}
	}
}

// By way of a pooler and back, with changes told of as the address allows.
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
		told            bool
	}{{pooler.Through(url), "", false}, {pooler.Through(url), url, true}, {url, "", true}} {
		if err := s.Redirect(timeoutCtx(t), way.address, way.listen); err != nil {
			t.Fatal(err)
		}
		if err := s.SetAddress(way.address, way.listen); err != nil {
			t.Fatal(err)
		}
		waitUntil(t, "changes are told of, or not", func() bool { return p.notified.Load() == way.told })
		expectNotified(t, s, other)
	}
}

// A store that was never reached, as its password was wrong, is reached when that is mended.
func TestRedirectMends(t *testing.T) {
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
