// Package importer imports keys that another system issued, as full keys or as hashes.
package importer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keygate-dev/keygate/plugin/apikey"
	"github.com/keygate-dev/keygate/plugin/gateway"
	"github.com/keygate-dev/keygate/plugin/management"
	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/events"
)

// MaxRows bounds the rows of one call of Import.
const MaxRows = 1000

// Row is a key that another system issued: the full key, or a hash of it.
type Row struct {
	// Tenant is the slug of the key's tenant.
	Tenant string
	// Key is the full key. Import hashes it at once, and neither stores nor logs it.
	Key management.Optional[string]
	// Hash is the hash of the key, and Algorithm is "sha256", "sha512", "hmac-sha256" or "bcrypt".
	// All but bcrypt are in hexadecimal or base64. Pepper is the id of the pepper of an HMAC.
	// Default: the only pepper that is configured.
	Hash, Algorithm, Pepper management.Optional[string]
	// Prefix and LastFour are the visible parts of a key that comes as a hash. Prefix is needed to
	// look up a bcrypt hash, and must hold four random characters of the key.
	Prefix, LastFour management.Optional[string]
	// CreatedAt is in the past. Default and null: now.
	CreatedAt management.Optional[time.Time]
	// Disabled and Revoked make the key one that is rejected.
	Disabled, Revoked management.Optional[bool]
	// RevokedAt is in the past. It makes the key revoked. Default and null: now, if Revoked is
	// true.
	RevokedAt management.Optional[time.Time]
	// Fields are the fields of any key. The default of Name is "imported", and ExpiresAt may be in
	// the past.
	Fields management.KeyFields
	// Fault is the reason why the row can't be parsed. Import rejects the row with it.
	Fault *management.Error
}

// These are the outcomes of a row.
const (
	Created   = "created"
	Unchanged = "unchanged"
	Rejected  = "refused"
)

// Result is the outcome of one row.
type Result struct {
	// Row counts from 0.
	Row    int    `json:"row"`
	Result string `json:"result"`
	// ID is the key's id; nil if the row was rejected.
	ID *string `json:"id"`
	// Code, Detail and Errors are the reason why a row was rejected.
	Code   string                  `json:"code,omitempty"`
	Detail string                  `json:"detail,omitempty"`
	Errors []management.FieldError `json:"errors,omitempty"`
}

// Options configures an import.
type Options struct {
	// CreateTenants makes Import create tenants that do not exist, on the default plan.
	CreateTenants bool
	// AllowUnknownShape accepts hashes of keys that the configuration may not accept. The gateway
	// rejects such keys until the configuration accepts their shape.
	AllowUnknownShape bool
}

// Report holds the outcomes of all rows.
type Report struct {
	Created        int `json:"created"`
	Unchanged      int `json:"unchanged"`
	Rejected       int `json:"refused"`
	TenantsCreated int `json:"tenants_created"`
	// AcceptedShapes describe the shapes of keys that the configuration accepts. The gateway
	// rejects all other keys.
	AcceptedShapes []string `json:"accepted_shapes"`
	Data           []Result `json:"data"`
}

// Import stores keys that another system issued, up to MaxRows in one transaction. A row that
// breaks a rule is rejected, and the others are stored. A key that its tenant already has stays as
// it is, so that an import can be repeated at any time.
func Import(ctx context.Context, m *management.Manager, a management.Actor, keyspace string, rows []Row, o Options) (r Report, err error) {
	if len(rows) == 0 || len(rows) > MaxRows {
		var f management.Faults
		f.Invalid("keys", "must be 1 to %d rows", MaxRows)
		return r, f.Err()
	}
	ks, view, err := m.KeyspaceView(keyspace)
	if err != nil {
		return r, err
	}
	if o.CreateTenants {
		if err := a.RequireOperator("create tenants"); err != nil {
			return r, err
		}
	}
	// Keys are hashed before the transaction, since it blocks other writers.
	forms := make([]importedKey, len(rows))
	for i := range rows {
		forms[i] = readImportedKey(ks, view.Hasher, &rows[i], o.AllowUnknownShape)
	}
	if err := ctx.Err(); err != nil {
		return r, err
	}
	// The context can't be cancelled, so that the driver does not watch each of thousands of
	// statements, which would take longer than many of them. A batch is short.
	err = m.Write(context.WithoutCancel(ctx), a, ks.Name, func(c *management.Call) error {
		tx, err := management.Role[Tx](c.Tx)
		if err != nil {
			return err
		}
		r = Report{AcceptedShapes: acceptedShapes(ks), Data: make([]Result, 0, len(rows))}
		im := &run{Call: c, rows: tx, report: &r, createTenants: o.CreateTenants}
		plain := c.Tx
		im.batch = &batchTx{Tx: plain, tenants: map[string]*gateway.Tenant{}, activeKeys: map[string]int{}, webhooks: map[events.WebhookQuery][]*events.WebhookRow{}}
		c.UseTx(im.batch)
		defer c.UseTx(plain) // Without the batchTx, other packages find their role interfaces again.
		if err := im.lookUp(forms); err != nil {
			return err
		}
		for i := range rows {
			res := Result{Row: i}
			id, result, err := im.row(&rows[i], &forms[i])
			var rejected *management.Error
			switch {
			case errors.As(err, &rejected):
				r.Rejected++
				res.Result, res.Code, res.Detail, res.Errors = Rejected, rejected.Code, rejected.Detail, rejected.Fields
			case err != nil:
				return err
			default:
				res.Result, res.ID = result, &id
				if result == Created {
					r.Created++
				} else {
					r.Unchanged++
				}
			}
			r.Data = append(r.Data, res)
		}
		return nil
	})
	return r, err
}

// importedKey is the key of a row in the forms that the store holds.
type importedKey struct {
	// candidates are all forms in which the store may already hold the key. The first is the one
	// to store.
	candidates []apikey.Candidate
	marks      []apikey.Mark
	// hint belongs to a bcrypt hash; nil for other algorithms.
	hint *apikey.Hint
	// first and last are the visible parts of the key.
	first, last string
	// origin is "plain", or the algorithm of the hash.
	origin string
	// environment is the environment of the key's prefix; "" where the prefix has none.
	environment string
	faults      management.Faults
}

// readImportedKey hashes the key of a row, or parses its hash. No fault that it records holds a
// part of either.
func readImportedKey(ks *gateway.Keyspace, h *apikey.Hasher, row *Row, allowUnknown bool) (f importedKey) {
	has := func(o management.Optional[string]) bool { return o.Set && !o.Null && o.Value != "" }
	switch {
	case row.Fault != nil:
	case has(row.Key) == has(row.Hash):
		f.faults.Invalid("key", "a row has either a key or a hash")
	case has(row.Key):
		f.origin = "plain"
		if has(row.Algorithm) || has(row.Pepper) {
			f.faults.Invalid("algorithm", "belongs to a hash, but this row has a key")
		}
		shape := ks.Grammar.Match(row.Key.Value)
		if shape == nil {
			f.faults.Invalid("key", "no prefix and no accept of the configuration takes it (%s)", listShapes(ks))
			return f
		}
		f.environment = shape.Environment
		f.candidates = h.Candidates(nil, row.Key.Value)
		f.first, f.last = ks.Grammar.Shown(row.Key.Value)
		// A row with the SHA-256 of this key has the same marks, so that both rows count as the same key.
		for _, c := range f.candidates {
			if c.Algorithm == apikey.SHA256 {
				f.marks = h.Marks(nil, c.Digest)
			}
		}
	case !has(row.Algorithm):
		f.faults.Invalid("algorithm", "must be stated with a hash: sha256, sha512, hmac-sha256 or bcrypt")
	default:
		f.readHash(ks, h, row, allowUnknown)
	}
	return f
}

// readHash parses the hash of a row. A hash does not show the shape of its key. So the row must
// state a prefix that a shape accepts, or the configuration must accept keys of other systems.
func (f *importedKey) readHash(ks *gateway.Keyspace, h *apikey.Hasher, row *Row, allowUnknown bool) {
	f.origin = row.Algorithm.Value
	var err error
	f.first, f.last, err = ks.Grammar.Fit(row.Prefix.Value, row.LastFour.Value)
	if err == nil && row.Prefix.Value == "" && !slices.ContainsFunc(ks.Grammar.Shapes(), func(s apikey.Shape) bool { return !s.Issued }) {
		err = errors.New("the row states no prefix and the configuration has no accept line, so the gateway would reject the key")
	}
	if err != nil && !allowUnknown {
		f.faults.Invalid("prefix", "%s. State the key's accepted prefix in the row, or add an accept line for such keys to the configuration. "+
			"--allow-unknown-shape imports the row nevertheless (%s)", err, listShapes(ks))
		return
	}
	if len(row.LastFour.Value) > 4 {
		f.faults.Invalid("last_four", "must be at most four characters")
	}
	var c apikey.Candidate
	if f.origin == "bcrypt" {
		var hint apikey.Hint
		c, hint, err = ks.Grammar.Bcrypt(row.Hash.Value, row.Prefix.Value)
		f.hint = &hint
	} else {
		c, err = h.Imported(f.origin, row.Hash.Value, row.Pepper.Value)
	}
	if err != nil {
		f.faults.Invalid("hash", "%s", err)
		return
	}
	f.candidates, f.marks = []apikey.Candidate{c}, h.Marks(nil, c.Digest)
	for _, s := range ks.Grammar.Shapes() {
		if s.Issued && s.Prefix != "" && strings.HasPrefix(row.Prefix.Value, s.Prefix) {
			f.environment = s.Environment
			break
		}
	}
}

// acceptedShapes describes the shapes of a keyspace for people.
func acceptedShapes(ks *gateway.Keyspace) []string {
	var out []string
	for _, s := range ks.Grammar.Shapes() {
		length := strconv.Itoa(s.MinLength)
		if s.MaxLength != s.MinLength {
			length += " to " + strconv.Itoa(s.MaxLength)
		}
		text := fmt.Sprintf("%s and %s characters of %s", s.Prefix, length, s.Charset)
		if s.Prefix == "" {
			text = fmt.Sprintf("%s characters of %s", length, s.Charset)
		}
		if !s.Issued {
			text = s.Name + ": " + text
		}
		out = append(out, text)
	}
	return out
}

// listShapes lists the names of a keyspace's shapes for a message.
func listShapes(ks *gateway.Keyspace) string {
	var names []string
	for _, s := range ks.Grammar.Shapes() {
		if s.Issued {
			names = append(names, "prefix "+s.Prefix)
		} else {
			names = append(names, "accept "+s.Name)
		}
	}
	return "there is " + strings.Join(names, ", ")
}

// run is one call of Import.
type run struct {
	*management.Call
	rows          Tx
	batch         *batchTx
	report        *Report
	createTenants bool
	// digests and marks hold the digests and marks of rows whose keys the store already has.
	digests map[apikey.Digest]bool
	marks   map[apikey.Mark]bool
}

// lookUp looks up the keys of all rows in one statement. The store holds few of them in most
// imports.
func (im *run) lookUp(forms []importedKey) (err error) {
	var digests []apikey.Digest
	var marks []apikey.Mark
	for i := range forms {
		for _, c := range forms[i].candidates {
			digests = append(digests, c.Digest)
		}
		marks = append(marks, forms[i].marks...)
	}
	im.digests, im.marks, err = im.rows.ExistingKeys(im.Keyspace.Name, digests, marks)
	return err
}

// row stores one row. It returns the key's id and the outcome.
func (im *run) row(row *Row, form *importedKey) (id, result string, err error) {
	if row.Fault != nil {
		return "", "", row.Fault
	}
	f := form.faults
	missing := false
	t, err := im.FindTenant(row.Tenant, true)
	switch {
	case err == nil:
	case !management.IsNotFound(err):
		return "", "", err
	case !im.createTenants || !im.Actor.Sees(row.Tenant):
		f.Invalid("tenant", "there is no such tenant; create it first, or set create_tenants")
		return "", "", f.Err()
	default:
		missing = true
		t = &gateway.Tenant{Keyspace: im.Keyspace.Name, Slug: row.Tenant, Plan: im.Keyspace.DefaultPlan}
	}
	if len(form.candidates) > 0 {
		if known, err := im.known(form); err != nil {
			return "", "", err
		} else if known != nil {
			if err := checkSameKey(known, t); err != nil {
				return "", "", err
			}
			return known.ID, Unchanged, f.Err()
		}
	}
	plan, err := im.FindPlan(t)
	if err != nil && !missing {
		return "", "", err
	}
	if plan == nil {
		plan = &gateway.Plan{Cap: im.Keyspace.Scopes.All()} // The missing plan is reported by CreateTenant. An empty plan stands in for it here.
	}
	k := im.newKey(&f, row, form, t, plan)
	if form.hint != nil {
		n, err := im.rows.CountByHint(im.Keyspace.Name, *form.hint)
		if err != nil {
			return "", "", err
		}
		if n >= gateway.MaxPerHint {
			f.Invalid("prefix", "%d keys that are stored as bcrypt begin like this one, and comparing more would take too long; state more of the key's beginning", n)
		}
	}
	if err := f.Err(); err != nil {
		return "", "", err
	}
	if k.StatusAt(im.Now) == gateway.StatusActive {
		if err := im.CheckKeyLimit(t, plan); err != nil {
			return "", "", err
		}
	}
	if missing {
		if t, err = im.createMissingTenant(row.Tenant); err != nil {
			return "", "", err
		}
		k.Tenant = t.Slug
	}
	return k.ID, Created, im.store(k, form)
}

// known returns the key that the store holds in one of the row's forms, or that was imported from
// it before; nil for none.
func (im *run) known(form *importedKey) (*gateway.Key, error) {
	for _, c := range form.candidates {
		if !im.digests[c.Digest] {
			continue
		}
		if k, err := im.rows.KeyByDigest(im.Keyspace.Name, c.Digest); !errors.Is(err, gateway.ErrNotFound) {
			return k, err
		}
	}
	for _, mark := range form.marks {
		if !im.marks[mark] {
			continue
		}
		if k, err := im.rows.ImportedAs(im.Keyspace.Name, mark); !errors.Is(err, gateway.ErrNotFound) {
			return k, err
		}
	}
	return nil, nil
}

// checkSameKey rejects a row whose key belongs to another tenant or was deleted.
func checkSameKey(k *gateway.Key, t *gateway.Tenant) error {
	switch {
	case k.Tenant != t.Slug:
		// The error must not name the other tenant.
		return management.Reject(http.StatusConflict, CodeKeyTaken, "The keyspace holds this key already, and not for this tenant.")
	case !k.DeletedAt.IsZero():
		return management.Reject(http.StatusConflict, CodeKeyTaken, "This key was deleted as %s, and an import does not bring it back.", k.ID)
	}
	return nil
}

// CodeKeyTaken is the code for a row whose key belongs to another tenant or was deleted.
const CodeKeyTaken = "key_taken"

// newKey returns the key of a row. It applies the rules of every new key.
func (im *run) newKey(f *management.Faults, row *Row, form *importedKey, t *gateway.Tenant, plan *gateway.Plan) *gateway.Key {
	k := &gateway.Key{
		ID: im.NewID(management.KeyIDPrefix), Keyspace: im.Keyspace.Name, Tenant: t.Slug, Version: 1,
		CreatedAt: im.Now, CreatedBy: im.Actor.Name, UpdatedAt: im.Now, Prefix: form.first, LastFour: form.last,
	}
	in := row.Fields
	if !in.Name.Set || in.Name.Null {
		in.Name = management.Some("imported")
	}
	if in.Environment.Set && in.Environment.Null {
		in.Environment.Set = false
	}
	switch {
	case form.environment == "":
	case !in.Environment.Set:
		in.Environment = management.Some(form.environment)
	case in.Environment.Value != form.environment:
		f.Invalid("environment", "does not match the key's prefix, which stands for %s", form.environment)
	}
	expires := in.ExpiresAt
	if expires.Set && !expires.Null && !expires.Value.After(im.Now) {
		in.ExpiresAt = management.Optional[time.Time]{}
		k.ExpiresAt = im.past(f, "expires_at", expires)
	}
	im.ApplyKey(f, k, plan, in, true)
	// Write checks only the event of the last row, so that the texts of each row are checked here.
	im.CheckSecret(f, "name", k.Name)
	im.CheckSecret(f, "description", k.Description)
	im.CheckSecret(f, "metadata", string(k.Metadata))
	if row.CreatedAt.Set && !row.CreatedAt.Null {
		k.CreatedAt = im.past(f, "created_at", row.CreatedAt)
	}
	k.Disabled = row.Disabled.Value
	if row.RevokedAt.Set && !row.RevokedAt.Null {
		k.RevokedAt = im.past(f, "revoked_at", row.RevokedAt)
		if row.Revoked.Set && !row.Revoked.Null && !row.Revoked.Value {
			f.Invalid("revoked", "is false, but the row states revoked_at")
		}
	} else if row.Revoked.Value {
		k.RevokedAt = im.Now
	}
	return k
}

// past returns a time with the precision of the store. It records a fault if the time is in the
// future.
func (im *run) past(f *management.Faults, field string, o management.Optional[time.Time]) time.Time {
	at := o.Value.UTC().Truncate(time.Microsecond)
	if at.After(im.Now) || at.Year() < 1970 {
		f.Invalid(field, "must be in the past, and after 1970")
	}
	return at
}

// createMissingTenant creates a tenant on the default plan, with its event.
func (im *run) createMissingTenant(slug string) (*gateway.Tenant, error) {
	before := im.Event
	if _, err := im.CreateTenant(slug, management.TenantFields{}); err != nil {
		return nil, err // A rejected tenant has written nothing and left no event.
	}
	made := im.Event
	im.Event = before
	if err := im.flush(); err != nil {
		return nil, err
	}
	im.Event = made
	im.report.TenantsCreated++
	return im.FindTenant(slug, true)
}

// store stores a key with its secret, and leaves its event in the call.
func (im *run) store(k *gateway.Key, form *importedKey) error {
	if err := im.flush(); err != nil {
		return err
	}
	form0 := form.candidates[0]
	if err := im.rows.InsertImported(k, gateway.Secret{
		ID: im.NewID(management.SecretIDPrefix), Keyspace: k.Keyspace, Digest: form0.Digest[:], Algorithm: form0.Algorithm,
		Prefix: k.Prefix, LastFour: k.LastFour, CreatedAt: k.CreatedAt,
	}, form.marks[0]); err != nil {
		return err
	}
	im.batch.countActive(k)
	// A later row of the same import may hold the same key, so the key is added to the known ones.
	im.digests[form0.Digest], im.marks[form.marks[0]] = true, true
	im.AddChange(gateway.ChangeKey, k.ID)
	after := management.KeyFieldsOf(k)
	after["imported"] = form.origin
	im.Event = &audit.Event{Action: "key.created", Target: k.ID, Tenant: k.Tenant, Key: k.ID, After: after}
	return nil
}

// flush appends the event of the row before, since a call holds only one event.
func (im *run) flush() error {
	if im.Event == nil {
		return nil
	}
	return im.AppendEvent()
}

// batchTx caches rows that each row of an import would read again.
type batchTx struct {
	management.Tx
	tenants    map[string]*gateway.Tenant // tenants maps slugs, as rows state them, to tenants.
	activeKeys map[string]int             // activeKeys are by slug in the stored case.
	webhooks   map[events.WebhookQuery][]*events.WebhookRow
	newest     *audit.Row // newest is the newest audit event; nil before the first one was appended.
	// active holds the active webhooks of the keyspace. tooMany reports whether there are too many to cache.
	active  []*events.WebhookRow
	tooMany bool
}

// maxWebhooksCached bounds the webhooks that are searched for each row.
const maxWebhooksCached = 50

// Webhooks reads each list of webhooks only once, because an import creates no webhooks.
func (b *batchTx) Webhooks(q events.WebhookQuery) ([]*events.WebhookRow, error) {
	if list, ok := b.webhooks[q]; ok {
		return list, nil
	}
	if q == (events.WebhookQuery{Keyspace: q.Keyspace, Tenant: q.Tenant, OrAll: true, Active: true}) && q.Tenant != "" && !b.tooMany {
		if b.active == nil {
			all, err := b.Tx.Webhooks(events.WebhookQuery{Keyspace: q.Keyspace, Active: true, Limit: maxWebhooksCached + 1})
			if err != nil {
				return nil, err
			}
			b.active, b.tooMany = append([]*events.WebhookRow{}, all...), len(all) > maxWebhooksCached
		}
		if !b.tooMany {
			var list []*events.WebhookRow
			for _, h := range b.active {
				if h.Tenant == "" || h.Tenant == q.Tenant {
					list = append(list, h)
				}
			}
			b.webhooks[q] = list
			return list, nil
		}
	}
	list, err := b.Tx.Webhooks(q)
	if err == nil {
		b.webhooks[q] = list
	}
	return list, err
}

func (b *batchTx) LockNewestAudit() (seq int64, hash []byte, err error) {
	if b.newest != nil {
		return b.newest.Seq, b.newest.Hash, nil
	}
	return b.Tx.LockNewestAudit()
}

func (b *batchTx) InsertAudit(r *audit.Row) error {
	err := b.Tx.InsertAudit(r)
	if err == nil {
		b.newest = r
	}
	return err
}

func (b *batchTx) LockTenant(keyspace, slug string) (*gateway.Tenant, error) {
	if t := b.tenants[slug]; t != nil {
		return t, nil
	}
	t, err := b.Tx.LockTenant(keyspace, slug)
	if err == nil {
		b.tenants[slug] = t
	}
	return t, err
}

func (b *batchTx) ActiveKeys(keyspace, tenant string, now time.Time) (int, error) {
	if n, ok := b.activeKeys[tenant]; ok {
		return n, nil
	}
	n, err := b.Tx.ActiveKeys(keyspace, tenant, now)
	if err == nil {
		b.activeKeys[tenant] = n
	}
	return n, err
}

// countActive counts a key that the transaction has inserted.
func (b *batchTx) countActive(k *gateway.Key) {
	if n, ok := b.activeKeys[k.Tenant]; ok && k.StatusAt(k.UpdatedAt) == gateway.StatusActive {
		b.activeKeys[k.Tenant] = n + 1
	}
}
