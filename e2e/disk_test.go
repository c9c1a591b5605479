package e2e

import (
	"crypto/rand"
	"database/sql"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "modernc.org/sqlite"

	"github.com/keygate-dev/keygate/internal/testkit"
)

const diskPlans = `
		failures off
		pepper "of the disk's tests"
		plan free
		plan counted {
			quota 6/month
		}
		plan paid {
			credits
		}
		default_plan free
`

// diskSite is a gateway whose disk is about to fail, with keys of every kind.
type diskSite struct {
	*site
	known, counted, paid, revoked key
	// unused are keys that the gateway's process has not seen yet, in the order in which the test uses them.
	unused []key
	// made are the slugs of the tenants whose creation the API has acknowledged.
	made []string
}

// startDiskSite starts a gateway with its database in dir. If dir is "", the database is in the gateway's
// own directory. All keys except the unused ones have been used since the start.
func startDiskSite(t *testing.T, dir string) *diskSite {
	t.Helper()
	p := &diskSite{site: &site{gateway: prepare(t, written(t, caddyfile(diskPlans, "keygate")), newUpstream(t)), product: plain}}
	if dir != "" {
		p.database = filepath.Join(dir, "keygate.db")
		p.env = append(p.env, "KEYGATE_DB="+p.database)
	}
	p.gateway.start()
	p.tenant(t, "free", nil)
	p.tenant(t, "counted", record{"plan": "counted"})
	p.tenant(t, "paid", record{"plan": "paid", "credits": 6})
	p.known, p.counted, p.paid, p.revoked = p.key(t, "free", nil), p.key(t, "counted", nil), p.key(t, "paid", nil), p.key(t, "free", nil)
	for range 4 {
		p.unused = append(p.unused, p.key(t, "free", nil))
	}
	p.post(t, p.revoked, "revoke", record{})
	p.made = []string{"free", "counted", "paid"}
	p.restart()
	for _, k := range []key{p.known, p.counted, p.counted, p.paid, p.paid} {
		p.call(t, "GET", "/", k.full).passed()
	}
	p.call(t, "GET", "/", p.revoked.full).rejected(http.StatusUnauthorized)
	if p.degraded(t) {
		t.Fatal("degraded from the start")
	}
	return p
}

// create creates a tenant and reports whether the creation succeeded. The test accepts only one failure:
// the store does not answer.
func (p *diskSite) create(t *testing.T) bool {
	t.Helper()
	slug := fmt.Sprintf("made-%d", len(p.made))
	// The tenant's metadata is large, so that the disk becomes full soon.
	a := p.manage(t, "PUT", "/v1/tenants/"+slug, record{"metadata": record{"note": strings.Repeat(randomText(50), 60)}})
	switch a.status {
	case http.StatusCreated:
		p.made = append(p.made, slug)
		return true
	case http.StatusServiceUnavailable:
		a.problem("store_unavailable")
	default:
		t.Fatalf("creating a tenant answered %d %s", a.status, a.body)
	}
	return false
}

// createUntilRejected creates tenants until the store fails.
func (p *diskSite) createUntilRejected(t *testing.T) {
	t.Helper()
	for range 5000 {
		if !p.create(t) {
			return
		}
	}
	t.Fatal("the store does not fail")
}

// degraded returns whether the gateway is degraded. It waits until the metric and the status
// agree.
func (p *diskSite) degraded(t *testing.T) bool {
	t.Helper()
	var metric bool
	testkit.Eventually(t, "the metric and the status agree", func() bool {
		metric = first(t, p.pprof(t, "/metrics"), `(?m)^keygate_degraded (\d)`) == 1
		return p.read(t, "/v1/status")["degraded"] == metric
	})
	return metric
}

// keepsServing checks that each response is right while the store fails. Known keys must keep their state,
// and no valid key may be rejected as invalid. readable states whether the store can be read.
func (p *diskSite) keepsServing(t *testing.T, readable bool) {
	t.Helper()
	p.call(t, "GET", "/", p.known.full).passed()
	p.call(t, "GET", "/", p.revoked.full).rejected(http.StatusUnauthorized).problem("revoked_key")
	p.call(t, "GET", "/", "").rejected(http.StatusUnauthorized).problem("missing_key")
	p.call(t, "GET", "/", p.known.full+"0").rejected(http.StatusUnauthorized).problem("malformed_key")
	// The test has already spent two of the six units of the quota.
	for range 4 {
		p.call(t, "GET", "/", p.counted.full).passed()
		p.call(t, "GET", "/", p.paid.full).passed()
	}
	p.call(t, "GET", "/", p.counted.full).rejected(http.StatusTooManyRequests).problem("quota_exceeded")
	if a := p.call(t, "GET", "/", p.paid.full); a.status != http.StatusPaymentRequired && a.status != http.StatusServiceUnavailable {
		t.Errorf("a balance that is used up: %d %s", a.status, a.body)
	}
	unused := p.unused[0]
	p.unused = p.unused[1:]
	switch a := p.call(t, "GET", "/", unused.full); {
	case a.status == http.StatusOK:
	case readable:
		t.Errorf("a key that can be read: %d %s", a.status, a.body)
	default:
		a.rejected(http.StatusServiceUnavailable).problem("unavailable")
	}
	if a := p.call(t, "GET", "/", p.unknown()); a.status != http.StatusUnauthorized && a.status != http.StatusServiceUnavailable {
		t.Errorf("an unknown key: %d %s", a.status, a.body)
	}
	// The gateway can still check keys, so the readiness check must succeed.
	p.send(t, "GET", "/readyz", "").want(http.StatusOK)
}

// reportsFailure checks that the metric and the status report the failure of the store.
func (p *diskSite) reportsFailure(t *testing.T) {
	t.Helper()
	testkit.Eventually(t, "the gateway reports that it is degraded", func() bool { return p.degraded(t) })
	if len(p.read(t, "/v1/status").list("problems")) == 0 {
		t.Error("degraded, but no problem is named")
	}
}

// recovers checks that the gateway recovers without a restart, and that the store has lost nothing, both
// before and after a restart.
func (p *diskSite) recovers(t *testing.T) {
	t.Helper()
	testkit.Eventually(t, "the first change after the failure", func() bool { return p.create(t) })
	for _, k := range p.unused {
		p.call(t, "GET", "/", k.full).passed()
	}
	testkit.Eventually(t, "the gateway is no longer degraded", func() bool { return !p.degraded(t) })
	for range 2 {
		slugs := map[string]bool{}
		for _, r := range p.all(t, "/v1/tenants") {
			slugs[r.text("slug")] = true
		}
		for _, slug := range p.made {
			if !slugs[slug] {
				t.Errorf("tenant %s is missing", slug)
			}
		}
		if r := p.read(t, "/v1/audit/verify"); r["intact"] != true {
			t.Errorf("the audit chain: %v", r)
		}
		p.call(t, "GET", "/", p.known.full).passed()
		p.call(t, "GET", "/", p.counted.full).rejected(http.StatusTooManyRequests)
		p.call(t, "GET", "/", p.paid.full).rejected(http.StatusPaymentRequired)
		p.call(t, "GET", "/", p.revoked.full).rejected(http.StatusUnauthorized).problem("revoked_key")
		if n := p.balance(t, "paid"); n != 0 {
			t.Errorf("the balance is %d", n)
		}
		p.restart()
	}
}

// logged waits until the gateway's log contains the given words.
func (p *diskSite) logged(t *testing.T, words string) {
	t.Helper()
	testkit.Eventually(t, "a log line with "+words, func() bool { return strings.Contains(p.log(), words) })
}

// TestDiskLocked lets another process lock the store. The gateway must serve known keys and recover.
func TestDiskLocked(t *testing.T) {
	t.Parallel()
	p := startDiskSite(t, "")
	db, err := sql.Open("sqlite", "file:"+p.database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := db.Exec(`PRAGMA busy_timeout = 10000`); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`BEGIN EXCLUSIVE`); err != nil {
		t.Fatal(err)
	}
	p.keepsServing(t, true)
	p.reportsFailure(t)
	// A reload needs no write to the store.
	p.reload(t, caddyfile(diskPlans, "keygate\n\theader X-Version 2"))
	p.call(t, "GET", "/", p.known.full).passed()
	if p.create(t) {
		t.Fatal("a tenant was created although the database is locked")
	}
	p.logged(t, "is locked by another process")
	if _, err := db.Exec(`ROLLBACK`); err != nil {
		t.Fatal(err)
	}
	p.recovers(t)
	// The log reports the beginning and the end of the failure once each, however many reads succeed in
	// between.
	for _, words := range []string{"the store cannot be written: keys go on working", "the store can be written again"} {
		if n := strings.Count(p.log(), words); n != 1 {
			t.Errorf("the log has %d lines with %q", n, words)
		}
	}
}

// files returns the paths of the database's files.
func (p *diskSite) files(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(p.database + "*")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	return files
}

// TestDiskRemoved moves the files of the store to another directory, and puts them back.
func TestDiskRemoved(t *testing.T) {
	t.Parallel()
	p := startDiskSite(t, "")
	elsewhere := t.TempDir()
	files := p.files(t)
	for _, f := range files {
		if err := os.Rename(f, filepath.Join(elsewhere, filepath.Base(f))); err != nil {
			t.Fatal(err)
		}
	}
	if p.create(t) {
		t.Fatal("a tenant was created although the database file is missing")
	}
	p.keepsServing(t, false)
	p.reportsFailure(t)
	p.logged(t, "is gone: put it back, or restore a backup there")
	for _, f := range files {
		if err := os.Rename(filepath.Join(elsewhere, filepath.Base(f)), f); err != nil {
			t.Fatal(err)
		}
	}
	p.recovers(t)
}

// backup waits until the gateway has written all spending, and returns a copy of the store. Later spending
// would be lost when the damaged store is restored from the copy.
func (p *diskSite) backup(t *testing.T) string {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+p.database+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	testkit.Eventually(t, "what was spent is written", func() bool {
		var balance, used int
		err := db.QueryRow(`SELECT credits, (SELECT max(used) FROM quota_counts) FROM tenants WHERE slug = 'paid'`).Scan(&balance, &used)
		return err == nil && balance == 4 && used == 2
	})
	to := filepath.Join(filepath.Dir(p.database), "backup")
	if _, err := db.Exec(`VACUUM INTO $1`, to); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(to, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestDiskCorrupt overwrites the files of the open store, and then restores the store from a backup.
func TestDiskCorrupt(t *testing.T) {
	t.Parallel()
	p := startDiskSite(t, "")
	backup := p.backup(t)
	for _, f := range p.files(t) {
		if strings.HasSuffix(f, "-shm") {
			continue
		}
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		file, err := os.OpenFile(f, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		rubbish := make([]byte, info.Size())
		_, _ = rand.Read(rubbish)
		_, err = file.Write(rubbish)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, "a write meets the damage", func() bool { return !p.create(t) })
	// Tenants that were written to the damaged store are lost.
	p.made = p.made[:3]
	p.keepsServing(t, false)
	p.reportsFailure(t)
	p.logged(t, "is damaged: restore a backup")
	if err := os.Rename(backup, p.database); err != nil {
		t.Fatal(err)
	}
	p.recovers(t)
}

// TestDiskRestored replaces the files of an intact store by a backup while the gateway runs. From then on
// the gateway must use the data of the backup.
func TestDiskRestored(t *testing.T) {
	t.Parallel()
	p := startDiskSite(t, "")
	backup := p.backup(t)
	later := p.key(t, "free", nil)
	p.call(t, "GET", "/", later.full).passed()
	if !p.create(t) {
		t.Fatal("the tenant was not created")
	}
	if err := os.Rename(backup, p.database); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "a key that the backup does not contain is rejected", func() bool {
		return p.call(t, "GET", "/", later.full).status == http.StatusUnauthorized
	})
	p.made = p.made[:3]
	for range 4 {
		p.call(t, "GET", "/", p.counted.full).passed()
		p.call(t, "GET", "/", p.paid.full).passed()
	}
	p.logged(t, "the store is older than at this gateway's last read")
	p.recovers(t)
}
