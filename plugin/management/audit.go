package management

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"io"
	"time"
)

// An event is stored as an AuditRow. Rows form a chain over all keyspaces:
//
//	Hash = SHA-256(Prev ‖ form), Prev = the Hash of the row with the next lower seq, none for the first
//
// and form is these fields in this order, each as its length in eight bytes
// (big-endian) and its bytes: "keygate audit 1", Seq in decimal, ID, Keyspace, At in RFC
// 3339 UTC with exactly six decimals, Action, Target, Tenant, KeyID, Via, Before, After,
// PersonalHash. Before and After are the very bytes that are stored.
//
// What says something about a person is not in the chain: actor, address, and the free
// text of a record (names, descriptions, metadata) stand in Personal, of which the
// chain holds only PersonalHash = SHA-256(Salt ‖ Personal). Emptying Personal and Salt
// forgets the person for good, since without the salt the hash can't be guessed from, and the
// chain still verifies.
const auditForm = "keygate audit 1"

// microTime is RFC 3339 of a time in UTC, to the microsecond.
const microTime = "2006-01-02T15:04:05.000000Z"

// personal is the JSON of AuditRow.Personal.
type personal struct {
	Actor  string         `json:"actor"`
	IP     string         `json:"ip,omitempty"`
	Token  string         `json:"token,omitempty"`
	Before map[string]any `json:"before,omitempty"`
	After  map[string]any `json:"after,omitempty"`
}

// personalFields are the fields of a record that people write freely, or that may be somebody's address.
var personalFields = map[string]bool{"name": true, "description": true, "metadata": true, "reference": true, "allowed_ips": true, "source": true, "found_at": true}

// event is what a write leaves to be appended.
type event struct {
	action, target, tenant, key string
	before, after               fieldSet
}

// fieldSet is the fields of a record, as far as an event shows them. It never holds a secret.
type fieldSet map[string]any

// diff leaves in both only the fields whose values differ. It reports whether any does.
func diff(before, after fieldSet) bool {
	for name, b := range before {
		a, ok := after[name]
		if !ok {
			continue
		}
		bj, _ := json.Marshal(b)
		aj, _ := json.Marshal(a)
		if bytes.Equal(bj, aj) {
			delete(before, name)
			delete(after, name)
		}
	}
	return len(before)+len(after) > 0
}

// split parts a record's fields into those for the chain and those beside it.
func (s fieldSet) split() (chained json.RawMessage, beside map[string]any, err error) {
	if s == nil {
		return nil, nil, nil
	}
	in := map[string]any{}
	for name, v := range s {
		if !personalFields[name] {
			in[name] = v
			continue
		}
		if beside == nil {
			beside = map[string]any{}
		}
		beside[name] = v
	}
	chained, err = json.Marshal(in) // a map's keys are written in order
	return chained, beside, err
}

// appendEvent appends the call's event to the chain. Until the transaction ends, no
// other appends one.
func (c *call) appendEvent() error {
	e := c.event
	seq, prev, err := c.LockNewestAudit()
	if err != nil {
		return err
	}
	row := &AuditRow{
		Seq: seq + 1, ID: c.m.ids.next(auditIDPrefix, c.now), Keyspace: c.ks.Name, At: c.now,
		Action: e.action, Target: e.target, Tenant: e.tenant, KeyID: e.key, Via: c.actor.Via,
		Salt: make([]byte, 16), Prev: prev,
	}
	rand.Read(row.Salt)
	p := personal{Actor: c.actor.Name, IP: c.actor.IP, Token: c.actor.Token}
	if row.Before, p.Before, err = e.before.split(); err != nil {
		return err
	}
	if row.After, p.After, err = e.after.split(); err != nil {
		return err
	}
	if row.Personal, err = json.Marshal(p); err != nil {
		return err
	}
	row.PersonalHash = row.computePersonalHash()
	row.Hash = row.computeHash()
	if err := c.InsertAudit(row); err != nil {
		return err
	}
	return c.publishAudit(row)
}

func (r *AuditRow) computePersonalHash() []byte {
	h := sha256.New()
	h.Write(r.Salt)
	h.Write(r.Personal)
	return h.Sum(nil)
}

// computeHash computes what Hash must be.
func (r *AuditRow) computeHash() []byte {
	h := sha256.New()
	h.Write(r.Prev)
	writePart(h, auditForm)
	writePart(h, itoa(r.Seq))
	writePart(h, r.ID)
	writePart(h, r.Keyspace)
	writePart(h, r.At.UTC().Format(microTime))
	writePart(h, r.Action)
	writePart(h, r.Target)
	writePart(h, r.Tenant)
	writePart(h, r.KeyID)
	writePart(h, r.Via)
	writePart(h, r.Before)
	writePart(h, r.After)
	writePart(h, r.PersonalHash)
	return h.Sum(nil)
}

// writePart writes p with its length before it. Writing to w must not fail.
func writePart[T ~string | ~[]byte](w io.Writer, p T) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(p)))
	_, _ = w.Write(n[:])
	_, _ = w.Write([]byte(p))
}

// AuditRecord is an event as the API shows it.
type AuditRecord struct {
	ID string `json:"id"`
	// Seq is the event's number among those of all keyspaces and tenants; left out for whoever
	// sees one tenant only, who could count the others' by it.
	Seq   int64     `json:"seq,omitempty"`
	At    time.Time `json:"at"`
	Actor string    `json:"actor"`
	IP    *string   `json:"ip"`
	// Token is the id of the management token it was done by; null where it was none.
	Token  *string `json:"token"`
	Via    string  `json:"via"`
	Action string  `json:"action"`
	Target string  `json:"target"`
	Tenant *string `json:"tenant"`
	Key    *string `json:"key"`
	// Before and After are the fields that changed; null where there was no record.
	Before map[string]any `json:"before"`
	After  map[string]any `json:"after"`
	// Erased says that the person was forgotten: actor, address and free text are gone.
	Erased bool `json:"erased,omitempty"`
}

func auditRecord(r *AuditRow) AuditRecord {
	a := AuditRecord{
		ID: r.ID, Seq: r.Seq, At: r.At.UTC(), Via: r.Via, Action: r.Action, Target: r.Target,
		Tenant: optional(r.Tenant), Key: optional(r.KeyID), Erased: len(r.Personal) == 0,
	}
	var p personal
	if !a.Erased {
		// What was stored by appendEvent reads back; were it damaged, VerifyAudit says so.
		_ = json.Unmarshal(r.Personal, &p)
	}
	a.Actor, a.IP, a.Token = p.Actor, optional(p.IP), optional(p.Token)
	a.Before, a.After = mergeFields(r.Before, p.Before), mergeFields(r.After, p.After)
	return a
}

func mergeFields(chained json.RawMessage, beside map[string]any) map[string]any {
	if len(chained) == 0 {
		return nil
	}
	m := map[string]any{}
	_ = json.Unmarshal(chained, &m)
	for k, v := range beside {
		m[k] = v
	}
	return m
}

// AuditFilter selects events of a keyspace, newest first.
type AuditFilter struct {
	// Key and Tenant are an id and a slug; "" for all.
	Key, Tenant string
	PageQuery
}

// Audit lists events.
func (m *Manager) Audit(ctx context.Context, a Actor, keyspace string, q AuditFilter) (Page[AuditRecord], error) {
	cursors, err := m.Cursors(ctx)
	if err != nil {
		return Page[AuditRecord]{}, err
	}
	limit, after, err := cursors.Read(auditCursor, q.PageQuery)
	if err != nil {
		return Page[AuditRecord]{}, err
	}
	if a.Tenant != "" {
		if q.Tenant != "" && q.Tenant != a.Tenant {
			return Page[AuditRecord]{Data: []AuditRecord{}}, nil
		}
		q.Tenant = a.Tenant
	}
	var rows []AuditRow
	err = m.read(ctx, a, keyspace, func(c *call) (err error) {
		if q.Tenant != "" {
			if t, err := c.Tenant(c.ks.Name, q.Tenant); err == nil {
				q.Tenant = t.Slug
			}
		}
		rows, err = c.Tx.Audit(AuditQuery{Keyspace: c.ks.Name, Key: q.Key, Tenant: q.Tenant, Before: after.Seq, Limit: limit + 1})
		return err
	})
	if err != nil {
		return Page[AuditRecord]{}, err
	}
	page := PageOf(cursors, auditCursor, rows, limit, func(r AuditRow) Place { return Place{Seq: r.Seq} })
	out := Page[AuditRecord]{Data: make([]AuditRecord, len(page.Data)), NextCursor: page.NextCursor}
	for i := range page.Data {
		out.Data[i] = auditRecord(&page.Data[i])
		if a.Tenant != "" {
			out.Data[i].Seq = 0
		}
	}
	return out, nil
}
