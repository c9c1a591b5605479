package audit

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"io"
	"strconv"
	"time"
)

// chainForm is the first part of the text whose hash a row holds. It names the version of the
// form.
const chainForm = "keygate audit 1"

// microTime is RFC 3339 in UTC with exactly six decimals.
const microTime = "2006-01-02T15:04:05.000000Z"

// personal is the JSON form of Row.Personal.
type personal struct {
	Actor  string         `json:"actor"`
	IP     string         `json:"ip,omitempty"`
	Token  string         `json:"token,omitempty"`
	Before map[string]any `json:"before,omitempty"`
	After  map[string]any `json:"after,omitempty"`
}

// personalFields are the fields of a record that hold free text or a person's address.
var personalFields = map[string]bool{"name": true, "description": true, "metadata": true, "reference": true, "allowed_ips": true, "source": true, "found_at": true}

// Event is an audit event before it is in the chain.
type Event struct {
	// Action names the event, such as "key.created"; Target is the id or slug of the changed record.
	Action, Target string
	// Tenant and Key are the slug and the id of the records that the event belongs to; "" for none.
	Tenant, Key string
	// Before and After are the fields that changed; nil where there was no record.
	Before, After Fields
}

// Fields holds the fields of a record that an event shows. It never holds a secret.
type Fields map[string]any

// Diff removes the fields with equal values from before and after. It reports whether any field is
// left.
func Diff(before, after Fields) bool {
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

// DeletePersonal removes the fields that hold personal data.
func (s Fields) DeletePersonal() {
	for name := range personalFields {
		delete(s, name)
	}
}

// split returns the fields that the chain holds, as JSON, and the personal ones, which it does not hold.
func (s Fields) split() (chained json.RawMessage, personal map[string]any, err error) {
	if s == nil {
		return nil, nil, nil
	}
	in := map[string]any{}
	for name, v := range s {
		if !personalFields[name] {
			in[name] = v
			continue
		}
		if personal == nil {
			personal = map[string]any{}
		}
		personal[name] = v
	}
	chained, err = json.Marshal(in) // Marshal writes the keys of a map in sorted order.
	return chained, personal, err
}

// Author describes the author of a change, and the interface that they used.
type Author struct {
	// Name is the name of a person, a token or a system user. IP is their address, and Token the
	// id of their management token.
	Name, IP, Token string
	// Via is "api", "admin", "cli", "console" or "system".
	Via string
}

// Append appends an event to the chain and returns its row, whose id is id. Until the transaction
// ends, no other transaction appends one.
func Append(tx Tx, id, keyspace string, at time.Time, by Author, e *Event) (*Row, error) {
	seq, prev, err := tx.LockNewestAudit()
	if err != nil {
		return nil, err
	}
	row := &Row{
		Seq: seq + 1, ID: id, Keyspace: keyspace, At: at,
		Action: e.Action, Target: e.Target, Tenant: e.Tenant, KeyID: e.Key, Via: by.Via,
		Salt: make([]byte, 16), Prev: prev,
	}
	rand.Read(row.Salt)
	p := personal{Actor: by.Name, IP: by.IP, Token: by.Token}
	if row.Before, p.Before, err = e.Before.split(); err != nil {
		return nil, err
	}
	if row.After, p.After, err = e.After.split(); err != nil {
		return nil, err
	}
	if row.Personal, err = json.Marshal(p); err != nil {
		return nil, err
	}
	row.PersonalHash = row.computePersonalHash()
	row.Hash = row.computeHash()
	return row, tx.InsertAudit(row)
}

func (r *Row) computePersonalHash() []byte {
	h := sha256.New()
	h.Write(r.Salt)
	h.Write(r.Personal)
	return h.Sum(nil)
}

// computeHash returns the value that Hash must have.
func (r *Row) computeHash() []byte {
	h := sha256.New()
	h.Write(r.Prev)
	writePart(h, chainForm)
	writePart(h, strconv.FormatInt(r.Seq, 10))
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

// writePart writes p after its length. Writing to w must not fail.
func writePart[T ~string | ~[]byte](w io.Writer, p T) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(p)))
	_, _ = w.Write(n[:])
	_, _ = w.Write([]byte(p))
}

// Record is an event as the API shows it.
type Record struct {
	ID string `json:"id"`
	// Seq is the event's number among the events of all keyspaces and tenants. It is left out for
	// an actor of one tenant, since it shows how many events others cause.
	Seq   int64     `json:"seq,omitempty"`
	At    time.Time `json:"at"`
	Actor string    `json:"actor"`
	IP    *string   `json:"ip"`
	// Token is the id of the management token that made the change; null for none.
	Token  *string `json:"token"`
	Via    string  `json:"via"`
	Action string  `json:"action"`
	Target string  `json:"target"`
	Tenant *string `json:"tenant"`
	Key    *string `json:"key"`
	// Before and After are the fields that changed; null where there was no record.
	Before map[string]any `json:"before"`
	After  map[string]any `json:"after"`
	// Erased reports whether the personal data was erased: actor, address and free text.
	Erased bool `json:"erased,omitempty"`
}

// NewRecord returns the record of a row.
func NewRecord(r *Row) Record {
	a := Record{
		ID: r.ID, Seq: r.Seq, At: r.At.UTC(), Via: r.Via, Action: r.Action, Target: r.Target,
		Tenant: orNull(r.Tenant), Key: orNull(r.KeyID), Erased: len(r.Personal) == 0,
	}
	p := r.personal()
	a.Actor, a.IP, a.Token = p.Actor, orNull(p.IP), orNull(p.Token)
	a.Before, a.After = mergeFields(r.Before, p.Before), mergeFields(r.After, p.After)
	return a
}

// personal returns the personal data of the row. It returns no data if the data was erased, or if it is damaged, which
// Verify reports.
func (r *Row) personal() (p personal) {
	if len(r.Personal) > 0 {
		_ = json.Unmarshal(r.Personal, &p)
	}
	return p
}

// PersonalAfter returns a personal field of the record after the change; nil for none.
func (r *Row) PersonalAfter(field string) any { return r.personal().After[field] }

// ChainedBefore returns the fields before the change, without personal ones.
func (r *Row) ChainedBefore() map[string]any { return mergeFields(r.Before, nil) }

func mergeFields(chained json.RawMessage, personal map[string]any) map[string]any {
	if len(chained) == 0 {
		return nil
	}
	m := map[string]any{}
	_ = json.Unmarshal(chained, &m)
	for k, v := range personal {
		m[k] = v
	}
	return m
}

// orNull returns nil for the empty string.
func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
