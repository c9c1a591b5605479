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

// patient is a gateway whose disk is about to fail, with keys of every kind.
type patient struct {
	*site
	known, counted, paid, revoked key
	// unused was never seen by the process; first is the next of them.
	unused []key
	// made are the slugs of tenants that the API said it had made.
	made []string
}

// admit makes it, in the directory, "" for its own: every key but the unused ones was
// used since the start.
func admit(t *testing.T, dir string) *patient {
	t.Helper()
	p := &patient{site: &site{gateway: prepare(t, written(t, caddyfile(diskPlans, "keygate")), newUpstream(t)), product: plain}}
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
	p.call(t, "GET", "/", p.revoked.full).refused(http.StatusUnauthorized)
	if p.degraded(t) {
		t.Fatal("degraded from the start")
	}
	return p
}

// create asks for a tenant and reports whether it was made; the only other answer is that
// the store does not answer.
func (p *patient) create(t *testing.T) bool {
	t.Helper()
	slug := fmt.Sprintf("made-%d", len(p.made))
	// Large, so that a full disk is met soon.
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

// untilRefused creates tenants until the store fails.
func (p *patient) untilRefused(t *testing.T) {
	t.Helper()
	for range 5000 {
		if !p.create(t) {
			return
		}
	}
	t.Fatal("the store does not fail")
}

// degraded says what the metric and the status say, which must agree before long.
func (p *patient) degraded(t *testing.T) bool {
	t.Helper()
	var metric bool
	testkit.Eventually(t, "agreement of metric and status", func() bool {
		metric = first(t, p.pprof(t, "/metrics"), `(?m)^keygate_degraded (\d)`) == 1
		return p.read(t, "/v1/status")["degraded"] == metric
	})
	return metric
}

// goesOn checks, while the store fails, that every answer is right: keys that are known
// go on as they stand, and nobody is told that a good key is bad. readable says that
// the store can be read.
func (p *patient) goesOn(t *testing.T, readable bool) {
	t.Helper()
	p.call(t, "GET", "/", p.known.full).passed()
	p.call(t, "GET", "/", p.revoked.full).refused(http.StatusUnauthorized).problem("revoked_key")
	p.call(t, "GET", "/", "").refused(http.StatusUnauthorized).problem("missing_key")
	p.call(t, "GET", "/", p.known.full+"0").refused(http.StatusUnauthorized).problem("malformed_key")
	// Two of six were spent before.
	for range 4 {
		p.call(t, "GET", "/", p.counted.full).passed()
		p.call(t, "GET", "/", p.paid.full).passed()
	}
	p.call(t, "GET", "/", p.counted.full).refused(http.StatusTooManyRequests).problem("quota_exceeded")
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
		a.refused(http.StatusServiceUnavailable).problem("unavailable")
	}
	if a := p.call(t, "GET", "/", p.unknown()); a.status != http.StatusUnauthorized && a.status != http.StatusServiceUnavailable {
		t.Errorf("an unknown key: %d %s", a.status, a.body)
	}
	// Keys can be judged, so requests may be sent here.
	p.send(t, "GET", "/readyz", "").want(http.StatusOK)
}

// saysSo checks that metric and status tell of the failure.
func (p *patient) saysSo(t *testing.T) {
	t.Helper()
	testkit.Eventually(t, "that it says so", func() bool { return p.degraded(t) })
	if len(p.read(t, "/v1/status").list("problems")) == 0 {
		t.Error("degraded, but no problem is named")
	}
}

// recovers checks that it gets over it without a restart, and that nothing was lost,
// over a restart neither.
func (p *patient) recovers(t *testing.T) {
	t.Helper()
	testkit.Eventually(t, "the first change after it", func() bool { return p.create(t) })
	for _, k := range p.unused {
		p.call(t, "GET", "/", k.full).passed()
	}
	testkit.Eventually(t, "the end of being degraded", func() bool { return !p.degraded(t) })
	for range 2 {
		slugs := map[string]bool{}
		for _, r := range p.all(t, "/v1/tenants") {
			slugs[r.text("slug")] = true
		}
		for _, slug := range p.made {
			if !slugs[slug] {
				t.Errorf("tenant %s is gone", slug)
			}
		}
		if r := p.read(t, "/v1/audit/verify"); r["intact"] != true {
			t.Errorf("the audit chain: %v", r)
		}
		p.call(t, "GET", "/", p.known.full).passed()
		p.call(t, "GET", "/", p.counted.full).refused(http.StatusTooManyRequests)
		p.call(t, "GET", "/", p.paid.full).refused(http.StatusPaymentRequired)
		p.call(t, "GET", "/", p.revoked.full).refused(http.StatusUnauthorized).problem("revoked_key")
		if n := p.balance(t, "paid"); n != 0 {
			t.Errorf("the balance is %d", n)
		}
		p.restart()
	}
}

// logged checks that the log says what is wrong and what to do.
func (p *patient) logged(t *testing.T, words string) {
	t.Helper()
	testkit.Eventually(t, "a line that says "+words, func() bool { return strings.Contains(p.log(), words) })
}

// Another process holds the store for itself.
func TestDiskLocked(t *testing.T) {
	t.Parallel()
	p := admit(t, "")
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
	p.goesOn(t, true)
	p.saysSo(t)
	// A configuration can be changed without writing to the store.
	p.reload(t, caddyfile(diskPlans, "keygate\n\theader X-Version 2"))
	p.call(t, "GET", "/", p.known.full).passed()
	if p.create(t) {
		t.Fatal("written in spite of the lock")
	}
	p.logged(t, "is locked by another process")
	if _, err := db.Exec(`ROLLBACK`); err != nil {
		t.Fatal(err)
	}
	p.recovers(t)
	// It is said once that it began and once that it ended, whatever was read meanwhile.
	for _, words := range []string{"the store cannot be written: keys go on working", "the store can be written again"} {
		if n := strings.Count(p.log(), words); n != 1 {
			t.Errorf("the log says %d times that %s", n, words)
		}
	}
}

// files are the database's.
func (p *patient) files(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(p.database + "*")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	return files
}

// The store's files are moved away, and put back.
func TestDiskRemoved(t *testing.T) {
	t.Parallel()
	p := admit(t, "")
	away := t.TempDir()
	files := p.files(t)
	for _, f := range files {
		if err := os.Rename(f, filepath.Join(away, filepath.Base(f))); err != nil {
			t.Fatal(err)
		}
	}
	if p.create(t) {
		t.Fatal("written to a file that is gone")
	}
	p.goesOn(t, false)
	p.saysSo(t)
	p.logged(t, "is gone: put it back, or restore a backup there")
	for _, f := range files {
		if err := os.Rename(filepath.Join(away, filepath.Base(f)), f); err != nil {
			t.Fatal(err)
		}
	}
	p.recovers(t)
}

// backup returns a copy of the store as it is, once what was spent is written: between that and a
// damage it would be neither in the backup nor in memory.
func (p *patient) backup(t *testing.T) string {
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

// The store is overwritten while it is open, and restored from a backup.
func TestDiskCorrupt(t *testing.T) {
	t.Parallel()
	p := admit(t, "")
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
	testkit.Eventually(t, "the damage to be met", func() bool { return !p.create(t) })
	// What was written to what was rubbish already is nowhere.
	p.made = p.made[:3]
	p.goesOn(t, false)
	p.saysSo(t)
	p.logged(t, "is damaged: restore a backup")
	if err := os.Rename(backup, p.database); err != nil {
		t.Fatal(err)
	}
	p.recovers(t)
}

// A backup takes the place of a store that is in order: what it holds counts from then on.
func TestDiskRestored(t *testing.T) {
	t.Parallel()
	p := admit(t, "")
	backup := p.backup(t)
	later := p.key(t, "free", nil)
	p.call(t, "GET", "/", later.full).passed()
	if !p.create(t) {
		t.Fatal("not made")
	}
	if err := os.Rename(backup, p.database); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the end of a key that the backup does not know", func() bool {
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
