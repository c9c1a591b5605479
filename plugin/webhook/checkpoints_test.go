package webhook_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/internal/testkit"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/checkpoints"
	"github.com/keygate-dev/keygate/plugin/management/events"
	"github.com/keygate-dev/keygate/plugin/webhook"
)

// signing returns a manager of the fixture's store that signs checkpoints under a secret. With ""
// it signs none.
func (w *fixture) signing(secret string) *management.Manager {
	w.t.Helper()
	c := management.Config{Store: w.store, Engine: w.gw, View: func() *gateway.View { return w.view }, Now: w.clock.Now, Logger: w.log}
	if secret != "" {
		vault := testkit.Must[*webhook.Vault](w.t)(webhook.NewVault(secret))
		c.Signer = func() audit.Signer { return vault }
	}
	return management.New(c)
}

// intruder can write to the store's file, and knows how the chain is made.
type intruder struct {
	t  *testing.T
	db *sql.DB
}

func (w *fixture) intruder() intruder {
	w.t.Helper()
	db := testkit.Must[*sql.DB](w.t)(sql.Open("sqlite", "file:"+w.path+"?_pragma=busy_timeout(20000)"))
	w.t.Cleanup(func() { _ = db.Close() })
	i := intruder{w.t, db}
	for _, trigger := range []string{"audit_insert", "audit_delete", "audit_update"} {
		i.exec("DROP TRIGGER " + trigger)
	}
	return i
}

func (i intruder) exec(query string, args ...any) {
	i.t.Helper()
	if _, err := i.db.Exec(query, args...); err != nil {
		i.t.Fatal(err)
	}
}

// rehash computes all hashes of the altered chain again, as the manual describes.
func (i intruder) rehash() {
	i.t.Helper()
	type row struct {
		seq, at       int64
		fields        [5]string // values of id, keyspace, action, target and tenant
		key, via      string
		before, after sql.NullString
		personal      []byte
	}
	var list []row
	rows, err := i.db.Query(`SELECT seq, at, id, keyspace, action, target, tenant, key_id, via, before, after, personal_hash FROM audit ORDER BY seq`)
	if err != nil {
		i.t.Fatal(err)
	}
	for rows.Next() {
		var r row
		f := &r.fields
		if err := rows.Scan(&r.seq, &r.at, &f[0], &f[1], &f[2], &f[3], &f[4], &r.key, &r.via, &r.before, &r.after, &r.personal); err != nil {
			i.t.Fatal(err)
		}
		list = append(list, r)
	}
	if err := rows.Err(); err != nil {
		i.t.Fatal(err)
	}
	var prev []byte
	for _, r := range list {
		h := sha256.New()
		h.Write(prev)
		for _, part := range []string{
			"keygate audit 1", strconv.FormatInt(r.seq, 10), r.fields[0], r.fields[1], time.UnixMicro(r.at).UTC().Format("2006-01-02T15:04:05.000000Z"),
			r.fields[2], r.fields[3], r.fields[4], r.key, r.via, r.before.String, r.after.String, string(r.personal),
		} {
			var n [8]byte
			binary.BigEndian.PutUint64(n[:], uint64(len(part)))
			h.Write(n[:])
			h.Write([]byte(part))
		}
		hash := h.Sum(nil)
		i.exec(`UPDATE audit SET prev = ?, hash = ? WHERE seq = ?`, prev, hash, r.seq)
		prev = hash
	}
}

const (
	firstSecret  = "correct horse battery staple"
	secondSecret = "staple battery horse correct"
)

// A checkpoint that was kept outside the store shows changes of the chain that the chain alone
// does not show.
func TestCheckpoints(t *testing.T) {
	type checkpoint = audit.Checkpoint
	filled := func(t *testing.T) *fixture {
		w := newFixture(t)
		w.tenant("acme", "pro")
		w.key("acme")
		w.key("acme")
		w.tenant("zeta", "pro")
		return w
	}
	untouched := filled(t)
	for name, c := range map[string]struct {
		secret, later string // secret signs the checkpoint; later is the secret with which it is verified.
		alone         bool   // whether the chain alone verifies afterwards
		tamper        func(intruder)
		forge         func(*checkpoint)
		trusted       bool // whether the caller trusts the checkpoint's public key
		problem       string
	}{
		"nothing":              {secret: firstSecret, later: firstSecret, alone: true},
		"goes on":              {secret: firstSecret, later: firstSecret, alone: true},
		"cut off":              {firstSecret, firstSecret, true, func(i intruder) { i.exec("DELETE FROM audit WHERE seq > 2") }, nil, false, "cut off"},
		"emptied":              {firstSecret, firstSecret, true, func(i intruder) { i.exec("DELETE FROM audit") }, nil, false, "ends with event 0"},
		"rewritten":            {firstSecret, firstSecret, true, func(i intruder) { i.exec("UPDATE audit SET action = 'x' WHERE seq = 2"); i.rehash() }, nil, false, "was rewritten"},
		"rewritten, no secret": {"", "", true, func(i intruder) { i.exec("UPDATE audit SET action = 'x' WHERE seq = 2"); i.rehash() }, nil, false, "was rewritten"},
		"moved to a keyspace": {firstSecret, firstSecret, true, func(i intruder) { i.exec("UPDATE audit SET keyspace = 'other' WHERE seq = 2"); i.rehash() },
			nil, false, "was rewritten"},
		"changed, hashes left": {firstSecret, firstSecret, false, func(i intruder) { i.exec("UPDATE audit SET target = 'x' WHERE seq = 2") }, nil, false, "was changed"},
		"another count":        {firstSecret, firstSecret, true, nil, func(h *checkpoint) { h.Events-- }, false, "don't belong together"},
		"another time":         {firstSecret, firstSecret, true, nil, func(h *checkpoint) { h.At = h.At.Add(time.Second) }, false, "don't belong together"},
		"signature changed":    {firstSecret, firstSecret, true, nil, func(h *checkpoint) { h.Signature[0] ^= 1 }, false, "don't belong together"},
		"signature removed":    {firstSecret, firstSecret, true, nil, func(h *checkpoint) { h.Signature, h.PublicKey, h.KeyID = nil, nil, nil }, false, "its signature was removed"},
		"another store":        {"", "", true, nil, func(h *checkpoint) { h.Store = strings.Repeat("0", 32) }, false, "another store"},
		"count, not signed":    {"", "", true, nil, func(h *checkpoint) { h.Events++ }, false, "the chain has 4"},
		"secret replaced":      {firstSecret, secondSecret, true, nil, nil, false, "not this gateway's"},
		"old key trusted":      {firstSecret, secondSecret, true, nil, nil, true, ""},
		"secret removed":       {firstSecret, "", true, nil, nil, false, "no key here"},
		"secret added later":   {"", firstSecret, true, nil, nil, false, "no signature"},
		"signed by another key": {firstSecret, firstSecret, true, nil, func(h *checkpoint) {
			public, private, err := ed25519.GenerateKey(nil)
			if err != nil {
				panic(err)
			}
			id := audit.KeyID(public)
			h.KeyID, h.PublicKey, h.Signature = &id, public, ed25519.Sign(private, []byte("x"))
		}, false, "not this gateway's"},
	} {
		t.Run(name, func(t *testing.T) {
			w := untouched
			if c.tamper != nil || name == "goes on" {
				w = filled(t)
			}
			kept := testkit.Must[checkpoint](t)(checkpoints.Current(ctx, w.signing(c.secret), ada, "default"))
			if kept.Seq != 4 || kept.Events != 4 || (len(kept.Signature) == ed25519.SignatureSize) != (c.secret != "") {
				t.Fatalf("checkpoint %+v", kept)
			}
			// An auditor keeps the checkpoint as JSON.
			b, err := json.Marshal(kept)
			if err != nil {
				t.Fatal(err)
			}
			kept = checkpoint{}
			if err := json.Unmarshal(b, &kept); err != nil {
				t.Fatal(err)
			}
			if name == "goes on" {
				w.key("acme")
			}
			if c.tamper != nil {
				c.tamper(w.intruder())
			}
			if c.forge != nil {
				c.forge(&kept)
			}
			var trusted []ed25519.PublicKey
			if c.trusted {
				trusted = append(trusted, kept.PublicKey)
			}
			m := w.signing(c.later)
			if r := testkit.Must[audit.Report](t)(m.VerifyAudit(ctx)); r.Intact != c.alone {
				t.Errorf("the chain alone: %+v, want intact %t", r, c.alone)
			}
			r := testkit.Must[audit.Report](t)(checkpoints.Verify(ctx, m, []checkpoint{kept}, trusted))
			if r.Intact != (c.problem == "") || !strings.Contains(strings.Join(r.Problems, "\n"), c.problem) {
				t.Errorf("%+v, want the problem %q", r, c.problem)
			}
			if wantSigned := c.problem == "" && c.secret != ""; r.Checkpoints != 1 || (r.Signed == 1) != (wantSigned || c.tamper != nil && c.secret != "") {
				t.Errorf("%+v: checkpoints and signatures miscounted", r)
			}
		})
	}
}

// An empty chain has a checkpoint too, and each store has its own key.
func TestCheckpointOfEmptyChain(t *testing.T) {
	w, other := newFixture(t), newFixture(t)
	empty := testkit.Must[audit.Checkpoint](t)(checkpoints.Current(ctx, w.signing(firstSecret), ada, ""))
	if empty.Seq != 0 || empty.Hash != "" || empty.Keyspace != nil {
		t.Errorf("checkpoint %+v", empty)
	}
	w.tenant("acme", "pro")
	if r := testkit.Must[audit.Report](t)(checkpoints.Verify(ctx, w.signing(firstSecret), []audit.Checkpoint{empty}, nil)); !r.Intact {
		t.Errorf("%+v", r)
	}
	if theirs := testkit.Must[audit.Checkpoint](t)(checkpoints.Current(ctx, other.signing(firstSecret), ada, "")); theirs.Store == empty.Store || *theirs.KeyID == *empty.KeyID {
		t.Error("two stores share a name or a key")
	}
	confined := ada
	confined.Tenant = "acme"
	if _, err := checkpoints.Current(ctx, w.Manager, confined, ""); err == nil || !strings.Contains(err.Error(), "one tenant") {
		t.Errorf("a token of one tenant: %v", err)
	}
}

// logged collects log lines.
type logged struct{ testkit.Buffer }

// lines returns the lines that hold text.
func (l *logged) lines(text string) (out []string) {
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, text) {
			out = append(out, line)
		}
	}
	return out
}

// Of several nodes, one publishes a checkpoint in each hour in which the chain has grown.
func TestCheckpointsArePublished(t *testing.T) {
	w := newFixture(t)
	var log logged
	w.log = slog.New(slog.NewJSONHandler(&log, nil))
	w.Manager = w.signing(firstSecret)
	e := newEndpoint(t, nil)
	hook := w.hook(e.URL, "", "audit.head") // The creation of this webhook is the first event of the chain.
	w.hook(e.URL+"/all", "")                // A subscription to all events does not include checkpoints.
	second := w.signing(firstSecret)
	stop := make(chan struct{})
	var node sync.WaitGroup
	node.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				if err := checkpoints.Publish(ctx, second, time.Hour); err != nil {
					t.Error(err)
				}
			}
		}
	})
	defer node.Wait()
	defer close(stop)
	w.start(often)
	count := func(n int) {
		t.Helper()
		testkit.Eventually(w.t, "the next checkpoint", func() bool { return len(e.got()) >= n && len(log.lines(`"audit head"`)) >= n })
		w.scanned()
		if stored, logged := len(w.deliveries(hook.ID)), len(log.lines(`"audit head"`)); stored != n || logged != n {
			t.Fatalf("%d checkpoints published, %d logged, want %d", stored, logged, n)
		}
	}
	count(1)
	w.clock.Advance(2 * time.Hour) // the chain has not grown meanwhile
	count(1)
	if _, err := w.CreateTenant(ctx, ada, "", "acme", management.TenantFields{}); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(w.t, "the tenant's event and the checkpoint", func() bool { return len(e.got()) == 3 })
	w.key("acme") // This event comes within the hour after a checkpoint, so no checkpoint follows.
	w.scanned()
	if n := len(log.lines(`"audit head"`)); n != 2 {
		t.Errorf("%d checkpoints within the hour", n)
	}
	var published []audit.Checkpoint
	for _, p := range e.got() {
		if p.Type != events.AuditCheckpoint {
			continue
		}
		var h audit.Checkpoint
		if err := json.Unmarshal(p.Data, &h); err != nil {
			t.Fatal(err)
		}
		if h.Keyspace == nil || *h.Keyspace != "default" {
			t.Errorf("checkpoint %+v", h)
		}
		published = append(published, h)
	}
	for _, line := range log.lines(`"audit head"`) {
		var l struct{ Head audit.Checkpoint }
		if err := json.Unmarshal([]byte(line), &l); err != nil || l.Head.Keyspace != nil {
			t.Errorf("logged %s: %v", line, err)
		}
		published = append(published, l.Head)
	}
	r := testkit.Must[audit.Report](t)(checkpoints.Verify(ctx, w.Manager, published, nil))
	if !r.Intact || r.Checkpoints != 4 || r.Signed != 4 {
		t.Errorf("%+v", r)
	}
	// The next checkpoint reports a chain that was cut short.
	newest := published[len(published)-1]
	w.intruder().exec("DELETE FROM audit WHERE seq >= ?", newest.Seq)
	w.clock.Advance(2 * time.Hour)
	testkit.Eventually(w.t, "the loss", func() bool { return len(log.lines("was altered")) == 1 })
	if !strings.Contains(log.lines("was altered")[0], "is gone") {
		t.Error(log.lines("was altered"))
	}
}

// The key that signs checkpoints depends on the secret and on the store, and on nothing else.
func TestCheckpointKey(t *testing.T) {
	a := testkit.Must[*webhook.Vault](t)(webhook.NewVault(firstSecret))
	b := testkit.Must[*webhook.Vault](t)(webhook.NewVault(firstSecret))
	c := testkit.Must[*webhook.Vault](t)(webhook.NewVault(secondSecret))
	key := func(v *webhook.Vault, store string) string {
		return hex.EncodeToString(testkit.Must[ed25519.PrivateKey](t)(v.CheckpointKey(store)))
	}
	if key(a, "s") != key(b, "s") || key(a, "s") == key(a, "t") || key(a, "s") == key(c, "s") {
		t.Error("the key is not derived from the secret and the store")
	}
}
