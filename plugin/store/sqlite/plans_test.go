package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/keygate-dev/keygate/plugin/apikey"
)

// Without statistics, SQLite uses any index whose first column is compared. That column may be the
// keyspace, which is often the same in all rows. Such a statement passes every test, but takes seconds
// with a million keys. Therefore all tests of this package run through a driver that explains the query
// plan of each statement once. The list wholeReads must name the statements that read a whole table or
// keyspace.

const explainedDriver = "sqlite explained"

// explained holds the query plans of all statements that ran, by the statement's text.
var explained struct {
	sync.Mutex
	plans map[string][]string
}

func init() {
	explained.plans = map[string][]string{}
	db, err := sql.Open(driverName, ":memory:")
	if err != nil {
		panic(err)
	}
	sql.Register(explainedDriver, explaining{db.Driver()})
	driverName = explainedDriver
}

type explaining struct{ driver.Driver }

func (d explaining) Open(name string) (driver.Conn, error) {
	c, err := d.Driver.Open(name)
	if err != nil {
		return nil, err
	}
	return &explainedConn{c.(sqliteConn)}, nil
}

// sqliteConn lists the interfaces of the driver's connection that database/sql uses.
type sqliteConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

type explainedConn struct{ sqliteConn }

func (c *explainedConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	c.explain(query)
	return c.sqliteConn.PrepareContext(ctx, query)
}

func (c *explainedConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	c.explain(query)
	return c.sqliteConn.ExecContext(ctx, query, args)
}

func (c *explainedConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	c.explain(query)
	return c.sqliteConn.QueryContext(ctx, query, args)
}

var (
	statement = regexp.MustCompile(`^\s*(?i:SELECT|INSERT|UPDATE|DELETE|WITH)\b`)
	marks     = regexp.MustCompile(`\$\d+`)
	spaces    = regexp.MustCompile(`\s+`)
)

func (c *explainedConn) explain(query string) {
	if !statement.MatchString(query) {
		return
	}
	text := strings.TrimSpace(spaces.ReplaceAllString(query, " "))
	explained.Lock()
	_, known := explained.plans[text]
	explained.Unlock()
	if known {
		return
	}
	// The query plan does not depend on the arguments of the statement.
	var args []driver.NamedValue
	for i := range slices.Compact(slices.Sorted(slices.Values(marks.FindAllString(query, -1)))) {
		args = append(args, driver.NamedValue{Ordinal: i + 1})
	}
	rows, err := c.sqliteConn.QueryContext(context.Background(), "EXPLAIN QUERY PLAN "+query, args)
	if err != nil {
		return // The driver ignores the error, because the caller runs the statement itself and gets the error.
	}
	defer rows.Close()
	var plan []string
	for row := make([]driver.Value, 4); rows.Next(row) == nil; {
		plan = append(plan, fmt.Sprint(row[3]))
	}
	explained.Lock()
	defer explained.Unlock()
	explained.plans[text] = plan
}

var (
	// whole matches steps of a query plan that read a whole table, or all rows of one keyspace.
	whole = regexp.MustCompile(`^SCAN |\(keyspace=\?\)$`)
	// small matches steps of a query plan on tables whose size does not depend on the number of keys.
	small = regexp.MustCompile(`CONSTANT ROW|VALUES CLAUSE|^SCAN (portal_links|usage_writers|peppers|sqlite_schema|w|l|m|made)\b|` +
		`^SEARCH (sessions|tokens|w) `)
)

// wholeReads are the beginnings of statements that read a whole table or keyspace on purpose.
var wholeReads = []string{
	// A replica or a restore reads all revocations.
	"SELECT keyspace, slug, created_at, deleted_at, updated_at FROM tenants WHERE active = 0", "SELECT keyspace, id, revoked_at, deleted_at, updated_at FROM keys",
	"SELECT s.keyspace, s.id, k.id, s.expires_at FROM secrets", "SELECT keyspace, id, revoked_at FROM tokens WHERE revoked_at",
	"SELECT action, keyspace, id, key_id, created, at, actor, absent_since FROM refused ORDER BY num",
	"SELECT digest FROM secrets WHERE keyspace", // The query reads all digests to fill the filter of known digests.
	"SELECT plan, count(*) FROM tenants",        // The query counts tenants by plan for the console's overview.
	"INSERT INTO keys ",                         // SQLite runs this scan only while a foreign key is violated.
}

// unexpectedReads returns the statements that read a whole table or keyspace and are not in wholeReads.
// It skips statements with a LIMIT, because they read one page in the order of an index. It also skips
// ordered lists without a LIMIT: exports, backups and the verification of the audit chain stream them.
func unexpectedReads() (out []string) {
	explained.Lock()
	defer explained.Unlock()
	for _, text := range slices.Sorted(maps.Keys(explained.plans)) {
		steps := explained.plans[text]
		sorted := slices.Contains(steps, "USE TEMP B-TREE FOR ORDER BY")
		if !sorted && (strings.Contains(text, " LIMIT ") || strings.Contains(text, " ORDER BY ")) ||
			slices.ContainsFunc(wholeReads, func(w string) bool { return strings.HasPrefix(text, w) }) {
			continue
		}
		for _, step := range steps {
			if whole.MatchString(step) && !small.MatchString(step) {
				out = append(out, step+": "+text)
			}
		}
	}
	return out
}

func TestSecretDigests(t *testing.T) {
	t.Parallel()
	s := openTest(t, filepath.Join(t.TempDir(), "keygate.db"))
	fillKeys(t, s, 0, 5)
	got, err := s.SecretDigests(t.Context(), ks, keyOf(1), keyOf(3), keyOf(9))
	if err != nil {
		t.Fatal(err)
	}
	found := map[apikey.Digest]bool{}
	for _, d := range got {
		found[apikey.Digest(d)] = true
	}
	if want := map[apikey.Digest]bool{digestOf(1): true, digestOf(3): true}; len(got) != 2 || !maps.Equal(found, want) {
		t.Errorf("the digests are %x", got)
	}
	if got, err := s.SecretDigests(t.Context(), "other", keyOf(1), keyOf(3)); err != nil || len(got) > 0 {
		t.Errorf("%x, %v in a keyspace that does not have the keys", got, err)
	}
}
